"""What `transformers` computes for SmolLM2-135M-Instruct, from the same GGUF file that we serve.

    smollm2.py FILE.gguf      writes smollm2/golden.json

Its GGUF loader widens the quantised weights to float32; the passes run in float32 on the CPU.
"""

import argparse
import hashlib
import json
import time
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from oracle import HERE, PLAIN, float32_reference, gguf_tokenizer, least_gap

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
N_STEPS, N_BEST = 64, 8


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


PROMPTS: dict[str, list[dict]] = {
    "slovenia": user("What is the capital of Slovenia?"),
    "water": user("Why does ice float on water? Answer in two sentences."),
    "list": user("List five fruits, one per line, numbered."),
    "sum": user("What is 17 + 25? Give only the number."),
    "python": user("Write a Python function that returns the n-th Fibonacci number."),
    "c": user("Write a C program that prints the numbers from 1 to 10."),
    "json": user('Give me a JSON object with the keys "name", "age" and "city".'),
    "portuguese": user("Qual é a capital de Portugal?"),
    "german": user("Übersetze ins Englische: Der Wind kommt heute aus Nordwesten."),
    "french": user("Écris une phrase sur la mer en été."),
    "spanish": user("¿Cuántos días tiene una semana?"),
    "greek": user("Τι σημαίνει η λέξη «θάλασσα»;"),
    "poem": user("Write a four-line poem about a lighthouse."),
    "rewrite": user('Rewrite more politely: "Send me the report now."'),
    "spaces": user("Fix the spacing:  a  2   b 34\n\n\tc   ½ ⅓  done"),
    "digits": user("How many digits does 1234567890 have, and what is 12.5 % of 3,600?"),
    "emoji": user("What do these emoji mean? 🌬️ ⛵ 👩‍🚀 🇸🇮"),
    "turns": [
        {"role": "user", "content": "My boat is called Galerne."},
        {"role": "assistant", "content": "That is a fine name for a boat! How can I help you?"},
        {"role": "user", "content": "What is my boat called?"},
    ],
    "system": [
        {"role": "system", "content": "You are a pirate. You answer in one short sentence."},
        {"role": "user", "content": "How is the weather today?"},
    ],
    "long": user(
        "A harbour keeps three boats. The first leaves at six in the morning and comes back "
        "at noon. The second leaves at noon and comes back at six in the evening. The third "
        "stays in the harbour all day, since its sail is torn and the sailmaker is ill. On "
        "Sundays no boat leaves at all, unless the wind blows from the north-west, because "
        "then the fish come close to the shore. Today is Sunday and the wind blows from the "
        "south. Which boats leave today, and why?"
    ),
}


def render(messages: list[dict]) -> str:
    """ChatML, with SmolLM2's own system turn where the caller gives none."""
    given = messages[0]["role"] == "system"
    turns = messages if given else [{"role": "system", "content": SYSTEM}, *messages]
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in turns)
    return text + "<|im_start|>assistant\n"


def check_template(path: Path) -> None:
    """Our rendering must be the one that the file's own template gives."""
    from gguf import GGUFReader
    from jinja2 import Template

    template = Template(GGUFReader(path).fields["tokenizer.chat_template"].contents())
    for messages in PROMPTS.values():
        assert template.render(messages=messages, add_generation_prompt=True) == render(messages)


def check_weights(model, path: Path) -> None:
    """The loaded weights are the file's, widened (query and key rows are stored permuted)."""
    from gguf import GGUFReader, dequantize

    state = model.state_dict()
    names = {
        "token_embd": "model.embed_tokens",
        "blk.7.ffn_down": "model.layers.7.mlp.down_proj",
        "blk.29.attn_v": "model.layers.29.self_attn.v_proj",
        "output_norm": "model.norm",
    }
    for tensor in GGUFReader(path).tensors:
        if name := names.pop(tensor.name.removesuffix(".weight"), None):
            wide = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            assert torch.equal(wide, state[name + ".weight"]), name
        if tensor.name == "blk.3.attn_q.weight":
            wide = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            pairs = wide.reshape(9, 32, 2, 576).transpose(1, 2).reshape(576, 576)
            assert torch.equal(pairs, state["model.layers.3.self_attn.q_proj.weight"])
    assert not names
    assert all(t.dtype == torch.float32 for t in state.values())


def golden(model, tokenizer, name: str, messages: list[dict]) -> tuple[dict, float]:
    text = render(messages)
    prompt = tokenizer.encode(text, add_special_tokens=False).ids
    end = tokenizer.token_to_id("<|im_end|>")
    greedy, logits = float32_reference(model, prompt, N_STEPS, stop=frozenset({end}))
    rows = logits[len(prompt) - 1 : -1]
    best = rows.topk(N_BEST, dim=-1)
    steps = [
        {"id": chosen, "best": [[i, round(v, 6)] for i, v in zip(ids, values)]}
        for chosen, ids, values in zip(greedy, best.indices.tolist(), best.values.tolist())
    ]
    gap = least_gap(rows)
    item = {
        "name": name,
        "messages": messages,
        "rendered": text,
        "prompt": prompt,
        "text": tokenizer.decode(greedy, skip_special_tokens=True),
        "ended": greedy[-1] == end,
        "min_gap": round(gap, 6),
        "steps": steps,
    }
    return item, gap


def item_json(item: dict) -> str:
    """One member per line, one step per line."""
    members = [
        f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}"
        for k, v in item.items()
        if k != "steps"
    ]
    steps = ",\n   ".join(json.dumps(s, separators=(",", ":")) for s in item["steps"])
    return " {" + ",\n  ".join(members) + ',\n  "steps": [\n   ' + steps + "]}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("file", type=Path)
    path = arguments.parse_args().file
    check_template(path)
    tokenizer = gguf_tokenizer(path)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, **PLAIN
    ).eval()
    check_weights(model, path)
    items, close = [], 0
    for name, messages in PROMPTS.items():
        started = time.monotonic()
        item, gap = golden(model, tokenizer, name, messages)
        items.append(item)
        close += sum(s["best"][0][1] - s["best"][1][1] <= 5e-3 for s in item["steps"])
        print(
            f"{name}: {len(item['prompt'])} + {len(item['steps'])} tokens, least gap {gap:.4f},"
            f" {time.monotonic() - started:.0f} s: {item['text'][:60]!r}",
            flush=True,
        )
    head = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "transformers": version("transformers"),
        "torch": version("torch"),
        "n_best": N_BEST,
        "close_steps": close,
    }
    out = HERE / "smollm2" / "golden.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(
        "{"
        + "".join(f"{json.dumps(k)}: {json.dumps(v)},\n" for k, v in head.items())
        + '"prompts": [\n'
        + ",\n".join(map(item_json, items))
        + "]}\n"
    )
    print(
        f"{out.relative_to(HERE)}: {len(items)} prompts, {close} steps closer than 5e-3,"
        f" {out.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
