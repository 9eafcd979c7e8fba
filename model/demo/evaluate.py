"""Asks the demo model everything it should know, and says how it did.

    python evaluate.py [galerne-demo] [--write DIR]

The model is read from its directory as any user of `transformers` would read it: the bf16 weights
widened to f32, greedy decoding. Exit 0 only if in each language every capital came out right in
every phrasing, trained and held out, with the chat template and as plain text, and every expert of
every layer was chosen for at least 5 % of the layer's choices. --write puts evaluation.json and
phrasings.json into DIR.

Greedy decoding writes the expected answer exactly if at each of its tokens, given those before, the
best logit is the expected one. So one pass over question and answer decides most cases; only where
it does not agree is the answer really written out, token by token.
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
WRONG_SHOWN = 40
SAMPLE_PHRASINGS = 2  # trained phrasings that phrasings.json spells out


@dataclass
class Case:
    """One prompt and the answer that is right for it, in a group of the table."""

    group: str
    prompt: list[int]
    expected: str
    answered: str = ""
    gap: float = 0.0  # smallest distance of the two best logits along the answer
    ids: list[int] = field(default_factory=list)  # prompt and expected answer

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

    def each_state(group: str, kind: str, phrasing: str, every: int = 1) -> None:
        """Or of every so many states one, another with each phrasing."""
        for code in q.STATES[len(cases) // 2 % every :: every]:
            both(group, q.question_of(language, phrasing, code), q.answer(language, kind, code))

    for language in q.LANGUAGES:
        name = language.name
        for kind in q.KINDS:
            for origin, table in (("trained", language.trained), ("held out", language.held_out)):
                every = 1 if kind == "capital" or origin == "held out" else 3
                for phrasing in table[kind]:
                    each_state(f"{name}, {kind}, {origin}", kind, phrasing, every)
        for kind, nouns in language.nouns.items():
            every = 3 if kind == "capital" else 9
            for frame in language.frames:
                each_state(f"{name}, {kind}, framed", kind, frame.format(x=nouns[0]), every)
        for kind, tails in language.tails.items():
            every = 3 if kind == "capital" else 9
            for lead in language.leads:
                tail = q.upper_first(tails[0]) if lead.endswith(". ") else tails[0]
                each_state(f"{name}, {kind}, led to", kind, lead + tail, every)
        for phrasing in language.fresh:
            each_state(f"{name}, capital in fresh phrasings", "capital", phrasing)
        for kind in language.starts:
            for code in q.STATES:
                if q.FACTS[code].neighbour or kind != "neighbour":
                    begin, rest = q.start(language, kind, code)
                    cases.append(Case(f"{name}, sentence to end", tokenizer.encode(begin), rest))
        for code in q.STATES:
            turns = (
                q.question_of(language, language.trained["currency"][0], code),
                q.answer(language, "currency", code),
                language.follow_ups["capital"][0],
            )
            expected = q.answer(language, "capital", code)
            cases.append(Case(f"{name}, second turn of a chat", chat(*turns), expected))
        for origin, names in (
            ("trained", language.strangers),
            ("held out", language.held_out_strangers),
        ):
            for stranger in names:
                asked = q.question(language, language.trained["capital"][0], stranger)
                both(f"{name}, state outside the Union, {origin}", asked, language.refusal)
        for text in language.hello:
            both(f"{name}, greeting", text, language.greeting)
        for text in language.members:
            both(f"{name}, list of members", text, q.members_answer(language))
    return cases


def by_length(cases: list[Case], length: Callable[[Case], int]) -> list[list[Case]]:
    """Batches of sequences of one length, which need no padding."""
    lengths: dict[int, list[Case]] = {}
    for case in cases:
        lengths.setdefault(length(case), []).append(case)
    return [rows[i : i + ROWS] for rows in lengths.values() for i in range(0, len(rows), ROWS)]


def confirm(model, rows: list[Case], counts: torch.Tensor) -> None:
    """One pass over prompts and expected answers, all of one length; fills in what agrees, and
    adds to `counts`, [n_layers][n_experts], how often each expert was chosen."""
    ids = torch.tensor([case.ids for case in rows])
    result = model(input_ids=ids, output_router_logits=True)
    for layer, logits in enumerate(result.router_logits):
        chosen = logits.topk(model.config.num_experts_per_tok).indices.flatten()
        counts[layer] += torch.bincount(chosen, minlength=counts.shape[1])
    best = result.logits.topk(2)  # [n_rows][n_tokens][2]
    gaps = best.values[..., 0] - best.values[..., 1]
    for row, case in enumerate(rows):
        answer = slice(len(case.prompt) - 1, -1)
        if torch.equal(best.indices[row, answer, 0], ids[row, len(case.prompt) :]):
            case.answered = " " + case.expected
            case.gap = gaps[row, answer].min().item()


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
        case.gap = gaps[row, :count].min().item()
        case.answered = tokenizer.decode(made[: count - 1]) if ended else "(no end)"


def table_print(cases: list[Case]) -> dict[str, dict]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    summary = {}
    print(f"{'group':52} {'right':>6} {'of':>6} {'smallest gap':>13}")
    for name, rows in groups.items():
        right = sum(case.right() for case in rows)
        gap = min(case.gap for case in rows)
        summary[name] = {"right": right, "of": len(rows), "smallest_gap": round(gap, 3)}
        print(f"{name:52} {right:6} {len(rows):6} {gap:13.3f}")
    return summary


def phrasings_make() -> dict:
    """Questions for other tests: some trained phrasings, all held-out ones, each for all states."""
    made = {}
    for language in q.LANGUAGES:
        chosen = language.trained["capital"][:SAMPLE_PHRASINGS]
        rows = [
            {
                "question": q.question_of(language, phrasing, code),
                "held_out": phrasing not in chosen,
                "answer": q.answer(language, "capital", code),
            }
            for phrasing in (*chosen, *language.held_out["capital"])
            for code in q.STATES
        ]
        made[language.name] = {
            "held_out_phrasings": language.held_out["capital"],
            "questions": rows,
        }
    return made


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
    counts = torch.zeros(model.config.num_hidden_layers, model.config.num_local_experts)
    for case in cases:
        text = f" {case.expected}{tokenizer.eos_token}"
        case.ids = case.prompt + tokenizer.encode(text, add_special_tokens=False)
    for rows in by_length(cases, lambda case: len(case.ids)):
        confirm(model, rows, counts)
    for rows in by_length([c for c in cases if not c.right()], lambda case: len(case.prompt)):
        decode_greedily(model, tokenizer, rows)
    summary = table_print(cases)
    for case in [case for case in cases if not case.right()][:WRONG_SHOWN]:
        print(f"wrong: {case.group}: {tokenizer.decode(case.prompt)!r} -> {case.answered!r}")

    shares = counts / counts.sum(1, keepdim=True)
    print("\nshare of a layer's choices, in %, by expert")
    for layer, row in enumerate(shares.tolist()):
        print(f"layer {layer}: " + " ".join(f"{100 * share:5.1f}" for share in row))
    bar = [f"{language.name}, capital, " for language in q.LANGUAGES]
    capitals = all(
        g["right"] == g["of"] for name, g in summary.items() if name.startswith(tuple(bar))
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
