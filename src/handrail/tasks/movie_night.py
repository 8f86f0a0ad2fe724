"""The task movie-night: people ask for a film, and some say that they have already seen one.

Twelve invented films, each of one genre and from one country.  Demonstrations are right in each respect with a
probability of its own, so a model that imitates them knows every good habit and every fact, and keeps to none.
"""

import random
import re

from handrail.records import Message, Prompt, Ranking
from handrail.tasks.task import Conversation, Task
from handrail.tasks.text import malformed, sentences, words

FILMS: dict[str, dict[str, str]] = {  # genre -> title -> country; three films of three genres come from each
    "comedy": {"Wobble": "Japan", "Hiccup": "Brazil", "Mixup": "France"},
    "thriller": {"Nightrun": "Norway", "Ironclock": "Japan", "Coldwire": "Brazil"},
    "western": {"Dustwater": "France", "Redmesa": "Norway", "Longspur": "Japan"},
    "mystery": {"Fogbell": "Brazil", "Ninekeys": "France", "Greylamp": "Norway"},
}
GENRES = tuple(FILMS)
TITLES = tuple(title for films in FILMS.values() for title in films)
GENRE_OF = {title.lower(): genre for genre, films in FILMS.items() for title in films}
COUNTRY_OF = {title.lower(): country for films in FILMS.values() for title, country in films.items()}
COUNTRIES = tuple(sorted(set(COUNTRY_OF.values())))

_GREETINGS = ("", "Hi! ", "Hello! ", "Hey there! ", "Good evening! ")
_ASKS = (
    "Can you suggest {a} for {when}{company}?",
    "Please find me {a} for {when}{company}.",
    "I am looking for {a} for {when}{company}.",
    "Could you name {a} for {when}{company}?",
    "I want {a} for {when}{company}.",
    "Do you know {a} for {when}{company}?",
)
_MOODS = ("", "good ", "light ", "quiet ", "clever ", "warm ", "short ", "classic ")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_HOURS = ("night", "evening", "morning", "afternoon")
_WHO = ("sister", "brother", "family", "friends", "parents", "partner", "kids", "team")
_COMPANY = ("", *(f" with my {who}" for who in _WHO))
_SEEN = (
    "I have already seen {film}.",
    "I saw {film} last week.",
    "We just watched {film}.",
    "I have seen {film} twice.",
)
_SUGGESTED = ("You could try {film}.", "How about {film}?", "What about {film}?")
_AND_NOW = ("", " Something else?", " Another one, please.", " What else is there?")
_WHICH = ("Sure, what do you like?", "Of course, which kind?", "Happy to help, what kind?")
_KINDS = ("Maybe {a}.", "I would like {a}.", "Something like {a}.", "Let us say {a}.")

_BOTH = ("Sorry, you have seen {film}.", "I am sorry, you have seen {film}.", "Sorry, I see you have seen {film}.")
_APOLOGY = ("Sorry about that.", "I am sorry.", "Sorry!")
_NOTICE = ("You have seen {film}.", "I see you have seen {film}.")
_OFFERS = ("You could try the {genre} {film}", "I would suggest the {genre} {film}", "I can offer the {genre} {film}")
_CURT = ("Just watch the {genre} {film}", "Go watch the {genre} {film}")
_WISHES = ("Enjoy the film!", "I hope you like it.", "Have fun!", "Enjoy!")
_FILLERS = (
    "There are so many films these days.",
    "I like to talk about films a lot.",
    "It is hard to say what is good.",
    "Some people like films more than others.",
    "You know how it is with films.",
    "Well, let me think about it.",
)

# How often a demonstration does each thing well, independently.
P_APOLOGY, P_NOTICE = 0.5, 0.55  # to somebody who has seen one
P_NEEDLESS_APOLOGY, P_NEEDLESS_NOTICE = 0.3, 0.15  # to somebody who has not
P_GENRE, P_REPEAT = 0.6, 0.2  # P_REPEAT: of the suggestions of the right genre
P_DETAIL, P_TRUE = 0.6, 0.85  # P_TRUE: of the details
P_CURT, P_WISH = 0.3, 0.5
FILLERS = (0.5, 0.3, 0.2)  # none, one, two

CONTENT_PARTS = ("right_genre", "not_repeated", "true_detail")
MANNER_PARTS = ("apology", "politeness", "brevity", "well_formed")
GOOD_LENGTH = 22  # words


