"""galernectl as a person and a script use it: what it prints where, and one test per exit code."""
import base64
import json
import os
import pty
import re
import signal
import subprocess
import time

import pytest
from galerne.v1 import inference_pb2 as pb

from daemon import ROOT, build_dir, wait_until

ESCAPE = "\x1b"


def run(daemon, *words, stdin=None, timeout_s=30, env=None, **how):
    """The finished process; its socket is the daemon's unless `words` name one."""
    settings = dict(os.environ, GALERNE_SOCKET=str(daemon.run_dir) if daemon else "", **(env or {}))
    settings.pop("RUNTIME_DIRECTORY", None)
    return subprocess.run([build_dir() / "admin/galernectl", *map(str, words)], input=stdin,
                          text=how.pop("text", True), capture_output=True, env=settings,
                          timeout=timeout_s, **how)


def run_on_terminal(daemon, *words, env=None) -> str:
    """What a terminal is sent on standard output."""
    here, there = pty.openpty()
    shown = b""
    settings = {**os.environ, "GALERNE_SOCKET": str(daemon.run_dir), "TERM": "xterm", **(env or {})}
    process = subprocess.Popen([build_dir() / "admin/galernectl", *words], stdout=there,
                               stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=settings)
    os.close(there)
    while True:
        try:
            piece = os.read(here, 65536)
        except OSError:  # the other end was closed
            break
        if not piece:
            break
        shown += piece
    os.close(here)
    talk = process.communicate(timeout=30)[1]
    assert process.returncode == 0, talk
    return shown.decode()


def good(done) -> str:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


# ---- what it prints ----

def test_status(daemon):
    text = good(run(daemon, "status"))
    assert re.match(r"galerned \d+\.\d+\.\d+  ready  up .*  pid \d+ ", text)
    assert re.search(r"^tiny +serving +cpu \S+, 1 threads? ", text, re.M)
    told = json.loads(good(run(daemon, "status", "-o", "json")))
    assert told["state"] == "DAEMON_STATE_READY" and told["pid"] == daemon.process.pid
    assert [m["name"] for m in told["models"]] == ["models/tiny", "models/mix"]


def test_models(daemon):
    text = good(run(daemon, "models"))
    assert re.search(r"^mix +serving +mixtral +\d+ +\d+ ", text, re.M)
    told = json.loads(good(run(daemon, "models", "--json")))
    assert [m["name"] for m in told] == ["models/tiny", "models/mix"]
    one = json.loads(good(run(daemon, "models", "tiny", "--json")))
    assert one["architecture"] == "llama"
    assert len(good(run(daemon, "models", "models/mix")).splitlines()) == 2


def test_generate_prints_the_text_that_grpcio_gets(daemon):
    stub = daemon.inference()
    messages = list(stub.Generate(pb.GenerateRequest(model="tiny", text="hello", max_tokens=30),
                                  timeout=20))
    text = "".join(c.text for m in messages for c in m.choices)
    printed = good(run(daemon, "generate", "-m", "tiny", "-n", 30, "hello"))
    assert printed == text + ("" if text.endswith("\n") else "\n")
    assert good(run(daemon, "generate", "-m", "tiny", "-n", 30, "-", stdin="hello")) == printed
    ids = stub.Tokenize(pb.TokenizeRequest(model="tiny", text="hello"), timeout=5).ids
    assert good(run(daemon, "generate", "-m", "tiny", "-n", 30, "--token-ids",
                    ",".join(map(str, ids)))) == printed

    lines = [json.loads(line) for line in
             good(run(daemon, "generate", "-m", "tiny", "-n", 30, "--json", "hello")).splitlines()]
    assert "".join(c["text"] for line in lines for c in line["choices"]) == text
    exact = [base64.b64decode(t["bytes"]) for line in lines for t in line["tokens"]]
    assert exact == [t.bytes for m in messages for t in m.tokens]
    assert lines[0]["request_id"] and lines[-1]["usage"]["output_tokens"] == 30
    assert lines[-1]["choices"][0]["finish_reason"] == "FINISH_REASON_LENGTH"


