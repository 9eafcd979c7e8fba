"""A vocabulary of 131,072 for a network so small that only the golden numbers need to be kept.

    wide.py            writes wide/golden.json
    wide.py search     tries seeds and prints the clearest ones

The weights are drawn by a formula that wide_test.c computes too, to the bit: value i of tensor t
(counted in the order of SHAPES) is the top 24 bits of splitmix64(seed << 48 | t << 32 | i), scaled
to -1..1 and then by the tensor's power of two; norms are 1 + a quarter of that.
"""

import json
import sys
from importlib.metadata import version

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from oracle import HERE, PLAIN, measure

SEED = 2
VOCAB, HIDDEN, INTER, HEADS, KV_HEADS, DIM = 131072, 16, 24, 2, 1, 12
N_PROMPT, N_GREEDY, N_BEST, N_OTHERS = 45, 64, 8, 8
LAYER = "model.layers.0."
SHAPES = {
    "model.embed_tokens.weight": ((VOCAB, HIDDEN), 1.0),
    "model.norm.weight": ((HIDDEN,), 0.0),
    LAYER + "input_layernorm.weight": ((HIDDEN,), 0.0),
    LAYER + "self_attn.q_proj.weight": ((HEADS * DIM, HIDDEN), 2.0),
    LAYER + "self_attn.k_proj.weight": ((KV_HEADS * DIM, HIDDEN), 2.0),
    LAYER + "self_attn.v_proj.weight": ((KV_HEADS * DIM, HIDDEN), 2.0),
    LAYER + "self_attn.o_proj.weight": ((HIDDEN, HEADS * DIM), 2.0),
    LAYER + "post_attention_layernorm.weight": ((HIDDEN,), 0.0),
    LAYER + "mlp.gate_proj.weight": ((INTER, HIDDEN), 2.0),
    LAYER + "mlp.up_proj.weight": ((INTER, HIDDEN), 2.0),
    LAYER + "mlp.down_proj.weight": ((HIDDEN, INTER), 2.0),
}


def splitmix64(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def drawn(seed: int, number: int, shape: tuple[int, ...], gain: float) -> torch.Tensor:
    start = np.uint64(seed << 48 | number << 32)
    top = splitmix64(np.arange(np.prod(shape), dtype=np.uint64) + start) >> np.uint64(40)
    unit = top.astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    values = unit * np.float32(gain) if gain else 1 + unit * np.float32(0.25)
    return torch.from_numpy(values.reshape(shape))


def model_of(seed: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INTER,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=DIM,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        **PLAIN,
    )
    model = LlamaForCausalLM(config).eval()
    state = {n: drawn(seed, t, *s) for t, (n, s) in enumerate(SHAPES.items())}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return model


def prompt_of(seed: int) -> list[int]:
    numbers = splitmix64(np.arange(N_PROMPT, dtype=np.uint64) + np.uint64(seed << 48 | 99 << 32))
    return [int(n % np.uint64(VOCAB)) for n in numbers]


def main() -> None:
    if sys.argv[1:] == ["search"]:
        for seed in range(1, 40):
            greedy, _, facts = measure(model_of(seed), prompt_of(seed), N_GREEDY)
            print(seed, facts, flush=True)
        return
    prompt = prompt_of(SEED)
    greedy, logits, facts = measure(model_of(SEED), prompt, N_GREEDY)
    rows = []
    for i, row in enumerate(logits):
        others = splitmix64(np.arange(N_OTHERS, dtype=np.uint64) + np.uint64(i)) % np.uint64(VOCAB)
        ids = row.topk(N_BEST).indices.tolist() + [int(o) for o in others]
        rows.append([[j, float(row[j])] for j in ids])
    head = {"seed": SEED, "transformers": version("transformers"), "torch": version("torch")}
    out = head | facts | {"prompt": prompt, "greedy": greedy, "rows": rows}
    folder = HERE / "wide"
    folder.mkdir(exist_ok=True)
    lines = [f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in out.items()]
    (folder / "golden.json").write_text("{" + ",\n".join(lines) + "}\n")
    print(f"wide/golden.json: {facts}")


if __name__ == "__main__":
    main()