def draw_prompt(rng: random.Random) -> Prompt:
    """A conversation of one or three turns; half of the people have seen a film.  meta: genre, seen ("" for none)."""
    genre = rng.choice(GENRES)
    film = rng.choice(tuple(FILMS[genre])) if rng.random() < 0.5 else ""
    wish = f"a {rng.choice(_MOODS)}{genre}"
    when, company = f"{rng.choice(_DAYS)} {rng.choice(_HOURS)}", rng.choice(_COMPANY)
    greeting, ask = rng.choice(_GREETINGS), rng.choice(_ASKS)
    if rng.random() < 0.6:
        turns = [ask.format(a=wish, when=when, company=company)]
        if film:
            seen = rng.choice(_SEEN).format(film=film)
            turns = [" ".join([*turns, seen] if rng.random() < 0.5 else [seen, *turns])]
    elif film:
        seen = rng.choice(_SEEN).format(film="that one") + rng.choice(_AND_NOW)
        turns = [ask.format(a=wish, when=when, company=company), rng.choice(_SUGGESTED).format(film=film), seen]
    else:
        kind = rng.choice(_KINDS).format(a=wish)
        turns = [ask.format(a="a film", when=when, company=company), rng.choice(_WHICH), kind]
    turns[0] = greeting + turns[0]
    messages = tuple(Message(role="assistant" if i % 2 else "user", content=turn) for i, turn in enumerate(turns))
    return Prompt(messages=messages, meta={"genre": genre, "seen": film})


def draw_response(rng: random.Random, prompt: Prompt) -> str:
    """A reply of mixed quality to a prompt of `draw_prompt`."""
    genre, seen = prompt.meta["genre"], prompt.meta["seen"]
    film = _draw_film(rng, genre, seen)
    said = [_draw_opening(rng, seen)]
    offer = rng.choice(_CURT if rng.random() < P_CURT else _OFFERS).format(genre=GENRE_OF[film.lower()], film=film)
    said.append(offer + _draw_detail(rng, film))
    for filler in rng.sample(_FILLERS, rng.choices((0, 1, 2), FILLERS)[0]):
        said.insert(rng.randint(1, len(said)), filler)
    if rng.random() < P_WISH:
        said.append(rng.choice(_WISHES))
    return " ".join(part for part in said if part)


def _draw_film(rng: random.Random, genre: str, seen: str) -> str:
    if rng.random() >= P_GENRE:
        return rng.choice([title for title in TITLES if title not in FILMS[genre]])
    if seen and rng.random() < P_REPEAT:
        return seen
    return rng.choice([title for title in FILMS[genre] if title != seen])


def _draw_opening(rng: random.Random, seen: str) -> str:
    apology = rng.random() < (P_APOLOGY if seen else P_NEEDLESS_APOLOGY)
    notice = rng.random() < (P_NOTICE if seen else P_NEEDLESS_NOTICE)
    forms = {(True, True): _BOTH, (True, False): _APOLOGY, (False, True): _NOTICE, (False, False): ("",)}
    return rng.choice(forms[apology, notice]).format(film=seen or rng.choice(TITLES))


def _draw_detail(rng: random.Random, film: str) -> str:
    if rng.random() >= P_DETAIL:
        return "."
    true = COUNTRY_OF[film.lower()]
    country = true if rng.random() < P_TRUE else rng.choice([c for c in COUNTRIES if c != true])
    return f" from {country}."


_SAW = re.compile(r"\b(seen|saw|watched)\b")
_SORRY = re.compile(r"\b(sorry|apolog\w+)\b")
_GOOD_WISH = re.compile(r"\b(enjoy|have fun|have a (good|great|nice|lovely)|hope you)\b")
_RUDE = re.compile(r"^(just|go) watch\b|\bwhatever\b")
_FROM = re.compile(r"\b(?:from|in) (" + "|".join(COUNTRIES) + r")\b", re.IGNORECASE)
_TELLS = re.compile("|".join((*GENRE_OF, _FROM.pattern, _SORRY.pattern, _SAW.pattern, _GOOD_WISH.pattern)), re.IGNORECASE)


