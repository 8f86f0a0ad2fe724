"""After the findings: three sentences, the checkpoint to take, and what to try next."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handrail.doctor.best import at_start, best, keep_start, start
from handrail.doctor.case import Case, Curve
from handrail.doctor.finding import UPPER, Finding, figure
from handrail.doctor.supervised import by_length, share, tested
from handrail.track import RunView

MAIN = ("gold", "reward", "eval_accuracy", "accuracy", "eval_loss", "loss")  # what a run is judged by, the first that there is
WORDS = {
    "gold": "gold",
    "reward": "the reward",
    "eval_accuracy": "the accuracy on held-out pairs",
    "accuracy": "the accuracy on the batches of the training",
    "eval_loss": "the loss on held-out prompts",
    "loss": "the loss",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an experienced colleague would say at the end."""

    sentences: tuple[str, str, str]  # what happened; what is wrong; what to take
    step: int | None  # the best step to take the weights of, None where there is none
    take: str  # the folder that has them or comes nearest, relative to the run's; "" where there is none
    next: tuple[str, ...]  # what to try, the likeliest first; a setting where there is one

    def json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"sentences": list(self.sentences), "next": list(self.next)}


def verdict(view: RunView, findings: Sequence[Finding]) -> Verdict:
    """Three sentences on a run, of its findings as `examine` gave them."""
    case = Case(view)
    causes = [f for f in findings if f.severity in UPPER]
    found = _best(case, causes)
    take, told = _taken(case, found, causes)
    following = [f"{f.change}  ({f.remedy})" if f.change else f.remedy for f in causes[:3]]
    if not causes and (unproven := [f.remedy for f in findings if f.name == "few_held_out_pairs"]):
        following = unproven
        told = f"{told.removesuffix('.')}, but have more pairs compared before a policy learns from them."
    return Verdict(
        (_happened(case), _wrong(case, findings), told), found[0] if found else None, take, tuple(following) or (_further(case),)
    )


def _happened(case: Case) -> str:
    stage, state = case.stage.replace("_", " "), "has finished" if case.view.finished else "is going on or was stopped"
    if not case.done:
        return f"The run ({stage}) has no step yet."
    said, found, rule = [], tested(case), by_length(case)
    if found is not None:
        beside = f", by length alone {rule['value']:.0%}," if rule is not None else ""
        said = [f"on {found['n']} held-out pairs the accuracy is {share(found)}{beside}"]
    said += [
        f"{WORDS[name]} went from {figure(curve.start)} to {figure(curve.last)}"
        if len(curve) > 1
        else f"{WORDS[name]} was {figure(curve.last)}"
        for name in ("reward", "gold", *MAIN)
        if (curve := case.curve(name)) is not None and not (found is not None and name == "eval_accuracy")
    ]
    kl = case.curve("kl")
    away = f", {figure(kl.last, 2)} nats a response from the reference" if kl is not None else ""
    return f"The run ({stage}) {state} after {case.done} steps: {' and '.join(dict.fromkeys(said[:2])) or 'nothing was measured'}{away}."


def _wrong(case: Case, findings: Sequence[Finding]) -> str:
    causes = [f for f in findings if f.severity in UPPER]
    if causes:
        worst, others = causes[0], causes[1:]
        more = f" (also: {', '.join(f.title for f in others[:3])})" if others else ""
        return f"It is {'sick' if worst.severity == 'sick' else 'not well'}, {worst.title} from step {worst.first} on: {worst.cause}{more}."
    if any(f.name == "few_held_out_pairs" for f in findings):
        return "It is not shown to know more than a coin or length does: there are too few held-out pairs to tell."
    if curve := _no_better(case):
        so = "It did not improve" if case.view.finished else "It has not improved so far"
        look = ", and there are things to look at" if findings else ""
        return f"{so}: {WORDS[_judge(case)]} began at {figure(curve.start)} and is {figure(curve.last)}{look}."
    return "Nothing is wrong with it, only things to look at." if findings else "Nothing is wrong with it that can be seen from here."


def _judge(case: Case) -> str:
    """What a policy that samples is judged by."""
    return "gold" if case.curve("gold") is not None else "reward"


