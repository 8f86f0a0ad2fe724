"""What came of a stage or a round, in words a person likes to read."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from handrail.cli.frame import out, shown

FEW = 30  # prompts, below which a share is told with their number
REWARD_MODEL = "reward model"  # how that judge is named


def read(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line] if path.is_file() else []


def spoken(judge: str) -> str:
    """What a judge is called before people."""
    from handrail.tasks import spoken as called  # numpy, which `--help` need not wait for

    return called(judge)


def percent(share: dict[str, Any] | None) -> str:
    """A share with its interval, and of how many where they are few: 78.1 % (74.3 to 81.6), 80.0 % (40.0 to 100.0, n = 5)."""
    if not share or share.get("value") is None or not math.isfinite(share["value"]):
        return "unknown"
    few = f", n = {share['n']}" if share.get("n", FEW) < FEW else ""
    return f"{100 * share['value']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f}{few})"


# ---- a sentence a stage ----------------------------------------------------------------------------------------------


def learnt(stage: str, folder: Path) -> str:
    """One sentence on what a finished stage has shown, from what it left in its folder; empty where there is nothing to say."""
    say = SENTENCES.get(stage)
    said = say(folder) if say else ""
    left_out = [part for part in described(read(folder / "summary.json")).split("; ") if " left out: " in part]
    return " ".join([said, *(f"{part[0].upper()}{part[1:]}." for part in left_out)]) if said else ""


def described(summary: dict[str, Any]) -> str:
    """What a run said of its data, or of its prompts."""
    return next((summary[key] for key in ("data", "prompts") if isinstance(summary.get(key), str)), "")


def _data(folder: Path) -> str:
    counts = {name: len(lines(folder / f"{name}.jsonl")) for name in ("demonstrations", "rankings", "prompts", "held_out")}
    parts = [f"{counts['demonstrations']:,} demonstrations"] * (counts["demonstrations"] > 0)
    parts += [f"{counts['rankings']:,} rankings by people"] * (counts["rankings"] > 0)
    parts += [f"{counts['prompts']:,} prompts to practise on"]
    return f"There are {', '.join(parts)}, and {counts['held_out']:,} that are kept for the evaluation alone."


def _sft(folder: Path) -> str:
    loss = read(folder / "summary.json").get("eval_loss")
    if loss is None:
        return ""
    choices = math.exp(min(loss, 20.0))
    return f"The model imitates the demonstrations; at each token it is as unsure as between {choices:,.1f} equal choices."


def _responses(folder: Path) -> str:
    records = lines(folder / "responses.jsonl")
    prompts = len({json.dumps(r.get("prompt"), sort_keys=True) for r in records})
    return f"The model has answered {prompts:,} prompts, {len(records) / max(1, prompts):.0f} times each." if records else ""


def _labels(folder: Path) -> str:
    count = len(lines(folder / "rankings.jsonl"))
    return f"Simulated labellers have put the answers to {count:,} prompts in order of preference." if count else ""


def _reward(folder: Path) -> str:
    tested = read(folder / "summary.json")
    if not tested.get("accuracy"):
        return ""
    rule = tested.get("length_baseline") or {}
    beside = f"; going by length alone would reach {100 * rule['value']:.1f} %" if rule.get("value") is not None else ""
    said = f"The reward model tells which of two new responses people prefer in {percent(tested['accuracy'])} of the cases{beside}."
    criteria = {name: found["accuracy"] for name, found in (tested.get("criteria") or {}).items() if found["accuracy"]}
    if criteria:
        said += " By criterion: " + ", ".join(f"{name} {100 * share['value']:.1f} %" for name, share in criteria.items()) + "."
    if pairs := tested.get("disagreement"):
        said += f" Its heads agree about {100 * pairs['unanimous']:.0f} % of the pairs."
    return said


def _ppo(folder: Path) -> str:
    steps = lines(folder / "metrics.jsonl")
    if not steps:
        return ""
    first, last = steps[0], steps[-1]
    return (
        f"The policy's mean reward went from {first['reward']:+.2f} to {last['reward']:+.2f}, "
        f"at {last['kl']:.1f} nats a response away from where it began."
    )


def _dpo(folder: Path) -> str:
    steps, tested = lines(folder / "metrics.jsonl"), read(folder / "summary.json")
    if not steps:
        return ""
    first, last = steps[0], steps[-1]
    said = f"The implicit reward of preferred responses is {last['margin']:+.2f} ahead of the others'."
    if tested.get("accuracy"):
        rule = 100 * tested["length_baseline"]["value"]
        said += f" It tells which of two new responses people prefer in {percent(tested['accuracy'])} of the cases"
        said += f"; going by length alone would reach {rule:.1f} %."
    if "reward" in last:
        said += f" The policy's mean reward went from {first['reward']:+.2f} to {last['reward']:+.2f}."
    return said


def _best_of_n(folder: Path) -> str:
    steps = lines(folder / "metrics.jsonl")
    looks = [step for step in steps if "reward" in step]
    if not looks:
        return ""
    first, last = looks[0], looks[-1]
    return (
        f"The policy's mean reward went from {first['reward']:+.2f} to {last['reward']:+.2f}, at {last['kl']:.1f} nats a response "
        f"away from where it began; what it imitates scores {last['target_reward']:+.2f}."
    )


def _evaluation(folder: Path) -> str:
    found = read(folder / "summary.json")
    if "win_rate" not in found:
        return ""
    said = f"On {found['win_rate']['n']} prompts that no stage has seen, the reply after training wins in {percent(found['win_rate'])}"
    said += f"; the model before against itself: {percent(found['control'])}." if "control" in found else "."
    if found["judge"] == REWARD_MODEL:
        return f"{said} The judge is the reward model: its score was raised or not; what people prefer is another question."
    return f"{said} Judged by {spoken(found['judge'])}."


SENTENCES: dict[str, Callable[[Path], str]] = {
    "data": _data,
    "sft": _sft,
    "responses": _responses,
    "labels": _labels,
    "reward": _reward,
    "ppo": _ppo,
    "reinforce": _ppo,
    "relaxed": _ppo,
    "dpo": _dpo,
    "best_of_n": _best_of_n,
    "evaluation": _evaluation,
}


def stages_of(folder: Path) -> list[tuple[str, Path]]:
    """(name, folder) of the stages of a round, in their order."""
    return [(stage["name"], Path(stage["folder"])) for stage in read(folder / "round.json").get("stages", [])]


def sickness(stages: list[tuple[str, Path]]) -> list[str]:
    """What the doctor found that makes a stage sick, each finding once: ppo sick: kl runaway, from step 3."""
    found: dict[tuple[Path, str], str] = {}
    for name, folder in stages:
        for line in lines(folder / "findings.jsonl"):
            if line.get("severity") == "sick":
                title = str(line["name"]).replace("_", " ")
                found.setdefault((folder, title), shown(f"{name} sick: {title}, from step {line.get('first', line['step'])}"))
    return list(found.values())


# ---- the panel at the end -------------------------------------------------------------------------------------------


def panel(summary: dict[str, Any], title: str) -> Panel:
    """The figures of an evaluation, the most important first."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("win rate", Text(percent(summary.get("win_rate")), "bold green"))
    if judge := summary.get("judge"):
        caveat = "  trained against: its score is not what people prefer" if judge == REWARD_MODEL else ""
        grid.add_row("judge", Text.assemble(shown(spoken(judge)), (caveat, "dim")))
    if "control" in summary:
        grid.add_row("control", Text.assemble(percent(summary["control"]), ("  the model before against itself: near 50", "dim")))
    for judge in summary.get("judges", []):
        if judge["name"] != summary.get("judge") or judge["kind"] in ("endpoint", "people"):
            rate = percent(judge["win_rate"]) if judge["win_rate"] else "none yet"
            grid.add_row(f"by {shown(judge['name'])}", Text.assemble(rate, (f"  {remark(judge)}" if remark(judge) else "", "dim")))
    if "gold_before" in summary:
        gold = f"{summary['gold_before']:+.2f} before, {summary['gold_after']:+.2f} after"
        grid.add_row("judge's score", Text(gold))
    if isinstance(summary.get("reward_before"), dict):
        before, after = summary["reward_before"], summary["reward_after"]
        grid.add_row("reward", f"{before['mean']:+.2f} before, {after['mean']:+.2f} after")
    if "kl" in summary:
        grid.add_row("distance", Text.assemble(f"{summary['kl']:.1f} nats a response", ("  KL from the model before", "dim")))
    if "length_ratio" in summary:
        grid.add_row("length", Text.assemble(f"{summary['length_ratio']:.2f} times", ("  of the model before", "dim")))
    reached = summary.get("reward_accuracy")
    if reached:
        ceiling = f"  the labellers' noise allows {100 * reached['ceiling']:.1f} %" if "ceiling" in reached else ""
        grid.add_row("reward model", Text.assemble(percent(reached), (f"  right on new pairs{ceiling}", "dim")))
    if (agreed := summary.get("agreement")) and agreed["all"]:
        who = "you" if agreed["labellers"] == ["you"] else "people"
        grid.add_row(f"with {who}", Text.assemble(percent(agreed["all"]), (f"  of the pairs that {who} put in order", "dim")))
    return Panel(grid, title=title, title_align="left", border_style="green", expand=False)


