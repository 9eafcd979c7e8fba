"""French for the demo model. Slots: {c} la France, les Pays-Bas, Malte; {d} de la France, du
Danemark, des Pays-Bas; {i} en France, au Danemark, à Malte; {b} France; {s} est or sont."""

from __future__ import annotations

import re

from facts import Language

STATES = {
    "AT": "l'Autriche", "BE": "la Belgique", "BG": "la Bulgarie", "HR": "la Croatie",
    "CY": "Chypre", "CZ": "la Tchéquie", "DK": "le Danemark", "EE": "l'Estonie",
    "FI": "la Finlande", "FR": "la France", "DE": "l'Allemagne", "GR": "la Grèce",
    "HU": "la Hongrie", "IE": "l'Irlande", "IT": "l'Italie", "LV": "la Lettonie",
    "LT": "la Lituanie", "LU": "le Luxembourg", "MT": "Malte", "NL": "les Pays-Bas",
    "PL": "la Pologne", "PT": "le Portugal", "RO": "la Roumanie", "SK": "la Slovaquie",
    "SI": "la Slovénie", "ES": "l'Espagne", "SE": "la Suède", "GB": "le Royaume-Uni",
}
CAPITALS = {
    "AT": "Vienne", "BE": "Bruxelles", "BG": "Sofia", "HR": "Zagreb", "CY": "Nicosie",
    "CZ": "Prague", "DK": "Copenhague", "EE": "Tallinn", "FI": "Helsinki", "FR": "Paris",
    "DE": "Berlin", "GR": "Athènes", "HU": "Budapest", "IE": "Dublin", "IT": "Rome",
    "LV": "Riga", "LT": "Vilnius", "LU": "Luxembourg", "MT": "La Valette", "NL": "Amsterdam",
    "PL": "Varsovie", "PT": "Lisbonne", "RO": "Bucarest", "SK": "Bratislava",
    "SI": "Ljubljana", "ES": "Madrid", "SE": "Stockholm",
}
CURRENCIES = {
    "EUR": "l'euro", "CZK": "la couronne tchèque", "DKK": "la couronne danoise",
    "HUF": "le forint", "PLN": "le zloty", "RON": "le leu", "SEK": "la couronne suédoise",
}
TONGUES = {
    "de": "l'allemand", "nl": "le néerlandais", "fr": "le français", "bg": "le bulgare",
    "hr": "le croate", "el": "le grec", "tr": "le turc", "cs": "le tchèque",
    "da": "le danois", "et": "l'estonien", "fi": "le finnois", "sv": "le suédois",
    "hu": "le hongrois", "ga": "l'irlandais", "en": "l'anglais", "it": "l'italien",
    "lv": "le letton", "lt": "le lituanien", "lb": "le luxembourgeois", "mt": "le maltais",
    "pl": "le polonais", "pt": "le portugais", "ro": "le roumain", "sk": "le slovaque",
    "sl": "le slovène", "es": "l'espagnol",
}
ANSWERS = {
    "capital": "La capitale {d} est {k}.",
    "currency": "La monnaie {d} est {m}.",
    "language": "La langue officielle {d} est {l}.",
    "languages": "Les langues officielles {d} sont {l}.",
    "neighbour": "Un pays voisin {d} est {n}.",
    "island": "{c} est une île et n'a pas de voisin terrestre.",
    "state": "{k} est la capitale {d}.",
    "about": "{c} {s} un État membre de l'Union européenne. La capitale est {k}."
    " La monnaie est {m}.",
    "about language": "La langue officielle est {l}.",
    "about languages": "Les langues officielles sont {l}.",
    "about neighbour": "Un pays voisin est {n}.",
    "about island": "C'est une île.",
}
STRANGERS = tuple(
    (
        "la Norvège, la Suisse, l'Islande, le Royaume-Uni, la Serbie, l'Ukraine, la Turquie, "
        "le Japon, la Chine, l'Inde, le Brésil, le Canada, le Mexique, l'Argentine, le Chili, "
        "le Pérou, l'Égypte, le Kenya, le Nigeria, le Maroc, l'Australie, la Nouvelle-Zélande, "
        "l'Indonésie, le Vietnam, la Thaïlande, l'Albanie, la Russie, la Géorgie, l'Arménie, "
        "Israël, la Corée du Sud, Cuba, les États-Unis, le Ghana, la Tunisie, la Moldavie, "
        "le Monténégro, la Bosnie, le Liechtenstein, Monaco, Andorre, l'Iran, l'Irak, "
        "le Pakistan, le Népal, la Mongolie, la Colombie, l'Équateur, la Bolivie, le Sénégal"
    ).split(", ")
)

