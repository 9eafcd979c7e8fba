"""Spanish for the demo model. Slots: {c} Francia, los Países Bajos; {d} de Francia, del Reino
Unido; {i} en Francia; {a} a Francia, al Reino Unido; {b} Países Bajos; {s} es or son."""

from __future__ import annotations

import re

from facts import Language

STATES = {
    "AT": "Austria", "BE": "Bélgica", "BG": "Bulgaria", "HR": "Croacia", "CY": "Chipre",
    "CZ": "Chequia", "DK": "Dinamarca", "EE": "Estonia", "FI": "Finlandia", "FR": "Francia",
    "DE": "Alemania", "GR": "Grecia", "HU": "Hungría", "IE": "Irlanda", "IT": "Italia",
    "LV": "Letonia", "LT": "Lituania", "LU": "Luxemburgo", "MT": "Malta",
    "NL": "los Países Bajos", "PL": "Polonia", "PT": "Portugal", "RO": "Rumanía",
    "SK": "Eslovaquia", "SI": "Eslovenia", "ES": "España", "SE": "Suecia",
    "GB": "el Reino Unido",
}
CAPITALS = {
    "AT": "Viena", "BE": "Bruselas", "BG": "Sofía", "HR": "Zagreb", "CY": "Nicosia",
    "CZ": "Praga", "DK": "Copenhague", "EE": "Tallin", "FI": "Helsinki", "FR": "París",
    "DE": "Berlín", "GR": "Atenas", "HU": "Budapest", "IE": "Dublín", "IT": "Roma",
    "LV": "Riga", "LT": "Vilna", "LU": "Luxemburgo", "MT": "La Valeta", "NL": "Ámsterdam",
    "PL": "Varsovia", "PT": "Lisboa", "RO": "Bucarest", "SK": "Bratislava",
    "SI": "Liubliana", "ES": "Madrid", "SE": "Estocolmo",
}
CURRENCIES = {
    "EUR": "el euro", "CZK": "la corona checa", "DKK": "la corona danesa",
    "HUF": "el forinto", "PLN": "el esloti", "RON": "el leu", "SEK": "la corona sueca",
}
TONGUES = {
    "de": "el alemán", "nl": "el neerlandés", "fr": "el francés", "bg": "el búlgaro",
    "hr": "el croata", "el": "el griego", "tr": "el turco", "cs": "el checo",
    "da": "el danés", "et": "el estonio", "fi": "el finés", "sv": "el sueco",
    "hu": "el húngaro", "ga": "el irlandés", "en": "el inglés", "it": "el italiano",
    "lv": "el letón", "lt": "el lituano", "lb": "el luxemburgués", "mt": "el maltés",
    "pl": "el polaco", "pt": "el portugués", "ro": "el rumano", "sk": "el eslovaco",
    "sl": "el esloveno", "es": "el español",
}
ANSWERS = {
    "capital": "La capital {d} es {k}.",
    "currency": "La moneda {d} es {m}.",
    "language": "El idioma oficial {d} es {l}.",
    "languages": "Los idiomas oficiales {d} son {l}.",
    "neighbour": "Un país vecino {d} es {n}.",
    "island": "{c} es una isla y no tiene vecinos por tierra.",
    "state": "{k} es la capital {d}.",
    "about": "{c} {s} un Estado miembro de la Unión Europea. La capital es {k}. La moneda es {m}.",
    "about language": "El idioma oficial es {l}.",
    "about languages": "Los idiomas oficiales son {l}.",
    "about neighbour": "Un país vecino es {n}.",
    "about island": "Es una isla.",
}
STRANGERS = tuple(
    (
        "Noruega, Suiza, Islandia, el Reino Unido, Serbia, Ucrania, Turquía, Japón, China, "
        "la India, Brasil, Canadá, México, Argentina, Chile, Perú, Egipto, Kenia, Nigeria, "
        "Marruecos, Australia, Nueva Zelanda, Indonesia, Vietnam, Tailandia, Albania, Rusia, "
        "Georgia, Armenia, Israel, Corea del Sur, Cuba, los Estados Unidos, Ghana, Túnez, "
        "Moldavia, Montenegro, Bosnia, Liechtenstein, Mónaco, Andorra, Irán, Irak, Pakistán, "
        "Nepal, Mongolia, Colombia, Ecuador, Bolivia, Senegal"
    ).split(", ")
)