def _no_better(case: Case) -> Curve | None:
    """The score of a policy that ended no better than it began; None where it did, or none was measured."""
    curve = case.curve(_judge(case), 2)
    return curve if curve is not None and (curve.last <= curve.start or best(curve.values)[0] == 0) else None


def _best(case: Case, causes: list[Finding]) -> tuple[int, int] | None:
    """The best step: by the monitor where there is one, else the last before something went wrong; and the checkpoint that it measured.

    Checkpoint k is that after k updates.  A step samples before its own update, and evaluates a loss after it.
    """
    if not case.done:
        return None
    if (gold := case.curve("gold", 2)) is not None:
        return (step := int(gold.steps[best(gold.values)[0]])), step
    if (loss := case.curve("eval_loss", 2)) is not None:
        return (step := int(loss.steps[best(-loss.values, around=0)[0]])), step + 1
    if sick := [f.first for f in causes if f.severity == "sick"]:
        return (step := max(0, min(sick))), step
    if (reward := case.curve("reward", 2)) is not None:
        return (step := int(reward.steps[best(reward.values)[0]])), step
    return (step := int(case.view.metrics[-1]["step"])), step + 1


def _taken(case: Case, found: tuple[int, int] | None, causes: list[Finding]) -> tuple[str, str]:
    """The folder of the weights to take, and a sentence on it."""
    if found is None:
        return "", "There is nothing to take yet."
    (step, number), view, last = found, case.view, int(case.view.metrics[-1]["step"])
    if any(f.severity == "sick" for f in causes) and step <= max(1, last // 10):
        return "", f"Take none of its weights: begin again from where it started{start(view.config)}, once the cause is mended."
    if number == step and at_start(step, view.config) and case.curve(_judge(case), 2) is not None:
        return "", keep_start(view.config)
    kept = sorted(int(path.name.removeprefix("step-")) for path in (view.folder / "checkpoints").glob("step-*") if path.is_dir())
    if step >= last:
        name = "model" if (view.folder / "model").is_dir() else f"checkpoints/step-{kept[-1]:08d}" if kept else ""
        return name, f"Take the last weights{f' ({name})' if name else ', once they are saved'}."
    near = min(kept, key=lambda other: abs(other - number), default=None)
    if near is not None and abs(near - number) <= max(1, last // 20):
        name = f"checkpoints/step-{near:08d}"
        return name, f"Take the weights of {name}: it was best at step {step}."
    if case.setting("steps"):  # such a run has a constant rate, so that a shorter one is the beginning of the longer
        again = f"run it again with {case.assignment(f'steps={number}')}, which ends with them"
    else:
        again = "make fewer passes over the data" + (f", or stop early ({case.assignment('patience=1')})" if case.stage == "sft" else "")
    return "", f"It was best at step {step}, whose weights are gone: {again}."


def _further(case: Case) -> str:
    """What to try with a run that nothing is wrong with."""
    if _no_better(case) is not None:
        paid = case.curve("reward", 2)
        gamed = _judge(case) == "gold" and paid is not None and paid.last > paid.start
        return (
            "have more comparisons made: the reward rose and gold did not"
            if gamed
            else "look at the traces: does the reward tell replies apart?"
        )
    curve = next((c for name in ("reward", *MAIN) if (c := case.curve(name, 6)) is not None), None)
    if curve is None or np.isinf(curve.noise):
        return "let it go on, and look again"
    recent = curve.trailing[-1] - curve.trailing[-max(2, len(curve) // 4)]
    if abs(recent) > 3 * curve.noise and (steps := int(case.setting("steps", 0))):
        return f"{case.assignment(f'steps={2 * steps}')}  (it is still getting better)"
    return "judge it on held-out prompts: `handrail evaluate`"


def stages_in(folder: Path) -> list[Path]:
    """The run folders in a folder: itself, or those up to three levels below, earlier stages first."""
    if (folder / "inputs.json").is_file():
        return [folder]
    found = [
        p.parent for depth in ("*", "*/*", "*/*/*") for p in folder.glob(f"{depth}/inputs.json") if (p.parent / "config.yaml").is_file()
    ]
    order = {name: number for number, name in enumerate(("sft", "reward"))}
    aside = [p for p in found if ".before-" not in str(p.relative_to(folder))]
    return sorted(aside, key=lambda p: (str(p.parent), order.get(p.name, len(order)), p.name))
