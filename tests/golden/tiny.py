"""Tiny random checkpoints as `transformers` writes them, and what it computes with them.

    tiny.py [write NAME]    writes one folder per checkpoint
    tiny.py search NAME     tries seeds and prints the clearest ones

The weights are random but not small: every norm weight differs from one, attention and routing are
sharp, logits reach about ten, so that a wrong order, a missed weight or a wrong expert shows. A
seed is kept only if no greedy choice and no choice of experts is a near tie.
"""

import argparse
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

from languages import LANGUAGES
from oracle import HERE, PLAIN, golden_write, measure
from snippets import SNIPPETS

N_PROMPT, N_GREEDY = 45, 64
N_SPECIAL = 3  # <unk> <s> </s>


@dataclass
class Spec:
    """One checkpoint: `shape` goes into its configuration."""

    name: str
    seed: int
    dtype: torch.dtype
    shape: dict
    rope_theta: float = 10000.0
    scaling: dict = field(default_factory=lambda: {"rope_type": "default"})
    shard_size: str | None = None  # several files of at most so much
    old_form: bool = False  # config.json as transformers 4 wrote it
    moe: bool = field(init=False)

    def __post_init__(self) -> None:
        self.moe = "num_local_experts" in self.shape

    def classes(self):
        if self.moe:
            return MixtralConfig, MixtralForCausalLM
        if "sliding_window" in self.shape:
            return MistralConfig, MistralForCausalLM
        return LlamaConfig, LlamaForCausalLM

    def config(self):
        kind = self.classes()[0]
        rope = self.scaling | {"rope_theta": self.rope_theta}
        return kind(
            **self.shape,
            rope_parameters=rope,
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=2,
            **PLAIN,
        )


def llama(hidden, inter, layers, heads, kv, dim, vocab, tied, eps=1e-5) -> dict:
    return dict(
        hidden_size=hidden,
        intermediate_size=inter,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=dim,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        rms_norm_eps=eps,
    )


def mixtral(experts, top, *shape, **more) -> dict:
    return llama(*shape, **more) | dict(num_local_experts=experts, num_experts_per_tok=top)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "factor": 3.0}
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
# fmt: off
SPECS = [
    #                                             hidden inter layers heads kv dim vocab
    Spec("tiny-llama", 27, F32, llama(64, 80, 2, 4, 2, 16, 320, tied=False)),
    Spec("tiny-llama-bf16", 26, BF16, llama(64, 160, 3, 4, 1, 32, 512, tied=True, eps=1e-6), 1e5),
    Spec("tiny-llama-f16", 379, F16, llama(96, 128, 2, 6, 2, 16, 384, tied=True)),
    Spec("tiny-llama-odd", 6, F32, llama(60, 111, 2, 3, 1, 20, 515, tied=True)),
    Spec("tiny-mistral", 19, F32, llama(64, 80, 2, 4, 2, 16, 320, tied=False)
         | {"sliding_window": 13}, shard_size="100KB"),
    Spec("tiny-llama-scaled", 57, F32, llama(64, 80, 2, 4, 2, 20, 320, tied=True), scaling=LLAMA3),
    Spec("tiny-llama-linear", 52, F32, llama(48, 64, 2, 3, 1, 16, 512, tied=False), scaling=LINEAR,
         old_form=True),
    Spec("tiny-llama-biased", 22, BF16, llama(56, 72, 2, 4, 1, 24, 384, tied=False)
         | {"attention_bias": True, "mlp_bias": True}),
    Spec("tiny-mixtral", 254, F32, mixtral(8, 2, 48, 24, 2, 6, 2, 8, 288, tied=False)),
    Spec("tiny-mixtral-bf16", 19, BF16, mixtral(8, 2, 64, 32, 2, 4, 2, 16, 512, tied=True), 1e6),
    Spec("tiny-mixtral-odd", 3, F16, mixtral(5, 3, 52, 37, 3, 3, 3, 14, 333, tied=False)),
]
# fmt: on


def random_model(spec: Spec):
    """Weights of the checkpoint's own precision, in a float32 model."""
    config = spec.config()
    model = spec.classes()[1](config).eval()
    draw = torch.Generator().manual_seed(spec.seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if name.endswith(".bias"):
                p.normal_(0.0, 0.3, generator=draw)
            elif p.dim() == 1:
                p.uniform_(0.5, 1.5, generator=draw)
            else:
                p.normal_(0.0, gain(name) / math.sqrt(p.shape[-1]), generator=draw)
            p.copy_(p.to(spec.dtype).float())
    return model


def gain(name: str) -> float:
    """How strongly a matrix answers an input of unit size."""
    if "embed_tokens" in name or "lm_head" in name or "gate.weight" in name:
        return 3.0
    return 1.5


def prompt_ids(spec: Spec) -> list[int]:
    draw = torch.Generator().manual_seed(1000 + spec.seed)
    return torch.randint(N_SPECIAL, spec.shape["vocab_size"], (N_PROMPT,), generator=draw).tolist()


def search(spec: Spec, n_seeds: int = 400) -> None:
    found = []
    for spec.seed in range(1, n_seeds + 1):
        greedy, _, facts = measure(random_model(spec), prompt_ids(spec), N_GREEDY)
        if facts["n_distinct"] >= 40 and min(greedy) >= N_SPECIAL:
            clear = min(facts["min_logit_gap"], facts.get("min_router_gap", 1.0))
            found.append((clear, spec.seed, facts))
    for row in sorted(found, key=lambda row: row[0])[-5:]:
        print(spec.name, row)


def tokenizer_for(spec: Spec) -> PreTrainedTokenizerFast:
    """A small byte-level BPE, so that the folder is a whole model; its merges mean little."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.shape["vocab_size"],
        special_tokens=["<unk>", "<s>", "</s>"],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    texts = [s for part in (LANGUAGES, SNIPPETS) for row in part.values() for s in row]
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == spec.shape["vocab_size"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def rewrite_old(path: Path) -> None:
    """Flat rope_theta, rope_scaling with "type", torch_dtype; head_dim null where it can be."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config |= {
        "rope_theta": rope.pop("rope_theta"),
        "rope_scaling": {"type": rope.pop("rope_type"), **rope},
        "torch_dtype": config.pop("dtype"),
        "transformers_version": "4.40.0",
    }
    if config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]:
        config["head_dim"] = None
    path.write_text(json.dumps(config, indent=2) + "\n")


def write(spec: Spec) -> None:
    folder = HERE / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    sizes = {"max_shard_size": spec.shard_size} if spec.shard_size else {}
    random_model(spec).to(spec.dtype).save_pretrained(folder, **sizes)
    if spec.old_form:
        rewrite_old(folder / "config.json")
    tokenizer_for(spec).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=F32, **PLAIN).eval()
    prompt = prompt_ids(spec)
    greedy, logits, facts = measure(model, prompt, N_GREEDY)
    golden_write(folder, {"model": spec.name, "seed": spec.seed}, prompt, greedy, logits, facts)
    size = 0
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
        size += file.stat().st_size
    assert size < 400_000 and facts["n_distinct"] >= 40 and min(greedy) >= N_SPECIAL
    print(f"{spec.name}: {size} bytes, {facts}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("action", nargs="?", choices=["search", "write"])
    arguments.add_argument("name", nargs="?")
    given = arguments.parse_args()
    for spec in SPECS:
        if given.action == "search":
            if given.name in (None, spec.name):
                search(spec)
        elif given.name in (None, spec.name):
            write(spec)


if __name__ == "__main__":
    main()