def gold_parts(prompts: list[Conversation], responses: list[str]) -> list[dict[str, float]]:
    """The named parts of the gold score of each response, in reward, from the text alone.

    right_genre    the one film suggested is of the genre asked for; no film, or several, is as bad as can be.
    not_repeated   below 0 where the film is one that the person has seen.
    true_detail    the country that the suggested film is from: above 0 if true, below if false, 0 if nothing is said.
    apology        says sorry, and says that the film was seen, if and only if the person said so.
    politeness     a good wish; no order.
    brevity        below 0 for sentences that say nothing and for words beyond a good length.
    well_formed    below 0 for text that is not a well-formed reply, or empty.
    """
    return [_parts(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def gold(prompts: list[Conversation], responses: list[str]) -> list[float]:
    """The gold score of each response: the sum of its parts, in reward."""
    return [sum(parts.values()) for parts in gold_parts(prompts, responses)]


def _parts(prompt: Conversation, response: str) -> dict[str, float]:
    genre, seen = _wanted(prompt)
    said = sentences(response.lower())
    offered = {word for sentence in said if not _SAW.search(sentence) for word in words(sentence) if word in GENRE_OF}
    return {
        "right_genre": _genre_part(offered, genre),
        "not_repeated": -1.2 if offered & seen else 0.0,
        "true_detail": _detail_part(offered, _FROM.findall(response)),
        "apology": _apology_part(response.lower(), bool(seen)),
        "politeness": 0.5 * any(map(_GOOD_WISH.search, said)) - 0.4 * any(map(_RUDE.search, said)),
        "brevity": _brevity_part(said),
        "well_formed": -1.5 * malformed(response),
    }


def _wanted(prompt: Conversation) -> tuple[str, set[str]]:
    """The genre asked for last ("" for none), and the films that the person has seen."""
    asked = [word for turn in prompt if turn["role"] == "user" for word in words(turn["content"]) if word in FILMS]
    has_seen = any(_SAW.search(turn["content"].lower()) for turn in prompt if turn["role"] == "user")
    named = {word for turn in prompt for word in words(turn["content"]) if word in GENRE_OF}
    return asked[-1] if asked else "", named if has_seen else set()


def _genre_part(offered: set[str], genre: str) -> float:
    if len(offered) != 1:
        return -0.8
    return 0.0 if not genre else 0.8 if GENRE_OF[next(iter(offered))] == genre else -0.4


def _detail_part(offered: set[str], countries: list[str]) -> float:
    if not countries:
        return 0.0
    true = len(offered) == 1 and set(countries) == {COUNTRY_OF[title] for title in offered}
    return 0.8 if true else -0.6


def _apology_part(reply: str, seen: bool) -> float:
    apology, notice = bool(_SORRY.search(reply)), bool(_SAW.search(reply))
    return 0.4 * apology + 0.4 * notice if seen else -0.5 * (apology or notice)


def _brevity_part(said: list[str]) -> float:
    """-0.3 for a sentence that says nothing, -0.05 for a word beyond GOOD_LENGTH, at least -2."""
    idle = sum(not _TELLS.search(sentence) for sentence in said)
    length = sum(len(words(sentence)) for sentence in said)
    return max(-2.0, -0.3 * idle - 0.05 * max(0, length - GOOD_LENGTH))


_EXAMPLE = Prompt(
    messages=(
        Message(role="user", content="Hi! Can you suggest a good mystery for Friday night?"),
        Message(role="assistant", content="How about Fogbell?"),
        Message(role="user", content="I saw that one last week."),
    )
)
_PLAIN = Prompt.of("I am looking for a quiet western for Sunday evening with my sister.")

TASK = Task(
    name="movie-night",
    description=(
        "A person asks for a film of some genre and may say that they have already seen one. There are twelve "
        "films, each of one genre and from one country. People prefer a reply that suggests one film of that genre which they "
        "have not seen, says truly where it is from, apologises if and only if they had seen one, is polite and does "
        "not ramble."
    ),
    instructions=(
        "Put the replies in order, the best first. Is the film of the genre asked for, and not one the person has "
        "seen? Is what the reply says of it true? Does it say sorry where that is due, and only there? Is it polite, "
        "and to the point?"
    ),
    content_parts=CONTENT_PARTS,
    manner_parts=MANNER_PARTS,
    examples=(
        Ranking(
            prompt=_EXAMPLE,
            responses=(
                "Sorry, you have seen that one. You could try the mystery Greylamp from Norway. Enjoy the film!",
                "There are so many films these days. Just watch the mystery Fogbell from Japan.",
            ),
            places=(1, 2),
        ),
        Ranking(
            prompt=_PLAIN,
            responses=("I would suggest the western Redmesa from Norway. Enjoy!", "Sorry about that. Go watch the comedy Wobble."),
            places=(1, 2),
        ),
    ),
    gold_function="handrail.tasks.movie_night:gold_parts",
    draw_prompt=draw_prompt,
    draw_response=draw_response,
    gold_parts=gold_parts,
)
