"""The microscope's arithmetic against the trainer: from the numbers that are shown to the loss that was logged."""

import json
import math

import pytest
from fastapi.testclient import TestClient

from handrail.inspector import slide
from handrail.inspector.arithmetic import sums
from handrail.inspector.folders import read_round, read_trace
from handrail.inspector.rewarded import pairs, read_verdicts
from handrail.inspector.server.app import create_app
from handrail.inspector.server.rows import name_of
from handrail.inspector.terms import Rules
from handrail.recipes import ppo, reinforce
from inspector_world import numbers
from recipe_runs import World, make_world, metrics

SHORT = {"steps": 2, "sampling": {"max_new_tokens": 6}, "run": {"trace_rows": 8}}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def traced(world, tmp_path_factory):
    """A PPO run with everything in its loss that a loss can have, and questions to the inspector about it."""
    out = tmp_path_factory.mktemp("runs") / "ppo"
    over = {"entropy_coef": 0.01, "value_coef": 0.5, "value_clip": 0.05, "rescale_rewards": True, "gamma": 0.99}
    ppo.run(world.ppo(out, SHORT | over))
    return client(out.parent)


def client(root) -> TestClient:
    return TestClient(create_app(root), "http://127.0.0.1")


def test_a_token_can_be_followed_by_hand_from_its_reward_to_its_loss(traced):
    """Each line is computed again from the numbers that stand in it, and hands its result to the next."""
    asked = traced
    config = {"low": 0.8, "high": 1.2}
    found = asked.get("/api/response/ppo", params={"row": name_of(1, 0)}).json()
    for token in range(len(found["tokens"])):
        for number in (0, 1):
            blocks = asked.get("/api/arithmetic/ppo", params={"row": name_of(1, 0), "token": token, "pass": number}).json()["blocks"]
            lines = {line["named"]: (numbers(line["numbers"]), numbers(line["value"])[0]) for block in blocks for line in block["lines"]}
            follow(lines, token == len(found["tokens"]) - 1, config)