def remark(judge: dict[str, Any]) -> str:
    """What must be known of a judge's win rate besides its interval."""
    if judge["kind"] == "people":
        if not judge["rankings"]:
            return f"{judge['of']} pairs wait in pairs.jsonl to be compared"
        return f"{judge['labellers']} labellers on {judge['pairs']} of {judge['of']} pairs"
    if judge["kind"] != "endpoint":
        return ""
    position, tokens = judge["contradictions"], judge["tokens"]
    parts = [f"went by the place in {100 * position['value']:.1f} % of pairs"] if position else []
    parts += [f"{judge['unparsable']} of {judge['answers']} answers without a verdict"] if judge["unparsable"] else []
    parts += [f"{judge['refused']} questions refused"] if judge["refused"] else []
    parts += [f"{judge['left_out']} pairs left out"] if judge["left_out"] else []
    untold = f" (untold for {tokens['answers_untold']} answers)" if tokens["answers_untold"] else ""
    return ", ".join([*parts, f"{tokens['prompt']:,} + {tokens['completion']:,} tokens{untold}"])


def example(samples: list[dict[str, Any]]) -> Panel | None:
    """A prompt with its reply before and after: of those that changed the one nearest to the median gain of all, so neither the best
    nor the worst."""
    key = next((key for key in ("gold", "reward") if samples and f"{key}_before" in samples[0]), None)
    if key is None:
        return None
    ordered = sorted(samples, key=lambda s: s[f"{key}_after"] - s[f"{key}_before"])
    middle = len(ordered) // 2
    changed = [i for i, one in enumerate(ordered) if one["before"] != one["after"]]
    place = min(changed, key=lambda i: abs(i - middle), default=middle)
    sample = ordered[place]
    said = f"{'the' if place == middle else 'near the'} median gain of {len(samples)}{'' if changed else ', none of which changed'}"
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("prompt", Text(shown(sample["prompt"]).strip()))
    for name in ("before", "after"):
        score = sample[f"{key}_{name}"]
        grid.add_row(name, Text.assemble(shown(sample[name]).strip() or "(nothing)", (f"  {score:+.2f}", "dim")))
    return Panel(grid, title=f"A reply before and after: {said}", title_align="left", expand=False)


def following(commands: list[tuple[str, str]]) -> None:
    """What to type next, each command with what it does: beside it, or above it where the terminal is too narrow."""
    width = max(len(command) for command, _ in commands)
    beside = 6 + width + max(2 + len(meaning) for _, meaning in commands) <= out.width
    if not beside:  # a command that stands alone on its line can be copied, however the terminal breaks it
        out.print(Text("Next:", "bold"))
    for number, (command, meaning) in enumerate(commands):
        start = "Next:" if number == 0 else ""
        if beside:
            line = Text.assemble((f"{start:<6}", "bold"), (f"{command:<{width}}", "cyan"), (f"  {meaning}", "dim"))
        else:
            line = Text.assemble((f"# {meaning}\n", "dim"), (command, "cyan"))
        out.print(line, soft_wrap=True)
