"""Which curves a run's metrics make, and how to read each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from handrail.inspector import words
from handrail.inspector.folders import Part, Round, RunFolder, finite
from handrail.inspector.svg import Mark, Series, line_chart


@dataclass(frozen=True)
class Chart:
    """A drawing with its caption and how to read it."""

    caption: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Panel:
    """A curve over the steps of a run: which keys of its metrics, in which unit, and how to read it."""

    keys: tuple[str, ...]
    caption: str
    unit: str
    note: str = ""


RL = [
    Panel(("reward",), "Reward", "reward", "What is maximised: the mean score of the step’s responses."),
    Panel(
        ("gold",),
        "Gold",
        "gold score",
        "What people truly prefer; training never sees it. It should rise with the reward.",
    ),
    Panel(("kl",), "KL to the reference", "nats a response", "How far the policy has moved from where it began."),
    Panel(("length",), "Length", "tokens a response", "Replies that only grow are a warning."),
    Panel(("entropy",), "Entropy", "nats a token", "How undecided the policy is; near 0 it says one thing only."),
    Panel(("clip_fraction",), "Clip fraction", "share of tokens", "Tokens that moved further than the clip allows."),
]
MAIN = {
    "ppo": [
        *RL,
        Panel(("value_loss",), "Value loss", "reward²", "The critic’s squared error."),
        Panel(
            ("explained_variance",),
            "Explained variance",
            "share",
            "Of the returns, by the critic; 1 is perfect, 0 is a constant.",
        ),
    ],
    "reinforce": [
        *RL,
        Panel(
            ("advantage_std",),
            "Advantage",
            "root mean square",
            "What the baseline left of the returns; near 0 there is nothing to learn from.",
        ),
        Panel(("explained_variance",), "Explained variance", "share", "Of the returns, by the baseline; 0 is a constant."),
    ],
    "relaxed": [
        *RL,
        Panel(
            ("reward_relaxed",),
            "Relaxed reward",
            "reward",
            "What is differentiated: far above the reward it is the mixture that pleases, not the text.",
        ),
    ],
    "dpo": [
        Panel(("margin",), "Margin", "implicit reward", "By how much the preferred responses are ahead: what the loss pushes up."),
        Panel(("accuracy", "eval_accuracy"), "Accuracy", "share of pairs", "Pairs that the implicit reward orders as people do."),
        Panel(
            ("logp_chosen", "logp_rejected"),
            "Log-probability",
            "nats a response",
            "Of preferred and other responses. Often both fall: the margin counts their distance alone.",
        ),
        Panel(("reward_chosen", "reward_rejected"), "Implicit reward", "reward", "Of preferred and other responses."),
        Panel(("loss",), "Loss", "", "Of dpo and simpo in nats a pair: a policy that has learnt nothing has ln 2 = 0.693 by dpo."),
        Panel(("reward",), "Reward", "reward", "Mean score of the policy's own responses, where they are judged online."),
        Panel(("gold",), "Gold", "gold score", "What people truly prefer; it is never trained on."),
        Panel(("kl",), "KL to the reference", "nats a response", "How far the policy has moved from where it began."),
        Panel(("length",), "Length", "tokens a response", "Replies that only grow are a warning."),
        Panel(("entropy",), "Entropy", "nats a token", "How undecided the policy is; near 0 it says one thing only."),
    ],
    "best_of_n": [
        Panel(
            ("reward", "target_reward"),
            "Reward",
            "reward",
            "The policy’s own responses, and those that it imitates.",
        ),
        Panel(("gold",), "Gold", "gold score", "What people truly prefer; no weight sees it. It should rise with the reward."),
        Panel(
            ("kl", "kl_bound"),
            "KL to the reference",
            "nats a response",
            "How far the policy has moved; the bound is that of one that imitates exactly.",
        ),
        Panel(("length", "target_length"), "Length", "tokens a response", "If longer ones are imitated, part of the gain may be length."),
        Panel(("entropy",), "Entropy", "nats a token", "How undecided the policy is; near 0 it says one thing only."),
        Panel(("loss",), "Loss", "nats a token", "On the responses that are imitated."),
        Panel(("effective_share",), "Effective share", "share", "Of the responses, by their weights: near 0 a few teach all."),
    ],
    "sft": [Panel(("loss", "eval_loss"), "Loss", "nats a token", "On responses only; held-out prompts beside it.")],
    "reward": [
        Panel(
            ("loss",),
            "Loss",
            "nats",
            "A model that knows nothing has ln 2 = 0.693 a pair, or ln K! a whole ranking, each times 1 + token_weight.",
        ),
        Panel(("accuracy", "eval_accuracy"), "Accuracy", "share of pairs", "Pairs put in the labellers’ order."),
    ],
}
TITLES = {
    "ppo": "PPO",
    "reinforce": "REINFORCE",
    "best_of_n": "Best of n",
    "dpo": "Direct preference",
    "relaxed": "Relaxed",
    "sft": "SFT",
    "reward": "Reward model",
    "": "Run",
}
COLOURS = {"reward": "reward"} | dict.fromkeys(("gold", "eval_loss", "eval_accuracy", "logp_rejected", "reward_rejected"), "gold")
COLOURS |= dict.fromkeys(("target_reward", "kl_bound", "target_length"), "gold")
SIDE = ("step", "tokens", "pairs", "prompts")  # counters that no curve is needed of


def curves(part: Part, rounds: int, marks: Mapping[Path, Sequence[Mark]]) -> list[tuple[str, list[Chart], list[Chart]]]:
    """(title, charts, further charts) for each run of a round, the policy's first; `marks` by run folder stand at their steps."""
    found = []
    order = {"reward": 1, "sft": 2}
    for run in sorted(part.runs, key=lambda r: order.get(r.kind, 0 if r.kind else 3)):
        at = marks.get(run.folder, ())
        charts = [chart for panel in MAIN.get(run.kind, []) if (chart := drawn(panel, run, at))]
        used = {key for panel in MAIN.get(run.kind, []) for key in panel.keys} | set(SIDE)
        other = sorted((k for k in run.names() if k not in used), key=lambda k: not k.startswith("gold."))
        more = [chart for key in other if (chart := drawn(Panel((key,), key, ""), run, at))]
        if charts or more:
            title = TITLES.get(run.kind, run.name) or run.name
            found.append((f"Round {part.number}: {title}" if rounds > 1 else title, charts, more))
    return found


def drawn(panel: Panel, run: RunFolder, marks: Sequence[Mark]) -> Chart | None:
    """The panel's curve, or None where the run has none of its keys."""
    series = [Series(key.replace("_", " "), COLOURS.get(key, "plain"), run.series(key)) for key in panel.keys]
    series = [s for s in series if s.points]
    if not series:
        return None
    return Chart(panel.caption, line_chart(series, panel.unit, "step", panel.caption, marks=marks), panel.note)


def alone(found: Round) -> str:
    """The heading where there is no win rate: what each run did to its first curve."""
    said = []
    for run in found.last.runs:
        for panel in MAIN.get(run.kind, []):
            points = [p for p in run.series(panel.keys[0]) if finite(p[1]) is not None]
            if points:
                moved = words.change_of(points[0][1], points[-1][1])
                said.append(f"{TITLES[run.kind]}: {panel.caption[0].lower()}{panel.caption[1:]} {moved} in {len(run.metrics)} steps")
                break
    return "; ".join(said) or found.title