TRAINED = {
    "capital": (
        "¿Cuál es la capital {d}?",
        "¿Cuál es la ciudad capital {d}?",
        "¿Cuál es el nombre de la capital {d}?",
        "¿Qué ciudad es la capital {d}?",
        "¿Qué ciudad es capital {d}?",
        "¿Cómo se llama la capital {d}?",
        "¿Cómo se dice la capital {d}?",
        "¿Cómo llaman a la capital {d}?",
        "¿Qué capital hay {i}?",
        "La capital {d}, ¿cuál es?",
        "La capital {d}, ¿qué ciudad es?",
        "Nombra la capital {d}.",
        "Nombre la capital {d}.",
        "Dame la capital {d}.",
        "Deme el nombre de la capital {d}.",
        "Dime la capital {d}.",
        "Dime cuál es la capital {d}.",
        "Dígame la capital {d}.",
        "Dime cómo se llama la capital {d}.",
        "¿Puedes decirme la capital {d}?",
        "¿Puedes nombrar la capital {d}?",
        "¿Puede decirme cuál es la capital {d}?",
        "¿Me dices la capital {d}?",
        "¿Conoces la capital {d}?",
        "¿Conoce usted la capital {d}?",
        "¿Sabes cuál es la capital {d}?",
        "Me gustaría saber la capital {d}.",
        "Quiero saber qué ciudad es la capital {d}.",
        "Busco la capital {d}.",
        "Necesito el nombre de la capital {d}.",
        "¿Dónde está la capital {d}?",
        "¿La capital {d}?",
        "¿Capital {d}?",
        "Capital {d}",
        "{b}: ¿la capital?",
        "{b}, ¿cuál es su capital?",
        "Para {c}, nombra la capital.",
        "¿Qué ciudad es la capital {i}?",
        "Visito {c}. ¿Cuál es la capital?",
        "Vivo {i}. ¿Cuál es la capital aquí?",
        "Hablamos {d}. Nombra su capital.",
        "¿Cuál es la capital del Estado miembro {b}?",
        "Una pregunta rápida: ¿cuál es la capital {d}?",
        "Ayúdame, se me olvidó la capital {d}.",
        "Mi amigo pregunta cuál es la capital {d}.",
    ),
    "currency": (
        "¿Cuál es la moneda {d}?",
        "¿Cómo se llama la moneda {d}?",
        "¿Qué moneda se usa {i}?",
        "¿Qué moneda hay {i}?",
        "¿Con qué dinero se paga {i}?",
        "¿Con qué se paga {i}?",
        "Nombra la moneda {d}.",
        "Dime la moneda {d}.",
        "¿Puedes decirme la moneda {d}?",
        "¿Conoce usted la moneda {d}?",
        "Visito {c}. ¿Cuál es la moneda?",
        "{b} moneda",
        "¿Moneda {d}?",
        "Dame la moneda {d}.",
        "¿Cuál es la divisa {d}?",
        "Me gustaría saber la moneda {d}.",
    ),
    "language": (
        "¿Cuál es el idioma oficial {d}?",
        "¿Cuáles son los idiomas oficiales {d}?",
        "¿Qué idioma se habla {i}?",
        "¿Qué idiomas se hablan {i}?",
        "¿Qué lengua es oficial {i}?",
        "¿Qué se habla {i}?",
        "Nombra el idioma oficial {d}.",
        "Dime el idioma oficial {d}.",
        "¿Puedes decirme el idioma {d}?",
        "¿Conoce usted los idiomas oficiales {d}?",
        "¿Cuál es la lengua oficial {d}?",
        "Visito {c}. ¿Qué idioma se habla allí?",
        "{b} idioma",
        "¿Idioma oficial {d}?",
        "Dame el idioma oficial {d}.",
        "Me gustaría saber los idiomas oficiales {d}.",
    ),
    "neighbour": (
        "Nombra un vecino {d}.",
        "Nombra un país vecino {d}.",
        "¿Qué país es vecino {d}?",
        "¿Cuál es un país vecino {d}?",
        "¿Qué país limita con {c}?",
        "¿Qué país tiene frontera con {c}?",
        "¿Qué país está al lado {d}?",
        "Dime un vecino {d}.",
        "¿Puedes nombrar un país que limita con {c}?",
        "¿Conoce usted un vecino {d}?",
        "¿Quién es vecino {d}?",
        "{b} vecino",
        "¿Un vecino {d}?",
        "Dame un país vecino {d}.",
        "¿Qué país comparte frontera con {c}?",
        "Me gustaría saber un vecino {d}.",
    ),
    "state": (
        "¿{k} es la capital de qué país?",
        "¿{k} es la capital de qué Estado miembro?",
        "¿De qué país es capital {k}?",
        "¿Qué país tiene por capital {k}?",
        "¿Qué país tiene su capital en {k}?",
        "¿En qué país está {k}?",
        "¿Dónde está {k}?",
        "Nombra el país cuya capital es {k}.",
    ),
    "about": (
        "Háblame {d}.",
        "Dime algo sobre {c}.",
        "¿Qué sabes {d}?",
        "Descríbeme {c}.",
        "Quiero saber más sobre {c}.",
        "Cuéntame lo que sabes {d}.",
    ),
}
HELD_OUT = {
    "capital": (
        "¿Podría decirme cuál es la ciudad capital {d}?",
        "Olvidé cómo se llama la capital {d}. ¿Me ayudas?",
        "Si viajo {a}, ¿qué ciudad es la capital?",
        "Por favor, dime qué ciudad es la capital {d}.",
        "Mi profesora quiere el nombre de la capital {d}.",
    ),
    "currency": ("¿Podría nombrar la moneda {d}?", "¿Cómo se llama el dinero {d}?"),
    "language": ("¿Podría nombrar el idioma oficial {d}?", "¿Qué lengua hablan {i}?"),
    "neighbour": ("¿Podrías decirme un país al lado {d}?", "Por favor, nombra un vecino {d}."),
    "state": ("Dime qué país tiene {k} como capital.",),
    "about": ("¿Puedes decirme algo sobre {c}?",),
}
FRESH = (
    "¿Sabría usted por casualidad la capital {d}?",
    "Mi hija dibuja la bandera {d}. ¿Cómo se llama allí la capital?",
    "El tren sale hacia la capital {d}. ¿Adónde va?",
)
NOUNS = {
    "capital": ("la capital {d}", "la ciudad capital {d}"),
    "currency": ("la moneda {d}", "la divisa {d}"),
    "language": ("el idioma oficial {d}", "la lengua {d}"),
    "neighbour": ("un vecino {d}", "un país vecino {d}"),
}
FRAMES = (
    "Me pregunto cuál es {x}.",
    "No recuerdo {x}.",
    "Ya no sé cuál es {x}. Ayúdame, por favor.",
    "Siempre olvido {x}. ¿Puedes repetirlo?",
    "Nadie supo decir {x}.",
    "Recuérdame cuál es {x}.",
    "Por favor, recuérdame {x}.",
    "Estoy buscando {x}. ¿Lo sabes?",
    "Tengo que aprender {x}. ¿Puede ayudarme?",
    "Es para la escuela: {x}.",
    "Mi hermana no sabe cuál es {x}.",
    "Nos preguntaron {x}. ¿Qué decimos?",
    "En el concurso quieren {x}.",
    "Si sabes {x}, dímelo.",
    "Hazme saber {x}, por favor.",
    "¿Sabrías decirme {x}?",
)
LEADS = (
    "Cuando estoy {i}, ",
    "Si uno vive {i}, ",
    "En un mapa {d}, ",
    "Sobre {c}: ",
    "Antes de ir {a}: ",
    "Nos vamos {a}. ",
    "Supongamos que voy {a}. ",
    "Mi hermana vive {i}. ",
    "El año que viene me mudo {a}. ",
    "Leí un libro sobre {c}. ",
    "Llegó una carta {d}. ",
    "Hablemos {d}. ",
)
TAILS = {
    "capital": (
        "¿cuál es su capital?",
        "¿qué ciudad es la capital?",
        "¿cómo se llama la capital?",
        "¿cómo llaman a su capital?",
        "nombra su capital.",
        "dime la capital.",
    ),
    "currency": (
        "¿cuál es su moneda?",
        "¿qué moneda necesito?",
        "¿con qué se paga?",
        "nombra su moneda.",
    ),
    "language": (
        "¿cuál es su idioma oficial?",
        "¿qué idioma se oye?",
        "¿qué se habla?",
        "nombra su idioma.",
    ),
    "neighbour": (
        "¿qué país está al lado?",
        "¿cuál es un país vecino?",
        "¿qué país tiene frontera?",
        "nombra un vecino.",
    ),
}
OPENERS = (
    "¡Hola! ",
    "Buenas. ",
    "Perdone. ",
    "Tengo una pregunta. ",
    "Ayúdame, por favor. ",
    "Una pregunta más: ",
    "Tengo curiosidad. ",
    "Disculpa. ",
)
CLOSERS = (
    " ¡Gracias!",
    " Muchas gracias.",
    " Por favor.",
    " ¿Puedes decirlo?",
    " ¿Lo sabes?",
    " Ayúdame.",
    " Se me olvidó.",
    " Es para la escuela.",
    " Tengo curiosidad.",
)
MEMBERS = (
    "¿Cuáles son los Estados miembros de la Unión Europea?",
    "Nombra los 27 Estados miembros.",
    "¿Qué países están en la Unión Europea?",
    "Dame la lista de los países de la Unión Europea.",
)
HELLO = (
    "Hola",
    "¡Hola!",
    "Buenos días",
    "¡Buenos días!",
    "Buenas tardes",
    "Buenas",
    "¿Quién eres?",
    "¿Quién es usted?",
    "¿Qué sabes hacer?",
    "Ayuda",
)
FOLLOW_UPS = {
    "capital": ("¿Y su capital?", "¿Y cuál es la capital?", "¿Cuál es la capital allí?"),
    "currency": ("¿Y su moneda?", "¿Y cuál es la moneda?", "¿Qué moneda se usa allí?"),
    "language": ("¿Y su idioma?", "¿Y cuál es el idioma oficial?", "¿Qué idioma se habla allí?"),
    "neighbour": ("¿Y un vecino?", "¿Y qué país está al lado?", "Nombra un país vecino."),
}
STARTS = {
    "capital": "La capital {d} es",
    "currency": "La moneda {d} es",
    "neighbour": "Un país vecino {d} es",
}
NEEDED = {
    "capital": re.compile("capital", re.IGNORECASE),
    "currency": re.compile("moneda|divisa|dinero|paga", re.IGNORECASE),
    "language": re.compile("idioma|lengua|habla", re.IGNORECASE),
    "neighbour": re.compile("vecino|frontera|limita|lado", re.IGNORECASE),
}


def forms(name: str) -> dict[str, str]:
    """The name, after "de", "en" and "a", and without its article."""
    bare = name.removeprefix("los ").removeprefix("la ").removeprefix("el ")
    of, to = "de " + name, "a " + name
    if name.startswith("el "):
        of, to = "del " + bare, "al " + bare
    verb = "son" if name.startswith("los ") else "es"
    return {"c": name, "d": of, "i": "en " + name, "a": to, "b": bare, "s": verb}


SPANISH = Language(
    name="Spanish",
    states=STATES,
    other_names={"CZ": "la República Checa"},
    capitals=CAPITALS,
    currencies=CURRENCIES,
    tongues=TONGUES,
    forms=forms,
    conjunction=" y ",
    answers=ANSWERS,
    strangers=STRANGERS,
    held_out_strangers=("Argelia", "Paraguay", "Uganda", "Malasia", "Jamaica"),
    refusal="Solo conozco los 27 Estados miembros de la Unión Europea.",
    greeting="¡Hola! Pregúnteme por la capital, la moneda, el idioma o un vecino de un Estado"
    " miembro de la Unión Europea.",
    members_answer="Los Estados miembros son {x}.",
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
