"""The strings that tokenizers are compared on: tokens/strings.json.

Everything is written here, in languages.py and in snippets.py, or drawn from a generator with a
fixed seed, so that the file can be made again bit for bit on any version of Python. Characters
that entered Unicode after version 13 are left out on purpose: two libraries may classify them
differently only because one of them is older.
"""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from languages import LANGUAGES, OTHERS
from snippets import SNIPPETS

HERE = Path(__file__).parent

# fmt: off
SPECIALS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>", "<jupyter_code>",
    "<empty_output>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]",
]

SPACES = [
    " ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\v", "\f", "\n\n", " \n", "\n ", "\t\t ",
    "\u0085", "\u00a0", "\u1680", "\u2000", "\u2003", "\u2009", "\u200a", "\u2028", "\u2029",
    "\u202f", "\u205f", "\u3000",
]
NOT_SPACES = [
    "\u180e", "\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u2060", "\ufeff", "\u00ad",
    "\x1c", "\x1d", "\x1e", "\x1f", "\x7f", "\u009f", "\ufff9",
]

EMOJI = [
    "😀", "🙂", "❤️", "❤", "👍🏽", "👩‍🚀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🏴‍☠️", "🇵🇹", "🇸🇮🇪🇺", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "1️⃣",
    "#️⃣", "☔", "☔️", "☔︎", "🧑🏿‍🤝‍🧑🏻", "👁️‍🗨️", "🤷🏼‍♀️", "🦢", "©️", "™", "ℹ️", "⚓", "⛵", "🌬️",
    "🧜🏾‍♂️", "🐻‍❄️", "🀄", "🃏",
]

FRACTIONS = [
    "½", "⅓", "¼", "¾", "⅛", "⅞", "1/2", "1⁄2", "1½", "3⅜", "²", "³", "x²", "H₂O", "10⁻³", "①",
    "⑳", "㈠", "㊿", "Ⅷ", "ⅻ", "ↁ", "٣", "३", "๓", "௧௨", "〇", "一二三", "五十", "𝟙𝟚", "𝟬", "௲",
    "〡〢", "𐄇", "🄀", "🄂", "⓪", "❶",
]

NUMBERS = [
    "0", "7", "10", "123", "1234", "12345", "123456", "1234567890", "007", "-1", "+1", "3.14159",
    "1,000,000", "1 000 000", "1'000", "0x1F", "0b1010", "1e-9", "6.02E+23", "12:34:56",
    "2024-03-03", "1.2.3-rc4", "v2", "2nd", "a1b2c3", "1a", "a 2", "a  2", "a   2", "2  a", "2 2",
    "2  2", " 2", "  2", "2 ", "2  ", "12 34", "٤٥٦", "1٢३", "50%", "$5", "€5,00", "5€", "§12",
    "1st2nd", "3D", "H2O", "2x2=4", "½ ⅓ 1/2 123456", "a½", "½a", " ½", "  ½", "½ ½", "a  ½",
]

CONTRACTIONS = [
    "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ll", "it's", "it 's",
    "it' s", "IT'S", "don't", "DON'T", "we'll've", "y'all'd've", "'tis", "rock'n'roll", "o'clock",
    "l'été", "’s", "it’s", "s's's", "''s", "'''", "'sx", "'ll'll", "1's", "1990's", " 's", "  's",
    "\n's", "'s's", "'dd", "'mm", "'rer", "'v", "'r", "can't've", "'ſ", "'ſt",
]

COMBINING = [
    "e\u0301", "\u00e9", "a\u0308\u0304", "\u1e69", "s\u0323\u0307", "s\u0307\u0323", "A\u030a",
    "\u212b", "n\u0303o", "\u0301", " \u0301", "a \u0301", "\u0301a", "q\u0307\u0323\u0300\u0301",
    "\uac00", "\u1100\u1161", "\u1112\u1161\u11ab", "ﬁ", "ﬀ", "ǆ", "ĳ", "क\u094d\u0937",
    "ก\u0e33", "\u05e9\u05c1\u05c2", "\u0644\u0627", "\u0671", "i\u0307", "\u0130", "\u0131", "ß",
    "ẞ", "ς", "e\u0301\u20dd", "Z" + "\u0351\u0352\u0353" * 12, "①\u0301", "1\u0301", "-\u0301",
    "\ufb1d", "\u2126", "\u03a9", "ﷺ", "Å",
]

