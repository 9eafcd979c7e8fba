"""German for the demo model. Slots, here for Polen, die Slowakei and die Niederlande:
{c} Polen, die Slowakei, die Niederlande (nominative); {a} the accusative; {d} Polen, der Slowakei,
den Niederlanden (dative); {g} Polens, der Slowakei (genitive, behind its noun); {v} von Polen, der
Slowakei; {i} in Polen, in der Slowakei; {t} nach Polen, in die Slowakei; {b} Slowakei; {s} ist or
sind."""

from __future__ import annotations

import re

from facts import Language

STATES = {
    "AT": "Österreich", "BE": "Belgien", "BG": "Bulgarien", "HR": "Kroatien", "CY": "Zypern",
    "CZ": "Tschechien", "DK": "Dänemark", "EE": "Estland", "FI": "Finnland",
    "FR": "Frankreich", "DE": "Deutschland", "GR": "Griechenland", "HU": "Ungarn",
    "IE": "Irland", "IT": "Italien", "LV": "Lettland", "LT": "Litauen", "LU": "Luxemburg",
    "MT": "Malta", "NL": "die Niederlande", "PL": "Polen", "PT": "Portugal",
    "RO": "Rumänien", "SK": "die Slowakei", "SI": "Slowenien", "ES": "Spanien",
    "SE": "Schweden", "GB": "das Vereinigte Königreich",
}
CAPITALS = {
    "AT": "Wien", "BE": "Brüssel", "BG": "Sofia", "HR": "Zagreb", "CY": "Nikosia",
    "CZ": "Prag", "DK": "Kopenhagen", "EE": "Tallinn", "FI": "Helsinki", "FR": "Paris",
    "DE": "Berlin", "GR": "Athen", "HU": "Budapest", "IE": "Dublin", "IT": "Rom",
    "LV": "Riga", "LT": "Vilnius", "LU": "Luxemburg", "MT": "Valletta", "NL": "Amsterdam",
    "PL": "Warschau", "PT": "Lissabon", "RO": "Bukarest", "SK": "Bratislava",
    "SI": "Ljubljana", "ES": "Madrid", "SE": "Stockholm",
}
CURRENCIES = {
    "EUR": "der Euro", "CZK": "die tschechische Krone", "DKK": "die dänische Krone",
    "HUF": "der Forint", "PLN": "der Zloty", "RON": "der Leu", "SEK": "die schwedische Krone",
}
TONGUES = {
    "de": "Deutsch", "nl": "Niederländisch", "fr": "Französisch", "bg": "Bulgarisch",
    "hr": "Kroatisch", "el": "Griechisch", "tr": "Türkisch", "cs": "Tschechisch",
    "da": "Dänisch", "et": "Estnisch", "fi": "Finnisch", "sv": "Schwedisch",
    "hu": "Ungarisch", "ga": "Irisch", "en": "Englisch", "it": "Italienisch",
    "lv": "Lettisch", "lt": "Litauisch", "lb": "Luxemburgisch", "mt": "Maltesisch",
    "pl": "Polnisch", "pt": "Portugiesisch", "ro": "Rumänisch", "sk": "Slowakisch",
    "sl": "Slowenisch", "es": "Spanisch",
}
ANSWERS = {
    "capital": "Die Hauptstadt {v} ist {k}.",
    "currency": "Die Währung {v} ist {m}.",
    "language": "Die Amtssprache {v} ist {l}.",
    "languages": "Die Amtssprachen {v} sind {l}.",
    "neighbour": "Ein Nachbarland {v} ist {n}.",
    "island": "{c} ist eine Insel und hat kein Nachbarland.",
    "state": "{k} ist die Hauptstadt {v}.",
    "about": "{c} {s} ein Mitgliedstaat der Europäischen Union. Die Hauptstadt ist {k}."
    " Die Währung ist {m}.",
    "about language": "Die Amtssprache ist {l}.",
    "about languages": "Die Amtssprachen sind {l}.",
    "about neighbour": "Ein Nachbarland ist {n}.",
    "about island": "Es ist eine Insel.",
}
STRANGERS = tuple(
    (
        "Norwegen, die Schweiz, Island, das Vereinigte Königreich, Serbien, die Ukraine, "
        "die Türkei, Japan, China, Indien, Brasilien, Kanada, Mexiko, Argentinien, Chile, Peru, "
        "Ägypten, Kenia, Nigeria, Marokko, Australien, Neuseeland, Indonesien, Vietnam, "
        "Thailand, Albanien, Russland, Georgien, Armenien, Israel, Südkorea, Kuba, die USA, "
        "Ghana, Tunesien, Moldawien, Montenegro, Bosnien, Liechtenstein, Monaco, Andorra, "
        "der Iran, der Irak, Pakistan, Nepal, die Mongolei, Kolumbien, Ecuador, Bolivien, "
        "der Senegal"
    ).split(", ")
)

