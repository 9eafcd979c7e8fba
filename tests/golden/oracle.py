"""What the generators share: the GGUF tokenizer rebuilt, and how golden numbers are written."""

import json
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent

# No fused attention and no grouped expert products: the library's plainest arithmetic.
PLAIN = {"attn_implementation": "eager", "experts_implementation": "eager"}

GGUF_CONTROL, GGUF_USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


def byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: the printable letter that stands for each byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(b): b for b in plain}
    letters |= {chr(0x100 + i): b for i, b in enumerate(b for b in range(256) if b not in plain)}
    return letters


def token_bytes(tokenizer) -> list[bytes]:
    """The exact bytes of every id: raw text for added tokens, GPT-2's letters for the others."""
    letters = byte_letters()
    added = tokenizer.get_added_tokens_decoder()
    table = [b""] * tokenizer.get_vocab_size(with_added_tokens=True)
    for text, i in tokenizer.get_vocab(with_added_tokens=True).items():
        table[i] = text.encode() if i in added else bytes(letters[c] for c in text)
    return table


def gguf_tokenizer(path: Path):
    """SmolLM2's tokenizer from the vocabulary and merges inside its GGUF file.

    The file names its pre-tokenizer `smollm`: each digit alone, then GPT-2's pattern. The GGUF
    conversion of `transformers` loses the first half, so the pipeline is put together here.
    """
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    fields = GGUFReader(path).fields
    value = lambda key: fields[f"tokenizer.ggml.{key}"].contents()
    assert value("model") == "gpt2" and value("pre") == "smollm"
    assert not value("add_bos_token") and not value("add_space_prefix")
    tokens, types = value("tokens"), value("token_type")
    merges = [tuple(m.split(" ")) for m in value("merges")]
    assert all(len(m) == 2 for m in merges)
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        AddedToken(t, special=True, normalized=False)
        for t, k in zip(tokens, types)
        if k == GGUF_CONTROL
    ]
    user = [
        AddedToken(t, special=False, normalized=False)
        for t, k in zip(tokens, types)
        if k == GGUF_USER_DEFINED
    ]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(user)
    assert tokenizer.get_vocab_size(with_added_tokens=True) == len(tokens)
    return tokenizer


def rows_json(rows: list) -> str:
    """A JSON array with one compact element per line."""
    return "[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]"


def read_strings() -> list[str]:
    return json.loads((HERE / "tokens" / "strings.json").read_text())["strings"]


def float32_reference(model, prompt: list[int], n_steps: int, stop: frozenset[int] = frozenset()):
    """Greedy continuation of `prompt`, and the logits of every position.

    The continuation is found token by token over the library's cache; then one pass without a
    cache over prompt + continuation gives logits [n_prompt + n_greedy][vocab]. Both must choose
    the same tokens.
    """
    import torch

    torch.set_num_threads(1)  # the last bits of a sum depend on how it is shared out
    greedy: list[int] = []
    with torch.no_grad():
        fed, cache = prompt, None
        while len(greedy) < n_steps and not (greedy and greedy[-1] in stop):
            out = model(torch.tensor([fed]), cache=cache, use_cache=True, logits_to_keep=1)
            cache = out.cache
            fed = [int(out.logits[0, -1].argmax())]
            greedy += fed
        logits = model(torch.tensor([prompt + greedy]), use_cache=False).logits[0]
    assert logits.dtype == torch.float32
    chosen = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
    assert chosen == greedy, "the greedy choice is not stable"
    return greedy, logits


def least_gap(logits) -> float:
    """The smallest distance between the best and the second best logit of any row."""
    best = logits.topk(2, dim=-1).values
    return float((best[:, 0] - best[:, 1]).min())


def router_gap(model, ids: list[int]) -> float:
    """The smallest distance between the last expert chosen and the first one that is not."""
    import torch

    top = model.config.num_experts_per_tok
    gaps: list[float] = []

    def watch(gate, inputs):
        logits = torch.nn.functional.linear(
            inputs[0].reshape(-1, gate.weight.shape[1]), gate.weight
        )
        best = logits.topk(top + 1).values
        gaps.append(float((best[:, -2] - best[:, -1]).min()))

    hooks = [layer.mlp.gate.register_forward_pre_hook(watch) for layer in model.model.layers]
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    assert len(gaps) == model.config.num_hidden_layers
    return min(gaps)


def measure(model, prompt: list[int], n_greedy: int):
    """Greedy ids, logits, and how clear the choices were."""
    greedy, logits = float32_reference(model, prompt, n_greedy)
    facts = {"min_logit_gap": least_gap(logits[len(prompt) - 1 : -1])}
    if model.config.model_type == "mixtral":
        facts["min_router_gap"] = router_gap(model, prompt + greedy)
    facts |= {"max_abs_logit": float(logits.abs().max()), "n_distinct": len(set(greedy))}
    return greedy, logits, facts


def golden_write(
    folder: Path, head: dict, prompt: list[int], greedy: list[int], logits, facts: dict
) -> None:
    """golden.json and logits.f32: raw little-endian float32 [n_prompt + n_greedy][vocab]."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "logits.f32").write_bytes(logits.contiguous().numpy().astype("<f4").tobytes())
    lines = head | {"transformers": version("transformers"), "torch": version("torch")} | facts
    lines |= {
        "logits": {"file": "logits.f32", "shape": list(logits.shape)},
        "prompt": prompt,
        "greedy": greedy,
    }
    text = ",\n".join(
        f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in lines.items()
    )
    (folder / "golden.json").write_text("{" + text + "}\n")
