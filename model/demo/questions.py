"""Asks and answers in four languages: the samples that the demo model is trained on.

The facts stand in facts.py, the words in one file a language; samples are drawn from them by a
seeded generator. Phrasings that are held out are never drawn; evaluate.py asks them to see whether
the model understood the question or only remembers it.

Run it to see samples:  python questions.py [count] [seed]
"""

from __future__ import annotations

import random
import re
import sys
import unicodedata
from dataclasses import dataclass
from typing import Iterator

from english import ENGLISH
from facts import FACTS, KINDS, STATES, Language
from french import FRENCH
from german import GERMAN
from spanish import SPANISH

LANGUAGES = (ENGLISH, FRENCH, GERMAN, SPANISH)

LETTERS = tuple("bcdfghjklmnprstvw") + ("tr", "st", "pl", "sh", "ch")
VOWELS = "aeiouaeiouaeioéèäöüáíó"
ENDS = ("", "", "", "n", "r", "l", "t", "s", "ck", "nd", "ing")


def upper_first(text: str) -> str:
    """The first letter as a capital, behind the marks that open a Spanish sentence."""
    at = 1 if text[:1] in ("¿", "¡") else 0
    return text[:at] + text[at : at + 1].upper() + text[at + 1 :]


def question(language: Language, phrasing: str, name: str, capital: str = "") -> str:
    """Fills a phrasing in with the forms of a name."""
    return upper_first(phrasing.format(k=capital, **language.forms(name)))


def question_of(language: Language, phrasing: str, code: str) -> str:
    return question(language, phrasing, language.states[code], language.capitals[code])


def enumeration(language: Language, items: tuple[str, ...]) -> str:
    if len(items) == 1:
        return items[0]
    return ", ".join(items[:-1]) + language.conjunction + items[-1]


def answer(language: Language, kind: str, code: str) -> str:
    """The one sentence (for "about": the few sentences) that answers this kind of question."""
    facts, told = FACTS[code], language.answers
    number = "languages" if len(facts.languages) > 1 else "language"
    border = "neighbour" if facts.neighbour else "island"
    text = {
        "language": told[number],
        "neighbour": told[border],
        "about": f"{told['about']} {told['about ' + number]} {told['about ' + border]}",
    }.get(kind, told[kind])
    words = {
        "k": language.capitals[code],
        "m": language.currencies[facts.currency],
        "l": enumeration(language, tuple(language.tongues[t] for t in facts.languages)),
        "n": language.states.get(facts.neighbour, ""),
    }
    return upper_first(text.format(**words, **language.forms(language.states[code])))


def members_answer(language: Language) -> str:
    names = tuple(language.states[code] for code in STATES)
    return language.members_answer.format(x=enumeration(language, names))


def start(language: Language, kind: str, code: str) -> tuple[str, str]:
    """The start of the sentence that answers, and its rest."""
    begin = question_of(language, language.starts[kind], code)
    whole = answer(language, kind, code)
    assert whole.startswith(begin + " ")
    return begin, whole[len(begin) + 1 :]


