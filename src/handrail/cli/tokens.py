"""`handrail show tokens`: the first batch as the model sees it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from handrail.cli.frame import Assignments, Config, out, shown, verb
from handrail.cli.verbs import settings
from handrail.config import override, read_yaml, validate
from handrail.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from handrail.batch import Sequences
    from handrail.data import Codec

StageName = Annotated[str, typer.Option("--stage", help="sft, reward, ppo, reinforce, best_of_n or relaxed.")]
Rows = Annotated[int, typer.Option("--rows", min=0, help="Sequences shown, 0: all of the batch.")]


def add(app: typer.Typer) -> None:
    app.command("tokens")(tokens)


@dataclass(frozen=True)
class Token:
    """A token of a sequence, and what becomes of it."""

    id: int
    text: str
    special: bool  # stands for itself in the tokenizer: turns, beginning, end
    trained: bool  # the loss is taken on it, or the score is read at it


@dataclass(frozen=True)
class Row:
    """A sequence of the batch with a heading."""

    heading: str
    tokens: list[Token]


@dataclass(frozen=True)
class Batch:
    """What is shown: the sequences of the first batch, and what the highlighted tokens are."""

    rows: list[Row]
    trained: str
    after: str = ""  # stands behind each sequence


@verb
def tokens(config: Config, assignments: Assignments = None, stage: StageName = "sft", rows: Rows = 4) -> dict:
    """The first batch as the model sees it: tokens with their ids, the chat template, which of them are trained on.

    Nothing is written. A space is shown as ·, a line break as ⏎; without colours, [ ] holds what is trained on and
    { } what the template or the tokenizer adds.

    Example:  [bold]handrail show tokens handrail.yaml --stage sft[/]
    """
    if stage not in STAGES:
        raise ConfigError(f"--stage: found '{stage}'", f"one of {', '.join(STAGES)}")
    with TemporaryDirectory(prefix="handrail-") as scratch:
        batch = STAGES[stage](prepared(stage, config, assignments or [], Path(scratch)))
    display(batch, rows or len(batch.rows))
    counted = {
        "sequences": len(batch.rows),
        "tokens": count(batch, "id"),
        "trained": count(batch, "trained"),
        "special": count(batch, "special"),
    }
    shown_rows = [{"heading": row.heading, "tokens": [vars(token) for token in row.tokens]} for row in batch.rows[: rows or None]]
    return {"stage": stage, **counted, "rows": shown_rows}


def prepared(stage: str, config: Path, assignments: list[str], scratch: Path) -> Any:
    """The stage's settings.  A round that has not begun gets its data in a scratch folder, so that one can look before."""
    found = read_yaml(config)
    from handrail.pipeline import Round, make_data, stage_settings
    from handrail.pipeline.alone import require
    from handrail.pipeline.settings import is_round

    if not is_round(found):
        return settings(stage, config, assignments)

    whole = validate(Round, {**found, stage: override(found.get(stage) or {}, assignments)}, str(config))
    stages = stage_settings(whole, Path(whole.out), stage)[0]
    if stage not in stages:
        raise ConfigError(f"{config}: this round has no stage '{stage}'", f"one of {', '.join(stages)}")
    require(stages[stage], stage, stages, config)
    if not (Path(whole.out) / "round-1" / "data" / "prompts.jsonl").is_file():
        fresh = stage_settings(whole, scratch)[0]
        make_data(whole, scratch / "round-1" / "data", fresh["reward"])
        if stage == "sft":
            return fresh[stage]
    return stages[stage]


# ---- the first batch of each stage -----------------------------------------------------------------------------------


def sft(cfg: Any) -> Batch:
    """Prompt and response; the loss is taken on the response."""
    from handrail.recipes.sft import build

    parts, _ = build(cfg)
    import torch

    sequences = parts.train[torch.tensor(parts.batches[0])]
    heads = [f"sequence {n} of {len(sequences)}" for n in range(1, len(sequences) + 1)]
    rows = [Row(head, read(parts.codec, ids, mask)) for head, (ids, mask) in zip(heads, unpadded(sequences), strict=True)]
    return Batch(rows, "trained on: the response and its end")


def reward(cfg: Any) -> Batch:
    """Every response of the first rankings; the score is read at the last real token."""
    from handrail.data import ranking_batch
    from handrail.recipes.parts import shuffled
    from handrail.recipes.reward import build

    parts, _ = build(cfg)
    rankings = [parts.train[i] for i in shuffled(len(parts.train), cfg.batch_size, 0, cfg.seed)]
    batch = ranking_batch(parts.codec, rankings, parts.model.context)
    places = [
        f"ranking {n} of {len(rankings)}, place {place}" + (" of " + str(len(ranking.places)))
        for n, ranking in enumerate(rankings, 1)
        for place in ranking.places
    ]
    rows = []
    for head, (ids, _mask) in zip(places, unpadded(batch.sequences), strict=True):
        rows.append(Row(head, read(parts.codec, ids, [False] * (len(ids) - 1) + [True])))
    return Batch(rows, "where the score is read: the last real token")


def ppo(cfg: Any) -> Batch:
    """The prompts that the policy answers first."""
    return asked(cfg, cfg.batch_size, 1)


