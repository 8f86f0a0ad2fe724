"""Checks of the responses themselves: do they end, do they differ, do they repeat themselves."""

from handrail.doctor.case import Case, lasting
from handrail.doctor.finding import Held

CUT, CUT_SICK = 0.7, 0.3  # share of responses that end by themselves
NEVER = 0.02
ENDS_LATER = 0.2  # share of the starting model's responses that end when they may go on four times as long
SAME, SAME_AT_START = 0.5, 0.3  # share of a step's responses that are one and the same text
REPEATED, REPEATED_SICK = 0.15, 0.3  # share of word triples that a response has said before
SPOKEN = 0.2  # share of traced responses that go on with the other's turn


def never_ends(case: Case) -> Held | None:
    """The starting model does not end its responses."""
    curve = case.curve("ended")
    if curve is None or curve.values[0] > NEVER or case.view.preflight.get("ended_later", 0.0) > ENDS_LATER:
        return None
    if "ended_later" not in case.view.preflight and len(curve) < 2:
        return None
    limit = case.setting("sampling.max_new_tokens", 0)
    later = case.view.preflight.get("ended_later")
    more = f"; allowed four times as many, {later:.0%} do" if later is not None else ""
    return Held(
        "sick",
        curve.where(curve.values <= NEVER),
        f"at the first step {curve.values[0]:.0%} of the responses end within {limit} tokens{more}",
        "the model has not learned to end: its demonstrations had no end-of-sequence token, or the template ends a turn with another "
        "token than the one that is waited for",
        "look at the end of a demonstration with `handrail show tokens --stage sft`, and train the model with ends",
    )


def cut_short(case: Case) -> Held | None:
    """The limit is lower than what the model has to say."""
    curve, length = case.curve("ended", 2), case.curve("length", 2)
    if curve is None or length is None or curve.values[0] >= CUT:
        return None
    held = lasting(curve.trailing < CUT, 2)
    if not held.any():
        return None
    limit = int(case.setting("sampling.max_new_tokens", 0))
    return Held(
        "sick" if curve.values[0] < CUT_SICK else "warning",
        curve.where(held),
        f"{curve.values[0]:.0%} of the responses ended by themselves at the first step; the limit is {limit} tokens",
        "the limit is lower than what the model has to say: what is scored are beginnings",
        "allow more tokens",
        f"sampling.max_new_tokens={2 * limit}" if limit else "",
    )


def runs_on(case: Case) -> Held | None:
    """The policy has learned not to end."""
    curve, length = case.curve("ended", 3), case.curve("length", 3)
    if curve is None or length is None or curve.values[0] < CUT:
        return None
    held = lasting(curve.trailing < CUT, 2)
    if not held.any():
        return None
    return Held(
        "sick" if curve.trailing.min() < CUT_SICK else "warning",
        curve.where(held),
        f"{curve.values[0]:.0%} of the responses ended by themselves at the first step and {curve.last:.0%} do now; "
        f"length went from {length.start:.0f} to {length.last:.0f} tokens",
        "going on pays, and an end that is missing costs too little",
        "make the end worth more, or find out what the reward pays length for",
        f"reward.end_penalty={2 * float(case.setting('reward.end_penalty', 1.0)) or 1.0:g}",
    )


def one_answer(case: Case) -> Held | None:
    """The same response to most prompts."""
    curve = case.curve("commonest", 3)
    if curve is None or curve.values[0] > SAME_AT_START:
        return None
    held = lasting(curve.trailing > SAME, 2)
    if not held.any():
        return None
    said = next((max(set(t.responses), key=t.responses.count) for t in reversed(case.traces) if t.responses), "")
    return Held(
        "sick",
        curve.where(held),
        f"{curve.last:.0%} of a step's responses are one and the same text, {curve.values[0]:.0%} were at the first step"
        + (f': "{_short(said)}"' if said else ""),
        "one response earns most whatever is asked, and nothing holds the policy back from it",
        "raise beta, and look at why the reward does not depend on the prompt",
        f"kl.beta={max(0.05, 2 * float(case.setting('kl.beta', 0.05))):.1g}",
    )


def repetition(case: Case) -> Held | None:
    """Responses say the same words again and again."""
    curve = case.curve("repetition", 3)
    if curve is None:
        return None
    held = lasting((curve.trailing > REPEATED) & (curve.trailing > 2 * curve.values[0]), 2)
    if not held.any():
        return None
    return Held(
        "sick" if curve.trailing.max() > REPEATED_SICK else "warning",
        curve.where(held),
        f"{curve.last:.0%} of a response's word triples have been said in it before; {curve.values[0]:.0%} were at the first step",
        "the reward pays for words each time that they are said, or for length, and repeating is the cheapest way",
        "count what is paid for once, raise beta, and give length a price",
    )


def few_prompts(case: Case) -> Held | None:
    """The same few prompts again and again."""
    traces = [trace for trace in case.traces if trace.prompts]
    groups = int(case.setting("responses", 1) or 1) * (int(case.setting("n", 1)) if case.stage == "best_of_n" else 1)
    if len(traces) < 2 or case.stage == "dpo":
        return None
    drawn = sum(-(-len(trace.prompts) // groups) for trace in traces)
    different = len({prompt for trace in traces for prompt in trace.prompts})
    if different * 3 > drawn or different > 16:
        return None
    return Held(
        "warning",
        list(range(traces[0].step, traces[-1].step + 1)),
        f"among {drawn} prompts of {len(traces)} traced steps there are only {different} different ones",
        "there are hardly any prompts: the policy learns these replies by heart and nothing else",
        "give more prompts; some hundreds at least",
    )


def writes_both_sides(case: Case) -> Held | None:
    """Responses go on with the user's turn."""
    found = {trace.step: trace.both_sides for trace in case.traces}
    steps = [step for step, share in found.items() if share > SPOKEN]
    if not steps:
        return None
    return Held(
        "sick" if found[steps[-1]] > 0.5 else "warning",
        steps,
        f"{found[steps[-1]]:.0%} of the traced responses of step {steps[-1]} go on with the other's turn",
        "the end of a turn is not where the response is taken to end: another template, or an end token that is not waited for",
        "use the template that the model was trained with (template: chat or plain), or name the turn's label in sampling.stop",
        'sampling.stop=["\\nHuman:"]',
    )


def _short(text: str, limit: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
