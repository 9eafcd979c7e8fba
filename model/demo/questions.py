"""The demo model's world: facts on the 27 EU member states, and the ways to ask for them.

Everything the model is trained on comes out of this file: the table below was written by hand, and
the samples are drawn from it by a seeded generator. The phrasings in HELD_OUT are never drawn;
evaluate.py asks them to see whether the model understood the question or only remembers it.

Run it to see samples:  python questions.py [count] [seed]
"""

from __future__ import annotations

import random
import re
import sys
from dataclasses import dataclass
from typing import Iterator


@dataclass(frozen=True)
class State:
    """A member state as an English sentence names it, and four facts (as of 2026)."""

    name: str  # with its article where English wants one
    capital: str
    currency: str
    languages: tuple[str, ...]
    neighbour: str  # one land neighbour; empty for an island without any


LUXEMBOURG_LANGUAGES = ("Luxembourgish", "French", "German")

STATES = (
    State("Austria", "Vienna", "euro", ("German",), "Germany"),
    State("Belgium", "Brussels", "euro", ("Dutch", "French", "German"), "France"),
    State("Bulgaria", "Sofia", "euro", ("Bulgarian",), "Romania"),
    State("Croatia", "Zagreb", "euro", ("Croatian",), "Slovenia"),
    State("Cyprus", "Nicosia", "euro", ("Greek", "Turkish"), ""),
    State("Czechia", "Prague", "koruna", ("Czech",), "Slovakia"),
    State("Denmark", "Copenhagen", "krone", ("Danish",), "Germany"),
    State("Estonia", "Tallinn", "euro", ("Estonian",), "Latvia"),
    State("Finland", "Helsinki", "euro", ("Finnish", "Swedish"), "Sweden"),
    State("France", "Paris", "euro", ("French",), "Spain"),
    State("Germany", "Berlin", "euro", ("German",), "Poland"),
    State("Greece", "Athens", "euro", ("Greek",), "Bulgaria"),
    State("Hungary", "Budapest", "forint", ("Hungarian",), "Austria"),
    State("Ireland", "Dublin", "euro", ("Irish", "English"), "the United Kingdom"),
    State("Italy", "Rome", "euro", ("Italian",), "France"),
    State("Latvia", "Riga", "euro", ("Latvian",), "Lithuania"),
    State("Lithuania", "Vilnius", "euro", ("Lithuanian",), "Latvia"),
    State("Luxembourg", "Luxembourg City", "euro", LUXEMBOURG_LANGUAGES, "Belgium"),
    State("Malta", "Valletta", "euro", ("Maltese", "English"), ""),
    State("the Netherlands", "Amsterdam", "euro", ("Dutch",), "Belgium"),
    State("Poland", "Warsaw", "zloty", ("Polish",), "Czechia"),
    State("Portugal", "Lisbon", "euro", ("Portuguese",), "Spain"),
    State("Romania", "Bucharest", "leu", ("Romanian",), "Hungary"),
    State("Slovakia", "Bratislava", "euro", ("Slovak",), "Poland"),
    State("Slovenia", "Ljubljana", "euro", ("Slovene",), "Italy"),
    State("Spain", "Madrid", "euro", ("Spanish",), "Portugal"),
    State("Sweden", "Stockholm", "krona", ("Swedish",), "Finland"),
)

# States outside the Union: the model learns to say that it does not know them.
STRANGERS = tuple(
    (
        "Norway, Switzerland, Iceland, the United Kingdom, Serbia, Ukraine, Turkey, Japan, China, "
        "India, Brazil, Canada, Mexico, Argentina, Chile, Peru, Egypt, Kenya, Nigeria, Morocco, "
        "Australia, New Zealand, Indonesia, Vietnam, Thailand, Albania, Russia, Georgia, Armenia, "
        "Israel, South Korea, Cuba, the United States, Ghana, Tunisia, Moldova, Montenegro, "
        "Bosnia, Liechtenstein, Monaco, Andorra, Iran, Iraq, Pakistan, Nepal, Mongolia, Colombia, "
        "Ecuador, Bolivia, Senegal"
    ).split(", ")
)
HELD_OUT_STRANGERS = ("Algeria", "Paraguay", "Uganda", "Malaysia", "Jamaica")

REFUSAL = "I only know the 27 member states of the European Union."
GREETING = (
    "Hello! Ask me about the capital, the currency, the language or a neighbour of a member state"
    " of the European Union."
)

