"""The task short-version: posts that hold five facts among chatter, to be told shortly.

Demonstrations are long-winded and get facts wrong, so a summary that people prefer overlaps less with them than
another such demonstration does: ROUGE against the demonstrations and the preference disagree.
"""

import random

from handrail.records import Prompt, Ranking
from handrail.tasks.task import Conversation, Task
from handrail.tasks.text import malformed, sentences, words

FACTS: dict[str, tuple[str, ...]] = {  # kind of fact -> its values, one word each
    "event": ("concert", "market", "dinner", "race"),
    "place": ("Oslo", "Paris", "Rome", "Lima"),
    "day": ("Monday", "Wednesday", "Friday", "Sunday"),
    "time": ("noon", "midnight", "six", "nine"),
    "reason": ("rain", "snow", "traffic", "repairs"),
}
KIND_OF = {value.lower(): kind for kind, values in FACTS.items() for value in values}

_REQUEST = "Short version, please: "
_NEWS = ("News about the {event}!", "This is about the {event}.", "You asked about the {event}.")
_WHERE = ("We meet in {place}.", "It is in {place} now.", "Find us in {place}.")
_WHEN = ("Come on {day} at {time}.", "It starts on {day} at {time}.", "See you on {day} at {time}.")
_WHY = ("It moved because of {reason}.", "We changed it because of {reason}.")
_CHATTER = (
    "I hope you are well.",
    "I am so busy.",
    "My tea is cold.",
    "My cat says hello.",
    "Thank you for your help.",
    "I still have a cold.",
    "My phone is almost empty.",
    "I have not slept much.",
)

# How often a demonstration does each thing, independently.
P_RIGHT, P_WRONG = 0.58, 0.04  # of a fact; otherwise it is left out
P_NEWS, P_ECHO = 0.85, 0.75  # begins as the post does; repeats a sentence of chatter of the post

CONTENT_PARTS = ("facts_kept", "none_invented")
MANNER_PARTS = ("no_chatter", "brevity", "well_formed")
GOOD_LENGTH = 14  # words


def draw_prompt(rng: random.Random) -> Prompt:
    """A post with one fact of each kind among some chatter.  meta: the facts, how it begins, and its chatter."""
    facts = {kind: rng.choice(values) for kind, values in FACTS.items()}
    news = rng.choice(_NEWS).format(**facts)
    post = [rng.choice(forms).format(**facts) for forms in (_WHERE, _WHEN, _WHY)]
    rng.shuffle(post)
    chatter = rng.sample(_CHATTER, rng.choice((1, 2, 2)))
    for sentence in chatter:
        post.insert(rng.randint(0, len(post)), sentence)
    return Prompt.of(_REQUEST + " ".join([news, *post]), **facts, news=news, chatter=chatter)


def draw_response(rng: random.Random, prompt: Prompt) -> str:
    """A summary of mixed quality of a post of `draw_prompt`."""
    meta = prompt.meta
    told = {kind: _draw_fact(rng, kind, meta[kind]) for kind in FACTS}
    said = [meta["news"]] if rng.random() < P_NEWS else []
    said += meta["chatter"] if rng.random() < P_ECHO else []
    said.append(_tell(told))
    return " ".join(part for part in said if part)


def _draw_fact(rng: random.Random, kind: str, true: str) -> str:
    luck = rng.random()
    if luck < P_RIGHT:
        return true
    wrong = [value for value in FACTS[kind] if value != true]
    return rng.choice(wrong) if luck < P_RIGHT + P_WRONG else ""


def _tell(told: dict[str, str]) -> str:
    """One sentence with the facts that are not empty; "" when there is none to tell."""
    if not any(told.values()):
        return ""
    forms = {"event": "the {}", "place": "in {}", "day": "on {}", "time": "at {}", "reason": "because of {}"}
    rest = [form.format(told[kind]) for kind, form in forms.items() if told[kind] and kind != "event"]
    subject = forms["event"].format(told["event"]) if told["event"] else "it"
    verb = "is" if told["place"] or told["day"] or told["time"] else "changed"
    return f"{subject.capitalize()} {verb} {' '.join(rest)}".rstrip() + "."


def gold_parts(prompts: list[Conversation], responses: list[str]) -> list[dict[str, float]]:
    """The named parts of the gold score of each summary, in reward, from the text alone.

    facts_kept      for every kind of fact of the post (event, place, day, time, reason) that the summary tells.
    none_invented   below 0 for every fact that is not in the post.
    no_chatter      below 0 for every sentence that tells none of the post's facts.
    brevity         below 0 for words beyond a good length.
    well_formed     below 0 for text that is not well formed, or empty.
    """
    return [_parts(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def gold(prompts: list[Conversation], responses: list[str]) -> list[float]:
    """The gold score of each summary: the sum of its parts, in reward."""
    return [sum(parts.values()) for parts in gold_parts(prompts, responses)]


def _parts(prompt: Conversation, response: str) -> dict[str, float]:
    true = {word for turn in prompt if turn["role"] == "user" for word in words(turn["content"]) if word in KIND_OF}
    said = sentences(response)
    told = {word for word in words(response) if word in KIND_OF}
    idle = sum(not true.intersection(words(sentence)) for sentence in said)
    return {
        "facts_kept": 0.6 * len({KIND_OF[value] for value in told & true}),
        "none_invented": max(-3.0, -0.8 * len(told - true)),
        "no_chatter": max(-1.8, -0.6 * idle),
        "brevity": max(-1.8, -0.08 * max(0, len(words(response)) - GOOD_LENGTH)),
        "well_formed": -1.5 * malformed(response),
    }


_EXAMPLE = Prompt.of(
    _REQUEST + "News about the concert! I am so busy. It is in Oslo now. We changed it because of rain. "
    "My cat says hello. See you on Friday at noon."
)

TASK = Task(
    name="short-version",
    description=(
        "A post tells what happens, where, on which day, at what time and why, among chatter. People prefer a summary "
        "that has these facts, invents none and is short. The demonstrations are long-winded and often wrong, so that "
        "overlap with them (ROUGE) and what people prefer part ways."
    ),
    instructions=(
        "Put the summaries in order, the best first. Does it say what happens, where, when and why? Is everything in it "
        "true to the post? Is it short, without the chatter?"
    ),
    content_parts=CONTENT_PARTS,
    manner_parts=MANNER_PARTS,
    examples=(
        Ranking(
            prompt=_EXAMPLE,
            responses=(
                "The concert is in Oslo on Friday at noon because of rain.",
                "News about the concert! I am so busy. My cat says hello. The concert is in Rome at noon.",
            ),
            places=(1, 2),
        ),
    ),
    gold_function="handrail.tasks.short_version:gold_parts",
    draw_prompt=draw_prompt,
    draw_response=draw_response,
    gold_parts=gold_parts,
)
