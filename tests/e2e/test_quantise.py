"""`quantize`: the first start makes the weights, the next one maps them; what a bad file, a missing
directory and a slow start look like to an operator."""
import pathlib
import re
import subprocess
import sys

import pytest
from daemon import build_dir, wait_until
from galerne.v1 import inference_pb2 as pb
from test_models import DEMO, chat, is_demo_there

pytestmark = pytest.mark.skipif(not is_demo_there(), reason="the demo model has no weights")
KINDS = {"q8": "Q8_0", "q4": "Q4_0"}


def asks(daemon) -> None:
    text, _ = chat(daemon.inference(), "demo", "What is the capital of Portugal?", max_tokens=48)
    assert text.strip() == "The capital of Portugal is Lisbon."


def ids(daemon) -> list:
    """Greedy tokens and their log-probabilities, to the bit."""
    call = pb.GenerateRequest(model="demo", text="Europe", max_tokens=24, logprobs=1,
                              ignore_eos=True)
    return [(t.id, t.logprob) for m in daemon.inference().Generate(call, timeout=60)
            for t in m.tokens]


class Starts:
    """Starts of a daemon on one cache, one after the other; what each of them logged."""

    def __init__(self, fresh, kind: str, cache):
        self.daemon = fresh(models={"demo": DEMO}, model_settings={"quantize": kind},
                            cache_dir=cache, start=False)
        self.daemon.owns_directory = False

    def once(self, look=ids) -> tuple:
        self.daemon.log_path.unlink(missing_ok=True)
        self.daemon.start()
        seen = look(self.daemon)
        assert self.daemon.stop() == 0
        return seen, self.daemon.log_tail()


@pytest.mark.parametrize("kind", KINDS)
def test_second_start_maps_what_the_first_made(fresh, tmp_path, kind):
    starts = Starts(fresh, kind, tmp_path / "cache")
    first, log = starts.once()
    assert f"model demo: quantising 112 tensors to {KINDS[kind]}" in log
    (file,) = (tmp_path / "cache").iterdir()
    assert re.fullmatch(rf"[0-9a-f]{{64}}-{kind}\.galerne", file.name)
    assert re.search(rf"model demo: quantised and packed in [0-9.]+ s; .* maps {file}", log)
    assert " warning: " not in log

    second, log = starts.once()
    assert f"are mapped from {file}" in log and "quantising" not in log
    assert second == first

    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[-5000] ^= 4
    file.write_bytes(damaged)
    third, log = starts.once()
    assert re.search(rf" warning: model demo: {file}: corrupt, the digest of tensor \S+ differs",
                     log)
    assert third == first and file.read_bytes() == whole

    file.write_bytes(whole[:70000])
    fourth, log = starts.once()
    assert f"{file}: truncated or grown, it has 70000 bytes" in log
    assert fourth == first and file.read_bytes() == whole


def test_demo_knows_what_it_knew(fresh, tmp_path):
    daemon = fresh(models={"demo": DEMO}, model_settings={"quantize": "q8"},
                   cache_dir=tmp_path / "cache")
    asks(daemon)
    wide = fresh(models={"demo": DEMO})
    narrow, whole = (one.model_status("demo").weights_bytes for one in (daemon, wide))
    assert narrow < 0.65 * whole  # bf16 to 8.5 bits, but for the embedding


def test_no_place_to_keep_it(fresh, tmp_path):
    """Served all the same, and said once."""
    (tmp_path / "file").write_text("")
    daemon = fresh(models={"demo": DEMO}, model_settings={"quantize": "q8"},
                   cache_dir=tmp_path / "file" / "cache")
    asks(daemon)
    said = [line for line in daemon.log_tail().splitlines() if " warning: " in line]
    assert len(said) == 1 and "the quantised weights are not kept" in said[0], said
    assert "Not a directory" in said[0]


def test_worker_started_by_hand_reads_the_configuration(fresh, tmp_path):
    """As under a service manager: --model NAME --config FILE, and CACHE_DIRECTORY."""
    daemon = fresh(models={"demo": DEMO}, model_settings={"quantize": "q4"}, start=False)
    daemon.run_dir.mkdir()
    worker = subprocess.Popen(
        [build_dir() / "daemon/galerne-worker", "--model", "demo", "--config", daemon.config],
        env={"CACHE_DIRECTORY": str(tmp_path / "cache")}, stderr=subprocess.PIPE, text=True)
    try:
        wait_until("a socket", (daemon.run_dir / "worker-demo.sock").exists)
        daemon.start()
        asks_ids = ids(daemon)
        assert len(asks_ids) == 24
        assert [f.suffix for f in (tmp_path / "cache").iterdir()] == [".galerne"]
    finally:
        daemon.stop()
        worker.terminate()
        assert "quantising 112 tensors to Q4_0" in worker.communicate(timeout=10)[1]


@pytest.mark.parametrize("stage, words", [(0, "loading 42 %"), (1, "quantising 42 %")])
def test_progress_is_shown(fresh, stage, words):
    daemon = fresh(models={"demo": DEMO}, start=False)
    daemon.run_dir.mkdir(mode=0o700)
    script = pathlib.Path(__file__).parent / "loading_worker.py"
    worker = subprocess.Popen([sys.executable, script, daemon.run_dir / "worker-demo.sock",
                               str(stage), "42"], stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout.readline() == "listening\n"
        daemon.start(wait=False)

        def status() -> str:
            socket = daemon.run_dir / "admin.sock"
            done = subprocess.run([build_dir() / "admin/galernectl", "--socket", socket, "status"],
                                  capture_output=True, text=True)
            return done.stdout if words in done.stdout else ""

        assert wait_until(words, status)
        model = daemon.model_status("demo")
        assert (model.load_percent, model.quantising) == (42, stage == 1)
    finally:
        worker.kill()
        worker.wait()


def test_unknown_kind_is_refused(fresh):
    daemon = fresh(models={"demo": DEMO}, model_settings={"quantize": "q5"}, start=False)
    done = subprocess.run([build_dir() / "daemon/galerned", "--check-config", "--config",
                           daemon.config], capture_output=True, text=True)
    assert done.returncode == 1
    assert "quantize: expected none, q8 or q4, got \"q5\"" in done.stdout + done.stderr