def reinforce(cfg: Any) -> Batch:
    """The prompts that the policy answers first, once for each response; or the responses that people have rated."""
    return asked(cfg, cfg.batch_size // cfg.responses, cfg.responses) if cfg.prompts else rated(cfg)


def best_of_n(cfg: Any) -> Batch:
    """The prompts that are answered first, once for each of n responses."""
    return asked(cfg, cfg.batch_size, cfg.n)


def asked(cfg: Any, number: int, each: int) -> Batch:
    """The first `number` prompts, each as often as it is answered; those that leave no room for an answer are left out."""
    from handrail.data import Codec, load_prompts, within_context
    from handrail.models import load_context, load_tokenizer
    from handrail.recipes.parts import shuffled

    codec = Codec(load_tokenizer(cfg.policy), cfg.template)
    room = load_context(cfg.policy) - cfg.sampling.max_new_tokens
    prompts, _ = within_context(codec, load_prompts(cfg.prompts).records, room)
    rows = []
    for place, index in enumerate(shuffled(len(prompts), number, 0, cfg.seed), 1):
        ids = codec.encode_prompt(prompts[index])
        for answer in range(1, each + 1):
            head = f"prompt {place} of {number}" + (f", response {answer} of {each}" if each > 1 else "")
            rows.append(Row(head, read(codec, ids, [False] * len(ids))))
    later = "; later turns are asked with all that was said before" if getattr(cfg, "partner", None) else ""
    return Batch(rows, f"trained on: what the policy writes after ▷{later}", " ▷")


def rated(cfg: Any) -> Batch:
    """The first responses that people have rated."""
    from handrail.data import Codec, load_ratings, within_context
    from handrail.models import load_context, load_tokenizer
    from handrail.recipes.parts import shuffled

    codec = Codec(load_tokenizer(cfg.policy), cfg.template)
    ratings, _ = within_context(codec, load_ratings(cfg.ratings).records, load_context(cfg.policy))
    rows = []
    for place, index in enumerate(shuffled(len(ratings), cfg.batch_size, 0, cfg.seed), 1):
        rating = ratings[index]
        prompt, response = codec.encode_prompt(rating.prompt), codec.encode_response(rating.response, end=True)
        head = f"response {place} of {cfg.batch_size}, rated {rating.score:g}"
        rows.append(Row(head, read(codec, prompt + response, [False] * len(prompt) + [True] * len(response))))
    return Batch(rows, "trained on: the rated response and its end")


STAGES: dict[str, Callable[[Any], Batch]] = {
    "sft": sft,
    "reward": reward,
    "ppo": ppo,
    "reinforce": reinforce,
    "best_of_n": best_of_n,
    "relaxed": ppo,
}


def unpadded(sequences: "Sequences") -> Iterator[tuple[list[int], list[bool]]]:
    """(ids, which of them the response mask covers) of each sequence."""
    masks: torch.Tensor = sequences.mask
    for ids, start, length, mask in zip(sequences.ids, sequences.prompt_lengths.tolist(), sequences.lengths.tolist(), masks, strict=True):
        covered = [False] * start + mask[: length - start].tolist()
        yield ids[:length].tolist(), covered


def read(codec: "Codec", ids: list[int], trained: list[bool]) -> list[Token]:
    """The tokens with their texts."""
    special = set(codec.tokenizer.all_special_ids) | {i for i, token in codec.tokenizer.added_tokens_decoder.items() if token.special}
    return [Token(i, text, i in special, on) for i, text, on in zip(ids, codec.pieces(ids), trained, strict=True)]


# ---- on the screen --------------------------------------------------------------------------------------------------


def count(batch: Batch, what: str) -> int:
    """Tokens in all (`id`), or those that are `trained` or `special`."""
    return sum(what == "id" or getattr(token, what) for row in batch.rows for token in row.tokens)


def display(batch: Batch, rows: int) -> None:
    """The sequences, a legend and the counts."""
    for row in batch.rows[:rows]:
        trained = sum(token.trained for token in row.tokens)
        out.print(Text.assemble((row.heading, "bold"), (f"  {len(row.tokens)} tokens, {trained} highlighted", "dim")))
        out.print(Text.assemble(*(piece for token in row.tokens for piece in painted(token)), (batch.after, "bold green")), soft_wrap=False)
        out.print()
    if len(batch.rows) > rows:
        out.print(Text(f"... and {len(batch.rows) - rows} more; --rows 0 shows all", "dim"))
    colour = out.is_terminal and out.color_system is not None
    marks = ("token", "token") if colour else ("[token:id]", "{token:id}")
    legend = Text.assemble((marks[0], TRAINED), f"  {batch.trained}    ", (marks[1], SPECIAL), "  from the template or the tokenizer")
    out.print(legend)
    total, trained = count(batch, "id"), count(batch, "trained")
    share = f"{trained:,} highlighted ({100 * trained / max(1, total):.0f} %)"
    out.print(f"{len(batch.rows)} sequences, {total:,} tokens, {share}, {count(batch, 'special'):,} special")


TRAINED, SPECIAL, PLAIN, NUMBER = "black on green", "magenta", "", "dim"


def painted(token: Token) -> Iterator[tuple[str, str]]:
    """A token with its id: in colours, or in brackets where there are none."""
    text = shown(token.text).replace("\t", "⇥").replace(" ", "·").replace("\n", "⏎") or "∅"
    colour = out.is_terminal and out.color_system is not None
    style = TRAINED if token.trained else SPECIAL if token.special else PLAIN
    before, after = ("", "") if colour else ("[" * token.trained + "{" * token.special, "}" * token.special + "]" * token.trained)
    yield before + text, f"{style} bold" if token.special and token.trained else style
    yield f":{token.id}{after}", NUMBER
    yield " ", ""
    if "\n" in token.text:
        yield "\n", ""
