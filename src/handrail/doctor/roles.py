"""Checks that the roles are what they are taken for: the engine samples from the policy, the reference stands still."""

import math

import numpy as np

from handrail.doctor.case import Case, lasting
from handrail.doctor.finding import Held, figure

ENGINE_EXACT, ENGINE_ROUNDED = 0.01, 0.05
"""Nats a token between engine and trainer.  In float32 they differ by 1e-6, with TF32 by 1e-3, in bfloat16 by up to 0.03;
sampling at temperature 0.9 instead of 1 makes 0.05."""
KL_EXACT, KL_ROUNDED = 1e-3, 0.01  # nats a response at step 0, where the two are one network and the same forward gives exactly 0
RATIO_EXACT, RATIO_ROUNDED = 1e-4, 2e-3  # nats a token of a first update; the square of half the rounding, with room
NEGATIVE, NEGATIVE_SICK = 0.05, 1.0  # nats a response; a batch's mean scatters, a divergence is never below 0
SAME = 1e-5  # nats a response: two roles of one network; a policy that a high price holds is further away than rounding
FAR, NEAR = 0.3, 0.1  # nats a response: a policy that was FAR and is NEAR at the next step was not moved there by a gradient
MOVED_ENTROPY = 0.2  # of its start: by so much, and by 8 times the noise, entropy does not move while the weights stand still


def not_finite(case: Case) -> Held | None:
    """Numbers that are none."""
    bad = {
        int(line["step"]): name
        for line in case.view.metrics
        for name, value in line.items()
        if isinstance(value, float) and not math.isfinite(value)
    }
    if not bad:
        return None
    names = ", ".join(sorted(set(bad.values()))[:4])
    return Held(
        "sick" if len(bad) > 2 or case.view.metrics[-1]["step"] in bad else "warning",
        sorted(bad),
        f"{len(bad)} of {case.done} steps have numbers that are not finite, in {names}; no update was made there",
        "the loss overflows: a learning rate that is too high, products in bfloat16, or a reward without bounds",
        "look at the batches kept in bad-batches/, then lower the learning rate; in bfloat16 try float32 once",
        _third(case, "lr"),
    )


def engine_stale(case: Case) -> Held | None:
    """The engine agrees at first and drifts away as the policy moves."""
    curve = case.curve("engine_difference", 2)
    allowed = _engine_allowed(case)
    if curve is None or curve.values[0] > allowed:
        return None
    held = lasting(curve.values > allowed, 2)
    if not held.any():
        return None
    return Held(
        "sick" if curve.values.max() > 3 * allowed else "warning",
        curve.where(held),
        f"the engine's log-probabilities were {figure(curve.values[0], 2)} nats a token from the trainer's at step {curve.steps[0]} "
        f"and are {figure(curve.values[-1], 2)} now, where {allowed:g} is rounding",
        "the engine samples with weights that are not the policy's any more: it is not told of updates",
        "synchronise the engine after each update; an engine that works ahead needs an objective with a ratio",
    )


def engine_disagrees(case: Case) -> Held | None:
    """The engine's law is not the one that is trained."""
    allowed = _engine_allowed(case)
    curve = case.curve("engine_difference")
    first = case.view.preflight.get("engine_difference", 0.0) if curve is None else float(curve.values[0])
    if first <= allowed:
        return None
    steps = [0] if curve is None else curve.where(curve.values > allowed)
    temperature = case.setting("sampling.temperature", 1.0)
    return Held(
        "sick" if first > 3 * allowed else "warning",
        steps,
        f"at the first step the engine's log-probabilities differ from the trainer's by {figure(first, 2)} nats a token, "
        f"where {allowed:g} is rounding{'' if case.exact else ' in bfloat16'}; sampling.temperature is {temperature:g}",
        "engine and trainer compute another law: another temperature, a cut (top_p, top_k), other positions, padding on the "
        "other side, another template or another precision",
        "make both the same; `handrail show tokens` shows what the trainer reads, `handrail selftest` whether the built-in engine agrees",
    )


def reference_differs(case: Case) -> Held | None:
    """At step 0 the policy is the reference, so their divergence is 0."""
    curve = case.curve("kl")
    kl = case.view.preflight.get("kl", 0.0)
    kl = float(curve.values[0]) if curve is not None and curve.steps[0] == 0 else kl
    if abs(kl) <= (KL_EXACT if case.exact else KL_ROUNDED) or case.setting("ratings"):
        return None
    return Held(
        "sick",
        [0],
        f"at step 0, before any update, the divergence from the reference is {kl:+.4f} nats a response; it should be 0",
        "the reference is not the model that the policy starts from, or one of them is run with dropout",
        "start the policy from the very weights that the reference has, and keep dropout off",
    )