def plain_form(text: str) -> str:
    """Letters and single spaces only: two questions are the same when these are equal."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def unaccented(language: Language, text: str) -> str:
    """As people type who do not have or want the letters of the language."""
    for letter, plain in language.letters.items():
        text = text.replace(letter, plain)
    kept = [c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)]
    return "".join(kept).replace("¿", "").replace("¡", "")


def held_out_questions() -> set[str]:
    asked = set()
    for language in LANGUAGES:
        for phrasings in (*language.held_out.values(), language.fresh):
            for phrasing in phrasings:
                for code in STATES:
                    text = question_of(language, phrasing, code)
                    asked |= {plain_form(text), plain_form(unaccented(language, text))}
    return asked


# A chat is a list of (question, answer); a sample says whether it is framed by the template.
Turn = tuple[str, str]


@dataclass(frozen=True)
class Sample:
    turns: tuple[Turn, ...]
    plain: bool


class Generator:
    """Draws samples without end; the same seed gives the same samples."""

    WEIGHTS = (44, 13, 13, 13, 12, 5)  # of KINDS

    def __init__(self, seed: int, rich: bool, name_first: float = 0.0, short: float = 0.0) -> None:
        """Without `rich`, whole questions alone; with it, also frames, leads and strange words.
        `name_first` of the plain questions begin with a name ("Malta: capital?"), and `short` of
        the others have three words at most ("Capital of {c}?")."""
        self.random = random.Random(seed)
        self.rich = rich
        self.name_first, self.short = name_first, short

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def framed(self, language: Language, kind: str, plain: bool) -> str:
        """A phrasing, or a noun in a frame, or a lead with a tail; sometimes a few words more."""
        pick = self.random.choice
        begun = [p for p in language.trained[kind] if p.startswith("{")]
        if plain and begun and self.name_first and self.chance(self.name_first):
            return pick(begun)
        brief = [p for p in language.trained[kind] if len(p.split(" ")) <= 3]
        if brief and self.short and self.chance(self.short):
            return pick(brief)
        phrasing = pick(language.trained[kind])
        if not self.rich:
            return phrasing
        if kind in language.nouns:
            r = self.random.random()
            if r < 0.30:
                phrasing = pick(language.frames).format(x=pick(language.nouns[kind]))
            elif r < 0.50:
                lead, tail = pick(language.leads), pick(language.tails[kind])
                phrasing = lead + (upper_first(tail) if lead.endswith(". ") else tail)
        if self.chance(0.08):
            phrasing = pick(language.openers) + upper_first(phrasing)
        if self.chance(0.08) and phrasing[-1] in "?.!":
            phrasing += pick(language.closers)
        return self.strange(language, kind, phrasing) if self.chance(0.30) else phrasing

    def word(self) -> str:
        """A word of no language."""
        syllables = self.random.choice((1, 2, 2, 3))
        return "".join(
            self.random.choice(LETTERS) + self.random.choice(VOWELS) + self.random.choice(ENDS)
            for _ in range(syllables)
        )

    def strange(self, language: Language, kind: str, phrasing: str) -> str:
        """Puts words of no language beside or instead of words that the meaning does not need."""
        words = phrasing.split(" ")
        if kind not in language.needed:
            return phrasing
        needed = language.needed[kind]
        if not any(needed.search(word) for word in words):
            return phrasing
        for _ in range(self.random.choice((1, 1, 2, 3))):
            at = self.random.randrange(len(words))
            if "{" in words[at] or needed.search(words[at]) or self.chance(0.3):
                words.insert(at, self.word())
            else:
                begin = words[at][0] if words[at][0] in "¿¡" else ""
                end = words[at][-1] if words[at][-1] in ".,:?!" else ""
                words[at] = begin + self.word() + end
        return " ".join(words)

    def worn(self, language: Language, text: str) -> str:
        """Some people write without capitals, accents or marks, or with their keyboard's own."""
        if self.chance(0.12):
            text = text.lower()
        if self.chance(0.05):
            text = unaccented(language, text)
        if self.chance(0.05):
            text = text.replace("'", "’")
        if self.chance(0.15):
            text = text.rstrip("?.!").rstrip()
        elif self.chance(0.20):
            for mark in "?!:":
                text = text.replace(" " + mark, mark)
        return text

    def ask(self, language: Language, kind: str, code: str, plain: bool = False) -> Turn:
        name = language.states[code]
        if code in language.other_names and self.chance(0.3):
            name = language.other_names[code]
        phrasing = self.framed(language, kind, plain)
        asked = question(language, phrasing, name, language.capitals[code])
        return self.worn(language, asked), answer(language, kind, code)

    def turn(self, plain: bool = False) -> Turn:
        language = self.random.choice(LANGUAGES)
        r = self.random.random()
        if r < 0.06:
            kind = self.random.choices(KINDS[:4], self.WEIGHTS[:4])[0]
            name = self.random.choice(language.strangers)
            asked = question(language, self.framed(language, kind, plain), name)
            return self.worn(language, asked), language.refusal
        if r < 0.075:
            return self.worn(language, self.random.choice(language.hello)), language.greeting
        if r < 0.08:
            asked = self.worn(language, self.random.choice(language.members))
            return asked, members_answer(language)
        kind = self.random.choices(KINDS, self.WEIGHTS)[0]
        return self.ask(language, kind, self.random.choice(STATES), plain)

    def begun(self) -> Turn:
        language = self.random.choice(LANGUAGES)
        kind = self.random.choice(tuple(language.starts))
        codes = [c for c in STATES if FACTS[c].neighbour or kind != "neighbour"]
        return start(language, kind, self.random.choice(codes))

    def follow_up(self) -> tuple[Turn, Turn]:
        language, code = self.random.choice(LANGUAGES), self.random.choice(STATES)
        first, second = self.random.sample(KINDS[:4], 2)
        later = self.worn(language, self.random.choice(language.follow_ups[second]))
        return self.ask(language, first, code), (later, answer(language, second, code))

    def sample(self) -> Sample:
        r = self.random.random()
        if r < 0.32:
            return Sample((self.turn(plain=True),), True)
        if r < 0.36:
            return Sample((self.begun(),), True)
        if r < 0.42:
            return Sample(self.follow_up(), False)
        if r < 0.46:
            return Sample(tuple(self.turn() for _ in range(self.random.choice((2, 2, 3)))), False)
        return Sample((self.turn(),), False)

    def samples(self, count: int) -> Iterator[Sample]:
        held_out = held_out_questions()
        for _ in range(count):
            sample = self.sample()
            for asked, _ in sample.turns:
                assert plain_form(asked) not in held_out, f"a held-out question was drawn: {asked}"
            yield sample


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for drawn in Generator(seed, True).samples(count):
        frame = "plain" if drawn.plain else "chat"
        print(frame, " | ".join(f"{q} -> {a}" for q, a in drawn.turns), sep="\t")
