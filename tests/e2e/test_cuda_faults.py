"""A card that fails, hangs, vanishes, is full, or says how it is: played by the emulated one, whose
environment variables (kernels/cuda/host.cu) say what goes wrong in which process."""
import re
import time

import grpc
import pytest
from daemon import TINY, build_dir, wait_until
from galerne.admin.v1 import admin_pb2
from galerne.v1 import inference_pb2 as pb
from test_cuda import MODULES, emulated
from test_galernectl import run as ctl

NVML = build_dir() / "tests/unit/fake-nvml.so"
STEP_LIMIT_MS = 8000  # an emulated step takes a tenth of it, under sanitizers too
pytestmark = emulated


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    monkeypatch.setenv("GALERNE_MODULES", str(MODULES))


def start(fresh, wait=True, **settings):
    return fresh(models={"tiny": TINY["tiny"]}, model_settings={"backend": "cuda-host"}, wait=wait,
                 **settings)


def tokens(daemon, count: int = 10) -> list:
    call = pb.GenerateRequest(model="tiny", text="hello", max_tokens=count, ignore_eos=True,
                              sampling={"temperature": 1.0, "seed": 7})
    return [t.id for m in daemon.inference().Generate(call, timeout=120) for t in m.tokens]


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """What the request gives when nothing goes wrong: a worker without graphs even, for it is
    never asked for the same step twice."""
    from daemon import Daemon
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GALERNE_MODULES", str(MODULES))
        with Daemon(models={"tiny": TINY["tiny"]},
                    model_settings={"backend": "cuda-host"}) as daemon:
            return tokens(daemon)


def failed(daemon, timeout_s: float = 30) -> str:
    """Why the model failed, by the log: a daemon without another model ends then."""
    pattern = re.compile(r"model tiny failed: (.*)")
    return wait_until("the model failed", lambda: pattern.search(daemon.log_tail()), timeout_s)[1]


def test_an_error_of_the_card_ends_the_worker_and_no_stream(fresh, monkeypatch, tmp_path, wanted):
    monkeypatch.setenv("GALERNE_CUDA_HOST_FAULT", f"sync:8:{tmp_path / 'once'}")
    daemon = start(fresh)
    assert tokens(daemon) == wanted
    status = daemon.model_status()
    assert (tmp_path / "once").exists()
    assert status.restarts_total == 1
    ends = status.worker_ends
    assert (ends.device, ends.died, ends.hung) == (1, 0, 0)
    words = "backend cuda-host: the kernels of a step failed: the card has fallen off the bus"
    assert words in status.worker_end_text and status.state_text == ""
    assert f"model tiny: worker lost: a step failed: {words}" in daemon.log_tail()
    assert f"model tiny: {words}; this worker ends" in daemon.log_tail()
    shown = ctl(daemon, "status").stdout
    assert "tiny: workers lost: 1 had a device that failed" in shown
    assert f"the last: a step failed: {words}" in shown
    counted = 'galerne_worker_ends_total{model="tiny",cause="device"} 1\n'
    assert counted in ctl(daemon, "metrics").stdout


def test_a_card_that_hangs_is_left_within_the_limit(fresh, monkeypatch, tmp_path, wanted):
    monkeypatch.setenv("GALERNE_CUDA_HOST_FAULT", f"hang:8:{tmp_path / 'once'}")
    daemon = start(fresh, step_limit_ms=STEP_LIMIT_MS)
    began = time.monotonic()
    assert tokens(daemon) == wanted
    assert STEP_LIMIT_MS / 1000 <= time.monotonic() - began < STEP_LIMIT_MS / 1000 + 40
    status = daemon.model_status()
    assert (status.worker_ends.hung, status.worker_ends.device) == (1, 0)
    assert f"the worker hung: a step took over {STEP_LIMIT_MS} ms" in status.worker_end_text


def test_a_card_that_hangs_while_it_loads_fails_the_model_in_time(fresh, monkeypatch):
    monkeypatch.setenv("GALERNE_CUDA_HOST_FAULT", "hang:1")
    daemon = start(fresh, wait=False, worker_start_limit_ms=3000)
    assert "did not load the model within 3000 ms" in failed(daemon)


