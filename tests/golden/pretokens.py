"""How the pre-tokenizers that GGUF files name cut text, from the `tokenizers` library.

    pretokens.py      writes tokens/pretokens.json

For every name, and for each of some of the strings of tokens/strings.json: the length in bytes of
every piece. The patterns are those of the models' own tokenizer.json files, in the library's own
dialect; ours run through another regular expression library.
"""

import json
from importlib.metadata import version

from tokenizers import Regex, normalizers, pre_tokenizers

from oracle import HERE, read_strings

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)

KINDS_WHOLE = {
    "others",
    "emoji",
    "numbers",
    "contractions",
    "spaces",
    "controls",
    "combining",
    "odd",
}
ONE_IN = 6  # of the other kinds
LONGEST = 400  # characters


def split(pattern: str):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


NAMED = {
    "gpt-2": [GPT2_BYTES],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), GPT2_BYTES],
    "starcoder": [pre_tokenizers.Digits(individual_digits=True), GPT2_BYTES],
    "llama-bpe": [split(WORDS.replace("NUMBERS", r"\p{N}{1,3}")), BYTES],
    "qwen2": [split(WORDS.replace("NUMBERS", r"\p{N}")), BYTES],
    "default": [
        split(r"[\p{P}\$\+<=>\^~\|]+"),
        split(GPT2),
        split(r"\p{N}+"),
        split("[0-9][0-9][0-9]"),
        BYTES,
    ],
}


def chosen() -> list[int]:
    """Indexes of the strings that are compared."""
    kinds = json.loads((HERE / "tokens" / "strings.json").read_text())["kinds"]
    strings = read_strings()
    indexes = []
    for kind in kinds:
        step = 1 if kind["name"] in KINDS_WHOLE else ONE_IN
        indexes += range(kind["first"], kind["first"] + kind["count"], step)
    return [i for i in indexes if 0 < len(strings[i]) <= LONGEST]


def lengths(name: str, text: str) -> list[int]:
    if name == "qwen2":
        text = normalizers.NFC().normalize_str(text)
    pieces = pre_tokenizers.Sequence(NAMED[name]).pre_tokenize_str(text)
    sizes = [len(piece) for piece, _ in pieces]  # one letter a byte
    assert sum(sizes) == len(text.encode())
    return sizes


def main() -> None:
    strings, indexes = read_strings(), chosen()
    head = {"tokenizers": version("tokenizers"), "strings": indexes}
    rows = {name: [lengths(name, strings[i]) for i in indexes] for name in NAMED}
    path = HERE / "tokens" / "pretokens.json"
    path.write_text(
        "{"
        + "\n".join(
            f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}," for k, v in head.items()
        )
        + '\n"named": {\n'
        + ",\n".join(
            f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in rows.items()
        )
        + "}}\n"
    )
    print(f"{path.relative_to(HERE)}: {len(indexes)} strings, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