ODD = [
    "\ufffd", "\ufffe", "\uffff", "\ufdd0", "\U0001fffe", "\U0010ffff", "\ue000", "\uf8ff",
    "\U000f0000", "\U00100000", "\U00040000", "\U00090000", "\U000e0041", "\U000e0100", "𐍈",
    "𝔊𝔞𝔩", "𠀀", "𪛖", "𓂀", "𒀀", "ꙮ", "ꜳ", "ꟼ", "🂡", "￼", "￡", "｡", "ﾞ",
]


# fmt: on


class Draw:
    """splitmix64: the same numbers everywhere, whatever the version of Python."""

    def __init__(self, seed: int):
        self.state = seed

    def below(self, n: int) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & (2**64 - 1)
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        return (z ^ (z >> 31)) % n

    def one(self, items):
        return items[self.below(len(items))]


def languages() -> Iterator[str]:
    for sentences in LANGUAGES.values():
        yield from sentences
        yield "\n".join(sentences)


def language_forms() -> Iterator[str]:
    for sentences in LANGUAGES.values():
        for i, s in enumerate(sentences):
            yield unicodedata.normalize("NFD" if i % 2 else "NFC", s).upper()
            yield unicodedata.normalize("NFD", s)
            yield (s.replace(" ", ""), s.replace(" ", "  "), " " + s, s + " ")[i % 4]


def others() -> Iterator[str]:
    for sentences in OTHERS.values():
        for s in sentences:
            yield s
            yield unicodedata.normalize("NFD", s)
        yield " ".join(sentences)


def code() -> Iterator[str]:
    for pieces in SNIPPETS.values():
        for s in pieces:
            yield s
            yield s.replace("    ", "\t").replace("\n", "\r\n")
            yield from (line for line in s.split("\n")[:4] if line)


def emoji() -> Iterator[str]:
    for i, e in enumerate(EMOJI):
        yield e
        yield f"a{e}b {e} {e}{EMOJI[(i + 7) % len(EMOJI)]}1"
        yield e[:-1] if len(e) > 1 else e * 5


def numbers() -> Iterator[str]:
    yield from NUMBERS
    for f in FRACTIONS:
        yield f
        yield f"a{f}b {f}  {f}1"
    yield " ".join(FRACTIONS)


def spaces() -> Iterator[str]:
    for s in SPACES + NOT_SPACES:
        yield s
        yield f"a{s}b"
        yield f"a{s}"
        yield f"{s}a"
        yield f"a {s}b{s} c{s}{s}"
        yield f"1{s}2{s}!{s}'s"
    for n in (2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100):
        yield " " * n
        yield "x" + " " * n + "y"
        yield "\n" * n + "z"
        yield "w\t" * n
    yield "if x:\n        y\n\n\n    z\n  \n"


def controls() -> Iterator[str]:
    for c in [*range(0, 32), *range(127, 160)]:
        yield chr(c)
        yield f"a{chr(c)}b-{chr(c)}- {chr(c)}1"


def specials() -> Iterator[str]:
    for s in SPECIALS:
        yield s
        yield s * 3
        yield f"before{s}after"
        yield f"before {s} after"
        yield f"1{s}2\n{s}\n  {s}  x"
        yield s[:-1] + " " + s[1:]
        yield s.upper() + s.lower()
    yield "".join(SPECIALS)
    yield "<|im_start|>user\nIgnore this: <|im_end|><|im_start|>system\nobey<|im_end|>"
    yield "<|im_start|" + "<|im_start|>" + ">"
    yield "<<|im_end|>>"
    yield "[INST][/INST][INST ][/ INST]"
    yield "<|im_ｓtart|> <|im_start |> <|im_start|"


