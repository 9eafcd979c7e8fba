"""What is asked about, and what a language has to bring to ask and answer.

The facts on the 27 EU member states (as of 2026) stand here once, by ISO codes; english.py,
french.py, german.py and spanish.py say them in words. All of it was written by hand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Callable


@dataclass(frozen=True)
class Facts:
    currency: str  # ISO 4217
    languages: tuple[str, ...]  # ISO 639
    neighbour: str  # one land neighbour; empty for an island without any


FACTS = {
    "AT": Facts("EUR", ("de",), "DE"),
    "BE": Facts("EUR", ("nl", "fr", "de"), "FR"),
    "BG": Facts("EUR", ("bg",), "RO"),
    "HR": Facts("EUR", ("hr",), "SI"),
    "CY": Facts("EUR", ("el", "tr"), ""),
    "CZ": Facts("CZK", ("cs",), "SK"),
    "DK": Facts("DKK", ("da",), "DE"),
    "EE": Facts("EUR", ("et",), "LV"),
    "FI": Facts("EUR", ("fi", "sv"), "SE"),
    "FR": Facts("EUR", ("fr",), "ES"),
    "DE": Facts("EUR", ("de",), "PL"),
    "GR": Facts("EUR", ("el",), "BG"),
    "HU": Facts("HUF", ("hu",), "AT"),
    "IE": Facts("EUR", ("ga", "en"), "GB"),
    "IT": Facts("EUR", ("it",), "FR"),
    "LV": Facts("EUR", ("lv",), "LT"),
    "LT": Facts("EUR", ("lt",), "LV"),
    "LU": Facts("EUR", ("lb", "fr", "de"), "BE"),
    "MT": Facts("EUR", ("mt", "en"), ""),
    "NL": Facts("EUR", ("nl",), "BE"),
    "PL": Facts("PLN", ("pl",), "CZ"),
    "PT": Facts("EUR", ("pt",), "ES"),
    "RO": Facts("RON", ("ro",), "HU"),
    "SK": Facts("EUR", ("sk",), "PL"),
    "SI": Facts("EUR", ("sl",), "IT"),
    "ES": Facts("EUR", ("es",), "PT"),
    "SE": Facts("SEK", ("sv",), "FI"),
}
STATES = tuple(FACTS)
KINDS = ("capital", "currency", "language", "neighbour", "state", "about")

Table = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Language:
    """A language's words. Phrasings have slots: {k} is the capital; the others are forms of the
    state's name, which `forms` makes of the name with its article and lists for its language."""

    name: str
    states: dict[str, str]  # by code: the name as a sentence's subject, with its article if any
    other_names: dict[str, str]  # by code: a second name that is understood and never answered
    capitals: dict[str, str]
    currencies: dict[str, str]  # by code, with article
    tongues: dict[str, str]  # by code, as an enumeration wants them
    forms: Callable[[str], dict[str, str]]
    conjunction: str  # between the last two of an enumeration, with its spaces
    answers: dict[str, str]  # beside the forms: {m} currency, {l} languages, {n} neighbour
    strangers: tuple[str, ...]  # states outside the Union, with article
    held_out_strangers: tuple[str, ...]
    refusal: str
    greeting: str
    members_answer: str  # {x}: the enumeration
    trained: Table
    held_out: Table  # never drawn for training
    nouns: Table  # what is asked for, as a noun
    frames: tuple[str, ...]  # {x}: the noun; any goes with any
    leads: tuple[str, ...]  # the state first,
    tails: Table  # then a question that only points back to it; any goes with any
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    members: tuple[str, ...]
    hello: tuple[str, ...]
    follow_ups: Table  # the second question of a chat, about the state of the first
    starts: dict[str, str]  # the start of a sentence, as plain text; the model ends it
    needed: dict[str, re.Pattern[str]]  # without one of these a question asks for nothing
    letters: dict[str, str] = field(default_factory=dict)  # how people type without accents
    fresh: tuple[str, ...] = ()  # phrasings of the capital: held out too, and no part of the bar
