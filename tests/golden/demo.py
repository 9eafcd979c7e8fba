"""What `transformers` computes for the demo model, its bf16 weights widened to float32.

    demo.py [MODEL_DIR]       writes demo/NAME/golden.json and logits.f32 for each prompt

The greedy continuation goes on past the end of the answer, so that there are always 64 ids;
`n_answer` says how many of them the daemon would give, the end token included.
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from oracle import HERE, PLAIN, golden_write, measure

DEMO = HERE.parent.parent / "model" / "demo" / "galerne-demo"
N_GREEDY = 64

# Chats, and one question without any template.
PROMPTS: dict[str, list[str] | str] = {
    "poland": ["Quelle est la capitale de la Pologne ?"],
    "turns": [
        "¿Cuál es la capital de Eslovenia?",
        "La capital de Eslovenia es Liubliana.",
        "What is the currency of Denmark?",
        "The currency of Denmark is the krone.",
        "Nenne ein Nachbarland von Portugal.",
    ],
    "plain": "Wie heißt die Hauptstadt der Slowakei?",
}


def prompt_text(tokenizer, asked: list[str] | str) -> str:
    if isinstance(asked, str):
        return tokenizer.bos_token + asked
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(asked)]
    return tokenizer.apply_chat_template(messages, tokenize=False)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model", nargs="?", type=Path, default=DEMO)
    source = arguments.parse_args().model
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **PLAIN).eval()
    shutil.rmtree(HERE / "demo", ignore_errors=True)
    for name, asked in PROMPTS.items():
        text = prompt_text(tokenizer, asked)
        prompt = tokenizer.encode(text, add_special_tokens=False)
        greedy, logits, facts = measure(model, prompt, N_GREEDY)
        end = tokenizer.eos_token_id
        n_answer = greedy.index(end) + 1 if end in greedy else N_GREEDY
        answer = tokenizer.decode(greedy[:n_answer], skip_special_tokens=True)
        head = {
            "model": "galerne-demo",
            "asked": asked,
            "rendered": text,
            "answer": answer,
            "n_answer": n_answer,
        }
        golden_write(HERE / "demo" / name, head, prompt, greedy, logits, facts)
        print(
            f"demo/{name}: {len(prompt)} prompt tokens, {n_answer} of the answer {answer!r},"
            f" {facts}"
        )


if __name__ == "__main__":
    main()
