"""Tokenizers that differ from others in one feature each, and what the library makes of them.

    variants.py [NAME...]      writes variants/NAME.json, of all without a name

Each file holds a whole tokenizer.json and, for every string of tokens/strings.json, the number of
ids and a hash of them (64-bit FNV-1a over little-endian uint32), with special tokens read as such.
"""

import copy
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer

from oracle import HERE, read_strings

DEMO = HERE.parent.parent / "model" / "demo" / "galerne-demo"
CHARACTERS = HERE / "tokens" / "characters"
MARK = "\u2581"

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = (
    CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2_BYTES = BYTES | {"use_regex": True}


def split(pattern: dict, behavior: str = "Isolated", invert: bool = False) -> dict:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def sequence(*steps: dict) -> dict:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def added(text: str, number: int, special: bool, **flags: bool) -> dict:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, "special": special} | plain | flags


def free_id(t: dict) -> int:
    return max(t["model"]["vocab"].values()) + 1


def normalised(t: dict) -> None:
    """Form C first; an added token found before it, and two after."""
    t["normalizer"] = {"type": "NFC"}
    t["pre_tokenizer"] = sequence(split({"Regex": WORDS.replace("NUMBERS", r"\p{N}")}), BYTES)
    words = [("ort", False), ("\u00e9t\u00e9", True), ("ain", True)]
    t["added_tokens"] += [
        added(w, free_id(t) + i, False, normalized=after) for i, (w, after) in enumerate(words)
    ]


def whole_words(t: dict) -> None:
    """A piece that is a token is that token, though no merges lead there."""
    t["model"]["ignore_merges"] = True
    words = ("\u0120after", "\u0120mar", "123")
    assert not t["model"]["vocab"].keys() & set(words)
    t["model"]["vocab"] |= {word: free_id(t) + i for i, word in enumerate(words)}
    pattern = WORDS.replace("NUMBERS", r"\p{N}{1,3}")
    t["pre_tokenizer"] = sequence(split({"Regex": pattern}), BYTES)
    t["post_processor"] = {"type": "Sequence", "processors": [GPT2_BYTES, t["post_processor"]]}


def stripping(t: dict) -> None:
    """Special tokens that take white space along; merges as older files write them."""
    t["added_tokens"][0] |= {"lstrip": True, "rstrip": True}
    t["added_tokens"][1] |= {"lstrip": True}
    t["added_tokens"][2] |= {"rstrip": True}
    t["added_tokens"].append(added("<unk>", free_id(t), False, rstrip=True))
    t["model"]["merges"] = [" ".join(m) for m in t["model"]["merges"]]


def without_letters(t: dict, letters: str) -> None:
    """Takes all tokens with these letters out, so that the bytes have no token."""
    vocab = t["model"]["vocab"]
    kept = [w for w in vocab if not set(w) & set(letters)]
    t["model"]["vocab"] = {w: vocab[w] for w in kept}
    t["model"]["merges"] = [m for m in t["model"]["merges"] if not set("".join(m)) & set(letters)]


def unknown(t: dict) -> None:
    without_letters(t, "zqx%\u00c3\u00a9")
    number = free_id(t)
    t["model"] |= {"unk_token": "<unk>", "fuse_unk": False}
    t["model"]["vocab"]["<unk>"] = number
    t["added_tokens"].append(added("<unk>", number, True))


def unknown_fused(t: dict) -> None:
    unknown(t)
    t["model"]["fuse_unk"] = True


def dropped(t: dict) -> None:
    without_letters(t, "zqx%\u00c3\u00a9")


def removing(t: dict) -> None:
    """Splits that take text away, by pattern and by text."""
    t["pre_tokenizer"] = sequence(
        split({"Regex": r"\s+"}, "Removed"),
        split({"Regex": r"[^,;]+"}, "Removed", invert=True),
        split({"String": "th"}),
        {"type": "Digits", "individual_digits": False},
        GPT2_BYTES,
    )


def metaspace(t: dict, scheme: str, split: bool) -> None:
    t["normalizer"] = None
    t["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": MARK,
        "prepend_scheme": scheme,
        "split": split,
    }


def metaspace_first(t: dict) -> None:
    """A space in front of the text, unless it has one; not after special tokens."""
    metaspace(t, "first", False)


def metaspace_always(t: dict) -> None:
    """Every space begins a piece."""
    metaspace(t, "always", True)


def characters_unknown(t: dict) -> None:
    """No space in front, and characters without a token become the unknown token, one each."""
    metaspace(t, "never", False)
    t["model"] |= {"byte_fallback": False, "fuse_unk": False}
    t["decoder"]["decoders"] = [d for d in t["decoder"]["decoders"] if d["type"] != "ByteFallback"]


def phrases(t: dict) -> None:
    """Tokens that cross from a word into the next space; unknown characters in a row are one."""
    t["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    t["model"] |= {"byte_fallback": False}
    t["decoder"]["decoders"] = [d for d in t["decoder"]["decoders"] if d["type"] != "ByteFallback"]
    t["model"]["vocab"] |= {f"e{MARK}": 1500, f"{MARK}e{MARK}": 1501, f",{MARK}": 1502}
    t["model"]["merges"] = [["e", MARK], [MARK, f"e{MARK}"], [",", MARK]] + t["model"]["merges"]


DEMO_VARIANTS = [normalised, whole_words, stripping, unknown, unknown_fused, dropped, removing]
CHARACTERS_VARIANTS = [metaspace_first, metaspace_always, characters_unknown, phrases]


def row(ids: list[int]) -> str:
    value = 0xCBF29CE484222325
    for byte in b"".join(i.to_bytes(4, "little") for i in ids):
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{len(ids)}:{value:016x}"


def write(base: dict, change: Callable[[dict], None], strings: list[str]) -> None:
    variant = copy.deepcopy(base)
    change(variant)
    tokenizer = Tokenizer.from_str(json.dumps(variant))
    rows = [row(tokenizer.encode(s, add_special_tokens=False).ids) for s in strings]
    out = {"tokenizers": version("tokenizers"), "tokenizer": variant, "rows": rows}
    path = HERE / "variants" / f"{change.__name__}.json"
    text = [f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in out.items()]
    path.write_text("{" + ",\n".join(text) + "}\n")
    print(f"{path.relative_to(HERE)}: {len(rows)} strings, {path.stat().st_size} bytes")


def main() -> None:
    names = sys.argv[1:]
    strings = read_strings()
    (HERE / "variants").mkdir(exist_ok=True)
    for folder, changes in ((DEMO, DEMO_VARIANTS), (CHARACTERS, CHARACTERS_VARIANTS)):
        base = json.loads((folder / "tokenizer.json").read_text())
        for change in changes:
            if not names or change.__name__ in names:
                write(base, change, strings)


if __name__ == "__main__":
    main()