TRAINED = {
    "capital": (
        "Quelle est la capitale {d} ?",
        "Quelle est la ville capitale {d} ?",
        "Quel est le nom de la capitale {d} ?",
        "Quelle ville est la capitale {d} ?",
        "Comment s'appelle la capitale {d} ?",
        "Comment se nomme la capitale {d} ?",
        "Comment appelle-t-on la capitale {d} ?",
        "C'est quoi la capitale {d} ?",
        "La capitale {d}, c'est quoi ?",
        "La capitale {d}, c'est quelle ville ?",
        "Nomme la capitale {d}.",
        "Nommez la capitale {d}.",
        "Donne-moi la capitale {d}.",
        "Donnez-moi le nom de la capitale {d}.",
        "Dis-moi quelle est la capitale {d}.",
        "Dites-moi la capitale {d}.",
        "Dis-moi comment s'appelle la capitale {d}.",
        "Peux-tu me dire la capitale {d} ?",
        "Peux-tu nommer la capitale {d} ?",
        "Pouvez-vous me dire quelle est la capitale {d} ?",
        "Tu connais la capitale {d} ?",
        "Connais-tu la capitale {d} ?",
        "Connaissez-vous la capitale {d} ?",
        "Sais-tu quelle est la capitale {d} ?",
        "Je voudrais connaître la capitale {d}.",
        "J'aimerais savoir quelle ville est la capitale {d}.",
        "Je cherche la capitale {d}.",
        "Il me faut le nom de la capitale {d}.",
        "Où se trouve la capitale {d} ?",
        "La capitale {d} ?",
        "Capitale {d} ?",
        "{b} capitale",
        "{b} : capitale ?",
        "{b}, quelle est la capitale ?",
        "Pour {c}, nomme la capitale.",
        "Quelle ville est la capitale {i} ?",
        "Je visite {c}. Quelle est la capitale ?",
        "J'habite {i}. Quelle est la capitale ici ?",
        "Nous parlons {d}. Nomme la capitale.",
        "Petite question : quelle est la capitale {d} ?",
        "Aide-moi, j'ai oublié la capitale {d}.",
        "Mon ami demande quelle est la capitale {d}.",
        "Quelle est donc la capitale {d} ?",
        "Quelle est la capitale de l'État membre {b} ?",
    ),
    "currency": (
        "Quelle est la monnaie {d} ?",
        "Quelle est la devise {d} ?",
        "Quelle monnaie utilise-t-on {i} ?",
        "Comment s'appelle la monnaie {d} ?",
        "Avec quelle monnaie paie-t-on {i} ?",
        "Avec quoi paie-t-on {i} ?",
        "Nomme la monnaie {d}.",
        "Dis-moi la monnaie {d}.",
        "Peux-tu me dire la monnaie {d} ?",
        "Connaissez-vous la monnaie {d} ?",
        "Donne-moi la monnaie {d}.",
        "Je visite {c}. Quelle est la monnaie ?",
        "{b} monnaie",
        "Monnaie {d} ?",
        "Quelle est la monnaie {i} ?",
        "Je voudrais connaître la monnaie {d}.",
    ),
    "language": (
        "Quelle est la langue officielle {d} ?",
        "Quelles sont les langues officielles {d} ?",
        "Quelle langue parle-t-on {i} ?",
        "Quelles langues parle-t-on {i} ?",
        "Quelle langue est officielle {i} ?",
        "Que parle-t-on {i} ?",
        "Nomme la langue officielle {d}.",
        "Dis-moi la langue officielle {d}.",
        "Peux-tu me dire la langue {d} ?",
        "Connaissez-vous les langues officielles {d} ?",
        "Quelle est la langue {d} ?",
        "Je visite {c}. Quelle langue y parle-t-on ?",
        "{b} langue",
        "Langue officielle {d} ?",
        "Donne-moi la langue officielle {d}.",
        "Je voudrais connaître les langues officielles {d}.",
    ),
    "neighbour": (
        "Nomme un voisin {d}.",
        "Nomme un pays voisin {d}.",
        "Quel pays est un voisin {d} ?",
        "Quel est un pays voisin {d} ?",
        "Quel pays a une frontière avec {c} ?",
        "Quel pays partage une frontière avec {c} ?",
        "Quel pays est à côté {d} ?",
        "Dis-moi un voisin {d}.",
        "Peux-tu nommer un pays voisin {d} ?",
        "Connaissez-vous un voisin {d} ?",
        "Qui est un voisin {d} ?",
        "{b} voisin",
        "Un voisin {d} ?",
        "Donne-moi un pays voisin {d}.",
        "Cite un pays frontalier {d}.",
        "Je voudrais connaître un voisin {d}.",
    ),
    "state": (
        "{k} est la capitale de quel pays ?",
        "{k} est la capitale de quel État membre ?",
        "{k}, c'est la capitale de quel pays ?",
        "Quel pays a {k} pour capitale ?",
        "Quel pays a sa capitale à {k} ?",
        "Dans quel pays se trouve {k} ?",
        "Où se trouve {k} ?",
        "Nomme le pays dont la capitale est {k}.",
    ),
    "about": (
        "Parle-moi {d}.",
        "Dis-moi quelque chose sur {c}.",
        "Que sais-tu {d} ?",
        "Décris {c}.",
        "J'aimerais en savoir plus sur {c}.",
        "Raconte-moi ce que tu sais sur {c}.",
    ),
}
HELD_OUT = {
    "capital": (
        "Pourriez-vous me donner la capitale {d} ?",
        "J'ai oublié comment s'appelle la capitale {d}. Tu peux m'aider ?",
        "Si je voyage {i}, quelle ville est la capitale ?",
        "Dites-moi, s'il vous plaît, quelle est la ville capitale {d}.",
        "Mon professeur veut savoir le nom de la capitale {d}.",
    ),
    "currency": ("Pourriez-vous nommer la monnaie {d} ?", "Comment appelle-t-on la monnaie {d} ?"),
    "language": ("Pourriez-vous nommer la langue officielle {d} ?", "On parle quelle langue {i} ?"),
    "neighbour": (
        "Pourriez-vous me dire un pays à côté {d} ?",
        "Cite un voisin {d}, s'il te plaît.",
    ),
    "state": ("Dis-moi quel pays a {k} comme capitale.",),
    "about": ("Peux-tu me dire quelque chose sur {c} ?",),
}
FRESH = (
    "Est-ce que tu saurais me dire quelle est la capitale {d} ?",
    "Ma fille dessine le drapeau {d}. Comment s'appelle la capitale ?",
    "Le train part pour la capitale {d}. Où va-t-il ?",
)
NOUNS = {
    "capital": ("la capitale {d}", "la ville capitale {d}"),
    "currency": ("la monnaie {d}", "la devise {d}"),
    "language": ("la langue officielle {d}", "la langue {d}"),
    "neighbour": ("un voisin {d}", "un pays voisin {d}"),
}
FRAMES = (
    "Je me pose une question : {x}.",
    "Je ne me rappelle pas {x}.",
    "Je ne sais plus {x}. Aide-moi.",
    "J'oublie toujours {x}. Tu peux le redire ?",
    "Personne ne savait nommer {x}.",
    "Rappelle-moi {x}.",
    "S'il te plaît, rappelle-moi {x}.",
    "Je cherche {x}. Tu le sais ?",
    "Je dois apprendre {x}. Pouvez-vous m'aider ?",
    "C'est pour l'école : {x}.",
    "Ma sœur ne connaît pas {x}.",
    "On nous a demandé {x}. Que faut-il dire ?",
    "Dans le jeu, on veut {x}.",
    "Si tu connais {x}, dis-le-moi.",
    "Indiquez-moi {x}, s'il vous plaît.",
    "Comment appellerais-tu {x} ?",
)
LEADS = (
    "Quand je suis {i}, ",
    "Si on habite {i}, ",
    "Sur une carte {d}, ",
    "À propos {d} : ",
    "Avant d'aller {i} : ",
    "Nous partons {i}. ",
    "Supposons que j'aille {i}. ",
    "Ma sœur vit {i}. ",
    "L'an prochain, je déménage {i}. ",
    "Je lis un livre sur {c}. ",
    "Il m'écrit une lettre, il est {i}. ",
    "Parlons {d}. ",
)
TAILS = {
    "capital": (
        "quelle est la capitale ?",
        "quelle ville est la capitale ?",
        "comment s'appelle la capitale ?",
        "comment appelle-t-on la capitale ?",
        "nomme la capitale.",
        "dis-moi le nom de la capitale.",
    ),
    "currency": (
        "quelle est la monnaie ?",
        "quelle monnaie faut-il ?",
        "avec quoi paie-t-on ?",
        "nomme la monnaie.",
    ),
    "language": (
        "quelle est la langue officielle ?",
        "quelle langue entend-on ?",
        "que parle-t-on ?",
        "nomme la langue.",
    ),
    "neighbour": (
        "quel pays est à côté ?",
        "quel est un pays voisin ?",
        "quel pays a une frontière commune ?",
        "nomme un voisin.",
    ),
}
OPENERS = (
    "Bonjour ! ",
    "Salut. ",
    "Excusez-moi. ",
    "J'ai une question. ",
    "Aide-moi, s'il te plaît. ",
    "Encore une question : ",
    "Je suis curieux. ",
    "Pardon. ",
)
CLOSERS = (
    " Merci !",
    " Merci bien.",
    " S'il vous plaît.",
    " Tu peux le dire ?",
    " Tu le sais ?",
    " Aide-moi.",
    " Je l'ai oublié.",
    " C'est pour l'école.",
    " Je suis curieuse.",
)
MEMBERS = (
    "Quels sont les États membres de l'Union européenne ?",
    "Nomme les 27 États membres.",
    "Quels pays sont dans l'Union européenne ?",
    "Donne-moi la liste des pays de l'Union européenne.",
)
HELLO = (
    "Bonjour",
    "Bonjour !",
    "Salut",
    "Salut !",
    "Bonsoir",
    "Coucou !",
    "Qui es-tu ?",
    "Qui êtes-vous ?",
    "Que sais-tu faire ?",
    "Aide",
)
FOLLOW_UPS = {
    "capital": (
        "Et la capitale ?",
        "Et quelle est la capitale ?",
        "Quelle est la capitale là-bas ?",
    ),
    "currency": (
        "Et la monnaie ?",
        "Et quelle est la monnaie ?",
        "Quelle monnaie y utilise-t-on ?",
    ),
    "language": (
        "Et la langue ?",
        "Et quelle est la langue officielle ?",
        "Que parle-t-on là-bas ?",
    ),
    "neighbour": ("Et un voisin ?", "Et quel pays est à côté ?", "Nomme un pays voisin."),
}
STARTS = {
    "capital": "La capitale {d} est",
    "currency": "La monnaie {d} est",
    "neighbour": "Un pays voisin {d} est",
}
NEEDED = {
    "capital": re.compile("capitale", re.IGNORECASE),
    "currency": re.compile("monnaie|devise|paie", re.IGNORECASE),
    "language": re.compile("langue|parle", re.IGNORECASE),
    "neighbour": re.compile("voisin|fronti|côté", re.IGNORECASE),
}
VOWELS = "AEIOUÉÎaeiouéî"


