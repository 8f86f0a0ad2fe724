"""The doctor on made numbers: each finding at its sign and nowhere else, what follows from what, the verdict."""

import json
import math
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from handrail.cli import app
from handrail.doctor import NAMES, SEVERITIES, UPPER, Finding, examine, verdict
from handrail.doctor.case import Curve, Trace, lasting
from handrail.doctor.examine import FOLLOWS, _ordered
from handrail.doctor.finding import figure, spans
from handrail.doctor.update import lowered
from handrail.recipes.experience import correlation, variety
from handrail.track import RunView

DOCUMENT = Path(__file__).parents[1] / "docs" / "doctor.md"
CONFIG = {
    "steps": 30, "batch_size": 32, "lr": 2e-4, "critic_lr": 5e-4, "warmup": 2, "epochs": 2, "minibatches": 1, "entropy_coef": 0.0,
    "policy": {"path": "sft", "dtype": "float32", "autocast": False}, "kl": {"beta": 0.05, "target": 0.0, "placement": "reward"},
    "reward": {"model": "reward", "function": "", "more": [], "model_weight": 1.0},
    "sampling": {"max_new_tokens": 64, "temperature": 1.0},
}  # fmt: skip


def healthy(steps: int = 30, seed: int = 0) -> list[dict]:
    """What PPO logs when it goes well."""
    rng, lines = random.Random(seed), []
    for step in range(steps):
        t = 1 - math.exp(-3 * step / steps)
        lines.append(
            {
                "step": step,
                "reward": 1.6 * t + rng.gauss(0, 0.12),
                "reward_std": 0.95 - 0.3 * t,
                "reward_model": 1.6 * t,
                "gold": 0.4 + 1.4 * t + rng.gauss(0, 0.12),
                "kl": 3.0 * t + (rng.gauss(0, 0.05) if step else 0.0),
                "beta": 0.05,
                "length": 23 - 4 * t + rng.gauss(0, 0.6),
                "ended": 0.98,
                "entropy": 0.54 - 0.2 * t + rng.gauss(0, 0.01),
                "explained_variance": 0.5 - 3 * math.exp(-step),
                "engine_difference": 3e-7,
                "approx_kl": 1e-3,
                "ratio_error": 1e-12,
                "clip_fraction": 2e-3,
                "grad_norm.policy": 0.3 + rng.random() / 5,
                "distinct": 0.9,
                "commonest": 0.06,
                "empty": 0.0,
                "repetition": 0.01,
                "reward_by_length": rng.gauss(-0.1, 0.15),
                "reward_by_gold": rng.gauss(0.5, 0.12),
            }
        )
    return lines


def case(stage: str = "ppo", lines: list[dict] | None = None, **more) -> RunView:
    """A run as it would be read, of these lines."""
    config = more.pop("config", CONFIG)
    lines = healthy() if lines is None else lines
    return RunView(Path("nowhere"), stage, config, {}, {}, lines, more.pop("timing", []), [], **{"summary": None} | more)


def changed(**columns) -> list[dict]:
    """The healthy run with some columns replaced, each by a function of the step or a number; None takes it away."""
    lines = healthy()
    for name, value in columns.items():
        name = name.replace("__", ".")
        for line in lines:
            if value is None:
                line.pop(name, None)
            else:
                line[name] = value(line["step"]) if callable(value) else value
    return lines


def grow(start: float, end: float, steps: int = 30):
    return lambda step: start + (end - start) * step / (steps - 1)


def set_to(base: dict, **dotted) -> dict:
    """The settings with some replaced, a double underscore going into a group."""
    found = json.loads(json.dumps(base))
    for key, value in dotted.items():
        *groups, last = key.split("__")
        inner = found
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return found


def test_nothing_is_said_of_a_run_that_is_well():
    for seed in range(20):
        assert examine(case(lines=healthy(seed=seed))) == []
    said = verdict(case(), [])
    assert "gold went from 0.6" in said.sentences[0] and "Nothing is wrong" in said.sentences[1] and said.step == 29


