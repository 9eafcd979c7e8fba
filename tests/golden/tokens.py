"""Token ids of tokens/strings.json from the `tokenizers` library.

tokens.py smollm2 FILE.gguf     writes tokens/smollm2.json
tokens.py demo [MODEL_DIR]      writes tokens/demo.json
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer

from oracle import HERE, byte_letters, gguf_tokenizer, read_strings, rows_json, token_bytes

DEMO = HERE.parent.parent / "model" / "demo" / "galerne-demo"


def encode_all(tokenizer: Tokenizer, strings: list[str]) -> list[list[int]]:
    return [e.ids for e in tokenizer.encode_batch(strings, add_special_tokens=False)]


def plain_rows(tokenizer: Tokenizer, strings: list[str], ids: list[list[int]]) -> list[dict]:
    """Where special tokens stand in the text: the ids if they count as ordinary text."""
    tokenizer.encode_special_tokens = True
    plain = encode_all(tokenizer, strings)
    tokenizer.encode_special_tokens = False
    return [{"index": i, "ids": b} for i, (a, b) in enumerate(zip(ids, plain)) if a != b]


def inexact_rows(tokenizer: Tokenizer, strings: list[str], ids: list[list[int]]) -> list[dict]:
    """Strings whose ids do not spell them, with the bytes that they do spell.

    The only cause allowed is a byte without a token of its own, which the library drops.
    """
    spell = token_bytes(tokenizer)
    vocabulary = tokenizer.get_vocab()
    lost = {b for letter, b in byte_letters().items() if letter not in vocabulary}
    inexact = []
    for i, (text, row) in enumerate(zip(strings, ids)):
        want = text.encode()
        got = b"".join(spell[t] for t in row)
        assert got == bytes(b for b in want if b not in lost), f"string {i}: {text!r}"
        if got != want:
            inexact.append({"index": i, "hex": got.hex()})
        else:
            assert tokenizer.decode(row, skip_special_tokens=False) == text, f"string {i}"
    print(f"bytes without a token: {sorted(map(hex, lost))}")
    return inexact


def write(name: str, tokenizer: Tokenizer, source: str) -> None:
    strings = read_strings()
    ids = encode_all(tokenizer, strings)
    assert ids == [tokenizer.encode(s, add_special_tokens=False).ids for s in strings]
    added = tokenizer.get_added_tokens_decoder()
    plain = plain_rows(tokenizer, strings, ids)
    inexact = inexact_rows(tokenizer, strings, ids)
    head = {
        "source": source,
        "tokenizers": version("tokenizers"),
        "vocab_size": tokenizer.get_vocab_size(with_added_tokens=True),
        "added": [
            {"id": i, "text": t.content, "special": t.special} for i, t in sorted(added.items())
        ],
    }
    path = HERE / "tokens" / f"{name}.json"
    members = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in head.items()]
    members += [
        f'"ids": {rows_json(ids)}',
        f'"plain": {rows_json(plain)}',
        f'"inexact": {rows_json(inexact)}',
    ]
    path.write_text("{" + ",\n".join(members) + "}\n")
    print(
        f"{path.relative_to(HERE)}: {len(ids)} strings, {sum(map(len, ids))} ids,"
        f" {len(plain)} plain, {len(inexact)} inexact, {path.stat().st_size} bytes"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("name", choices=["smollm2", "demo"])
    arguments.add_argument("source", nargs="?", type=Path, default=DEMO)
    given = arguments.parse_args()
    if given.name == "smollm2":
        write(given.name, gguf_tokenizer(given.source), given.source.name)
    else:
        tokenizer = Tokenizer.from_file(str(given.source / "tokenizer.json"))
        write(given.name, tokenizer, "model/demo/galerne-demo/tokenizer.json")


if __name__ == "__main__":
    main()
