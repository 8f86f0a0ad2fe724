"""Checks on how the policy and the critic move, and on what the machine does meanwhile."""

import math

import numpy as np

from handrail.doctor.case import Case, Curve, lasting
from handrail.doctor.finding import Held, figure

USUAL, STEP, STEP_SICK = 0.01, 0.05, 0.2  # nats a token that a step's updates move the policy; PPO is at home below the first
UNKNOWN, LEAST = 1 / 5, 1 / 3  # of the learning rate: where nothing says by how much it is too high; what a proposal is at most
CLIPPED, CLIPPED_SICK = 0.35, 0.5  # share of tokens without a gradient
JUMP = 0.25  # nats a token by which the divergence changes from a step to the next
FAR, FAR_SICK = 1.0, 2.0  # nats a token from the reference: e to 7 times as likely as there, at every token
SHORTEST = 8.0  # tokens: of a shorter response a divergence a token says little
TIGHT, TIGHT_SICK = 0.3, 0.1  # the reward's spread over beta; at most so many spreads can be gained
STILL, STILL_SICK = 1e-3, 1e-6  # nats a response from the reference after a fifth of the run
USELESS = -0.1  # of the returns' variance; a critic that says the same everywhere is at 0, give or take some hundredths
CRITIC_FROM = 8  # steps for a critic to find the scale; one that starts from the reward model is below 0 for 4
SPIKE, SPIKES, BEFORE = 10.0, 2, 5  # times the median of the 5 norms before; once may be chance
COLLAPSED, COLLAPSED_SICK = 0.25, 0.1  # of the entropy at the start; a policy that learns well keeps a half
STEADY = 1.3  # from a third of the run to the next: a neighbour on the machine comes and goes
SLOW, SLOW_WARNING = 1.8, 3.0  # times the seconds of the first third; a neighbour on the machine doubles them
SHORT = 0.9  # of the memory there is: the rest is for what grows during a run
GROWN, GROWN_WARNING = 1.3, 2.0  # times the memory after a third of the run


def steps_too_large(case: Case) -> Held | None:
    """A step moves the policy further than a batch can justify."""
    signs: list[tuple[Curve, float, float, str]] = []
    if (moved := case.curve("approx_kl", 2)) is not None:
        signs.append(
            (
                moved,
                STEP,
                STEP_SICK,
                f"the updates of a step move the policy by {figure(moved.trailing.max(), 2)} nats a token; below {USUAL} is usual",
            )
        )
    if (clipped := case.curve("clip_fraction", 2)) is not None:
        signs.append((clipped, CLIPPED, CLIPPED_SICK, f"{clipped.trailing.max():.0%} of the tokens are beyond the clip and learn nothing"))
    if (found := case.together("kl", "length", least=3)) is not None:
        kl, length = found
        jump = np.abs(np.diff(kl.values, prepend=kl.values[0])) / np.maximum(length.values, SHORTEST)
        jumps = Curve(kl.steps, jump, kl.window)
        changes = f"the divergence changes by {figure(jumps.trailing.max(), 2)} nats a token from step to step"
        signs.append((jumps, JUMP, 2 * JUMP, changes))
    held = [(curve, curve.trailing > bound, curve.trailing.max() > sick, said) for curve, bound, sick, said in signs]
    held = [sign for sign in held if lasting(sign[1], 2).any()]
    if not held:
        return None
    steps = sorted({step for curve, where, _, _ in held for step in curve.where(where)})
    epochs, rate = int(case.setting("epochs", 1)) * int(case.setting("minibatches", 1)), case.setting("lr")
    # The divergence grows with the square of the step.
    share = next((math.sqrt(USUAL / curve.trailing.max()) for curve, *_ in held if curve is moved), UNKNOWN)
    return Held(
        "sick" if any(sick for _, _, sick, _ in held) else "warning",
        steps,
        "; ".join(said for *_, said in held),
        f"the learning rate is too high for {epochs} update{'s' * (epochs > 1)} from each batch: what is learned overshoots",
        "lower the learning rate, or make fewer passes over a batch, or end them early with target_kl",
        f"lr={lowered(rate, share):.1g}" if rate else "",
    )


def lowered(rate: float, share: float) -> float:
    """A share of a learning rate, a third of it at most, to one significant figure."""
    exact, most = rate * min(share, LEAST), rate * LEAST * (1 + 1e-9)
    unit = 10.0 ** math.floor(math.log10(exact) + 1e-9)
    near = round(exact / unit) * unit
    return near if near <= most else near - unit


