"""Asks the demo model everything it should know, and says how it did.

    python evaluate.py [galerne-demo] [--write DIR]

The model is read from its directory as any user of `transformers` would read it: the bf16 weights
widened to f32, greedy decoding. Exit 0 only if every capital came out right in every phrasing,
trained and held out, with the chat template and as plain text, and every expert of every layer was
chosen for at least 5 % of the layer's choices. --write puts evaluation.json and phrasings.json
into DIR.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import questions as q

HERE = Path(__file__).resolve().parent
MIN_SHARE = 0.05
MOST_TOKENS = 256
ROWS = 64  # sequences of one batch
SAMPLE_PHRASINGS = 5  # trained phrasings that phrasings.json spells out


@dataclass
class Case:
    """One prompt and the answer that is right for it, in a group of the table."""

    group: str
    prompt: list[int]
    expected: str
    answered: str = ""
    gap: float = 0.0  # smallest distance of the two best logits along the answer
    ids: list[int] = field(default_factory=list)  # prompt and answer

    def right(self) -> bool:
        return self.answered == " " + self.expected


def cases_make(tokenizer) -> list[Case]:
    cases: list[Case] = []

    def chat(*turns: str) -> list[int]:
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)

    def both(group: str, asked: str, expected: str) -> None:
        cases.append(Case(f"{group}, chat", chat(asked), expected))
        cases.append(Case(f"{group}, plain", tokenizer.encode(asked), expected))

    for kind in q.KINDS:
        for origin, table in (("trained", q.TRAINED), ("held out", q.HELD_OUT)):
            for phrasing in table[kind]:
                for s in q.STATES:
                    asked = q.question(phrasing, s.name, s.capital)
                    both(f"{kind}, {origin}", asked, q.answer(kind, s))
    for kind, nouns in q.NOUNS.items():
        for frame in q.FRAMES:
            for s in q.STATES:
                asked = q.question(frame.format(x=nouns[0]), s.name)
                both(f"{kind}, framed", asked, q.answer(kind, s))
    for kind, tails in q.TAILS.items():
        for lead in q.LEADS:
            for s in q.STATES:
                tail = q.upper_first(tails[0]) if lead.endswith(". ") else tails[0]
                both(f"{kind}, led to", q.question(lead + tail, s.name), q.answer(kind, s))
    for stage, phrasings in q.FRESH.items():
        for phrasing in phrasings:
            for s in q.STATES:
                asked = q.question(phrasing, s.name)
                both(f"fresh phrasings of the capital {stage}", asked, q.answer("capital", s))
    for kind, begin in q.STARTS.items():
        for s in (s for s in q.STATES if s.neighbour or kind != "neighbour"):
            start, whole = q.question(begin, s.name), q.answer(kind, s)
            group = f"{kind}, sentence to end"
            cases.append(Case(group, tokenizer.encode(start), whole[len(start) + 1 :]))
    for s in q.STATES:
        turns = (
            q.TRAINED["currency"][0].format(c=s.name),
            q.answer("currency", s),
            q.FOLLOW_UPS["capital"][0],
        )
        cases.append(Case("second turn of a chat", chat(*turns), q.answer("capital", s)))
    for origin, names in (("trained", q.STRANGERS), ("held out", q.HELD_OUT_STRANGERS)):
        for name in names:
            asked = q.question(q.TRAINED["capital"][0], name)
            both(f"state outside the Union, {origin}", asked, q.REFUSAL)
    for text in q.HELLO:
        both("greeting", text, q.GREETING)
    for text in q.MEMBERS:
        both("list of members", text, q.members_answer())
    return cases


def by_length(cases: list[Case], length: Callable[[Case], int]) -> list[list[Case]]:
    """Batches of sequences of one length, which need no padding."""
    lengths: dict[int, list[Case]] = {}
    for case in cases:
        lengths.setdefault(length(case), []).append(case)
    return [rows[i : i + ROWS] for rows in lengths.values() for i in range(0, len(rows), ROWS)]


def decode_greedily(model, tokenizer, rows: list[Case]) -> None:
    end = model.config.eos_token_id
    result = model.generate(
        torch.tensor([case.prompt for case in rows]),
        attention_mask=torch.ones(len(rows), len(rows[0].prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=MOST_TOKENS,
        pad_token_id=end,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.stack(result.logits, 1).topk(2).values  # [n_rows][n_tokens][2]
    gaps = best[..., 0] - best[..., 1]
    for row, case in enumerate(rows):
        made = result.sequences[row, len(case.prompt) :].tolist()
        ended = end in made
        count = made.index(end) + 1 if ended else len(made)
        case.ids = case.prompt + made[:count]
        case.gap = gaps[row, :count].min().item()
        case.answered = tokenizer.decode(made[: count - 1]) if ended else "(no end)"


def expert_shares(model, cases: list[Case]) -> torch.Tensor:
    """Which part of a layer's choices fell on each expert: [n_layers][n_experts], rows sum to 1."""
    config = model.config
    counts = torch.zeros(config.num_hidden_layers, config.num_local_experts)
    for rows in by_length(cases, lambda case: len(case.ids)):
        result = model(input_ids=torch.tensor([c.ids for c in rows]), output_router_logits=True)
        for layer, logits in enumerate(result.router_logits):
            chosen = logits.topk(config.num_experts_per_tok).indices.flatten()
            counts[layer] += torch.bincount(chosen, minlength=config.num_local_experts)
    return counts / counts.sum(1, keepdim=True)