def reference_moves(case: Case) -> Held | None:
    """The policy moves and its distance to the reference does not, or falls in a jump."""
    found = case.together("kl", "entropy", least=4)
    if found is None:
        return None
    kl, entropy = found
    near = np.abs(kl.values) < SAME
    learnt = case.curve("approx_kl")
    if learnt is not None and len(learnt) == len(kl) and learnt.values.any():  # one update a step is measured before it moves
        moved = np.cumsum(learnt.values) > KL_ROUNDED
    else:
        moved = np.abs(entropy.trailing - entropy.start) > max(MOVED_ENTROPY * abs(entropy.start), 8 * entropy.noise)
    still = lasting(near & moved, 3)
    jumps = np.concatenate([[False], (kl.values[:-1] > FAR) & (np.abs(kl.values[1:]) < NEAR * np.minimum(1, kl.values[:-1] / FAR))])
    if not still.any() and jumps.sum() < 2:
        return None
    walked = f", and updates of {figure(float(np.sum(learnt.values)), 2)} nats a token in all" if learnt is not None else ""
    return Held(
        "sick",
        kl.where(still if still.any() else jumps),
        f"the policy moves (entropy {entropy.start:.2f} to {entropy.last:.2f} nats a token{walked}) but its divergence from the reference "
        + (f"is {kl.last:.1e} nats a response" if still.any() else f"falls to about 0 at {int(jumps.sum())} steps"),
        "the reference moves with the policy: they share weights, or it is replaced while the run goes on",
        "hold the reference frozen for the whole run; only then does beta hold the policy near its start",
    )


def ratio_off(case: Case) -> Held | None:
    """At the first update of a step the ratio is 1."""
    curve = case.curve("ratio_error", 2)
    allowed = RATIO_EXACT if case.exact else RATIO_ROUNDED
    if curve is None or case.setting("ratings"):
        return None
    held = lasting(curve.values > allowed, 2)
    if not held.any():
        return None
    return Held(
        "sick" if curve.trailing.max() > 10 * allowed else "warning",
        curve.where(held),
        f"before the first update of a step the policy already differs from the one that was judged, by {figure(curve.trailing.max(), 2)} "
        "nats a token; it should be 0",
        "the update computes log-probabilities in another way than the judge: dropout is on, or another temperature, mask or adapter",
        "switch dropout off for every role, and score with the forward that is trained",
    )


def kl_negative(case: Case) -> Held | None:
    """A divergence is never negative; its estimate only by chance."""
    curve = case.curve("kl", 3)
    if curve is None or case.setting("ratings"):
        return None
    bound = -max(NEGATIVE, 4 * curve.noise)
    held = lasting(curve.trailing < bound, 2)
    if not held.any():
        return None
    engine = case.curve("engine_difference")
    agrees = engine is not None and engine.values.max() <= _engine_allowed(case)
    cause = (
        "the engine agrees with the trainer, so it is the divergence itself: its sign, or policy and reference swapped, "
        "or a mask that leaves out tokens"
        if agrees
        else "the responses are not samples of the policy whose log-probabilities are taken: see the engine's difference"
    )
    return Held(
        "sick" if curve.trailing.min() < -NEGATIVE_SICK or agrees else "warning",
        curve.where(held),
        f"the divergence from the reference is {curve.trailing.min():+.2f} nats a response over {curve.window} steps, "
        f"and chance explains {bound:+.2f} at most",
        cause,
        "a policy is rewarded for such a divergence: mend this first",
    )


def double_start(case: Case) -> Held | None:
    """A prompt begins with the same special token twice."""
    share = case.view.preflight.get("double_start", 0.0)
    if not share:
        return None
    return Held(
        "sick" if share > 0.5 else "warning",
        [0],
        f"{share:.0%} of the prompts looked at begin with the same special token twice",
        "the chat template writes the beginning of the sequence, and so does the tokenizer or the prompt itself",
        "take it out of the template or of the prompts; `handrail show tokens` shows the first batch",
    )


def _engine_allowed(case: Case) -> float:
    return ENGINE_EXACT if case.exact else ENGINE_ROUNDED


def _third(case: Case, key: str) -> str:
    """The setting at a third of what it is."""
    value = case.setting(key)
    return f"{key}={value / 3:.1g}" if value else ""
