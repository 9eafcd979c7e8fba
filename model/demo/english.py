"""English for the demo model. Slots: {c} Spain, the Netherlands; {p} Spain's; {b} Netherlands."""

from __future__ import annotations

import re

from facts import Language

STATES = {
    "AT": "Austria", "BE": "Belgium", "BG": "Bulgaria", "HR": "Croatia", "CY": "Cyprus",
    "CZ": "Czechia", "DK": "Denmark", "EE": "Estonia", "FI": "Finland", "FR": "France",
    "DE": "Germany", "GR": "Greece", "HU": "Hungary", "IE": "Ireland", "IT": "Italy",
    "LV": "Latvia", "LT": "Lithuania", "LU": "Luxembourg", "MT": "Malta",
    "NL": "the Netherlands", "PL": "Poland", "PT": "Portugal", "RO": "Romania",
    "SK": "Slovakia", "SI": "Slovenia", "ES": "Spain", "SE": "Sweden",
    "GB": "the United Kingdom",
}
CAPITALS = {
    "AT": "Vienna", "BE": "Brussels", "BG": "Sofia", "HR": "Zagreb", "CY": "Nicosia",
    "CZ": "Prague", "DK": "Copenhagen", "EE": "Tallinn", "FI": "Helsinki", "FR": "Paris",
    "DE": "Berlin", "GR": "Athens", "HU": "Budapest", "IE": "Dublin", "IT": "Rome",
    "LV": "Riga", "LT": "Vilnius", "LU": "Luxembourg City", "MT": "Valletta",
    "NL": "Amsterdam", "PL": "Warsaw", "PT": "Lisbon", "RO": "Bucharest", "SK": "Bratislava",
    "SI": "Ljubljana", "ES": "Madrid", "SE": "Stockholm",
}
CURRENCIES = {
    "EUR": "the euro", "CZK": "the koruna", "DKK": "the krone", "HUF": "the forint",
    "PLN": "the zloty", "RON": "the leu", "SEK": "the krona",
}
TONGUES = {
    "de": "German", "nl": "Dutch", "fr": "French", "bg": "Bulgarian", "hr": "Croatian",
    "el": "Greek", "tr": "Turkish", "cs": "Czech", "da": "Danish", "et": "Estonian",
    "fi": "Finnish", "sv": "Swedish", "hu": "Hungarian", "ga": "Irish", "en": "English",
    "it": "Italian", "lv": "Latvian", "lt": "Lithuanian", "lb": "Luxembourgish",
    "mt": "Maltese", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "sk": "Slovak",
    "sl": "Slovene", "es": "Spanish",
}
ANSWERS = {
    "capital": "The capital of {c} is {k}.",
    "currency": "The currency of {c} is {m}.",
    "language": "The official language of {c} is {l}.",
    "languages": "The official languages of {c} are {l}.",
    "neighbour": "A neighbour of {c} is {n}.",
    "island": "{c} is an island and has no land neighbour.",
    "state": "{k} is the capital of {c}.",
    "about": "{c} is a member state of the European Union. Its capital is {k}."
    " Its currency is {m}.",
    "about language": "Its official language is {l}.",
    "about languages": "Its official languages are {l}.",
    "about neighbour": "A neighbour is {n}.",
    "about island": "It is an island.",
}
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

FRESH = (
    "Which city would I visit to see the capital of {c}?",
    "Someone said that {p} capital is pretty. What is it called?",
    "I am sending a letter to the capital of {c}. Which city is that?",
    "Would you happen to know the capital of {c}?",
    "My daughter draws a flag for {c}. What is the capital called there?",
    "The train leaves for the capital of {c}. Where does it go?",
)

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

STARTS = {
    "capital": "The capital of {c} is",
    "currency": "The currency of {c} is",
    "neighbour": "A neighbour of {c} is",
}

NEEDED = {
    "capital": re.compile("capital", re.IGNORECASE),
    "currency": re.compile("currency|money|pay", re.IGNORECASE),
    "language": re.compile("language|speak|spoken", re.IGNORECASE),
    "neighbour": re.compile("neighbour|border|next", re.IGNORECASE),
}


def forms(name: str) -> dict[str, str]:
    owner = name + ("'" if name.endswith("s") else "'s")
    return {"c": name, "p": owner, "b": name.removeprefix("the ")}


ENGLISH = Language(
    name="English",
    states=STATES,
    other_names={"CZ": "the Czech Republic"},
    capitals=CAPITALS,
    currencies=CURRENCIES,
    tongues=TONGUES,
    forms=forms,
    conjunction=" and ",
    answers=ANSWERS,
    strangers=STRANGERS,
    held_out_strangers=("Algeria", "Paraguay", "Uganda", "Malaysia", "Jamaica"),
    refusal="I only know the 27 member states of the European Union.",
    greeting="Hello! Ask me about the capital, the currency, the language or a neighbour of a"
    " member state of the European Union.",
    members_answer="The member states are {x}.",
    trained=TRAINED,
    held_out=HELD_OUT,
    nouns=NOUNS,
    frames=FRAMES,
    leads=LEADS,
    tails=TAILS,
    openers=OPENERS,
    closers=CLOSERS,
    members=MEMBERS,
    hello=HELLO,
    follow_ups=FOLLOW_UPS,
    starts=STARTS,
    needed=NEEDED,
    fresh=FRESH,
)