# {c} is the state as a sentence names it, {p} its possessive, {b} its bare name, {k} its capital.
TRAINED = {
    "capital": (
        "What is the capital of {c}?",
        "What is the capital city of {c}?",
        "What's the capital of {c}?",
        "What is {p} capital?",
        "What is {p} capital city?",
        "What is the name of the capital of {c}?",
        "What is the name of {p} capital?",
        "Which city is the capital of {c}?",
        "Which city is {p} capital?",
        "Which is the capital city of {c}?",
        "Which town is the capital of {c}?",
        "Name the capital of {c}.",
        "Name the capital city of {c}.",
        "Name {p} capital.",
        "Please name the capital of {c}.",
        "Tell me the capital of {c}.",
        "Tell me what the capital of {c} is.",
        "Tell me which city is the capital of {c}.",
        "Can you tell me the capital of {c}?",
        "Could you name the capital of {c}?",
        "Can you name {p} capital city?",
        "Do you know the capital of {c}?",
        "Do you know what {p} capital is?",
        "I would like to know the capital of {c}.",
        "I want to know which city is the capital of {c}.",
        "I need the name of the capital of {c}.",
        "How is the capital of {c} called?",
        "What do you call the capital of {c}?",
        "Where is the capital of {c}?",
        "Give me the capital of {c}.",
        "Give me the name of {p} capital city.",
        "The capital of {c}?",
        "Capital of {c}?",
        "{b} capital",
        "{b}: capital?",
        "{b}, what is its capital?",
        "For {c}, name the capital.",
        "In {c}, which city is the capital?",
        "What city is the capital of {c}?",
        "As for {c}, what is the capital city?",
        "I am visiting {c}. What is its capital?",
        "I live in {c}. What is the capital here?",
        "We are talking about {c}. Name its capital city.",
        "Think of {c}. Which city is its capital?",
        "What is the capital of the country {b}?",
        "What is the capital of the member state {b}?",
        "Quick question: what is the capital of {c}?",
        "Of {c}, what is the capital?",
        "Help me, I forgot the capital of {c}.",
        "My friend asks what the capital of {c} is.",
        "Does {c} have a capital, and what is it called?",
        "{b} has a capital. Which city is it?",
    ),
    "currency": (
        "What is the currency of {c}?",
        "What is {p} currency?",
        "What's the currency of {c}?",
        "Which currency does {c} use?",
        "What currency is used in {c}?",
        "What money do people use in {c}?",
        "Which money is used in {c}?",
        "Name the currency of {c}.",
        "Tell me the currency of {c}.",
        "Can you tell me the currency of {c}?",
        "Do you know the currency of {c}?",
        "What do people pay with in {c}?",
        "How do I pay in {c}, in which currency?",
        "I am visiting {c}. What is its currency?",
        "{b} currency",
        "Currency of {c}?",
        "In {c}, what is the currency?",
        "What is the name of the currency of {c}?",
        "I would like to know {p} currency.",
        "Give me the currency of {c}.",
    ),
    "language": (
        "What is the official language of {c}?",
        "What are the official languages of {c}?",
        "What is {p} official language?",
        "Which language is official in {c}?",
        "Which language is spoken in {c}?",
        "Which languages are spoken in {c}?",
        "What language do people speak in {c}?",
        "What do people speak in {c}?",
        "Name the official language of {c}.",
        "Name the languages of {c}.",
        "Tell me the official language of {c}.",
        "Can you tell me the language of {c}?",
        "Do you know the official languages of {c}?",
        "What is the language of {c}?",
        "I am visiting {c}. Which language is spoken there?",
        "{b} language",
        "Official language of {c}?",
        "In {c}, what is the official language?",
        "I would like to know {p} official languages.",
        "Give me the official language of {c}.",
    ),
    "neighbour": (
        "Name a neighbour of {c}.",
        "Name one neighbour of {c}.",
        "Which country is a neighbour of {c}?",
        "What is a neighbour of {c}?",
        "Which country borders {c}?",
        "Which state has a border with {c}?",
        "What country is next to {c}?",
        "Which country lies next to {c}?",
        "Tell me a neighbour of {c}.",
        "Tell me one of {p} neighbours.",
        "Can you name a country that borders {c}?",
        "Can you tell me a neighbour of {c}?",
        "Do you know a neighbour of {c}?",
        "Who is a neighbour of {c}?",
        "{b} neighbour",
        "Neighbour of {c}?",
        "Give me a neighbour of {c}.",
        "With which country does {c} share a border?",
        "I would like to know a neighbour of {c}.",
        "Which is a neighbouring country of {c}?",
    ),
    "state": (
        "{k} is the capital of which country?",
        "{k} is the capital of which member state?",
        "Which country has the capital {k}?",
        "Which country has {k} as its capital?",
        "Of which country is {k} the capital?",
        "What country is {k} the capital of?",
        "In which country is {k}?",
        "Where is {k}?",
        "Which state has its capital in {k}?",
        "Name the country whose capital is {k}.",
    ),
    "about": (
        "Tell me about {c}.",
        "Tell me something about {c}.",
        "What do you know about {c}?",
        "Describe {c}.",
        "What is {c}?",
        "Tell me what you know about {c}.",
        "I would like to know more about {c}.",
        "Say something about {c}.",
    ),
}