def kl_runaway(case: Case) -> Held | None:
    """The policy leaves the region that the reference, and so the reward model, knows."""
    found = case.together("kl", "length", least=3)
    if found is None:
        return None
    kl, length = found
    rate = Curve(kl.steps, kl.values / np.maximum(length.values, SHORTEST), kl.window)
    held = lasting(rate.trailing > FAR, 2)
    if not held.any():
        return None
    beta, spread = case.curve("beta"), case.curve("reward_std")
    price = f"beta is {figure(beta.last)}" if beta is not None else "nothing prices it"
    change = f"kl.beta={max(0.05 * (spread.start if spread is not None else 1.0), 2 * (beta.last if beta is not None else 0)):.1g}"
    return Held(
        "sick" if rate.trailing.max() > FAR_SICK else "warning",
        kl.where(held),
        f"the divergence is {kl.last:.1f} nats a response of {length.last:.0f} tokens, {figure(rate.last, 2)} a token; {price}",
        "the divergence costs too little beside what the reward pays: the policy goes where no reward model was trained",
        "raise beta, or let it adapt to a target",
        change,
    )


def held_too_tight(case: Case) -> Held | None:
    """The price of a nat is so high that the best policy is the reference."""
    beta, spread = case.curve("beta"), case.curve("reward_std")
    if beta is None or spread is None or case.setting("kl.target", 0) or beta.start <= 0 or spread.start <= 0:
        return None
    scale = 1.0 if case.setting("kl.placement") == "loss" else spread.start  # the loss knows whitened advantages
    ratio = scale / beta.start
    if ratio > TIGHT:
        return None
    return Held(
        "sick" if ratio < TIGHT_SICK else "warning",
        beta.where(beta.values > 0),
        f"beta is {figure(beta.start)} and the reward's spread {figure(spread.start, 2)}: the best policy at that price is about "
        f"{ratio**2 / 2:.1g} nats from the reference and gains {ratio:.1g} spreads",
        "beta is too large for this reward: pi* is the reference times exp(reward / beta), which is nearly the reference",
        "lower beta until a spread of reward is worth some nats",
        f"kl.beta={0.1 * spread.start:.1g}",
    )