def test_generate_passes_every_option_on(daemon):
    sampled = ["generate", "-m", "tiny", "-n", "12", "-t", "3", "--top-k", "50", "--top-p", "0.95",
               "--seed", "7", "--ids", "hello"]
    expected = list(daemon.inference().Generate(pb.GenerateRequest(
        model="tiny", text="hello", max_tokens=12,
        sampling=pb.Sampling(temperature=3, top_k=50, top_p=0.95, seed=7)), timeout=20))
    shown = [int(line.split()[0]) for line in good(run(daemon, *sampled)).splitlines()]
    assert shown == [t.id for m in expected for t in m.tokens]

    more = ["generate", "-m", "tiny", "-n", "24", "--min-p", "0.02", "--repetition-penalty", "1.3",
            "--presence-penalty", "-0.5", "--frequency-penalty", "0.25", "--logit-bias",
            "7=2.5,8=-100", "--min-tokens", "9", "--ignore-eos", "-t", "1", "--seed", "3", "--ids",
            "hello"]
    expected = list(daemon.inference().Generate(pb.GenerateRequest(
        model="tiny", text="hello", max_tokens=24, min_tokens=9, ignore_eos=True,
        sampling=pb.Sampling(temperature=1, seed=3, min_p=0.02, repetition_penalty=1.3,
                             presence_penalty=-0.5, frequency_penalty=0.25,
                             logit_bias=[pb.LogitBias(id=7, value=2.5),
                                         pb.LogitBias(id=8, value=-100)])), timeout=20))
    shown = [int(line.split()[0]) for line in good(run(daemon, *more)).splitlines()]
    assert shown == [t.id for m in expected for t in m.tokens]

    lines = good(run(daemon, "generate", "-m", "tiny", "-n", 5, "--logprobs", 3, "hello"))
    for line in lines.splitlines():
        ours, best = line.split("  | ")
        assert float(ours.split()[1]) <= 0 and len(re.findall(r'-?\d+\.\d{4}(?:,|$)', best)) == 3

    text = good(run(daemon, "generate", "-m", "tiny", "-n", 30, "hello"))
    stop = text[4:6]
    assert good(run(daemon, "generate", "-m", "tiny", "-n", 30, "--stop", stop, "hello")).rstrip(
        "\n") == text[:text.index(stop)].rstrip("\n")
    good(run(daemon, "generate", "-m", "tiny", "-n", 2, "--batch", "--request-id", "ctl-7", "x"))
    daemon.log_has("request ctl-7: model tiny")


def test_statistics_go_to_standard_error(daemon):
    done = run(daemon, "generate", "-m", "tiny", "-n", 50, "--stats", "hello")
    assert done.returncode == 0
    assert re.fullmatch(r"time to first token \d+\.\d ms(, \d+\.\d tokens/s)?, prompt 4 tokens, "
                        r"output 50 tokens, finish length\n", done.stderr)


def test_tokenize(daemon):
    stub = daemon.inference()
    answer = stub.Tokenize(pb.TokenizeRequest(model="tiny", text="hello \x1b[1m"), timeout=5)
    table = good(run(daemon, "tokenize", "-m", "tiny", "hello \x1b[1m"))
    assert [int(line.split()[0]) for line in table.splitlines()[1:]] == list(answer.ids)
    assert ESCAPE not in table and "\\x1b" in table
    told = json.loads(good(run(daemon, "tokenize", "-m", "tiny", "--json", "hello \x1b[1m")))
    assert told["ids"] == list(answer.ids)
    assert [base64.b64decode(p) for p in told["pieces"]] == list(answer.pieces)
    count = good(run(daemon, "tokenize", "-m", "tiny", "--count", "--no-special", "hello \x1b[1m"))
    bare = stub.Tokenize(pb.TokenizeRequest(model="tiny", text="hello \x1b[1m", add_special=False),
                         timeout=5)
    assert int(count) == len(bare.ids)


def test_the_only_model_needs_no_name(fresh):
    one = fresh(models={"tiny": ROOT / "tests/golden/tiny-llama"})
    assert good(run(one, "generate", "-n", 3, "hello"))
    assert json.loads(good(run(one, "tokenize", "--json", "hello")))["ids"]


# ---- terminals ----

WILD = ["generate", "-m", "tiny", "-t", "100", "--seed", "3", "-n", "400", "hello"]


