"""A second opinion on the tiny checkpoints: float64, straight from the weight file, by hand.

    check.py [--model DIR] [FOLDER...]    exit 1 if logits.f32 is further than 5e-4 from it

It shares no code with `transformers`: what both agree on is the architecture, not one library's
reading of it. The folder holds golden.json and logits.f32, and the model unless --model names it.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

from oracle import HERE

BOUND = 5e-4


class Network:
    """Llama and Mixtral for one sequence, without a cache. Arrays are float64."""

    def __init__(self, folder: Path):
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                self.weights |= {k: file.get_tensor(k).double().numpy() for k in file.keys()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.weights[name + ".weight"]

    def linear(self, x, name: str):
        return x @ self[name].T + self.weights.get(name + ".bias", 0.0)

    def norm(self, x, name: str):
        return (
            x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"]) * self[name]
        )

    def attention(self, x, name: str):
        c, n = self.config, len(x)
        heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        dim = c["head_dim"] or c["hidden_size"] // heads
        part = lambda which, count: self.linear(x, f"{name}.{which}_proj").reshape(n, count, dim)
        q, k = rotate(part("q", heads), c), rotate(part("k", kv_heads), c)
        k, v = (a.repeat(heads // kv_heads, axis=1) for a in (k, part("v", kv_heads)))
        scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(dim)
        scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        if c.get("sliding_window"):
            scores[:, np.tril(np.ones((n, n), bool), -c["sliding_window"])] = -np.inf
        mixed = np.einsum("hts,shd->thd", softmax(scores), v).reshape(n, heads * dim)
        return self.linear(mixed, f"{name}.o_proj")

    def gated(self, x, name: str, parts: tuple[str, str, str]):
        gate, up, down = (f"{name}.{part}" for part in parts)
        z = self.linear(x, gate)
        return self.linear(z / (1 + np.exp(-z)) * self.linear(x, up), down)

    def experts(self, x, name: str):
        share = softmax(x @ self[name + ".gate"].T)
        best = np.argsort(-share, axis=-1)[:, : self.config["num_experts_per_tok"]]
        out = np.zeros_like(x)
        for t, chosen in enumerate(best):
            for e in chosen:
                y = self.gated(x[t : t + 1], f"{name}.experts.{e}", ("w1", "w3", "w2"))
                out[t] += share[t, e] / share[t, chosen].sum() * y[0]
        return out

    def logits(self, ids: list[int]) -> np.ndarray:
        x = self["model.embed_tokens"][ids]
        for i in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{i}"
            x = x + self.attention(self.norm(x, layer + ".input_layernorm"), layer + ".self_attn")
            h = self.norm(x, layer + ".post_attention_layernorm")
            if self.config["model_type"] == "mixtral":
                x = x + self.experts(h, layer + ".block_sparse_moe")
            else:
                x = x + self.gated(h, layer + ".mlp", ("gate_proj", "up_proj", "down_proj"))
        tied = self.config["tie_word_embeddings"]
        head = self["model.embed_tokens"] if tied else self["lm_head"]
        return self.norm(x, "model.norm") @ head.T


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def speeds(config: dict, dim: int):
    """How fast each pair of a head turns, in radians a position."""
    rope = config.get("rope_parameters") or config["rope_scaling"] | {
        "rope_type": config["rope_scaling"]["type"],
        "rope_theta": config["rope_theta"],
    }
    speed = rope["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
    if rope["rope_type"] == "linear":
        return speed / rope["factor"]
    if rope["rope_type"] == "llama3":
        wave, old = 2 * np.pi / speed, rope["original_max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = (old / wave - low) / (high - low)
        between = (1 - smooth) * speed / rope["factor"] + smooth * speed
        slow, fast = wave > old / low, wave < old / high
        return np.where(slow, speed / rope["factor"], np.where(fast, speed, between))
    return speed


def rotate(x, config: dict):
    """Rotary positions: the first half of a head turns against the second half."""
    n, _, dim = x.shape
    speed = speeds(config, dim)
    angle = (np.arange(n)[:, None] * speed)[:, None]
    a, b = x[..., : dim // 2], x[..., dim // 2 :]
    return np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1
    )


def check(folder: Path, network: Network) -> bool:
    golden = json.loads((folder / "golden.json").read_text())
    theirs = np.fromfile(folder / "logits.f32", "<f4").reshape(golden["logits"]["shape"])
    ours = network.logits(golden["prompt"] + golden["greedy"])
    worst = float(np.abs(ours - theirs).max())
    same = ours[len(golden["prompt"]) - 1 : -1].argmax(-1).tolist() == golden["greedy"]
    print(
        f"{folder.name}: largest difference {worst:.1e}, greedy {'same' if same else 'DIFFERENT'}"
    )
    return same and worst <= BOUND


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", type=Path, help="folder of the weights")
    arguments.add_argument("folder", nargs="*", type=Path)
    given = arguments.parse_args()
    folders = given.folder or sorted(f.parent for f in HERE.glob("tiny-*/config.json"))
    return 0 if all([check(f, Network(given.model or f)) for f in folders]) else 1


if __name__ == "__main__":
    sys.exit(main())
