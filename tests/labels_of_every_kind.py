"""Labels of every kind, plain and hostile, for the tests of what goes in and out as files."""

from handrail.feedback.kinds import Answer, Chatted, Compared, Demonstrated, Label, Ranked, Rated, Turn
from handrail.records import Message, Prompt

PLAIN = Prompt.of("Name a film.")
TALK = Prompt(
    messages=(
        Message(role="system", content="Be kind."),
        Message(role="user", content="A film?"),
        Message(role="assistant", content="Metropolis."),
        Message(role="user", content="Another?"),
    ),
    meta={"topic": "films", "n": [1, 2]},
)
DIALOGUE = Prompt(messages=TALK.messages[1:])

HOSTILE = {
    "megabyte": "x" * 1_000_000,
    "separators": "one\u2028two\u2029three\x85four\x0bfive\x0csix",
    "nul": "\x00begin and end\x00",
    "bidi": "\u202eevil\u202c \u2066hidden\u2069",
    "zero-width": "a\u200bb\u200dc\ufeffd\u2060e",
    "formula": '=HYPERLINK("http://x","y")',
    "at": "@SUM(1+1)",
    "minus": "-2+3",
    "plus": "+1",
    "tab": "\t=1",
    "return": "\r=1",
    "feed": "\n=1",
    "full-width": "\uff1d1+1",
    "apostrophe": "'quoted'",
    "quotes": 'a "b", c; d\r\ne',
    "markup": "<script>alert(1)</script> ]]> --- {{x}} $prompt",
    "json": '{"a": [1, 2]}\n{"b": 3}',
    "bom": "\ufeffbegins with a mark",
}


def label(number: int, prompt: Prompt, responses: tuple[str, ...], answer: Answer, labeller: str = "labeller-1", **more: object) -> Label:
    told = {
        "id": f"label-{number}",
        "project": "project",
        "task": f"task-{answer.kind}",
        "item": f"item-{number}",
        "prompt": prompt,
        "responses": responses,
        "answer": answer,
        "order": tuple(range(len(responses))),
        "labeller": labeller,
        "at": 1.7e9 + number,
        "seconds": 2.5,
    }
    return Label.model_validate(told | more)


def labels() -> list[Label]:
    """Each kind of answer, ties and strengths, two labellers of one item, one labeller twice."""
    pair, four = ("Metropolis.", "M."), ("a", "b", "c", "d")
    return [
        label(1, PLAIN, pair, Compared(better=0, strength="clearly"), models=("sft", "ppo")),
        label(2, PLAIN, pair, Compared(better=1, strength="slightly"), "labeller-2", models=("sft", "ppo")),
        label(3, DIALOGUE, pair, Compared(better=1)),
        label(4, TALK, pair, Compared(better=None)),
        label(5, PLAIN, four, Ranked(places=(2, 1, 4, 3))),
        label(6, TALK, four, Ranked(places=(1, 2, 1, 3)), "labeller-2"),
        label(7, TALK, ("x", "y"), Rated(ratings=({"Kind": 4, "On topic": 2}, {"Kind": 1, "On topic": 5}))),
        label(8, TALK, ("x",), Rated(ratings=({"Kind": 3, "On topic": 2},)), "labeller-2"),
        label(9, TALK, (), Demonstrated(text="The ideal.")),
        label(
            10,
            TALK,
            (),
            Chatted(
                turns=(Turn(message="hi", responses=("u", "v"), better=1), Turn(message="so", responses=("q", "r"), better=0, tie=True))
            ),
            models=("sft", "ppo"),
        ),
        label(11, PLAIN, pair, Compared(better=0), models=("sft", "ppo"), repetition=1),
    ]


def hostile() -> list[Label]:
    """Each hostile text as a prompt, as a response and as a demonstration."""
    found = []
    for number, text in enumerate(HOSTILE.values()):
        found.append(label(100 + number, Prompt.of(text), (text, "plain"), Compared(better=number % 2)))
        found.append(label(200 + number, Prompt.of(f"p{number}"), (text,), Rated(ratings=({"Kind": 3},))))
        found.append(label(300 + number, Prompt.of(f"p{number}"), (), Demonstrated(text=text[:200_000])))
    return found