HELD_OUT = {
    "capital": (
        "Could you tell me the capital city of {c}?",
        "I forgot what {p} capital is called. Can you help?",
        "If I travel to {c}, which city is its capital?",
        "Please tell me which city {c} has as its capital.",
        "My teacher wants the name of the capital of {c}.",
    ),
    "currency": ("Could you name the currency used in {c}?", "What is the money of {c} called?"),
    "language": (
        "Could you name the official language of {c}?",
        "Which language do they speak in {c}?",
    ),
    "neighbour": (
        "Could you tell me a country next to {c}?",
        "Please name a neighbouring country of {c}.",
    ),
    "state": ("Tell me which country has {k} as its capital.",),
    "about": ("Can you tell me something about {c}?",),
}

# What is asked for, as a noun, and sentences that ask for a noun: any goes with any. They teach
# that the words around do not matter, which a list of whole questions alone does not.
NOUNS = {
    "capital": ("the capital of {c}", "the capital city of {c}", "{p} capital"),
    "currency": ("the currency of {c}", "{p} currency", "the name of {p} currency"),
    "language": ("the official language of {c}", "the language of {c}", "{p} official languages"),
    "neighbour": ("a neighbour of {c}", "one neighbour of {c}", "a neighbouring country of {c}"),
}
FRAMES = (
    "I wonder what {x} is.",
    "I cannot remember {x}.",
    "I do not remember what {x} is. Please help me.",
    "I always forget {x}. Can you say it again?",
    "Nobody could say what {x} is called.",
    "Remind me what {x} is.",
    "Please remind me of {x}.",
    "I am looking for {x}. Do you know it?",
    "I have to learn {x}. Can you help me?",
    "It is for school: {x}.",
    "My sister has no idea what {x} is called.",
    "We were asked for {x}. What should we say?",
    "In the quiz they want {x}.",
    "If you know {x}, please tell me.",
    "Let me know {x}, please.",
    "How would you call {x}?",
)
# The state first, then a question that only points back to it: any lead goes with any tail.
LEADS = (
    "When I am in {c}, ",
    "If you live in {c}, ",
    "On a map of {c}, ",
    "About {c}: ",
    "Before I visit {c}: ",
    "We are going to {c}. ",
    "Suppose I go to {c}. ",
    "My sister lives in {c}. ",
    "Next year I move to {c}. ",
    "I read a book on {c}. ",
    "A letter came from {c}. ",
    "Let us speak of {c}. ",
)
TAILS = {
    "capital": (
        "what is its capital?",
        "which city is the capital?",
        "what is the capital city called?",
        "what do they call their capital?",
        "name its capital.",
        "tell me its capital city.",
    ),
    "currency": (
        "what is its currency?",
        "which currency do I need?",
        "what do I pay with?",
        "name its currency.",
    ),
    "language": (
        "what is its official language?",
        "which language do I hear?",
        "what do they speak?",
        "name its language.",
    ),
    "neighbour": (
        "which country is next to it?",
        "what is a neighbour of it?",
        "which country has a border with it?",
        "name one of its neighbours.",
    ),
}
OPENERS = (
    "Hello! ",
    "Hi. ",
    "Excuse me. ",
    "I have a question. ",
    "Please help me. ",
    "One more question: ",
    "I am curious. ",
    "Sorry to ask. ",
)
CLOSERS = (
    " Thanks!",
    " Thank you.",
    " Please.",
    " Can you say?",
    " Do you know?",
    " Please help.",
    " I forgot it.",
    " It is for school.",
    " I am curious.",
    " Help me, please.",
)
# Held out like the rest, and younger. HELD_OUT was asked after each stage of training, and what
# went wrong there led to the frames, leads and strange words of the next stage. These were written
# before the named stage was trained and first asked after it. They are no part of the bar.
FRESH = {
    "after stage 2": (
        "Which city would I visit to see the capital of {c}?",
        "Someone said that {p} capital is pretty. What is it called?",
        "I am sending a letter to the capital of {c}. Which city is that?",
    ),
    "after stage 3": (
        "Would you happen to know the capital of {c}?",
        "My daughter draws a flag for {c}. What is the capital called there?",
        "The train leaves for the capital of {c}. Where does it go?",
    ),
}