def loss(*values: float) -> list[dict]:
    return [{"step": i, "loss": v, "grad_norm.policy": 1.0} for i, v in enumerate(values)]


FALLING = [3 * math.exp(-i / 12) + 1 for i in range(40)]
PAIRS = {"low": 0.0, "high": 0.0, "n": 200}
FEW = {"value": 0.561, "low": 0.38, "high": 0.72, "n": 66}
SIGNS: list[tuple[str, RunView]] = [  # the finding that stands first, and the run that shows it
    ("not_finite", case(lines=changed(policy_loss=lambda s: math.nan if s > 10 else 0.1))),
    ("double_start", case(preflight={"double_start": 1.0})),
    ("memory_short", case(preflight={"slice_tokens": 1280, "slice_mib": 700.0, "moments_mib": 250.0, "memory_mib": 1000.0})),
    ("reference_differs", case(lines=changed(kl=grow(0.4, 3)))),
    ("reference_moves", case(lines=changed(kl=0.0))),
    ("engine_stale", case(lines=changed(engine_difference=lambda s: 0.02 * s))),
    ("engine_disagrees", case(lines=changed(engine_difference=0.2))),
    ("ratio_off", case(lines=changed(ratio_error=0.01))),
    ("kl_negative", case(lines=changed(kl=grow(0, -4)))),
    ("never_ends", case(lines=changed(ended=0.0))),
    ("reward_against_gold", case(lines=changed(reward_by_gold=-0.6))),
    ("reward_constant", case(lines=changed(reward_std=0.0))),
    ("reward_scale", case(lines=changed(reward_model=grow(5, 7)))),
    ("held_too_tight", case(lines=changed(beta=20.0, kl=1e-4))),
    ("length_gaming", case(lines=changed(length=grow(20, 45), reward_by_length=0.9, gold=grow(1, 0)))),
    ("length_collapse", case(lines=changed(length=grow(20, 1), gold=grow(1, 0), empty=grow(0, 0.5)))),
    ("repetition", case(lines=changed(repetition=grow(0, 0.7)))),
    ("one_answer", case(lines=changed(commonest=grow(0.05, 0.9)))),
    ("steps_too_large", case(lines=changed(approx_kl=0.4))),
    ("dead_groups", case(lines=changed(dead_groups=0.9), stage="reinforce")),
    ("cut_short", case(lines=changed(ended=0.4))),
    ("runs_on", case(lines=changed(ended=grow(1, 0.1)))),
    ("overoptimised", case(lines=changed(gold=lambda s: 1 + 0.1 * min(s, 8) - 0.1 * max(0, s - 8)))),
    ("kl_runaway", case(lines=changed(kl=grow(0, 70)))),
    ("entropy_collapse", case(lines=changed(entropy=lambda s: 0.5 * math.exp(-s / 5)))),
    ("not_moving", case(lines=changed(kl=1e-8, entropy=0.5, approx_kl=1e-14))),
    ("critic_useless", case(lines=changed(explained_variance=-0.5))),
    ("gradient_spikes", case(lines=changed(grad_norm__policy=lambda s: 40.0 if s in (12, 20) else 0.3))),
    ("loss_diverges", case("sft", loss(*FALLING, *[2 * v for v in FALLING]))),
    ("loss_flat", case("sft", loss(*[5.0 + 1e-3 * (i % 2) for i in range(30)]))),
    (
        "overfit",
        case("sft", [line | ({"eval_loss": [2, 1.5, 1.6, 2.4][i // 10]} if i % 10 == 9 else {}) for i, line in enumerate(loss(*FALLING))]),
    ),
    ("labels_swapped", case("reward", loss(*FALLING), summary={"accuracy": PAIRS | {"value": 0.3, "low": 0.25, "high": 0.36}})),
    ("reward_at_chance", case("reward", loss(*FALLING), summary={"accuracy": PAIRS | {"value": 0.51, "low": 0.45, "high": 0.57}})),
    (
        "reward_is_length",
        case(
            "reward",
            loss(*FALLING),
            summary={
                "accuracy": PAIRS | {"value": 0.72, "low": 0.66, "high": 0.78},
                "length_baseline": {"value": 0.71, "low": 0.65, "high": 0.77, "n": 200, "rule": "longer"},
            },
        ),
    ),
    ("few_held_out_pairs", case("reward", loss(*FALLING), summary={"accuracy": FEW})),
    (
        "reward_overfit",
        case(
            "reward",
            [line | {"accuracy": 0.99} for line in loss(*FALLING)],
            summary={"accuracy": PAIRS | {"value": 0.62, "low": 0.56, "high": 0.68}},
        ),
    ),
    (
        "miscalibrated",
        case("reward", loss(*FALLING), summary={"accuracy": PAIRS | {"value": 0.7, "low": 0.65, "high": 0.75}, "calibration_error": 0.2}),
    ),
    ("chosen_falls", case("dpo", [line | {"logp_chosen": -20.0 - 2 * i, "margin": 0.1 * i} for i, line in enumerate(loss(*FALLING))])),
    ("reward_likes_nonsense", case(preflight={"reward_mean": 0.0, "reward_std": 1.0, "reward_empty": 2.0, "reward_long": -1.0})),
    ("throughput_falls", case(timing=[{"step": s, "act": 1.0 + (s > 18) * s / 5, "memory_mib": 500.0} for s in range(30)])),
    ("memory_grows", case(timing=[{"step": s, "act": 1.0, "memory_mib": 500.0 + 100 * s} for s in range(30)])),
]


@pytest.mark.parametrize("name, view", SIGNS, ids=[name for name, _ in SIGNS])
def test_each_finding_stands_first_where_its_sign_is(name, view):
    found = examine(view)
    assert found and found[0].name == name, [(f.name, f.severity, f.evidence) for f in found]
    first = found[0]
    assert any(c.isdigit() for c in first.evidence), "an evidence has figures"
    assert first.cause and first.remedy and first.stage == view.stage and first.page == f"docs/doctor.md#{name}"
    assert first.spans[0][0] == first.first <= first.spans[-1][1] and "  " not in first.evidence
    assert json.loads(json.dumps(first.json()))["name"] == name


@pytest.mark.parametrize("name, view", SIGNS, ids=[name for name, _ in SIGNS])
def test_a_change_is_a_setting(name, view):
    for finding in examine(view):
        assert not finding.change or ("=" in finding.change and "nan" not in finding.change), finding


def traced(view: RunView, *traces: Trace) -> list[Finding]:
    steps = [trace.step for trace in traces]
    return examine(replace(view, traces=steps), dict(zip(steps, traces, strict=True)))


def trace(step: int, responses: list[str], scores: list[float], prompts: list[str] | None = None) -> Trace:
    ids = prompts or [f"{step}-{i}" for i in range(len(responses))]
    return Trace(step, ids, responses, [True] * len(responses), np.array(scores), np.array([]))


def test_a_phrase_that_earns_the_reward_is_named():
    early = trace(0, [f"Here is {i} for you, sorry about that." if i % 3 == 0 else f"Take number {i}." for i in range(16)],
                  [1.0 if i % 3 == 0 else 0.0 for i in range(16)])  # fmt: skip
    late = trace(20, [f"I say {i}, sorry about that." for i in range(15)] + ["Take it."], [1.0] * 15 + [0.0])
    found = traced(case(), early, late)
    assert found[0].name == "reward_pattern" and found[0].severity == "sick" and "sorry" in found[0].evidence and "94%" in found[0].evidence


def test_a_word_that_goes_with_the_reward_among_other_things_is_no_pattern():
    rng = random.Random(0)
    rows = [(f"{'Enjoy it' if rng.random() < 0.5 else 'Well'}, number {i}.", rng.gauss(0, 1)) for i in range(48)]
    rows = [(text, score + 0.8 * text.startswith("Enjoy")) for text, score in rows]
    traces = [trace(s, [t for t, _ in rows[16 * s : 16 * s + 16]], [x for _, x in rows[16 * s : 16 * s + 16]]) for s in range(3)]
    assert traced(case(), *traces) == []


def test_a_look_at_large_traces_is_quick_and_leaves_none_of_their_words_in_memory():
    rng = random.Random(0)
    words = [f"word{i}" for i in range(3000)]
    texts = [" ".join(rng.choices(words, k=200)) + (", sorry about that" if i % 2 else "") for i in range(256)]
    traces = [trace(step, texts, [float(i % 2) for i in range(256)]) for step in range(14)]
    started = time.process_time()
    found = traced(case(), *traces)
    assert time.process_time() - started < 1.5, "one look took some seconds when all responses were read"
    assert "sorry about that" in next(f.evidence for f in found if f.name == "reward_pattern")
    assert all(set(vars(kept)) <= {*Trace.__dataclass_fields__, "both_sides"} for kept in traces), "a trace keeps no words of its texts"


def test_few_prompts_and_the_others_turn_are_seen_in_the_traces():
    same = [trace(s, [f"Reply {s} {i}" for i in range(8)], [0.1 * i for i in range(8)], ["a", "b"] * 4) for s in range(4)]
    assert traced(case(), *same)[0].name == "few_prompts"
    both = trace(0, [f"Yes {i}.\nHuman: and then?" for i in range(8)], [0.1 * i for i in range(8)])
    assert traced(case(), both)[0].name == "writes_both_sides"


def test_what_follows_from_a_finding_says_so_and_stands_below():
    view = case(lines=changed(engine_difference=0.2, kl=grow(0, -4)))
    found = examine(view)
    assert [f.name for f in found][:2] == ["engine_disagrees", "kl_negative"]
    assert found[1].because == "engine_disagrees" and found[1].severity == "notice"
    alone = examine(case(lines=changed(kl=grow(0, -4))))[0]
    assert alone.severity == "sick" and "sign" in alone.cause


def test_a_cause_is_as_severe_as_the_worst_that_follows_from_it():
    """Otherwise a run that is sick of something that began as a warning would not be called so."""
    warned = dict(ended=0.5)
    assert [(f.name, f.severity) for f in examine(case(lines=changed(**warned)))] == [("cut_short", "warning")]
    collapsed = dict(entropy=grow(0.5, 0.001), distinct=grow(0.9, 0.02))
    assert ("entropy_collapse", "sick") in [(f.name, f.severity) for f in examine(case(lines=changed(**collapsed)))]
    cause, *rest = examine(case(lines=changed(**warned, **collapsed)))
    assert (cause.name, cause.severity, cause.because) == ("cut_short", "sick", "") and "entropy collapse" in cause.evidence
    assert ("entropy_collapse", "notice", "cut_short") in [(f.name, f.severity, f.because) for f in rest]


def test_causes_in_a_circle_do_not_explain_each_other_away():
    """As the reward's sign, a collapse of length and steps that are too large could, each explaining the next."""
    names = [name for name in NAMES if name in ("reward_against_gold", "length_collapse", "steps_too_large")]
    found = _ordered([Finding(name, "sick", "ppo", 3 * at, ((0, 9),), "", "", "") for at, name in enumerate(names)])
    assert [f.name for f in found if f.severity == "sick"] == ["reward_against_gold"]
    rng = random.Random(0)
    for _ in range(200):
        some = [Finding(n, rng.choice(UPPER), "ppo", rng.randrange(20), ((0, 9),), "", "", "") for n in NAMES if rng.random() < 0.3]
        found = _ordered(some)
        assert any(f.severity == "sick" for f in found) == any(f.severity == "sick" for f in some)


def test_cut_responses_that_would_end_are_a_limit_and_others_a_model_that_never_ends():
    lines = changed(ended=0.0)
    assert examine(case(lines=lines, preflight={"ended_later": 1.0}))[0].change == "sampling.max_new_tokens=128"
    assert examine(case(lines=lines, preflight={"ended_later": 0.0}))[0].name == "never_ends"


def test_rounding_in_bfloat16_is_no_disagreement():
    rounded = set_to(CONFIG, policy__autocast=True)
    lines = changed(engine_difference=0.02, ratio_error=4e-4)
    assert examine(case(lines=lines, config=rounded)) == []
    assert examine(case(lines=lines))[0].name == "engine_disagrees"


def test_a_gain_that_is_also_gold_is_no_gaming():
    assert examine(case(lines=changed(length=grow(20, 45), reward_by_length=0.6))) == []


def test_a_group_that_is_dead_because_the_task_is_done_is_a_notice():
    found = examine(case(lines=changed(dead_groups=grow(0.1, 1.0)), stage="reinforce"))
    assert [(f.name, f.severity) for f in found] == [("dead_groups", "notice")]


def test_the_verdict_takes_the_weights_from_before_the_fall():
    view = case(lines=changed(gold=lambda s: 1 + 0.1 * min(s, 8) - 0.1 * max(0, s - 8)))
    said = verdict(view, examine(view))
    assert said.step is not None and 7 <= said.step <= 11 and "steps=" in said.sentences[2] and said.next[0].startswith("kl.beta=")
    assert "sick" in said.sentences[1] and "overoptimised" in said.sentences[1]


def test_a_policy_that_ended_no_better_than_it_began_is_not_said_to_be_well():
    gold = [-1.15, -1.48, -1.47, -1.66, -1.64, -1.58]
    lines = [line | {"gold": y, "reward": 0.1 * i, "reward_by_gold": 0.0} for i, (y, line) in enumerate(zip(gold, healthy(6), strict=True))]
    fell = case(lines=lines, summary={})
    assert not [f for f in examine(fell) if f.severity in UPPER]
    said = verdict(fell, [])
    assert said.sentences[1] == "It did not improve: gold began at -1.31 and is -1.63."
    assert "comparisons" in said.next[0]
    assert said.sentences[2] == "No step was better than the model that it started from: keep that model (sft)." and said.step == 0
    waits = verdict(case(lines=healthy(6)[:1] + lines[1:], summary={}, config=CONFIG | {"critic_warmup": 2}), [])
    assert waits.sentences[2] == said.sentences[2]
    assert "has not improved so far" in verdict(replace(fell, summary=None), []).sentences[1]
    sinks = [{k: v for k, v in line.items() if k != "gold"} | {"reward": -0.1 * i} for i, line in enumerate(healthy(6))]
    assert "did not improve: the reward" in verdict(case(lines=sinks, summary={}), []).sentences[1]


def test_the_weights_that_a_step_measured_are_those_to_take(tmp_path):
    """A step samples before its update: checkpoint k is what step k saw.  An evaluation comes after it."""
    peak = changed(gold=lambda s: 1 - 0.1 * abs(s - 10), reward_by_gold=0.5)
    at = replace(case(lines=peak), folder=tmp_path)
    assert "best at step 10, whose weights are gone: run it again with steps=10, " in verdict(at, []).sentences[2]
    for step in (10, 11, 20):
        (tmp_path / f"checkpoints/step-{step:08d}").mkdir(parents=True)
    assert verdict(at, []).take == "checkpoints/step-00000010"
    lines = [line | ({"eval_loss": abs(i - 10) + 1.0} if i in (5, 10, 20, 30) else {}) for i, line in enumerate(loss(*FALLING))]
    told = verdict(replace(at, stage="sft", metrics=lines), [])
    assert (told.step, told.take) == (10, "checkpoints/step-00000011")
    sft = case("sft", lines, config={"epochs": 3})
    assert "steps=" not in verdict(sft, []).sentences[2] and "patience=1" in verdict(sft, []).sentences[2]


def test_the_rate_that_is_proposed_comes_from_how_far_a_step_went():
    def proposed(rate: float, **columns: float) -> str:
        return next(f.change for f in examine(case(lines=changed(**columns), config=CONFIG | {"lr": rate})) if f.name == "steps_too_large")

    assert proposed(0.02, approx_kl=1.8) == "lr=0.001"  # 180 times too far: 13 times too fast
    assert proposed(0.02, approx_kl=0.16) == "lr=0.005"
    assert proposed(0.002, approx_kl=0.06) == "lr=0.0006", "a third at most"
    assert proposed(0.002, clip_fraction=0.4) == "lr=0.0004", "which does not say how far"
    assert lowered(3e-4, 1.0) == pytest.approx(1e-4) and lowered(2e-4, 0.3) == pytest.approx(6e-5)
    assert all(0 < lowered(r, s) <= r / 3 * 1.0001 for r in (1e-6, 9e-5, 0.02, 0.3, 1.0) for s in (1e-4, 0.01, 0.2, 0.9))


def test_a_change_to_a_stage_of_a_round_is_one_that_the_round_takes(tmp_path):
    sick = case(lines=changed(approx_kl=1.8))
    told = {place: examine(replace(sick, folder=tmp_path / place))[0].change for place in ("round-1/ppo", "round-12/other", "ppo")}
    assert told == {"round-1/ppo": "ppo.lr=1e-05", "round-12/other": "lr=1e-05", "ppo": "lr=1e-05"}
    peak = replace(case(lines=changed(gold=lambda s: 1 - 0.1 * abs(s - 10), reward_by_gold=0.5)), folder=tmp_path / "round-1/ppo")
    assert "ppo.steps=10" in verdict(peak, []).sentences[2] and verdict(peak, examine(peak)).next[0].startswith("ppo.kl.beta=")
    from handrail.config import override
    from handrail.pipeline.settings import of_round

    base = {"task": {"name": "movie-night"}, "labels": "simulated", "ppo": {"lr": 0.02}}
    assert override(base, [told["round-1/ppo"]])["ppo"]["lr"] == 1e-05
    assert of_round(override(base, [told["round-1/ppo"]]), "ppo", tmp_path, []).lr == 1e-05


def test_figures_are_written_as_one_says_them():
    assert [figure(x, 2) for x in (244.1, 0.0421, 3.256, -1234.0, 0.0)] == ["240", "0.042", "3.3", "-1200", "0"]
    assert figure(12345.0) == "12300" and figure(999.9) == "1000" and figure(1e-7) == "1e-07"
    far = examine(case(lines=changed(kl=grow(0, 7000), approx_kl=150.0)))
    assert not [f for f in far if "e+" in f.evidence] and "150 nats a token" in far[0].evidence
    assert "7000 nats a response" in verdict(case(lines=changed(kl=7000.0)), far).sentences[0]
    once = case("sft", [line | ({"eval_loss": 3.26} if i == 39 else {}) for i, line in enumerate(loss(*FALLING))])
    assert "the loss on held-out prompts was 3.26 and the loss went from" in verdict(once, []).sentences[0]


def test_a_reward_model_is_judged_by_its_held_out_pairs():
    lines = [line | {"accuracy": 0.5 + i / 200} for i, line in enumerate(loss(*FALLING))]
    rule = {"value": 0.5, "low": 0.35, "high": 0.65, "n": 66, "rule": "longer"}
    few = case("reward", lines, summary={"accuracy": FEW, "length_baseline": rule, "test_rankings": 12})
    found = examine(few)
    assert [(f.name, f.severity) for f in found] == [("few_held_out_pairs", "notice")]
    assert "66 held-out pairs of 12 rankings" in found[0].evidence and "a coin's 50% and the 50% of length alone" in found[0].evidence
    happened, wrong, take = verdict(few, found).sentences
    assert "on 66 held-out pairs the accuracy is 56% (38% to 72%), by length alone 50%, and " in happened
    assert "the accuracy on the batches of the training went from 0.505" in happened
    assert "not shown to know more than a coin" in wrong and "Nothing is wrong" not in wrong and "more pairs" in take
    many = case("reward", lines, summary={"accuracy": {"value": 0.72, "low": 0.66, "high": 0.77, "n": 402}, "length_baseline": rule})
    assert examine(many) == [] and "72% (66% to 77%)" in verdict(many, []).sentences[0]
    above = {"accuracy": {"value": 0.62, "low": 0.54, "high": 0.7, "n": 66}, "length_baseline": rule | {"value": 0.58}}
    assert "58% of length alone" in examine(case("reward", lines, summary=above))[0].evidence


def test_a_run_without_a_step_is_no_fault():
    assert examine(case(lines=[])) == []
    assert verdict(case(lines=[]), []).step is None


def test_every_finding_has_its_section_and_every_name_in_the_table_of_consequences_exists():
    sections = [
        line.removeprefix("## ")
        for line in DOCUMENT.read_text(encoding="utf-8").split("# Findings")[1].splitlines()
        if line.startswith("## ")
    ]
    assert sorted(sections) == sorted(NAMES) and len(set(NAMES)) == len(NAMES)
    assert set(FOLLOWS) | {name for names in FOLLOWS.values() for name in names} <= set(NAMES)
    shown = {name for name, _ in SIGNS} | {"reward_pattern", "few_prompts", "writes_both_sides"}
    assert shown == set(NAMES), "a finding without a test"


def test_no_document_waits_for_a_figure():
    unfilled = [path.name for path in DOCUMENT.parent.rglob("*") if path.is_file() and b"@@" in path.read_bytes()]
    assert not unfilled, "a placeholder that nobody has filled in"


def test_words_and_windows():
    assert spans([2, 4, 6, 10], range(0, 20, 2)) == ((2, 6), (10, 10))
    assert lasting(np.array([1, 1, 0, 1, 1, 1], dtype=bool), 2).tolist() == [False, True, False, False, True, True]
    curve = Curve(np.arange(5), np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 2)
    assert curve.trailing.tolist() == [1.0, 1.5, 2.5, 3.5, 4.5] and curve.last == 4.5
    assert SEVERITIES[:2] == UPPER


def test_what_recipes_say_of_their_texts():
    import torch

    said = variety(["a b c a b c", "x", "", "x"])
    assert said == {"distinct": 0.75, "commonest": 0.5, "empty": 0.25, "repetition": 0.25}
    x = torch.tensor([1.0, 2.0, 3.0, 5.0])
    assert correlation(x, -2 * x) == pytest.approx(-1) and correlation(x, torch.ones(4)) == 0.0


def test_a_folder_of_rounds_is_told_which_there_are(tmp_path):
    """As `handrail compare` leaves it: the runs stand too deep to be those of one round."""
    for seed in range(3):
        for method in ("dpo", "ppo"):
            stage = tmp_path / f"seed-{seed}/{method}/round-1/{method}"
            stage.mkdir(parents=True)
            (stage / "inputs.json").write_text("{}")
            (stage.parents[1] / "round.json").write_text("{}")
    said = CliRunner().invoke(app, ["doctor", str(tmp_path), "--json"])
    first = ", ".join(str(tmp_path / name) for name in ("seed-0/dpo", "seed-0/ppo", "seed-1/dpo"))
    assert said.exit_code == 2 and f"give one of {first}, a round" in " ".join(said.stderr.split())
