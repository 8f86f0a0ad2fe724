"""`--help` that teaches: the settings of a verb as a table, made from their schema."""

import importlib
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from handrail.cli.frame import out
from handrail.config import Settings

SCHEMAS = {  # where the settings of each verb stand
    "sft": "handrail.recipes.sft:SFT",
    "reward": "handrail.recipes.reward_parts:Reward",
    "ppo": "handrail.recipes.ppo_parts:PPO",
    "reinforce": "handrail.recipes.reinforce_parts:Reinforcement",
    "relaxed": "handrail.recipes.relaxed:Relaxed",
    "dpo": "handrail.recipes.dpo:DPO",
    "best_of_n": "handrail.recipes.best_of_n_parts:BestOfN",
    "sample": "handrail.recipes.sample:Sample",
    "evaluate": "handrail.recipes.evaluate:Evaluate",
    "compare": "handrail.compare:Comparison",
    "run": "handrail.pipeline:Round",
    "demo": "handrail.pipeline:Round",
    "search": "handrail.search:Search",
}

OF_A_ROUND = {  # where in the round's folder a stage works
    "sft": "sft",
    "sample": "responses/responses.jsonl",
    "evaluate": "evaluation",
    **{name: name for name in ("reward", "ppo", "reinforce", "best_of_n", "dpo", "relaxed")},
}
OF_ROUND = (
    "Of a whole round's file the section `{section}` is taken. What follows from the round need not be given: models, data, sampling, "
    "seed, and out, which then is OUT/round-1/{place}."
)
REQUIRED = "must be given"
LONG = 16  # characters of a type, beyond which it stands with the meaning

# What a name means wherever it stands; a field's own description goes before it.
COMMON = {
    "seed": "the same seed gives the same result",
    "title": "of the report",
    "template": "how a conversation becomes text: the tokenizer's chat template, plain text, or whichever there is",
    "epochs": "passes over the data",
    "steps": "updates from fresh responses",
    "lr": "learning rate, at its highest",
    "critic_lr": "learning rate of the critic",
    "weight_decay": "of AdamW, on matrices alone",
    "max_grad_norm": "longer gradients are cut to this norm",
    "gamma": "discount of a reward one token later",
    "lam": "lambda of GAE: 0 trusts the critic, 1 what was earned",
    "value_coef": "weight of the value loss",
    "entropy_coef": "weight of the entropy bonus",
    "whiten_advantages": "to mean 0 and variance 1 in each batch",
    "rescale_rewards": "to variance 1 in each batch, the mean kept",
    "model_weight": "of the reward model's score",
    "function_weight": "of the function's score",
    "path": "a file, a folder, a glob, or a hub dataset as hub:org/name",
    "split": "of a folder or a hub dataset",
    "subset": "configuration of a hub dataset",
    "format": "of the records; auto finds it out and says so",
    "columns": "our field: their column",
    "limit": "rows read, 0: all",
    "temperature": "divides the logits; 0 takes the likeliest token",
    "top_k": "only the k likeliest tokens, 0: all",
    "top_p": "the fewest likeliest tokens whose mass reaches p",
    "max_new_tokens": "of a response, its end included",
    "stop": "texts that end a response",
    "family": "of the architecture",
    "hidden": "width",
    "layers": "depth",
    "heads": "of the attention; hidden is an even multiple of them",
    "tie_embeddings": "one matrix for reading and writing tokens",
    "rank": "of the adapters",
    "dropout": "on the adapters' input",
    "targets": "modules that get an adapter",
    "demonstrations": "how many the task writes",
    "labellers": "simulated people who rank",
    "sft": "settings of `handrail sft`",
    "sample": "settings of `handrail sample`",
    "reward": "settings of `handrail reward`",
    "ppo": "settings of `handrail ppo`",
    "reinforce": "settings of `handrail reinforce`",
    "best_of_n": "settings of `handrail best_of_n`",
    "dpo": "settings of `handrail dpo`",
    "relaxed": "settings of `handrail relaxed`",
    "evaluate": "settings of `handrail evaluate`",
}


class WithSettings(TyperCommand):
    """A command whose help ends with the table of its settings."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        name = str(self.name)
        out.print(table(schema(name), name))
        if name in OF_A_ROUND:
            out.print(Text(OF_ROUND.format(section=name, place=OF_A_ROUND[name]), "dim"))


def schema(verb: str) -> type[Settings]:
    """The settings of a verb.  Imports its recipe."""
    module, _, name = SCHEMAS[verb].partition(":")
    return getattr(importlib.import_module(module), name)


def table(settings: type[Settings], verb: str) -> Table:
    """Every setting with its type, its default and what it means."""
    title = f"Settings of `handrail {verb}`, in the file or as KEY=VALUE"
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column("setting", no_wrap=True)
    made.add_column("type = default", overflow="fold")
    made.add_column("meaning", overflow="fold", ratio=1)
    for key, field in rows(settings):
        group = nested(field.annotation) is not None
        of, meaning = kind(field.annotation), says(key, field)
        if len(of) > LONG:
            short = "list" if of.startswith("list of") else "choice"
            of, meaning = short, f"{of}{'; ' if meaning else ''}{meaning}"
        given = default(field)
        value = Text(f"{of} = {given}" if given else of) if given != REQUIRED else Text.assemble(of, (f", {REQUIRED}", "bold"))
        made.add_row(Text(key, "bold cyan" if group else "cyan"), value, Text(meaning))
    return made


def rows(settings: type[Settings], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted key, field) of every setting, those of a group after its own row; plain settings before groups."""
    fields = sorted(settings.model_fields.items(), key=lambda item: nested(item[1].annotation) is not None)
    for name, field in fields:
        yield prefix + name, field
        group = nested(field.annotation)
        if group is not None:
            yield from rows(group, f"{prefix}{name}.")


def says(key: str, field: FieldInfo) -> str:
    """What a setting means: as it says itself, else as its name says; of a group, nothing is a good answer."""
    gloss = "" if nested(field.annotation) else COMMON.get(key.rpartition(".")[2], "")
    return field.description or gloss


def nested(annotation: Any) -> type[Settings] | None:
    """The group of settings that a field holds, if it holds one."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return candidate
    return None


def kind(annotation: Any) -> str:
    """A type as a reader of YAML calls it."""
    if nested(annotation) is annotation:
        return "group"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(value) for value in inner)
    if origin in (Union, UnionType):
        return " | ".join(kind(part) for part in inner if part is not NoneType)
    if origin is list:
        return f"list of {kind(inner[0])}"
    if origin is dict or annotation is dict:
        return "mapping"
    if hasattr(annotation, "__metadata__"):
        return kind(inner[0])
    names = {str: "text", int: "whole number", float: "number", bool: "true | false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default(field: FieldInfo) -> str:
    """The default as it would stand in YAML; a field without one must be given."""
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None:
        return "none"
    if isinstance(value, Settings):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else f"{value:g}" if isinstance(value, float) else str(value)