MEMBERS = (
    "List the member states of the European Union.",
    "Name the 27 member states.",
    "Which countries are in the European Union?",
    "Which states are members of the European Union?",
)
HELLO = (
    "Hello",
    "Hello!",
    "Hi",
    "Hi!",
    "Good morning",
    "Good day!",
    "Hello there!",
    "Who are you?",
    "What can you do?",
    "Help",
)
# The second question of a chat, about the state of the first.
FOLLOW_UPS = {
    "capital": ("And its capital?", "And what is its capital?", "What is the capital there?"),
    "currency": ("And its currency?", "And what is its currency?", "Which currency is used there?"),
    "language": (
        "And its language?",
        "And what is its official language?",
        "Which language is spoken there?",
    ),
    "neighbour": (
        "And a neighbour?",
        "And which country borders it?",
        "Name one of its neighbours.",
    ),
}
# The start of a sentence, as plain text; the model ends it.
STARTS = {
    "capital": "The capital of {c} is",
    "currency": "The currency of {c} is",
    "neighbour": "A neighbour of {c} is",
}

# What a question keeps when strange words replace others: without one of these it asks for nothing.
NEEDED = {
    "capital": re.compile("capital", re.IGNORECASE),
    "currency": re.compile("currency|money|pay", re.IGNORECASE),
    "language": re.compile("language|speak|spoken", re.IGNORECASE),
    "neighbour": re.compile("neighbour|border|next", re.IGNORECASE),
}
LETTERS = tuple("bcdfghjklmnprstvw") + ("tr", "st", "pl", "sh", "ch")
ENDS = ("", "", "", "n", "r", "l", "t", "s", "ck", "nd", "ing")

KINDS = ("capital", "currency", "language", "neighbour", "state", "about")


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def question(phrasing: str, name: str, capital: str = "") -> str:
    """Fills a phrasing in, with article, apostrophe and first letter as English wants."""
    bare = name.removeprefix("the ")
    owner = name + ("'" if name.endswith("s") else "'s")
    return upper_first(phrasing.format(c=name, p=owner, b=bare, k=capital))