TRAINED = {
    "capital": (
        "Was ist die Hauptstadt {v}?",
        "Was ist die Hauptstadt {g}?",
        "Wie heißt die Hauptstadt {v}?",
        "Wie heißt die Hauptstadt {g}?",
        "Welche Stadt ist die Hauptstadt {v}?",
        "Welche Stadt ist die Hauptstadt {g}?",
        "Welche ist die Hauptstadt {v}?",
        "Wie lautet der Name der Hauptstadt {v}?",
        "Wie nennt man die Hauptstadt {v}?",
        "Wie lautet die Hauptstadt {g}?",
        "Nenne die Hauptstadt {v}.",
        "Nenne mir die Hauptstadt {g}.",
        "Nennen Sie die Hauptstadt {v}.",
        "Nenn mir bitte die Hauptstadt {v}.",
        "Sag mir die Hauptstadt {v}.",
        "Sag mir, was die Hauptstadt {v} ist.",
        "Sagen Sie mir, wie die Hauptstadt {g} heißt.",
        "Kannst du mir die Hauptstadt {v} sagen?",
        "Kannst du mir sagen, wie die Hauptstadt {v} heißt?",
        "Können Sie mir die Hauptstadt {g} nennen?",
        "Kennst du die Hauptstadt {v}?",
        "Kennen Sie die Hauptstadt {v}?",
        "Weißt du, wie die Hauptstadt {v} heißt?",
        "Ich möchte die Hauptstadt {v} wissen.",
        "Ich möchte wissen, welche Stadt die Hauptstadt {v} ist.",
        "Ich suche die Hauptstadt {v}.",
        "Ich brauche den Namen der Hauptstadt {v}.",
        "Wo liegt die Hauptstadt {v}?",
        "Gib mir die Hauptstadt {v}.",
        "Die Hauptstadt {v}?",
        "Hauptstadt {v}?",
        "{b} Hauptstadt",
        "{b}: Hauptstadt?",
        "{b}, was ist die Hauptstadt?",
        "Welche Hauptstadt gibt es {i}?",
        "Welche Stadt ist {i} die Hauptstadt?",
        "Ich besuche {a}. Was ist die Hauptstadt?",
        "Ich wohne {i}. Wie heißt hier die Hauptstadt?",
        "Es geht um {a}. Nenne die Hauptstadt.",
        "Was ist die Hauptstadt des Landes {b}?",
        "Was ist die Hauptstadt des Mitgliedstaats {b}?",
        "Kurze Frage: Was ist die Hauptstadt {v}?",
        "Hilf mir, ich habe die Hauptstadt {v} vergessen.",
        "Mein Freund fragt, was die Hauptstadt {v} ist.",
        "Wie heißt noch die Hauptstadt {g}?",
    ),
    "currency": (
        "Was ist die Währung {v}?",
        "Wie heißt die Währung {v}?",
        "Wie heißt die Währung {g}?",
        "Welche Währung gibt es {i}?",
        "Welche Währung benutzt man {i}?",
        "Mit welchem Geld bezahlt man {i}?",
        "Womit zahlt man {i}?",
        "Nenne die Währung {v}.",
        "Sag mir die Währung {v}.",
        "Kannst du mir die Währung {v} sagen?",
        "Kennen Sie die Währung {v}?",
        "Ich besuche {a}. Was ist die Währung?",
        "{b} Währung",
        "Währung {v}?",
        "Gib mir die Währung {v}.",
        "Ich möchte die Währung {g} wissen.",
    ),
    "language": (
        "Was ist die Amtssprache {v}?",
        "Was sind die Amtssprachen {v}?",
        "Welche Amtssprache gilt {i}?",
        "Welche Sprache spricht man {i}?",
        "Welche Sprachen spricht man {i}?",
        "Was spricht man {i}?",
        "Nenne die Amtssprache {v}.",
        "Sag mir die Amtssprache {g}.",
        "Kannst du mir die Sprache {v} sagen?",
        "Kennen Sie die Amtssprachen {v}?",
        "Was ist die Sprache {g}?",
        "Ich besuche {a}. Welche Sprache spricht man dort?",
        "{b} Sprache",
        "Amtssprache {v}?",
        "Gib mir die Amtssprache {v}.",
        "Ich möchte die Amtssprachen {g} wissen.",
    ),
    "neighbour": (
        "Nenne einen Nachbarn {v}.",
        "Nenne ein Nachbarland {v}.",
        "Welches Land ist ein Nachbar {v}?",
        "Was ist ein Nachbarland {v}?",
        "Welches Land grenzt an {a}?",
        "Welches Land hat eine Grenze mit {d}?",
        "Welches Land liegt neben {d}?",
        "Sag mir ein Nachbarland {v}.",
        "Kannst du ein Land nennen, das an {a} grenzt?",
        "Kennen Sie einen Nachbarn {v}?",
        "Wer ist ein Nachbar {v}?",
        "{b} Nachbar",
        "Ein Nachbar {v}?",
        "Gib mir ein Nachbarland {v}.",
        "An welches Land grenzt man {i}?",
        "Ich möchte ein Nachbarland {g} wissen.",
    ),
    "state": (
        "{k} ist die Hauptstadt welches Landes?",
        "{k} ist die Hauptstadt welches Mitgliedstaats?",
        "Welches Land hat die Hauptstadt {k}?",
        "Welches Land hat {k} als Hauptstadt?",
        "Von welchem Land ist {k} die Hauptstadt?",
        "In welchem Land liegt {k}?",
        "Wo liegt {k}?",
        "Nenne das Land, dessen Hauptstadt {k} ist.",
    ),
    "about": (
        "Erzähl mir etwas über {a}.",
        "Was weißt du über {a}?",
        "Beschreibe {a}.",
        "Ich möchte mehr über {a} erfahren.",
        "Sag etwas über {a}.",
        "Erzählen Sie mir von {d}.",
    ),
}
HELD_OUT = {
    "capital": (
        "Könnten Sie mir die Hauptstadt {v} verraten?",
        "Ich habe vergessen, wie die Hauptstadt {v} heißt. Hilfst du mir?",
        "Wenn ich {t} reise, welche Stadt ist dort die Hauptstadt?",
        "Bitte sag mir, welche Stadt die Hauptstadt {g} ist.",
        "Mein Lehrer möchte den Namen der Hauptstadt {g} hören.",
    ),
    "currency": ("Könnten Sie die Währung {v} nennen?", "Wie heißt das Geld {i}?"),
    "language": ("Könnten Sie die Amtssprache {v} nennen?", "Welche Sprache wird {i} gesprochen?"),
    "neighbour": (
        "Könntest du mir ein Land neben {d} nennen?",
        "Nenne bitte ein Nachbarland {g}.",
    ),
    "state": ("Sag mir, welches Land {k} als Hauptstadt hat.",),
    "about": ("Kannst du mir etwas über {a} erzählen?",),
}
FRESH = (
    "Wüssten Sie zufällig die Hauptstadt {v}?",
    "Meine Tochter malt eine Flagge für {a}. Wie heißt dort die Hauptstadt?",
    "Der Zug fährt in die Hauptstadt {g}. Wohin fährt er?",
)
NOUNS = {
    "capital": ("die Hauptstadt {v}", "die Hauptstadt {g}"),
    "currency": ("die Währung {v}", "die Währung {g}"),
    "language": ("die Amtssprache {v}", "die Sprache {g}"),
    "neighbour": ("ein Nachbarland {v}", "ein Nachbarland {g}"),
}
FRAMES = (
    "Ich frage mich, was {x} ist.",
    "Ich kann mir {x} nicht merken.",
    "Ich weiß nicht mehr, was {x} ist. Bitte hilf mir.",
    "Ich vergesse immer {x}. Kannst du das noch einmal sagen?",
    "Niemand konnte sagen, wie {x} heißt.",
    "Erinnere mich daran, was {x} ist.",
    "Ich suche {x}. Weißt du das?",
    "Ich muss {x} lernen. Können Sie mir helfen?",
    "Es ist für die Schule: {x}.",
    "Meine Schwester hat keine Ahnung, wie {x} heißt.",
    "Man hat uns gefragt, was {x} ist. Was sollen wir sagen?",
    "Im Quiz wollen sie {x}.",
    "Wenn du {x} kennst, sag es mir.",
    "Lass mich bitte {x} wissen.",
    "Wie würdest du {x} nennen?",
    "Verrate mir bitte, wie {x} heißt.",
)
LEADS = (
    "Wenn ich {i} bin, ",
    "Falls man {i} lebt, ",
    "Auf einer Karte {g}: ",
    "Über {a}: ",
    "Bevor ich {t} komme: ",
    "Wir fahren {t}. ",
    "Angenommen, ich gehe {t}. ",
    "Meine Schwester lebt {i}. ",
    "Nächstes Jahr ziehe ich {t}. ",
    "Ich lese ein Buch über {a}. ",
    "Er schreibt mir einen Brief, er ist {i}. ",
    "Sprechen wir über {a}. ",
)
TAILS = {
    "capital": (
        "was ist die Hauptstadt?",
        "welche Stadt ist die Hauptstadt?",
        "wie heißt die Hauptstadt?",
        "wie nennt man die Hauptstadt?",
        "nenne die Hauptstadt.",
        "sag mir die Hauptstadt.",
    ),
    "currency": (
        "was ist die Währung?",
        "welche Währung brauche ich?",
        "womit bezahle ich?",
        "nenne die Währung.",
    ),
    "language": (
        "was ist die Amtssprache?",
        "welche Sprache höre ich?",
        "was spricht man?",
        "nenne die Sprache.",
    ),
    "neighbour": (
        "welches Land liegt daneben?",
        "was ist ein Nachbarland?",
        "welches Land hat dorthin eine Grenze?",
        "nenne einen Nachbarn.",
    ),
}
OPENERS = (
    "Hallo! ",
    "Guten Tag. ",
    "Entschuldigung. ",
    "Ich habe eine Frage. ",
    "Bitte hilf mir. ",
    "Noch eine Frage: ",
    "Ich bin neugierig. ",
    "Verzeihung. ",
)
CLOSERS = (
    " Danke!",
    " Vielen Dank.",
    " Bitte.",
    " Kannst du es sagen?",
    " Weißt du es?",
    " Bitte hilf mir.",
    " Ich habe es vergessen.",
    " Es ist für die Schule.",
    " Ich bin neugierig.",
)
MEMBERS = (
    "Was sind die Mitgliedstaaten der Europäischen Union?",
    "Nenne die 27 Mitgliedstaaten.",
    "Welche Länder sind in der Europäischen Union?",
    "Gib mir eine Liste der Länder der Europäischen Union.",
)
HELLO = (
    "Hallo",
    "Hallo!",
    "Guten Tag",
    "Guten Tag!",
    "Guten Morgen",
    "Servus!",
    "Wer bist du?",
    "Wer sind Sie?",
    "Was kannst du?",
    "Hilfe",
)
FOLLOW_UPS = {
    "capital": (
        "Und die Hauptstadt?",
        "Und was ist die Hauptstadt?",
        "Wie heißt dort die Hauptstadt?",
    ),
    "currency": (
        "Und die Währung?",
        "Und was ist die Währung?",
        "Welche Währung benutzt man dort?",
    ),
    "language": (
        "Und die Sprache?",
        "Und was ist die Amtssprache?",
        "Welche Sprache spricht man dort?",
    ),
    "neighbour": ("Und ein Nachbar?", "Und welches Land liegt daneben?", "Nenne ein Nachbarland."),
}
STARTS = {
    "capital": "Die Hauptstadt {v} ist",
    "currency": "Die Währung {v} ist",
    "neighbour": "Ein Nachbarland {v} ist",
}
NEEDED = {
    "capital": re.compile("hauptstadt", re.IGNORECASE),
    "currency": re.compile("währung|geld|zahl", re.IGNORECASE),
    "language": re.compile("sprache|spricht", re.IGNORECASE),
    "neighbour": re.compile("nachbar|grenz|neben", re.IGNORECASE),
}