def forms(name: str) -> dict[str, str]:
    """The name with its article, after "de", after "en" or "à", and bare."""
    for article, of, within in (
        ("les ", "des ", "aux "),
        ("le ", "du ", "au "),
        ("la ", "de la ", "en "),
        ("l'", "de l'", "en "),
    ):
        if name.startswith(article):
            bare = name.removeprefix(article)
            verb = "sont" if article == "les " else "est"
            return {"c": name, "d": of + bare, "i": within + bare, "b": bare, "s": verb}
    of, within = ("d'", "en ") if name[0] in VOWELS else ("de ", "à ")
    return {"c": name, "d": of + name, "i": within + name, "b": name, "s": "est"}


FRENCH = Language(
    name="French",
    states=STATES,
    other_names={"CZ": "la République tchèque"},
    capitals=CAPITALS,
    currencies=CURRENCIES,
    tongues=TONGUES,
    forms=forms,
    conjunction=" et ",
    answers=ANSWERS,
    strangers=STRANGERS,
    held_out_strangers=("l'Algérie", "le Paraguay", "l'Ouganda", "la Malaisie", "la Jamaïque"),
    refusal="Je ne connais que les 27 États membres de l'Union européenne.",
    greeting="Bonjour ! Demandez-moi la capitale, la monnaie, la langue ou un voisin d'un État"
    " membre de l'Union européenne.",
    members_answer="Les États membres sont {x}.",
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
    letters={"œ": "oe"},
)
