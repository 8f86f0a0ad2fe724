"""`handrail chat`: talk to a model, or to two side by side."""

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.columns import Columns
from rich.panel import Panel
from rich.text import Text

from handrail.cli.frame import out, shown, tell, verb
from handrail.config import read_yaml
from handrail.errors import ConfigError, HandrailError, InputError

COMMANDS = "/reset forgets the conversation, /temperature 0.7 sets it, /quit ends"
NUMBER = re.compile(r"^/temperature\s+(\S+)$")

Models = Annotated[
    list[str], typer.Argument(metavar="MODEL [MODEL]", help="A run folder, a folder with a model, or a hub name.", show_default=False)
]
Temperature = Annotated[float, typer.Option("--temperature", min=0, help="0 always takes the likeliest token.")]
Length = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens of a reply at most.")]
System = Annotated[str, typer.Option("--system", metavar="TEXT", help="What stands before the conversation.")]
Template = Annotated[str, typer.Option("--template", help="chat, plain or auto; as in the run's config if not given.")]
Seed = Annotated[int, typer.Option("--seed", help="The same words and seed give the same replies.")]

# (conversation, temperature, length, seed) -> the reply
Speak = Callable[[list[dict[str, str]], float, int, int], str]


def add(app: typer.Typer) -> None:
    app.command(rich_help_panel="Look")(chat)


@verb
def chat(
    models: Models,
    temperature: Temperature = 0.8,
    max_new_tokens: Length = 128,
    system: System = "",
    template: Template = "",
    seed: Seed = 0,
) -> dict:
    """Talk to a model; to two, side by side.

    /reset forgets the conversation, /temperature 0.7 sets it, /quit or Ctrl-D ends. With two models, type 1 or 2 after
    their replies to choose the one that goes on; an ordinary line goes on with the first.

    Example:  [bold]handrail chat runs/round/round-1/sft runs/round/round-1/ppo[/]
    """
    if len(models) > 2:
        raise ConfigError(f"{len(models)} models", "one model, or two side by side")
    with out.status("loading") if out.is_terminal else nullcontext():
        speakers = [(name, load(name, template)) for name in models]
    talk = Talk(speakers, temperature, max_new_tokens, seed, system)
    talk.reset()
    out.print(Text(f"{' and '.join(models)}: say something; {COMMANDS}", "dim"))
    try:
        while (line := ask()) is not None and talk.hear(line.strip()):
            pass
    except KeyboardInterrupt:
        out.print()
    return {"models": models, "turns": talk.turns}


def ask() -> str | None:
    """The next line, or None at the end.  Without a terminal nothing is asked."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line if line else None
    with suppress(ImportError):  # not on every system
        import readline  # noqa: F401  lines can be edited and called back
    try:
        return out.input(Text("you  ", "bold green"))
    except EOFError:
        out.print()
        return None


def load(name: str, template: str) -> Speak:
    """A model as something that speaks.  Raises ModelError."""
    from handrail.data import Codec
    from handrail.models import LanguageModel, ModelSettings, load_causal, load_tokenizer
    from handrail.records import Message, Prompt
    from handrail.rollout import NativeEngine, Sampling

    settings = ModelSettings(path=name)
    codec = Codec(load_tokenizer(settings), chosen(name, template))
    policy = LanguageModel(load_causal(settings)).freeze()
    engine = NativeEngine(codec, codec.end_ids)
    engine.sync(policy)

    def speak(conversation: list[dict[str, str]], temperature: float, length: int, seed: int) -> str:
        ids = codec.encode_prompt(Prompt(messages=tuple(Message.model_validate(m) for m in conversation)))
        if len(ids) >= policy.context:
            raise InputError(f"the conversation has {len(ids)} tokens", f"the model reads {policy.context}", "/reset begins anew")
        rollout = engine.generate([ids], [seed], Sampling(temperature=temperature, max_new_tokens=length))
        return codec.decode(rollout.responses()[0])

    return speak


def chosen(name: str, template: str) -> Literal["auto", "chat", "plain"]:
    """The template that was asked for, or that of the run which made the model."""
    config = Path(name) / "config.yaml"
    found = template or (read_yaml(config).get("template", "auto") if config.is_file() else "auto")
    if found not in ("auto", "chat", "plain"):
        raise ConfigError(f"--template: found '{found}'", "one of auto, chat, plain")
    return cast(Literal["auto", "chat", "plain"], found)


@dataclass
class Talk:
    """A conversation with one model or two.  `hear` takes a line and says whether to go on."""

    speakers: list[tuple[str, Speak]]
    temperature: float
    length: int
    seed: int
    system: str = ""
    conversation: list[dict[str, str]] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)  # to the last line
    turns: list[dict] = field(default_factory=list)

    def reset(self) -> None:
        """Forget what was said."""
        self.conversation = [{"role": "system", "content": self.system}] if self.system else []
        self.replies = []

    def hear(self, line: str) -> bool:
        """Do what a line asks for."""
        if line in ("/quit", "/exit"):
            return False
        if line == "/reset":
            self.reset()
            out.print(Text("The conversation begins anew.", "dim"))
        elif found := NUMBER.match(line):
            self.warm(found[1])
        elif line == "/temperature":
            out.print(Text(f"The temperature is {self.temperature:g}; `/temperature 0.7` sets it.", "dim"))
        elif line.startswith("/"):
            out.print(Text(f"There is no command {line.split()[0]}; {COMMANDS}", "yellow"))
        elif line in ("1", "2") and len(self.replies) == 2:
            self.choose(int(line))
        elif line:
            self.answer(line)
        return True

    def warm(self, value: str) -> None:
        """Set the temperature from what was typed."""
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            out.print(Text(f"The temperature is a number from 0 up; found {value}", "yellow"))
            return
        self.temperature = number
        out.print(Text(f"The temperature is {number:g}.", "dim"))

    def choose(self, number: int) -> None:
        """Go on with the first or the second model's reply."""
        self.conversation[-1] = {"role": "assistant", "content": self.replies[number - 1]}
        self.turns[-1]["chosen"] = number
        out.print(Text(f"The conversation goes on with reply {number}.", "dim"))

    def answer(self, line: str) -> None:
        """Let every model reply, and show the replies."""
        conversation = [*self.conversation, {"role": "user", "content": line}]
        seed = self.seed + len(self.turns)
        try:
            with out.status("thinking") if out.is_terminal else nullcontext():
                self.replies = [speak(conversation, self.temperature, self.length, seed) for _, speak in self.speakers]
        except HandrailError as error:  # the talk goes on, for example after /reset
            tell(error)
            return
        self.conversation = [*conversation, {"role": "assistant", "content": self.replies[0]}]
        self.turns.append({"user": line, "replies": self.replies, "chosen": 1})
        self.show()

    def show(self) -> None:
        """The last replies: below the line, or in two columns."""
        texts = [Text(shown(reply).strip() or "(nothing)") for reply in self.replies]
        if len(texts) == 1:
            out.print(Text.assemble(("model  ", "bold cyan"), texts[0]))
            return
        width = max(20, out.width // 2 - 1)
        titles = [f"{n} · {name[-(width - 10) :]}" for n, (name, _) in enumerate(self.speakers, 1)]
        colours = ("cyan", "magenta")
        panels = [
            Panel(text, title=Text(title), title_align="left", border_style=colour, width=width)
            for text, title, colour in zip(texts, titles, colours, strict=True)
        ]
        out.print(Columns(panels, padding=(0, 1), expand=False))