PLURALS = {"die Niederlande": "Niederlanden", "die USA": "USA"}  # with the dative
ISLANDS = ("Zypern", "Malta", "Kuba", "Jamaika")  # one is on them
KINGDOM = {
    "c": "das Vereinigte Königreich",
    "a": "das Vereinigte Königreich",
    "d": "dem Vereinigten Königreich",
    "g": "des Vereinigten Königreichs",
    "v": "des Vereinigten Königreichs",
    "i": "im Vereinigten Königreich",
    "t": "ins Vereinigte Königreich",
    "b": "Vereinigtes Königreich",
    "s": "ist",
}
CZECH_REPUBLIC = {
    "c": "die Tschechische Republik",
    "a": "die Tschechische Republik",
    "d": "der Tschechischen Republik",
    "g": "der Tschechischen Republik",
    "v": "der Tschechischen Republik",
    "i": "in der Tschechischen Republik",
    "t": "in die Tschechische Republik",
    "b": "Tschechische Republik",
    "s": "ist",
}


def forms(name: str) -> dict[str, str]:
    """The cases of the name, as the heading of this file lists them."""
    for irregular in (KINGDOM, CZECH_REPUBLIC):
        if name == irregular["c"]:
            return irregular
    cases = ("c", "a", "d", "g", "v", "i", "t", "b", "s")
    bare = name.removeprefix("die ").removeprefix("der ")
    if name in PLURALS:
        there = "den " + PLURALS[name]
        of = "der " + bare
        made = (name, name, there, of, of, "in " + there, "in " + name, bare, "sind")
    elif name.startswith("die "):
        of = "der " + bare
        made = (name, name, of, of, of, "in " + of, "in " + name, bare, "ist")
    elif name.startswith("der "):
        of, whom = "des " + bare, "den " + bare
        made = (name, whom, "dem " + bare, of, of, "im " + bare, "in " + whom, bare, "ist")
    else:
        within = ("auf " if name in ISLANDS else "in ") + name
        made = (name, name, name, name + "s", "von " + name, within, "nach " + name, name, "ist")
    return dict(zip(cases, made))


GERMAN = Language(
    name="German",
    states=STATES,
    other_names={"CZ": "die Tschechische Republik"},
    capitals=CAPITALS,
    currencies=CURRENCIES,
    tongues=TONGUES,
    forms=forms,
    conjunction=" und ",
    answers=ANSWERS,
    strangers=STRANGERS,
    held_out_strangers=("Algerien", "Paraguay", "Uganda", "Malaysia", "Jamaika"),
    refusal="Ich kenne nur die 27 Mitgliedstaaten der Europäischen Union.",
    greeting="Hallo! Fragen Sie mich nach der Hauptstadt, der Währung, der Sprache oder einem"
    " Nachbarland eines Mitgliedstaats der Europäischen Union.",
    members_answer="Die Mitgliedstaaten sind {x}.",
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
    letters={"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"},
)
