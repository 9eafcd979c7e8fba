"""The backend for GPUs where there is none: its kernels emulated inside of a worker give the CPU's
tokens; a backend that cannot be had says why, or makes way for the CPU."""
import os

import pytest
from daemon import TINY, Daemon, build_dir, wait_until
from galerne.v1 import inference_pb2 as pb
from test_models import DEMO, is_demo_there

MODULES = build_dir() / "kernels/cuda"
HAS_EMULATOR = (MODULES / "galerne-cuda-host.so").exists()
DRAWN = {"temperature": 1.0, "seed": 7, "top_p": 0.9}
emulated = pytest.mark.skipif(not HAS_EMULATOR, reason="no C++ compiler when this was built")


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    monkeypatch.setenv("GALERNE_MODULES", str(MODULES))


def tokens(models: dict, backend: str, prompts: list, max_tokens: int, samplings: tuple,
           **settings) -> list:
    """Per model, prompt and way of sampling: ids with log-probabilities."""
    found = []
    with Daemon(models=models, model_settings={"backend": backend, **settings}) as daemon:
        stub = daemon.inference()
        for model in models:
            for prompt in prompts:
                for sampling in samplings:
                    call = pb.GenerateRequest(model=model, text=prompt, max_tokens=max_tokens,
                                              logprobs=1, ignore_eos=True, sampling=sampling)
                    found += [[(t.id, t.logprob) for m in stub.Generate(call, timeout=300)
                               for t in m.tokens]]
    return found


def same(models: dict, prompts: list, max_tokens: int, samplings=({}, DRAWN), bound=0.02,
         kv_type="f32", **settings) -> None:
    cpu = tokens(models, "cpu", prompts, max_tokens, samplings, kv_type=kv_type)
    gpu = tokens(models, "cuda-host", prompts, max_tokens, samplings, kv_type=kv_type, **settings)
    assert len(cpu) == len(gpu) > 0
    for a, b in zip(cpu, gpu):
        assert len(a) == max_tokens
        assert [t for t, _ in a] == [t for t, _ in b]
        assert [p for _, p in b] == pytest.approx([p for _, p in a], abs=bound)


@emulated
@pytest.mark.parametrize("tier", ["sm80", "sm90"])
def test_tiny_models_give_the_tokens_of_the_cpu(tier):
    same(TINY, ["hello", "a b c d e f g h i j k l m n o p q r s t u v w x y z"], 6, tier=tier)


@emulated
@pytest.mark.skipif(not is_demo_there(), reason="the demo model has no weights")
def test_the_demo_model_gives_the_tokens_of_the_cpu():
    same({"demo": DEMO}, ["The capital of Portugal"], 4)


@emulated
@pytest.mark.parametrize("tier", ["sm80", "sm90"])
def test_tiny_models_with_kv_in_8_bits(tier):
    # A last bit of K before it is rounded may be worth 2^-3 of it after: greedy alone.
    same(TINY, ["hello", "a b c d e f g h i j k l m n o p q r s t u v w x y z"], 6, tier=tier,
         samplings=({},), bound=0.1, kv_type="fp8")


@emulated
@pytest.mark.skipif(not is_demo_there(), reason="the demo model has no weights")
def test_the_demo_model_with_kv_in_8_bits():
    same({"demo": DEMO}, ["The capital of Portugal"], 4, samplings=({},), bound=0.1, kv_type="fp8")


@emulated
@pytest.mark.skipif(not os.environ.get("GALERNE_SMOLLM2"), reason="SmolLM2 was not fetched")
@pytest.mark.parametrize("kv_type", ["f32", "fp8"])
def test_smollm2_gives_the_tokens_of_the_cpu(kv_type):
    # The bound is wide because the CPU rounds what 4-bit weights are multiplied with to 8 bits.
    same({"smollm2": os.environ["GALERNE_SMOLLM2"]}, ["The sun"], 2, samplings=({},), bound=0.3,
         kv_type=kv_type)


def says(fresh, words: str, **settings) -> str:
    """Starts a daemon that cannot serve its model; what it logged once it said the words."""
    daemon = fresh(models={"tiny": TINY["tiny"]}, model_settings=settings, wait=False)
    wait_until(words, lambda: words in daemon.log_tail(), 20)
    return daemon.log_tail()


