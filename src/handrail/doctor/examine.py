"""Every check in one table, and what follows from what."""

from collections.abc import Callable
from dataclasses import replace

from handrail.doctor import answers, reward, roles, supervised, update
from handrail.doctor.case import Case, Trace
from handrail.doctor.finding import SEVERITIES, UPPER, Finding, Held, spans
from handrail.track import RunView

Check = Callable[[Case], Held | None]

CHECKS: tuple[Check, ...] = (  # those nearer to the root of things first; a finding has its check's name
    roles.not_finite,
    update.memory_short,
    roles.double_start,
    roles.reference_differs,
    roles.reference_moves,
    roles.engine_stale,
    roles.engine_disagrees,
    roles.ratio_off,
    roles.kl_negative,
    answers.never_ends,
    answers.cut_short,
    answers.writes_both_sides,
    reward.reward_against_gold,
    reward.reward_constant,
    reward.reward_scale,
    update.held_too_tight,
    answers.few_prompts,
    reward.reward_pattern,
    reward.length_gaming,
    reward.length_collapse,
    answers.repetition,
    answers.one_answer,
    update.steps_too_large,
    reward.dead_groups,
    answers.runs_on,
    reward.overoptimised,
    update.kl_runaway,
    update.entropy_collapse,
    update.not_moving,
    update.critic_useless,
    update.gradient_spikes,
    supervised.labels_swapped,
    supervised.loss_diverges,
    supervised.loss_flat,
    supervised.overfit,
    supervised.reward_at_chance,
    supervised.reward_overfit,
    supervised.reward_is_length,
    supervised.few_held_out_pairs,
    supervised.miscalibrated,
    supervised.chosen_falls,
    reward.reward_likes_nonsense,
    update.throughput_falls,
    update.memory_grows,
)
NAMES = tuple(check.__name__ for check in CHECKS)


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


_SPOILT = _set("kl_runaway entropy_collapse one_answer repetition length_collapse runs_on gradient_spikes critic_useless")
_PLEASED = _set("overoptimised kl_runaway entropy_collapse one_answer reward_constant dead_groups runs_on critic_useless")
_NOTHING_LEARNT = _set("not_moving critic_useless dead_groups entropy_collapse")

FOLLOWS: dict[str, frozenset[str]] = {  # a cause, and what is told as its consequence where both are found
    "not_finite": _SPOILT | _NOTHING_LEARNT | {"steps_too_large", "loss_flat", "loss_diverges"},
    "reference_moves": _NOTHING_LEARNT,
    "engine_stale": _SPOILT | {"kl_negative", "steps_too_large", "overoptimised"},
    "engine_disagrees": _SPOILT | {"kl_negative", "steps_too_large", "overoptimised"},
    "ratio_off": _SPOILT | {"steps_too_large", "not_moving", "overoptimised"},
    "kl_negative": _SPOILT | {"overoptimised", "steps_too_large"},
    "never_ends": _SPOILT | _NOTHING_LEARNT | {"cut_short", "repetition", "reward_likes_nonsense", "reward_scale"},
    "reward_against_gold": _PLEASED | {"length_collapse", "length_gaming", "repetition", "reward_pattern"},
    "reward_constant": _NOTHING_LEARNT,
    "reward_scale": _SPOILT | {"steps_too_large"},
    "held_too_tight": _NOTHING_LEARNT,
    "few_prompts": _PLEASED | {"repetition"},
    "reward_pattern": _PLEASED | {"length_gaming", "length_collapse", "repetition", "steps_too_large"},
    "length_gaming": _PLEASED | {"repetition", "steps_too_large", "reward_against_gold"},
    "length_collapse": _PLEASED | {"steps_too_large"},
    "repetition": _PLEASED | {"length_gaming", "steps_too_large"},
    "one_answer": _set("entropy_collapse reward_constant dead_groups kl_runaway overoptimised critic_useless"),
    "steps_too_large": _SPOILT | {"overoptimised", "reward_against_gold", "length_gaming", "reward_pattern"},
    "dead_groups": _NOTHING_LEARNT,
    "overoptimised": _set("runs_on kl_runaway entropy_collapse one_answer repetition"),
    "cut_short": _set("critic_useless repetition reward_scale reward_likes_nonsense entropy_collapse"),
    "runs_on": _set("critic_useless repetition"),
    "reward_overfit": _set("miscalibrated reward_is_length"),
    "labels_swapped": _set("miscalibrated reward_at_chance"),
    "reward_at_chance": _set("miscalibrated reward_is_length reward_overfit"),
}


def examine(view: RunView, kept: dict[int, Trace] | None = None) -> list[Finding]:
    """What is wrong with a run, the worst first and causes before what follows from them; also while it is going on.

    Pure: what stands in the run folder goes in, findings come out.  Args: kept, traces read before, for who looks often.
    """
    case = Case(view, kept)
    steps = [int(line["step"]) for line in view.metrics]
    found = [_finding(check.__name__, case, held, steps) for check in CHECKS if (held := check(case)) is not None]
    return sorted(_ordered(found), key=lambda f: SEVERITIES.index(f.severity))


def _finding(name: str, case: Case, held: Held, steps: list[int]) -> Finding:
    first = int(held.steps[0]) if held.steps else 0
    where = spans(held.steps, steps) or ((0, 0),)
    change = case.assignment(held.change)
    return Finding(name, held.severity, case.stage, first, where, held.evidence, held.cause, held.remedy, change)


def _ordered(found: list[Finding]) -> list[Finding]:
    """Findings that follow from another one become a notice that says so; what all follows from is as severe as the worst of it."""
    causes = [f for f in found if f.severity in UPPER and f.name in FOLLOWS]
    because: dict[str, str] = {}
    for finding in reversed(found):  # so that where causes go round in a circle the one nearest to the root is left as such
        for cause in causes:
            follows = finding.name in FOLLOWS[cause.name] and not _mutual(cause, finding, found)
            if follows and _root(cause.name, because) != finding.name:
                because[finding.name] = cause.name
                break
    done: list[Finding] = []
    for finding in found:
        if finding.name in because:
            severity = max(finding.severity, "notice", key=SEVERITIES.index)
            done.append(replace(finding, severity=severity, because=because[finding.name]))
            continue
        following = [f for f in found if _root(f.name, because) == finding.name]
        worst = min(following, key=lambda f: SEVERITIES.index(f.severity))
        if SEVERITIES.index(worst.severity) < SEVERITIES.index(finding.severity):
            finding = replace(finding, severity=worst.severity, evidence=f"{finding.evidence}; from this follows: {worst.title}")
        done.append(finding)
    return done


def _root(name: str, because: dict[str, str]) -> str:
    """What a finding follows from in the end; itself, where it follows from none."""
    while name in because:
        name = because[name]
    return name


def _mutual(cause: Finding, finding: Finding, found: list[Finding]) -> bool:
    """Whether each could follow from the other and the finding is the root: it began earlier, or stands nearer to it in the table."""
    if cause.name not in FOLLOWS.get(finding.name, ()):
        return False
    return (finding.first, found.index(finding)) < (cause.first, found.index(cause))