def test_a_terminal_never_sees_raw_control_characters(daemon):
    raw = good(run(daemon, *WILD))
    wild = [c for c in raw if ord(c) < 32 and c not in "\n\t" or 127 <= ord(c) < 160]
    assert ESCAPE in wild, "the seed gives no escape character: choose another"
    shown = run_on_terminal(daemon, *WILD).replace("\r\n", "\n")
    assert not [c for c in shown if ord(c) < 32 and c not in "\n\t" or 127 <= ord(c) < 160]
    assert "\\x1b" in shown
    lines = run_on_terminal(daemon, *WILD, "--json").replace("\r\n", "\n").splitlines()
    assert "".join(c["text"] for line in lines for c in json.loads(line)["choices"]) == \
        raw.removesuffix("\n")


def test_colour_only_where_it_is_wanted(daemon):
    assert ESCAPE in run_on_terminal(daemon, "status")
    assert ESCAPE not in run_on_terminal(daemon, "status", "--no-color")
    assert ESCAPE not in run_on_terminal(daemon, "status", env={"NO_COLOR": "1"})
    assert ESCAPE not in run_on_terminal(daemon, "status", env={"TERM": "dumb"})
    assert ESCAPE not in good(run(daemon, "status"))


# ---- exit codes ----

def failed(done, code: int, *words: str) -> None:
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("galernectl: ")
    for word in words:
        assert word in done.stderr, done.stderr


def test_exit_1_the_request_is_wrong(daemon):
    failed(run(daemon, "generate", "-m", "tiny", ""), 1, "INVALID_ARGUMENT", "empty", "request: ")
    failed(run(daemon, "generate", "-m", "tiny", "x" * 5000), 1, "INVALID_ARGUMENT", "context")
    failed(run(daemon, "generate", "-m", "tiny", "-", stdin="\udcff", errors="surrogateescape"), 1,
           "UTF-8")
    failed(run(daemon, "status", "--socket", daemon.run_dir / "galerne.sock"), 1, "UNIMPLEMENTED",
           "admin.sock")


def test_exit_1_output_cannot_be_written(daemon):
    command = f"{build_dir() / 'admin/galernectl'} generate -m tiny -n 3 hello > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30,
                          env=dict(os.environ, GALERNE_SOCKET=str(daemon.run_dir)))
    failed(done, 1, "standard output cannot be written")


def test_exit_2_degraded(fresh, tmp_path):
    broken = tmp_path / "model"
    subprocess.run(["cp", "-r", ROOT / "tests/golden/tiny-llama", broken], check=True)
    one = fresh(models={"tiny": ROOT / "tests/golden/tiny-llama", "other": broken})
    assert run(one, "status").returncode == 0
    (broken / "model.safetensors").write_bytes(b"spoilt")
    os.kill(one.model_status("other").worker_pid, signal.SIGKILL)
    done = wait_until("a model is lost", lambda: (d := run(one, "status")).returncode != 0 and d)
    assert done.returncode == 2 and done.stderr == ""
    assert re.search(r"^galerned \S+  degraded", done.stdout)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can take another user's identity")
def test_exit_4_not_allowed(daemon):
    os.chmod(daemon.directory, 0o755)
    os.chmod(daemon.run_dir, 0o755)
    try:
        failed(run(daemon, "status", user=65534, group=65534, extra_groups=[]), 4, "admin.sock",
               "sudo")
        failed(run(daemon, "models", user=65534, group=65534, extra_groups=[]), 4, "galerne.sock",
               "group")
    finally:
        os.chmod(daemon.directory, 0o700)


def test_exit_5_not_found(daemon):
    failed(run(daemon, "generate", "-m", "nope", "hi"), 5, "NOT_FOUND", "nope",
           "next: galernectl models")
    failed(run(daemon, "models", "nope\x1b[1m"), 5, "NOT_FOUND")
    assert ESCAPE not in run(daemon, "models", "nope\x1b[1m").stderr


def test_exit_7_unreachable(daemon, tmp_path):
    failed(run(None, "status", "--socket", tmp_path / "none.sock"), 7, "none.sock", "--socket")
    failed(run(None, "models", "--socket", tmp_path), 7, "galerne.sock", "quickstart --keep")