def not_moving(case: Case) -> Held | None:
    """After a fifth of the run the policy is still where it began."""
    curve = case.curve("kl", 5) or case.curve("margin", 5)
    if curve is None:
        return None
    after = int(case.setting("warmup", 0)) + max(5, case.planned // 5)
    held = (np.maximum.accumulate(np.abs(curve.values)) < STILL) & (curve.steps >= after)
    if not held.any():
        return None
    lr, most = case.setting("lr", 0), float(np.abs(curve.values).max())
    return Held(
        "sick" if most < STILL_SICK else "warning",
        curve.where(held),
        f"in {case.done} steps the policy has moved {most:.1e} nats a response from the reference; lr is {lr:g}",
        "the learning rate does nothing: it is too small, or what is trained is frozen or has no gradient",
        "raise the learning rate tenfold until the divergence grows visibly in the first steps",
        f"lr={10 * lr:.1g}" if lr > 1e-7 else "lr=1e-4",
    )


def critic_useless(case: Case) -> Held | None:
    """The value function explains less than a constant would."""
    curve = case.curve("explained_variance", 5)
    if curve is None or (case.stage == "reinforce" and case.setting("baseline.kind") != "value"):
        return None
    after = max(CRITIC_FROM, int(0.25 * case.planned))
    held = lasting((curve.trailing < USELESS) & (curve.steps >= after), 3)
    if not held.any():
        return None
    rate = case.setting("critic_lr")
    return Held(
        "warning",
        curve.where(held),
        f"the value function explains {curve.last:.0%} of the returns' variance after {case.done} steps; a constant explains 0 %",
        f"the critic does not learn the returns{'' if rate is None else f': critic_lr is {rate:g}'}"
        ", or what it is to learn changes faster than it can",
        "raise the critic's learning rate, or let it learn alone first (critic_warmup)",
        f"critic_lr={max(10 * rate, 5e-4):.1g}" if rate is not None and rate < 5e-4 else "critic_warmup=5" if rate is not None else "",
    )


def gradient_spikes(case: Case) -> Held | None:
    """Gradients now and then many times their usual size."""
    found: list[tuple[str, list[int], float]] = []
    for name in (name for name in case.view.names if name.startswith("grad_norm.")):
        curve = case.curve(name, BEFORE + 1)
        if curve is None:
            continue
        first = np.full(BEFORE, np.inf)  # too few to compare with
        usual = np.median(np.lib.stride_tricks.sliding_window_view(curve.values, BEFORE), axis=1)[:-1]
        before = np.concatenate([first, usual])
        ratio = curve.values / np.maximum(before, 1e-12)
        spikes = ratio > SPIKE
        if spikes.sum() >= SPIKES or ratio.max() > SPIKE**2:
            found.append((name, curve.where(spikes), float(ratio.max())))
    if not found:
        return None
    name, steps, most = max(found, key=lambda each: each[2])
    return Held(
        "warning",
        steps,
        f"{name} rises to {most:.0f} times its usual size at {len(steps)} of {case.done} steps",
        "single batches with extreme rewards, ratios or lengths; the clip to max_grad_norm scales such a step but keeps its direction",
        "look at the traces of these steps; bound the reward, lower max_grad_norm or take larger batches",
    )


def entropy_collapse(case: Case) -> Held | None:
    """The policy hardly samples any more: nothing new can be found."""
    curve = case.curve("entropy", 4)
    if curve is None or curve.start <= 0:
        return None
    share = curve.trailing / curve.start
    held = lasting(share < COLLAPSED, 2)
    if not held.any():
        return None
    return Held(
        "sick" if share.min() < COLLAPSED_SICK else "warning",
        curve.where(held),
        f"entropy fell from {curve.start:.2f} to {curve.last:.2f} nats a token, to {curve.last / curve.start:.0%} of its start",
        "the policy has become certain of what it says, faster than it has explored",
        "raise beta or give entropy a bonus, and lower the learning rate",
        "entropy_coef=0.01" if case.setting("entropy_coef") is not None else "",
    )


def throughput_falls(case: Case) -> Held | None:
    """A token takes longer and longer."""
    lines = [line for line in case.view.timing if line["step"] > 0]  # the first step also compiles and allocates
    if len(lines) < 9:
        return None
    length = dict(zip(*case.view.column("length"), strict=True))
    step = np.array([_seconds(line) for line in lines])
    token = step / np.array([max(1.0, float(length.get(line["step"], 1.0))) for line in lines])
    third = len(lines) // 3
    # Longer responses may take longer, and shorter ones still have what a step costs anyway: both have to grow.
    thirds = (slice(third), slice(third, -third), slice(-third, None))
    first, middle, last = min(([float(np.median(x[part])) for part in thirds] for x in (step, token)), key=lambda m: m[2] / max(m[0], 1e-9))
    if not first or last / first < SLOW:
        return None
    return Held(
        "warning" if last / first > SLOW_WARNING and middle > STEADY * first and last > STEADY * middle else "notice",
        [int(line["step"]) for line in lines[-third:]],
        f"a step takes {last / first:.1f} times as long in the last third of the run as in the first, "
        f"{np.median(step[-third:]):.2f} s now, and a token too",
        "something beside the training grows or shares the machine: another process, a reward function that slows down, memory that swaps",
        "look at timing.jsonl for the part that grows, and at what else runs on the machine",
    )


def memory_grows(case: Case) -> Held | None:
    """The process takes more and more memory."""
    lines = [line for line in case.view.timing if "memory_mib" in line]
    if len(lines) < 12:
        return None
    memory = np.array([float(line["memory_mib"]) for line in lines])
    third, quarter = memory[len(memory) // 3], memory[-len(memory) // 4]
    if memory[-1] < GROWN * third or memory[-1] <= 1.02 * quarter:
        return None
    return Held(
        "warning" if memory[-1] > GROWN_WARNING * third else "notice",
        [int(line["step"]) for line in lines[len(lines) // 3 :]],
        f"the process took {third:,.0f} MiB after a third of the run and takes {memory[-1]:,.0f} MiB now",
        "responses grow, or a function of the reward keeps what it was given",
        "bound max_new_tokens or micro_tokens, and look for what a reward function keeps",
    )


def memory_short(case: Case) -> Held | None:
    """Before the first step: what the longest slice took, with the optimiser's moments, comes near what there is."""
    look = case.view.preflight
    if not look.get("memory_mib") or (share := (look["slice_mib"] + look["moments_mib"]) / look["memory_mib"]) < SHORT:
        return None
    tokens = int(look["slice_tokens"])
    return Held(
        "sick" if share > 1 else "warning",
        [0],
        f"a slice of an update at the longest lengths took {look['slice_mib']:,.0f} MiB, the optimiser's moments will take "
        f"{look['moments_mib']:,.0f} more, and there are {look['memory_mib']:,.0f}",
        "models, or slices of an update, that are too large for this machine",
        "make slices smaller or recompute layers; `handrail plan` tells what each would take",
        f"micro_tokens={max(1, tokens // 2)}",
    )


def _seconds(line: dict[str, float]) -> float:
    return float(sum(v for k, v in line.items() if k not in ("step", "time") and not k.endswith("_mib")))
