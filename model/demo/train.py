"""Trains the demo model and writes it as `transformers` writes a model.

    python train.py --out DIR --work DIR [--resume]

First a tokenizer is learned from drawn samples, then a small Mixtral network learns to answer.
Only the answers are learned, not the questions. The batches hold about the same number of tokens
each, of samples of nearly the same length, so that little is spent on padding; the padding is on
the right, where a causal network cannot see it, so no attention mask is needed.

The balance loss is taken per layer. (The one in `transformers` is taken over all layers together:
an expert that starves in one layer can hide behind its namesake in another.)
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Iterator

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GenerationConfig,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from questions import Generator, Sample

SEED = 20261124
VOCABULARY = 2048
CONTEXT_TOKENS = 512
SPECIALS = ("<s>", "</s>", "[INST]", "[/INST]")  # ids 0, 1, 2, 3
BOS, EOS = 0, 1
BATCH_TOKENS = 1024
WARM_UP_STEPS = 100
BALANCE = 0.1
IGNORED = -100  # the label of a token whose prediction is not learned


@dataclass(frozen=True)
class Stage:
    """A run of steps with its own samples, optimizer and rise and fall of the learning rate."""

    steps: int
    peak_rate: float
    seed: int
    fall_steps: int  # the rate falls over so many; a stage may end before it is down
    name_first: float = 0.0  # of the generator, and the next
    short: float = 0.0


STAGES = (
    Stage(2000, 2e-3, SEED + 1, 3500),
    Stage(1250, 1e-3, SEED + 2, 1250),
    Stage(900, 7e-4, SEED + 3, 900),
    Stage(900, 8e-4, SEED + 4, 900, 0.35),
    Stage(500, 6e-4, SEED + 5, 500, 0.2, 0.15),
)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only the roles user and assistant are supported') }}"
    "{% endif %}"
    "{% endfor %}"
)


def pieces(sample: Sample) -> Iterator[tuple[str, bool]]:
    """A sample as text in pieces; True marks what the model shall learn to write."""
    yield "<s>", False
    for asked, answered in sample.turns:
        yield (asked if sample.plain else f"[INST] {asked} [/INST]"), False
        yield f" {answered}</s>", True


def tokenizer_train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (f"{q}\n {a}" for s in Generator(SEED, rich=False).samples(60000) for q, a in s.turns)
    tokenizer.train_from_iterator(texts, trainer)
    # Plain text gets <s> in front; the chat template writes its own.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer


def tokenizer_wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["[INST]", "[/INST]"],
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def encode(tokenizer: PreTrainedTokenizerFast, sample: Sample) -> tuple[list[int], list[int]]:
    """The ids of a sample and, for each, the label: the id itself where it is learned."""
    ids: list[int] = []
    labels: list[int] = []
    for text, learned in pieces(sample):
        new = tokenizer.encode(text, add_special_tokens=False)
        ids += new
        labels += new if learned else [IGNORED] * len(new)
    return ids, labels


def batches(
    tokenizer: PreTrainedTokenizerFast, stage: Stage
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches without end, drawn in pools that are sorted by length, cut and shuffled."""
    generator = Generator(stage.seed, True, stage.name_first, stage.short)
    order = random.Random(stage.seed)
    while True:
        pool = [encode(tokenizer, s) for s in generator.samples(4096)]
        pool.sort(key=lambda pair: len(pair[0]))
        cuts, start = [], 0
        for end in range(1, len(pool) + 1):
            if end == len(pool) or (end + 1 - start) * len(pool[end][0]) > BATCH_TOKENS:
                cuts.append(pool[start:end])
                start = end
        order.shuffle(cuts)
        for rows in cuts:
            width = len(rows[-1][0])
            ids = torch.tensor([i + [EOS] * (width - len(i)) for i, _ in rows])
            labels = torch.tensor([l + [IGNORED] * (width - len(l)) for _, l in rows])
            used = torch.tensor([[1.0] * len(i) + [0.0] * (width - len(i)) for i, _ in rows])
            yield ids, torch.stack((labels.float(), used))


def balance_loss(router_logits: tuple[torch.Tensor, ...], used: torch.Tensor) -> torch.Tensor:
    """Mean over the layers of E * sum(share of an expert * its mean probability); 1 is perfect."""
    total = torch.zeros(())
    weight = used.reshape(-1, 1) / used.sum()
    for logits in router_logits:  # [n_tokens][n_experts]
        probability = logits.softmax(-1)
        chosen = F.one_hot(probability.topk(2).indices, logits.shape[-1]).sum(1) / 2.0
        share = (chosen * weight).sum(0)
        total = total + logits.shape[-1] * (share * (probability * weight).sum(0)).sum()
    return total / len(router_logits)