def test_a_card_that_vanishes_fails_the_model(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("GALERNE_CUDA_HOST_FAULT", f"gone:8:{tmp_path / 'once'}")
    daemon = start(fresh)
    with pytest.raises(grpc.RpcError) as refused:
        tokens(daemon)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "the driver finds no card that this process may use" in failed(daemon)
    status = daemon.model_status()
    assert status.worker_state == admin_pb2.WORKER_STATE_FAILED
    assert "the driver finds no card" in status.state_text
    assert status.worker_ends.device == 1 and status.worker_ends.start >= 1
    assert "the card has fallen off the bus" in status.worker_end_text


@pytest.mark.parametrize("mib", [3, 5, 6, 8])
def test_a_full_card_says_what_it_needs_and_what_helps(fresh, monkeypatch, mib):
    monkeypatch.setenv("GALERNE_CUDA_HOST_MEMORY_MIB", str(mib))
    daemon = start(fresh, wait=False)
    text = failed(daemon)
    said = re.fullmatch(r"backend cuda-host: no memory for [\w ]+: ([\d.]+) MiB are needed, "
                        r"([\d.]+) MiB of the device are free: (.*)", text)
    assert said, text
    assert float(said[1]) >= float(said[2])
    assert re.search(r"kv_memory|step_tokens_max|smaller", said[3])


def test_an_allocation_that_fails_is_no_crash(fresh, monkeypatch):
    """Some of the allocations of a load, from its first to its last ones: matrices and norms,
    pages, rows of a step."""
    for n in (1, 4, 10, 16, 32):
        monkeypatch.setenv("GALERNE_CUDA_HOST_FAULT", f"alloc:{n}")
        text = failed(start(fresh, wait=False))
        assert re.search(r"no memory for [\w -]+: [\d.]+ MiB are needed, [\d.]+ MiB of the device "
                         r"are free: .*(lower|use|see)", text), text


def test_a_graph_that_cannot_be_made_is_said_once(fresh, monkeypatch, wanted):
    monkeypatch.setenv("GALERNE_CUDA_HOST_FAULT", "capture:1")
    daemon = start(fresh)
    assert tokens(daemon) == wanted
    assert tokens(daemon) == wanted
    words = "model tiny: decode steps run op by op, without graphs"
    assert daemon.log_tail().count(words) == 1
    assert daemon.model_status().restarts_total == 0


def test_what_the_card_says_of_itself(fresh, monkeypatch):
    monkeypatch.setenv("GALERNE_CUDA_HOST_NVML", str(NVML))
    monkeypatch.setenv("FAKE_NVML", "uncorrected=2,reasons=68")
    daemon = start(fresh)
    facts = wait_until("facts", lambda: daemon.model_status().HasField("device_facts")
                       and daemon.model_status().device_facts)
    assert (facts.name, facts.driver) == ("Fake?Card", "580.65.06")
    assert (facts.memory_bytes, facts.memory_free_bytes) == (80 << 30, 70 << 30)
    assert (facts.temperature_celsius, facts.power_watts) == (45, 310.5)
    assert (facts.ecc_corrected_total, facts.ecc_uncorrected_total) == (7, 2)
    assert list(facts.throttled_by) == ["power", "heat"]
    line = ("Fake?Card, driver 580.65.06, 70.0 of 80.0 GiB free, 45 C, 310 W, memory errors: "
            "7 corrected, 2 not")
    log = daemon.log_tail()
    assert f"model tiny: device {line}" in log
    assert log.count("memory had 2 errors that could not be corrected") == 1
    assert log.count("runs slower than it could, it is too hot") == 1
    assert f"tiny: {line}, slowed down by: power, heat" in ctl(daemon, "status").stdout


def test_a_card_that_says_less(fresh, monkeypatch):
    monkeypatch.setenv("GALERNE_CUDA_HOST_NVML", str(NVML))
    monkeypatch.setenv("FAKE_NVML", "power=3,ecc=3")
    daemon = start(fresh)
    facts = wait_until("facts", lambda: daemon.model_status().HasField("device_facts")
                       and daemon.model_status().device_facts)
    assert facts.HasField("temperature_celsius")
    assert not facts.HasField("power_watts") and not facts.HasField("ecc_corrected_total")
    words = "the card does not tell its power: Not Supported (3)"
    assert words in facts.note and daemon.log_tail().count(words) == 1


def test_without_the_library_nothing_else_changes(fresh, monkeypatch, wanted):
    monkeypatch.setenv("GALERNE_CUDA_HOST_NVML", "libgalerne-no-such.so.1")
    daemon = start(fresh)
    assert tokens(daemon) == wanted
    assert not daemon.model_status().HasField("device_facts")
    assert daemon.log_tail().count("libgalerne-no-such.so.1 is not there") == 1