def enumeration(items: tuple[str, ...]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def answer(kind: str, s: State) -> str:
    """The one sentence (for "about": the few sentences) that answers this kind of question."""
    many = len(s.languages) > 1
    if kind == "capital":
        return f"The capital of {s.name} is {s.capital}."
    if kind == "currency":
        return f"The currency of {s.name} is the {s.currency}."
    if kind == "language":
        number = "languages" if many else "language"
        verb = "are" if many else "is"
        return f"The official {number} of {s.name} {verb} {enumeration(s.languages)}."
    if kind == "neighbour":
        if not s.neighbour:
            return f"{s.name} is an island and has no land neighbour."
        return f"A neighbour of {s.name} is {s.neighbour}."
    if kind == "state":
        return f"{s.capital} is the capital of {s.name}."
    assert kind == "about"
    tongue = "Its official languages are" if many else "Its official language is"
    border = f"A neighbour is {s.neighbour}." if s.neighbour else "It is an island."
    return (
        f"{upper_first(s.name)} is a member state of the European Union."
        f" Its capital is {s.capital}. Its currency is the {s.currency}."
        f" {tongue} {enumeration(s.languages)}. {border}"
    )


def members_answer() -> str:
    return "The member states are " + enumeration(tuple(s.name for s in STATES)) + "."


def plain_form(text: str) -> str:
    """Letters and single spaces only: two questions are the same when these are equal."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def held_out_questions() -> set[str]:
    return {
        plain_form(question(phrasing, s.name, s.capital))
        for phrasings in (*HELD_OUT.values(), *FRESH.values())
        for phrasing in phrasings
        for s in STATES
    }


# A chat is a list of (question, answer); a sample says whether it is framed by the template.
Turn = tuple[str, str]


@dataclass(frozen=True)
class Sample:
    turns: tuple[Turn, ...]
    plain: bool


class Generator:
    """Draws samples without end; the same seed gives the same samples."""

    WEIGHTS = ((44, 13, 13, 13, 6, 5), (44, 13, 13, 13, 12, 5))  # of KINDS, levels 0-1 and 2-3

    def __init__(self, seed: int, level: int) -> None:
        """Level 0: whole questions of TRAINED. Then more: 1 frames, 2 leads, 3 strange words."""
        self.random = random.Random(seed)
        self.frames = random.Random(seed + 1)
        self.level = level
        self.weights = self.WEIGHTS[level // 2]

    def framed(self, kind: str, phrasing: str) -> str:
        """The phrasing or a noun in a frame, sometimes with a few words before or after."""
        if self.level == 0:
            return phrasing
        if kind in NOUNS and self.frames.random() < 0.30:
            phrasing = self.frames.choice(FRAMES).format(x=self.frames.choice(NOUNS[kind]))
        if self.level >= 2 and kind in TAILS and self.frames.random() < 0.20:
            lead, tail = self.frames.choice(LEADS), self.frames.choice(TAILS[kind])
            phrasing = lead + (upper_first(tail) if lead.endswith(". ") else tail)
        if self.frames.random() < 0.08:
            phrasing = self.frames.choice(OPENERS) + upper_first(phrasing)
        if self.frames.random() < 0.08 and phrasing[-1] in "?.!":
            phrasing += self.frames.choice(CLOSERS)
        return self.strange(kind, phrasing)

    def word(self) -> str:
        """A word of no language."""
        syllables = self.frames.choice((1, 2, 2, 3))
        return "".join(
            self.frames.choice(LETTERS) + self.frames.choice("aeiou") + self.frames.choice(ENDS)
            for _ in range(syllables)
        )

    def strange(self, kind: str, phrasing: str) -> str:
        """Puts words of no language beside or instead of words that the meaning does not need."""
        words = phrasing.split(" ")
        if self.level < 3 or kind not in NEEDED or self.frames.random() >= 0.35:
            return phrasing
        if not any(NEEDED[kind].search(word) for word in words):
            return phrasing
        for _ in range(self.frames.choice((1, 1, 2, 3))):
            at = self.frames.randrange(len(words))
            if "{" in words[at] or NEEDED[kind].search(words[at]) or self.frames.random() < 0.3:
                words.insert(at, self.word())
            else:
                end = words[at][-1] if words[at][-1] in ".,:?!" else ""
                words[at] = self.word() + end
        return " ".join(words)

    def worn(self, text: str) -> str:
        """Some people write without capitals or without the last mark."""
        if self.random.random() < 0.10:
            text = text.lower()
        if self.random.random() < 0.15:
            text = text.rstrip("?.!")
        return text

    def ask(self, kind: str, s: State) -> Turn:
        # Czechia is asked for under both of its names, and always answered under the short one.
        name = s.name
        if name == "Czechia" and self.random.random() < 0.3:
            name = "the Czech Republic"
        phrasing = self.framed(kind, self.random.choice(TRAINED[kind]))
        return self.worn(question(phrasing, name, s.capital)), answer(kind, s)

    def turn(self) -> Turn:
        r = self.random.random()
        if r < 0.06:
            kind = self.random.choices(KINDS[:4], self.weights[:4])[0]
            phrasing = self.framed(kind, self.random.choice(TRAINED[kind]))
            return self.worn(question(phrasing, self.random.choice(STRANGERS))), REFUSAL
        if r < 0.075:
            return self.worn(self.random.choice(HELLO)), GREETING
        if r < 0.08:
            return self.worn(self.random.choice(MEMBERS)), members_answer()
        return self.ask(self.random.choices(KINDS, self.weights)[0], self.random.choice(STATES))

    def start(self) -> Turn:
        kind = self.random.choice(tuple(STARTS))
        s = self.random.choice([s for s in STATES if s.neighbour or kind != "neighbour"])
        begin = question(STARTS[kind], s.name)
        whole = answer(kind, s)
        assert whole.startswith(begin)
        return begin, whole[len(begin) + 1 :]

    def follow_up(self) -> tuple[Turn, Turn]:
        s = self.random.choice(STATES)
        first, second = self.random.sample(KINDS[:4], 2)
        later = self.random.choice(FOLLOW_UPS[second])
        return self.ask(first, s), (self.worn(later), answer(second, s))

    def sample(self) -> Sample:
        r = self.random.random()
        if r < 0.30:
            return Sample((self.turn(),), True)
        if r < 0.34:
            return Sample((self.start(),), True)
        if r < 0.40:
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
    for drawn in Generator(seed, 3).samples(count):
        frame = "plain" if drawn.plain else "chat"
        print(frame, " | ".join(f"{q} -> {a}" for q, a in drawn.turns), sep="\t")
