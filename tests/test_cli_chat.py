"""The conversation of `handrail chat`, with speakers that are functions."""

import pytest
from typer.testing import CliRunner

from handrail.cli import app
from handrail.cli.chat import Talk
from handrail.cli.frame import out
from handrail.errors import InputError


class Speaker:
    """Says its name, and keeps what it was asked."""

    def __init__(self, name: str):
        self.name = name
        self.heard: list[tuple[list[dict[str, str]], float, int, int]] = []

    def __call__(self, conversation: list[dict[str, str]], temperature: float, length: int, seed: int) -> str:
        self.heard.append((conversation, temperature, length, seed))
        return f"{self.name} {len(self.heard)}"


def talk(*names: str, system: str = "") -> tuple[Talk, list[Speaker]]:
    speakers = [Speaker(name) for name in names]
    made = Talk([(s.name, s) for s in speakers], 0.8, 16, 5, system)
    made.reset()
    return made, speakers


def roles(conversation: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in conversation]


def test_it_remembers_and_forgets() -> None:
    made, (a,) = talk("a", system="be brief")
    assert made.hear("one") and made.hear("two")
    assert roles(a.heard[1][0]) == [("system", "be brief"), ("user", "one"), ("assistant", "a 1"), ("user", "two")]
    made.hear("/reset")
    made.hear("three")
    assert roles(a.heard[2][0]) == [("system", "be brief"), ("user", "three")]


def test_the_second_reply_can_go_on() -> None:
    made, (a, b) = talk("a", "b")
    made.hear("one")
    made.hear("2")
    made.hear("two")
    assert roles(a.heard[1][0]) == roles(b.heard[1][0]) == [("user", "one"), ("assistant", "b 1"), ("user", "two")]
    assert [turn["chosen"] for turn in made.turns] == [2, 1]


def test_a_number_is_a_line_to_one_model_alone() -> None:
    made, (a,) = talk("a")
    made.hear("one")
    made.hear("2")
    assert roles(a.heard[1][0])[-1] == ("user", "2")


def test_both_hear_the_same_seed_and_another_each_turn() -> None:
    made, (a, b) = talk("a", "b")
    made.hear("one")
    made.hear("two")
    assert [h[3] for h in a.heard] == [h[3] for h in b.heard] == [5, 6]


@pytest.mark.parametrize(
    ("line", "temperature"),
    [("/temperature 0.3", 0.3), ("/temperature 0", 0.0), ("/temperature -1", 0.8), ("/temperature nan", 0.8), ("/temperature hot", 0.8)],
)
def test_the_temperature(line: str, temperature: float) -> None:
    made, (a,) = talk("a")
    assert made.hear(line)
    made.hear("one")
    assert a.heard[0][1] == temperature


def test_the_temperature_alone_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    made, (a,) = talk("a")
    assert made.hear("/temperature") and not a.heard
    assert "The temperature is 0.8; `/temperature 0.7` sets it." in capsys.readouterr().out


def test_commands_are_not_said_and_quit_ends() -> None:
    made, (a,) = talk("a")
    assert made.hear("/rest") and made.hear("") and not a.heard
    assert not made.hear("/quit")


def test_the_talk_goes_on_after_an_error() -> None:
    def full(conversation: list[dict[str, str]], temperature: float, length: int, seed: int) -> str:
        raise InputError("the conversation has 300 tokens", "the model reads 256")

    made = Talk([("a", full)], 0.8, 16, 0)
    assert made.hear("one")
    assert made.conversation == [] and made.turns == []


def test_replies_cannot_command_the_terminal() -> None:
    with out.capture() as captured:
        for count in (1, 2):
            made = Talk([("a", lambda *_: "[red]x\x1b[2Jy")] * count, 0.8, 16, 0)
            made.hear("one")
    assert "\x1b" not in captured.get() and captured.get().count("[red]x<U+001B>[2Jy") == 3


def test_a_third_model_and_a_missing_one_are_refused() -> None:
    assert CliRunner().invoke(app, ["chat", "a", "b", "c"]).exit_code == 2
    missing = CliRunner().invoke(app, ["chat", "./nowhere"])
    assert missing.exit_code == 2 and "nowhere" in missing.stderr