def test_auto_serves_on_the_cpu_without_a_module_and_says_why(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("GALERNE_MODULES", str(tmp_path))
    daemon = fresh(models={"tiny": TINY["tiny"]}, model_settings={"backend": "auto"})
    words = f"model tiny: the CPU serves it: backend cuda: no module: {tmp_path}"
    assert words in daemon.log_tail()
    call = pb.GenerateRequest(model="tiny", text="hello", max_tokens=3, ignore_eos=True)
    assert sum(len(m.tokens) for m in daemon.inference().Generate(call, timeout=30)) == 3


@pytest.mark.skipif(not (MODULES / "galerne-cuda.so").exists(), reason="built without nvcc")
@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a card")
def test_auto_serves_on_the_cpu_without_a_driver_and_says_why(fresh):
    daemon = fresh(models={"tiny": TINY["tiny"]}, model_settings={"backend": "auto"})
    assert "model tiny: the CPU serves it: backend cuda: no NVIDIA driver" in daemon.log_tail()


@pytest.mark.skipif(not (MODULES / "galerne-cuda.so").exists(), reason="built without nvcc")
@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a card")
def test_cuda_without_a_driver_fails_the_model(fresh):
    says(fresh, "backend cuda: no NVIDIA driver (libcuda.so.1) is installed", backend="cuda")


@pytest.mark.skipif(not (MODULES / "galerne-cuda.so").exists(), reason="built without nvcc")
@pytest.mark.parametrize("facts, words", [
    ({"FAKE_CUDA_VERSION": "12020"},
     "the driver supports CUDA 12.2, 13.0 is needed: update it"),
    ({"FAKE_CUDA_INIT": "0"}, "the driver finds no card that this process may use"),
    ({"FAKE_CUDA_INIT": "100"}, "the driver finds no card that this process may use"),
    ({"FAKE_CUDA_INIT": "803"},
     "the driver does not start: system has unsupported display driver / cuda driver combination "
     "(cudaErrorSystemDriverMismatch): nvidia-smi and the kernel's log say more")])
def test_a_driver_that_refuses_is_named_in_one_line(fresh, monkeypatch, facts, words):
    """The card's own module, and a driver's library of the test's."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build_dir() / "tests/unit"))
    for name, value in facts.items():
        monkeypatch.setenv(name, value)
    daemon = fresh(models={"tiny": TINY["tiny"]}, model_settings={"backend": "auto"})
    log = daemon.log_tail()
    assert f"model tiny: the CPU serves it: backend cuda: {words}" in log
    assert log.count("backend cuda") == 1
    call = pb.GenerateRequest(model="tiny", text="hello", max_tokens=3, ignore_eos=True)
    assert sum(len(m.tokens) for m in daemon.inference().Generate(call, timeout=30)) == 3


@pytest.mark.skipif(not (MODULES / "galerne-cuda.so").exists(), reason="built without nvcc")
@pytest.mark.parametrize("backend", ["cuda", "auto"])
def test_a_driver_that_hangs_fails_the_model_in_time(fresh, monkeypatch, backend):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build_dir() / "tests/unit"))
    monkeypatch.setenv("FAKE_CUDA_INIT", "hang")
    daemon = fresh(models={"tiny": TINY["tiny"]}, wait=False, worker_start_limit_ms=3000,
                   model_settings={"backend": backend})
    wait_until("the model failed", lambda: "did not load the model within 3000 ms"
               in daemon.log_tail(), 30)


def test_cuda_without_a_module_fails_the_model(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("GALERNE_MODULES", str(tmp_path))
    says(fresh, "backend cuda: no module: ", backend="cuda")


@emulated
def test_q8_is_the_cpus_and_fp8_is_named(fresh, monkeypatch, tmp_path):
    (tmp_path / "galerne-cuda.so").symlink_to((MODULES / "galerne-cuda-host.so").resolve())
    monkeypatch.setenv("GALERNE_MODULES", str(tmp_path))
    words = "GPUs keep K and V as fp8, bf16 or f32, not as Q8_0"
    says(fresh, words, backend="cuda", kv_type="q8")
    daemon = fresh(models={"tiny": TINY["tiny"]},
                   model_settings={"backend": "auto", "kv_type": "q8"})
    assert f"model tiny: the CPU serves it: {words}" in daemon.log_tail()


def test_a_module_of_another_build_is_refused(fresh, monkeypatch, tmp_path):
    (tmp_path / "galerne-cuda.so").write_bytes(b"\x7fELF nothing")
    monkeypatch.setenv("GALERNE_MODULES", str(tmp_path))
    says(fresh, "backend cuda: no module: ", backend="cuda")


def test_inline_and_cuda_are_refused(fresh):
    daemon = fresh(models={"tiny": TINY["tiny"]}, wait=False,
                   model_settings={"backend": "cuda", "worker": "inline"})
    wait_until("it ends", lambda: daemon.process.poll() is not None, 20)
    assert "needs a process of its own" in daemon.log_tail()