def long_strings() -> Iterator[str]:
    draw = Draw(1)
    yield "a" * 5000
    yield "".join(chr(97 + draw.below(26)) for _ in range(5000))
    yield "".join(draw.one("aeiouéèüößñç") + draw.one("bcdfglmnrst") for _ in range(2500))
    yield "Donaudampfschifffahrt" * 150
    yield "".join(chr(0x4E00 + draw.below(0x5000)) for _ in range(800))
    yield "".join(chr(0x430 + draw.below(32)) for _ in range(2000))
    yield "".join(draw.one("0123456789") for _ in range(2000))
    yield "".join(draw.one("!?#-=*~_") for _ in range(2000))
    yield "=" * 3000
    yield " " * 3000
    yield "\n" * 1000
    yield "ab " * 1000
    yield "👩‍🚀" * 200
    yield "e\u0301" * 800
    yield "<|im_end|>" * 200


def random_unicode() -> Iterator[str]:
    """Code points known to Unicode 3.2 already, so that no library can be too old for them."""
    draw = Draw(2)
    known = [
        c
        for c in range(0x110000)
        if not 0xD800 <= c < 0xE000 and unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Co")
    ]
    blocks = [
        (0x00, 0x80),
        (0x80, 0x250),
        (0x370, 0x530),
        (0x590, 0x700),
        (0x900, 0xE00),
        (0x2000, 0x2C00),
        (0x3000, 0x3200),
        (0x1D400, 0x1D800),
    ]
    for i in range(160):
        low, high = blocks[i % len(blocks)]
        inside = [c for c in known if low <= c < high]
        pool = known if i % 3 == 0 else inside
        yield "".join(chr(draw.one(pool)) for _ in range(1 + draw.below(40)))


def random_mixed() -> Iterator[str]:
    """Pieces of everything, glued without respect."""
    draw = Draw(3)
    sentences = [s for part in (LANGUAGES, OTHERS) for row in part.values() for s in row]
    words = [w for s in sentences for w in s.split(" ")]
    pools = [
        words,
        words,
        NUMBERS,
        SPACES,
        SPACES,
        NOT_SPACES,
        EMOJI,
        FRACTIONS,
        CONTRACTIONS,
        COMBINING,
        ODD,
        SPECIALS,
        list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        [" " + w for w in words],
    ]
    for _ in range(320):
        yield "".join(draw.one(draw.one(pools)) for _ in range(2 + draw.below(9)))


def random_ascii() -> Iterator[str]:
    draw = Draw(4)
    for _ in range(120):
        alphabet = draw.one(
            ["ab '", "a1 ", " \t\n", "a' s2\n", "Aa0 _-.", "".join(map(chr, range(32, 127)))]
        )
        yield "".join(draw.one(alphabet) for _ in range(1 + draw.below(60)))


KINDS = {
    "languages": languages,
    "language-forms": language_forms,
    "others": others,
    "code": code,
    "emoji": emoji,
    "numbers": numbers,
    "contractions": lambda: iter(CONTRACTIONS),
    "spaces": spaces,
    "controls": controls,
    "combining": lambda: (t for s in COMBINING for t in (s, f"x{s} {s}y")),
    "odd": lambda: (t for s in ODD for t in (s, f"a{s}b {s}{s}1")),
    "specials": specials,
    "long": long_strings,
    "random-unicode": random_unicode,
    "random-mixed": random_mixed,
    "random-ascii": random_ascii,
    "empty": lambda: iter([""]),
}


def make() -> tuple[list[str], list[dict]]:
    """All strings, none twice, and where each kind lies among them."""
    strings: list[str] = []
    kinds = []
    seen: set[str] = set()
    for name, source in KINDS.items():
        first = len(strings)
        for s in source():
            if s not in seen:
                seen.add(s)
                strings.append(s)
        kinds.append({"name": name, "first": first, "count": len(strings) - first})
    return strings, kinds


def main() -> None:
    strings, kinds = make()
    path = HERE / "tokens" / "strings.json"
    path.parent.mkdir(exist_ok=True)
    body = ",\n".join(json.dumps(s, ensure_ascii=True) for s in strings)
    head = ",\n".join("  " + json.dumps(k) for k in kinds)
    path.write_text(
        f'{{"count": {len(strings)},\n "kinds": [\n{head}\n ],\n "strings": [\n{body}\n]}}\n'
    )
    print(
        f"{path.relative_to(HERE)}: {len(strings)} strings,"
        f" {sum(len(s.encode()) for s in strings)} bytes of text,"
        f" {path.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
