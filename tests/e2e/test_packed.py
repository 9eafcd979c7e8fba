"""Checkpoints packed in 8 or 4 bits through the daemon: the tokens that `transformers` chose with
the weights that they stand for, on the plain reference; the same choices on the CPU and on the
emulated GPU; and what an operator sees of a bad one."""
import json
import shutil
import struct

import pytest
from daemon import ROOT, build_dir, wait_until
from galerne.v1 import inference_pb2 as pb

GOLDEN = ROOT / "tests/golden"
NAMES = ["tiny-llama-fp8", "tiny-mixtral-fp8", "tiny-llama-gptq", "tiny-llama-awq"]
MODELS = {name: GOLDEN / name for name in NAMES}
MODULES = build_dir() / "kernels/cuda"
N = 12


def golden(name: str) -> dict:
    return json.loads((GOLDEN / name / "golden.json").read_text())


def greedy(daemon, name: str, n: int) -> list:
    """Ids and log-probabilities."""
    call = pb.GenerateRequest(model=name, max_tokens=n, logprobs=1, ignore_eos=True,
                              token_ids=pb.TokenIds(ids=golden(name)["prompt"]))
    return [(t.id, t.logprob) for m in daemon.inference().Generate(call, timeout=300)
            for t in m.tokens]


def test_the_reference_gives_the_golden_tokens(fresh):
    daemon = fresh(models=MODELS, model_settings={"backend": "ref"})
    for name in NAMES:
        assert [i for i, _ in greedy(daemon, name, 64)] == golden(name)["greedy"]


def close(daemon, name: str, exact: list, bound: float) -> None:
    """The same tokens up to the first that is chosen otherwise, which `exact` has as likely as its
    own, all but `bound`."""
    got = greedy(daemon, name, N)
    seen = next((i + 1 for i in range(N) if got[i][0] != exact[i][0]), N)
    assert seen >= 2, (got, exact)
    assert [p for _, p in got[:seen]] == pytest.approx([p for _, p in exact[:seen]], abs=bound)


@pytest.mark.parametrize("backend", ["cpu", "cuda-host"])
def test_backends_give_what_the_reference_gives(fresh, monkeypatch, backend):
    if backend == "cuda-host" and not (MODULES / "galerne-cuda-host.so").exists():
        pytest.skip("no C++ compiler when this was built")
    monkeypatch.setenv("GALERNE_MODULES", str(MODULES))
    reference = fresh(models=MODELS, model_settings={"backend": "ref"})
    daemon = fresh(models=MODELS, model_settings={"backend": backend})
    for name in NAMES:
        close(daemon, name, greedy(reference, name, N), 0.5)
    widened = daemon.log_tail().count("kept as BF16 by this backend")
    assert widened == (2 if backend == "cpu" else 0)


def test_fp8_is_quantised_while_it_loads(fresh, tmp_path):
    daemon = fresh(models={"tiny-llama-fp8": MODELS["tiny-llama-fp8"]},
                   model_settings={"quantize": "q8"}, cache_dir=tmp_path / "cache")
    reference = fresh(models={"tiny-llama-fp8": MODELS["tiny-llama-fp8"]},
                      model_settings={"backend": "ref"})
    close(daemon, "tiny-llama-fp8", greedy(reference, "tiny-llama-fp8", N), 0.5)
    assert "quantising 14 tensors to Q8_0" in daemon.log_tail()


def header_change(path, old: bytes, new: bytes) -> None:
    """In the header of a safetensors file, with its length put right."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length].replace(old, new).rstrip(b" ")
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


@pytest.mark.parametrize("name, old, new, text", [
    ("tiny-llama-fp8", b"0.mlp.up_proj.weight_scale_inv", b"0.mlp.up_proj.weight_scale_ink",
     "model.layers.0.mlp.up_proj.weight_scale_inv is missing"),
    ("tiny-llama-gptq", b"1.mlp.up_proj.qzeros", b"1.mlp.up_proj.qzeroz",
     "model.layers.1.mlp.up_proj.qzeros is missing"),
    ("tiny-llama-awq", b"0.self_attn.o_proj.scales", b"0.self_attn.o_proj.scale",
     "model.layers.0.self_attn.o_proj.scales is missing"),
])
def test_a_bad_checkpoint_is_named(fresh, tmp_path, name, old, new, text):
    folder = tmp_path / name
    shutil.copytree(MODELS[name], folder)
    header_change(folder / "model.safetensors", old, new)
    daemon = fresh(models={name: folder}, wait=False)
    wait_until(text, lambda: text in daemon.log_tail(), 20)