def table_print(cases: list[Case]) -> dict[str, dict]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    summary = {}
    print(f"{'group':44} {'right':>6} {'of':>6} {'smallest gap':>13}")
    for name, rows in groups.items():
        right = sum(case.right() for case in rows)
        gap = min(case.gap for case in rows)
        summary[name] = {"right": right, "of": len(rows), "smallest_gap": round(gap, 3)}
        print(f"{name:44} {right:6} {len(rows):6} {gap:13.3f}")
    return summary


def phrasings_make() -> dict:
    """Questions for other tests: some trained phrasings, all held-out ones, each for all states."""
    rows = []
    chosen = q.TRAINED["capital"][:SAMPLE_PHRASINGS]
    for phrasing in (*chosen, *q.HELD_OUT["capital"]):
        for s in q.STATES:
            rows.append(
                {
                    "question": q.question(phrasing, s.name),
                    "phrasing": phrasing,
                    "held_out": phrasing not in chosen,
                    "capital": s.capital,
                    "answer": q.answer("capital", s),
                }
            )
    return {
        "trained_phrasings": q.TRAINED["capital"],
        "held_out_phrasings": q.HELD_OUT["capital"],
        "questions": rows,
    }


def json_write(path: Path, content: dict) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


@torch.inference_mode()
def evaluate(directory: Path, out: Path | None) -> bool:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    model.set_experts_implementation("eager")
    cases = cases_make(tokenizer)
    for rows in by_length(cases, lambda case: len(case.prompt)):
        decode_greedily(model, tokenizer, rows)
    summary = table_print(cases)
    for case in [case for case in cases if not case.right()][:20]:
        print(f"wrong: {case.group}: {tokenizer.decode(case.prompt)!r} -> {case.answered!r}")

    shares = expert_shares(model, cases)
    print("\nshare of a layer's choices, in %, by expert")
    for layer, row in enumerate(shares.tolist()):
        print(f"layer {layer}: " + " ".join(f"{100 * share:5.1f}" for share in row))
    capitals = all(
        g["right"] == g["of"] for name, g in summary.items() if name.startswith("capital,")
    )
    least = shares.min().item()
    spread = least >= MIN_SHARE
    print(f"\ncapitals all right: {capitals}")
    print(f"least used expert {100 * least:.1f} %, at least {100 * MIN_SHARE:.0f} %: {spread}")
    if out:
        rounded = [[round(share, 4) for share in row] for row in shares.tolist()]
        json_write(
            out / "evaluation.json",
            {
                "groups": summary,
                "expert_shares": rounded,
                "min_expert_share": min(map(min, rounded)),
                "bar_met": capitals and spread,
            },
        )
        json_write(out / "phrasings.json", phrasings_make())
    return capitals and spread


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="evaluates the demo model")
    parser.add_argument("directory", type=Path, nargs="?", default=HERE / "galerne-demo")
    parser.add_argument(
        "--write", type=Path, metavar="DIR", help="for evaluation.json and phrasings.json"
    )
    given = parser.parse_args()
    sys.exit(0 if evaluate(given.directory, given.write) else 1)