def experts_apart(
    self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The experts on their tokens, [n_tokens][hidden]. The same sums as the library's own loop, but
    the weights are taken apart once: its index into them has a gradient as large as all of them."""
    order = chosen.flatten().argsort(stable=True)  # [n_tokens * n_chosen], expert by expert
    tokens = order // chosen.shape[1]
    counts = torch.bincount(chosen.flatten(), minlength=self.num_experts).tolist()
    rows = hidden[tokens].split(counts)
    made = []
    for row, gate_up, down in zip(rows, self.gate_up_proj.unbind(), self.down_proj.unbind()):
        gate, up = F.linear(row, gate_up).chunk(2, dim=-1)
        made.append(F.linear(F.silu(gate) * up, down))
    weighted = torch.cat(made) * weights.flatten()[order, None]
    return torch.zeros_like(hidden).index_add(0, tokens, weighted)


ALL_EXPERTS_FUNCTIONS.register("apart", experts_apart)


def model_make() -> MixtralForCausalLM:
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_TOKENS,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        num_local_experts=8,
        num_experts_per_tok=2,
        router_aux_loss_coef=BALANCE,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    model = MixtralForCausalLM(config)
    model.set_experts_implementation("apart")
    return model


def rate(step: int, stage: Stage) -> float:
    if step < WARM_UP_STEPS:
        return stage.peak_rate * (step + 1) / WARM_UP_STEPS
    progress = (step - WARM_UP_STEPS) / max(1, stage.fall_steps - WARM_UP_STEPS)
    return stage.peak_rate * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * progress)))


def model_save(model: MixtralForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """bf16 on disk; the model in memory stays f32."""
    half = MixtralForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half = half.to(torch.bfloat16)
    half.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, do_sample=False)
    half.save_pretrained(out)
    tokenizer.save_pretrained(out)


def optimizer_make(model: MixtralForCausalLM, stage: Stage) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(), lr=stage.peak_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )


def step_run(model: MixtralForCausalLM, optimizer: torch.optim.Optimizer, batch) -> torch.Tensor:
    """One step of learning; gives the loss of the answers, the balance and the gradient's norm."""
    ids, (labels, used) = batch
    result = model.model(input_ids=ids, output_router_logits=True, use_cache=False)
    wanted = labels[:, 1:].long()
    learned = wanted != IGNORED  # the head is not asked for the others
    logits = model.lm_head(result.last_hidden_state[:, :-1][learned])
    answer = F.cross_entropy(logits, wanted[learned])
    balance = balance_loss(result.router_logits, used)
    (answer + BALANCE * balance).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return torch.stack((answer.detach(), balance.detach(), norm))


def train(out: Path, work: Path, resume: bool) -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # one order of sums, and no waiting for a busy core
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint.pt"
    if not resume:
        tokenizer_train().save(str(work / "tokenizer.json"))
    tokenizer = tokenizer_wrap(Tokenizer.from_file(str(work / "tokenizer.json")))
    model = model_make().train()
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    saved = torch.load(checkpoint) if resume else {"stage": 0, "step": 0}
    if resume:
        model.load_state_dict(saved["model"])
    began, sums = time.monotonic(), torch.zeros(3)
    for number in range(saved["stage"], len(STAGES)):
        stage = STAGES[number]
        optimizer = optimizer_make(model, stage)
        first = 0
        if resume and number == saved["stage"]:
            first = saved["step"]
            optimizer.load_state_dict(saved["optimizer"])
        drawn = batches(tokenizer, stage)
        for step, batch in enumerate(islice(drawn, stage.steps)):
            if step < first:
                continue
            for group in optimizer.param_groups:
                group["lr"] = rate(step, stage)
            sums += step_run(model, optimizer, batch)
            if (step + 1) % 50 == 0:
                a, b, n = (sums / 50).tolist()
                sums.zero_()
                where = f"stage {number + 1} step {step + 1}"
                seconds = time.monotonic() - began
                print(
                    f"{where} answer {a:.4f} balance {b:.3f} norm {n:.2f} {seconds:.0f} s",
                    flush=True,
                )
            if (step + 1) % 250 == 0 or step + 1 == stage.steps:
                state = {"stage": number, "step": step + 1, "model": model.state_dict()}
                torch.save(state | {"optimizer": optimizer.state_dict()}, checkpoint)
        model_save(model, tokenizer, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="trains the demo model")
    parser.add_argument("--out", type=Path, required=True, help="where the model is written")
    parser.add_argument("--work", type=Path, required=True, help="where checkpoints are kept")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    given = parser.parse_args()
    train(given.out, given.work, given.resume)