def follow(lines: dict[str, tuple[list[float], float]], last: bool, config: dict[str, float]) -> None:
    """The hand's arithmetic: `lines` has of each result the numbers it was made of and what the page says it is."""

    def near(name: str, value: float) -> float:
        assert lines[name][1] == pytest.approx(value, rel=1e-4, abs=2e-5), name
        return lines[name][1]

    (old, ref), _ = lines["kl"]
    kl = near("kl", old - ref)
    given = lines["reward"][0]
    assert given[1] == pytest.approx(kl, rel=1e-4, abs=1e-5)
    reward = near("reward", given[0] * given[1] + (given[2] if last else 0))
    shown, mean, std, *tiny, again = lines["rescaled"][0]
    assert shown == reward and again == mean and tiny == [10, -8]
    rescaled = near("rescaled", (reward - mean) / math.sqrt(std**2 + 1e-8) + mean)
    earned, gamma, after, value = lines["delta"][0]
    assert (earned, gamma) == (rescaled, 0.99)
    delta = near("delta", rescaled + gamma * after - value)
    _, gamma, lam, carried = lines["gae"][0]
    gained = near("gae", delta + gamma * lam * carried)
    target = near("return", gained + value)
    _, mean, std, *_ = lines["advantage"][0]
    advantage = near("advantage", (gained - mean) / math.sqrt(std**2 + 1e-8))
    now, before = lines["ratio"][0]
    assert before == old
    ratio = near("ratio", math.exp(now - before))
    bounded = near("bounded", min(max(ratio, config["low"]), config["high"]))
    policy = near("policy", -min(ratio * advantage, bounded * advantage))
    said, _, near_old, _ = lines["value"][0]
    error = near("value", 0.5 * max((said - target) ** 2, (near_old - target) ** 2))
    entropy = lines["entropy"][1]
    loss = near("loss", policy + 0.5 * error - 0.01 * entropy)
    near("part", loss / lines["part"][0][1])


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"kl": {"placement": "loss", "target": 0.0}, "objective": {"weigh": "lengths"}, "minibatches": 1},
        {"objective": {"kind": "gspo", "clip": 0.003}, "reward": {"cut": "mask"}},
        {"objective": {"kind": "ppo_penalty"}, "critic_warmup": 1},
        {"objective": {"kind": "importance"}, "reward": {"cut": "bootstrap"}},
    ],
    ids=["clip", "kl in the loss", "gspo", "penalty", "importance"],
)
def test_the_parts_of_all_tokens_are_the_loss_that_was_logged(world, tmp_path, over):
    ppo.run(world.ppo(tmp_path / "runs/ppo", SHORT | over))
    asked = client(tmp_path / "runs")
    for step, logged in enumerate(metrics(tmp_path / "runs/ppo")):
        sums = asked.get("/api/sums/ppo", params={"step": step}).json()
        if logged["updates"]:
            assert sums["whole"] and sums["updates"] == logged["updates"]
            for name in ("policy_loss", "value_loss"):
                assert sums[name] == pytest.approx(logged[name], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("over", [{}, {"objective": {"kind": "ppo_clip"}, "epochs": 2, "baseline": {"kind": "group_normalised"}}])
def test_the_same_of_reinforce(world, tmp_path, over):
    reinforce.run(world.reinforce(tmp_path / "runs/rl", SHORT | over))
    asked = client(tmp_path / "runs")
    for step, logged in enumerate(metrics(tmp_path / "runs/rl")):
        sums = asked.get("/api/sums/rl", params={"step": step}).json()
        assert sums["whole"] and sums["policy_loss"] == pytest.approx(logged["policy_loss"], rel=1e-4, abs=1e-6)
    found = asked.get("/api/arithmetic/rl", params={"row": 3, "token": 0}).json()["blocks"]
    lines = {line["named"]: (numbers(line["numbers"]), numbers(line["value"])[0]) for block in found for line in block["lines"]}
    credit, advantage = lines["advantage"]
    assert advantage == pytest.approx((credit[0] - credit[1]) * (credit[2] if len(credit) > 2 else 1), rel=1e-4, abs=1e-5)


def test_of_rated_responses_the_policy_is_the_one_that_is_trained_and_not_the_one_that_sampled(world, tmp_path):
    rated = tmp_path / "rated.jsonl"
    texts = [f"{word} film, {end}." for word in ("A good", "A bad", "No", "One more") for end in ("yes", "see it", "no")]
    rated.write_text("".join(json.dumps({"prompt": "How was it?", "response": t, "score": len(t) / 20}) + "\n" for t in texts))
    over = {"prompts": None, "reward": None, "ratings": {"path": str(rated)}, "responses": 1, "lr": 0.02}
    over |= {"objective": {"kind": "ppo_clip"}, "baseline": {"kind": "moving_average"}}
    reinforce.run(world.reinforce(tmp_path / "runs/rl", SHORT | over))
    asked, row = client(tmp_path / "runs"), name_of(1, 0)
    found = asked.get("/api/response/rl", params={"row": row}).json()
    own, old = (next(one["values"] for one in found["quantities"] if one["name"] == name) for name in ("logp", "logp_old"))
    assert max(abs(a - b) for a, b in zip(own, old, strict=True)) > 1e-3, "the first step has moved it"
    for token, held in enumerate(found["alternatives"]):
        mine = next(one["p"] for one in held["policy"] if one["id"] == found["ids"][token])
        assert mine == pytest.approx(math.exp(own[token]), rel=1e-4)
        blocks = asked.get("/api/arithmetic/rl", params={"row": row, "token": token}).json()["blocks"]
        line = next(line for block in blocks for line in block["lines"] if line["named"] == "kl")
        policy, reference = numbers(line["numbers"])
        assert policy - reference == pytest.approx(numbers(line["value"])[0], rel=1e-4, abs=2e-5)


def test_sums_have_the_value_loss_though_the_first_response_was_left_out():
    rules = Rules.of("ppo", {"objective": {"kind": "ppo_clip"}})
    seen = {"update": [0], "count": [2], "weight": [1.0], "logp": [[-1.0, -1.0]], "value": [[0.5, 1.0]]}
    row = {"advantage": [1.0, 1.0], "logp_old": [-1.0, -1.0], "logp_ref": [-1.0, -1.0], "value": [0.0, 0.0], "return": [1.0, 2.0]}
    out = row | {f"pass_{name}": [] for name in seen}
    found = sums([out, row | {f"pass_{name}": value for name, value in seen.items()}], rules, 0, 0.0)
    assert found["whole"] and found["value_loss"] == pytest.approx((0.5 * 0.25 + 0.5) / 2)


def test_the_alternatives_are_what_the_models_hold(traced):
    found = traced.get("/api/response/ppo", params={"row": 0}).json()
    for at, held in enumerate(found["alternatives"]):
        for name, own in (("policy", "logp_old"), ("reference", "logp_ref")):
            shares = [one["p"] for one in held[name]]
            assert shares[:5] == sorted(shares[:5], reverse=True) and sum(shares) <= 1 + 1e-6
            mine = next(one["p"] for one in held[name] if one["id"] == found["ids"][at])
            values = next(one["values"] for one in found["quantities"] if one["name"] == own)
            assert mine == pytest.approx(math.exp(values[at]), rel=1e-4)


def test_in_the_first_pass_of_a_step_the_policy_is_the_old_one(traced):
    found = traced.get("/api/response/ppo", params={"row": 2}).json()
    first = [one for one in found["passes"] if one["update"] == 0]
    ratios = next(one["values"] for one in found["quantities"] if one["name"] == "ratio")
    for number, one in enumerate(found["passes"]):
        largest = max(abs(x) for x in ratios[number])
        assert largest < 1e-5 if one in first else largest > 1e-4


def test_the_report_writes_out_what_the_microscope_does(traced):
    (run,) = read_round(traced.app.state.runs.root / "ppo").last.runs
    best = slide.traced(run)[0]
    rows = read_trace(run.traces[-1])
    place = max(range(len(rows)), key=lambda i: rows[i]["score"])
    asked = {"row": name_of(best.step, place), "token": best.chosen, "pass": 99}
    blocks = traced.get("/api/arithmetic/ppo", params=asked).json()["blocks"]
    assert best.step == 1 and best.score == rows[place]["score"]
    assert [(one.title, [value for *_, value in one.lines]) for one in best.derived] == [
        (block["title"], [line["value"] for line in block["lines"]]) for block in blocks
    ]
    assert {"Divergence", "Advantage", "Clip", "Critic", "Loss"} <= {one.title for one in best.derived}


def test_the_verdicts_that_a_reward_model_leaves_are_those_that_it_was_tested_by(world):
    left = read_verdicts(world.folder / "reward")
    tested = json.loads((world.folder / "reward/summary.json").read_text())
    found = pairs(left)
    assert len(left) == tested["test_rankings"] and len(found) == tested["accuracy"]["n"]
    assert sum(pair.right for pair in found) / len(found) == pytest.approx(tested["accuracy"]["value"])
    sure = sum(pair.sure for pair in found) / len(found)
    assert sure == pytest.approx(sum(one["n"] * one["predicted"] for one in tested["calibration"]) / len(found), rel=1e-4)
