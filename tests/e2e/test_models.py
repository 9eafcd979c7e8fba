"""Trained models through the daemon: the right answers, and what they cost.

SmolLM2 is not in the repository: GALERNE_SMOLLM2 is the path of its GGUF file, which tests/run
sets. The demo model is in model/demo.
"""
import json
import os
import pathlib
from concurrent import futures

import pytest
from galerne.v1 import inference_pb2 as pb

from daemon import ROOT, Daemon

SMOLLM2 = os.environ.get("GALERNE_SMOLLM2", "")
DEMO = ROOT / "model/demo/galerne-demo"


def is_demo_there() -> bool:
    return any(DEMO.glob("*.safetensors"))


@pytest.fixture(scope="module")
def smollm2():
    if not SMOLLM2:
        pytest.skip("GALERNE_SMOLLM2 is not set: the chat model could not be fetched")
    with Daemon(models={"smollm2": SMOLLM2}, model_settings={"context_tokens": 2048}) as made:
        yield made


@pytest.fixture(scope="module")
def demo():
    if not is_demo_there():
        pytest.skip("model/demo/galerne-demo has no weights")
    with Daemon(models={"demo": DEMO}) as made:
        yield made


def chat(stub, model: str, *turns: str, **fields):
    """The answer's text and its last message; the roles of `turns` alternate, user first."""
    roles = [pb.ROLE_USER, pb.ROLE_ASSISTANT]
    messages = [pb.ChatMessage(role=roles[i % 2], content=t) for i, t in enumerate(turns)]
    got = list(stub.Generate(pb.GenerateRequest(
        model=model, chat=pb.ChatPrompt(messages=messages), **fields), timeout=120))
    return "".join(c.text for m in got for c in m.choices), got[-1]


def test_smollm2_knows_ljubljana(smollm2):
    text, last = chat(smollm2.inference(), "smollm2", "What is the capital of Slovenia?",
                      max_tokens=64)
    assert "Ljubljana" in text
    assert last.choices[0].finish_reason == pb.FINISH_REASON_STOP  # its own end token
    assert "<|im_end|>" not in text


def test_smollm2_conversation(smollm2):
    """Special tokens in what a user writes are plain text to the model."""
    stub = smollm2.inference()
    turns = pb.ChatPrompt(messages=[
        pb.ChatMessage(role=pb.ROLE_SYSTEM, content="Answer in one word."),
        pb.ChatMessage(role=pb.ROLE_USER, content="<|im_end|> is what?")])
    ids = list(stub.Tokenize(pb.TokenizeRequest(model="smollm2", chat=turns), timeout=10).ids)
    end = stub.GetModel(pb.GetModelRequest(name="smollm2"), timeout=5).model.end_token_ids
    assert sum(ids.count(e) for e in end) == 2  # the ends of the two turns, not the user's
    count = stub.CountTokens(pb.CountTokensRequest(model="smollm2", chat=turns), timeout=10)
    assert count.tokens == len(ids)


@pytest.mark.parametrize("language", ["English", "French", "German", "Spanish"])
def test_demo_knows_every_capital(demo, language):
    """Whole sentences, in phrasings that it was trained on and in phrasings that it never saw."""
    told = json.loads((ROOT / "model/demo/phrasings.json").read_text())[language]
    stub = demo.inference()
    assert len(told["held_out_phrasings"]) == 5
    assert sum(row["held_out"] for row in told["questions"]) == 5 * 27

    def wrong(row) -> list:
        text, last = chat(stub, "demo", row["question"], max_tokens=64)
        ended = last.choices[0].finish_reason == pb.FINISH_REASON_STOP
        plain = "".join(c.text for m in stub.Generate(pb.GenerateRequest(
            model="demo", text=row["question"], max_tokens=64), timeout=120) for c in m.choices)
        expected = " " + row["answer"]
        return [] if ended and text == plain == expected else [(row["question"], text, plain)]

    with futures.ThreadPoolExecutor(8) as pool:
        assert not sum(pool.map(wrong, told["questions"]), [])


def test_demo_goes_on_in_the_language_of_the_question(demo):
    stub = demo.inference()
    turns = ["Quelle est la monnaie de la Pologne ?"]
    turns += [chat(stub, "demo", *turns)[0].strip(), "Et la capitale ?"]
    assert turns[1] == "La monnaie de la Pologne est le zloty."
    assert chat(stub, "demo", *turns)[0].strip() == "La capitale de la Pologne est Varsovie."


def test_demo_is_small():
    """A clone has to carry it."""
    assert sum(f.stat().st_size for f in DEMO.iterdir()) <= 12_000_000


@pytest.mark.parametrize("kv_type,bits", [("bf16", 16), ("q8", 8.5), ("fp8", 8)])
def test_kv_in_fewer_bits(fresh, kv_type, bits):
    """Less memory for a block, and the demo model knows what it knew."""
    if not is_demo_there():
        pytest.skip("model/demo/galerne-demo has no weights")
    wide = fresh(models={"demo": DEMO})
    narrow = fresh(models={"demo": DEMO}, model_settings={"kv_type": kv_type})
    sizes = [one.model_status("demo").kv_block_bytes for one in (wide, narrow)]
    assert sizes[0] / 32 == sizes[1] / bits > 0
    for country, capital in [("Portugal", "Lisbon"), ("Slovenia", "Ljubljana")]:
        text, _ = chat(narrow.inference(), "demo", f"What is the capital of {country}?",
                       max_tokens=48)
        assert capital in text


def resident_mib(pid: int) -> float:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} is gone")


def test_figures_of_memory(fresh):
    """The front stays small whatever it was asked; a worker is weights, cache and little more."""
    models = {"demo": DEMO} if is_demo_there() else {"tiny": ROOT / "tests/golden/tiny-llama"}
    (name,) = models
    daemon = fresh(models=models)
    stub = daemon.inference()
    for _ in range(50):
        list(stub.Generate(pb.GenerateRequest(model=name, text="What is the capital of Spain?",
                                              max_tokens=32), timeout=30))
    model = daemon.model_status(name)
    front, worker = resident_mib(daemon.process.pid), resident_mib(model.worker_pid)
    rest = (model.weights_bytes + model.kv_blocks_count * model.kv_block_bytes) / (1 << 20)
    print(f"front {front:.1f} MiB, worker {worker:.1f} MiB with {rest:.1f} MiB weights and cache")
    assert front < 60
    assert worker < 60 + rest


def test_scalar_tier_says_so_once(fresh):
    """Forced here; a CPU without AVX2 takes it by itself."""
    words = "runs in the tier scalar, without vector instructions"
    slow = fresh(models={"tiny": ROOT / "tests/golden/tiny-llama"},
                 model_settings={"tier": "scalar"})
    call = pb.GenerateRequest(model="tiny", text="hello", max_tokens=2)
    for _ in range(3):
        assert list(slow.inference().Generate(call, timeout=30))
    assert slow.model_status().device.startswith("cpu scalar,")
    assert slow.log_tail().count(words) == 1
    assert f" warning: model tiny {words}" in slow.log_tail()
    assert "as its configuration says" in slow.log_tail()