def stopped_worker(daemon):
    """The tiny model's worker stands still inside; the daemon's limit for a step is a minute."""
    class Stopped:
        def __enter__(self):
            self.pid = daemon.model_status("tiny").worker_pid
            os.kill(self.pid, signal.SIGSTOP)

        def __exit__(self, *exception):
            os.kill(self.pid, signal.SIGCONT)
            daemon.wait_idle("tiny")
    return Stopped()


def test_exit_8_time_is_over(daemon):
    with stopped_worker(daemon):
        started = time.monotonic()
        failed(run(daemon, "--timeout", "0.3", "generate", "-m", "tiny", "hello"), 8,
               "DEADLINE_EXCEEDED", "--timeout")
        assert 0.3 <= time.monotonic() - started < 5


@pytest.mark.parametrize("words, told", [
    ([], "usage: galernectl"),
    (["stauts"], "did you mean status?"),
    (["generate"], "expected a prompt"),
    (["generate", "a", "b"], "put it in quotes"),
    (["generate", "--temprature", "1", "x"], "did you mean --temperature?"),
    (["generate", "-n", "0", "x"], "--max-tokens: expected a whole number from 1"),
    (["generate", "--top-p", "1.5", "x"], "--top-p: expected a number"),
    (["generate", "-t", "nan", "x"], "--temperature: expected a number"),
    (["generate", "--min-p", "1.5", "x"], "--min-p: expected a number"),
    (["generate", "--repetition-penalty", "0", "x"], "--repetition-penalty: expected a number"),
    (["generate", "--logit-bias", "7", "x"], "--logit-bias: expected ID=VALUE"),
    (["generate", "--logit-bias", "7=", "x"], "--logit-bias: expected ID=VALUE"),
    (["generate", "--logit-bias", "7=1,", "x"], "--logit-bias: expected ID=VALUE"),
    (["generate", "--logit-bias", "-7=1", "x"], "--logit-bias: expected ID=VALUE"),
    (["generate", "--logit-bias", "7=nan", "x"], "--logit-bias: expected ID=VALUE"),
    (["generate", "--logit-bias", ",".join(f"{i}=1" for i in range(301)), "x"],
     "--logit-bias: expected at most 300"),
    (["generate", "--token-ids", "1,,2"], "numbers with commas"),
    (["generate", "--token-ids", "1", "x"], "--token-ids is the whole prompt"),
    (["generate", "x"], "name a model with --model, there is more than one: tiny, mix"),
    (["status", "x"], "expected no arguments"),
    (["-o", "xml", "status"], "expected table or json"),
    (["generate", *["--stop", "x"] * 17, "y"], "at most 16"),
])
def test_exit_64_wrong_command_line(daemon, words, told):
    done = run(daemon, *words)
    assert done.returncode == 64 and done.stdout == "" and told in done.stderr


def test_exit_130_interrupted(daemon):
    with stopped_worker(daemon):
        cancelled = daemon.model_status().requests_cancelled_total
        command = [build_dir() / "admin/galernectl", "generate", "-m", "tiny", "x"]
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE,
                                   env=dict(os.environ, GALERNE_SOCKET=str(daemon.run_dir)))
        wait_until("the request is there", lambda: daemon.model_status().requests_running == 1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out) == (130, "")
        assert err == "galernectl: interrupted: the call was cancelled\n"
    wait_until("the daemon knows",
               lambda: daemon.model_status().requests_cancelled_total == cancelled + 1)


def test_a_reader_that_goes_away_ends_the_call(daemon):
    command = f"{build_dir() / 'admin/galernectl'} generate -m tiny -n 400 hello | head -c 5"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=30,
                          env=dict(os.environ, GALERNE_SOCKET=str(daemon.run_dir)))
    assert len(done.stdout) == 5
    daemon.wait_idle("tiny")


# ---- help ----

@pytest.mark.parametrize("command", ["status", "models", "generate", "chat", "tokenize"])
def test_help(command):
    text = good(run(None, command, "--help"))
    assert text.startswith(f"usage: galernectl {command}") and "--socket PATH" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    assert command in good(run(None, "--help"))


def test_version():
    assert re.fullmatch(r"galernectl \d+\.\d+\.\d+\n", good(run(None, "--version")))
