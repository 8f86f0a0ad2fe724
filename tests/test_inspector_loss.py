"""The microscope's arithmetic against the trainer: from the numbers that are shown to the loss that was logged."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from handrail.data import ranking_batch
from handrail.inspector import slide
from handrail.inspector.arithmetic import sums
from handrail.inspector.folders import read_round, read_trace
from handrail.inspector.rewarded import pairs, read_verdicts
from handrail.inspector.server.app import create_app
from handrail.inspector.server.methods import method
from handrail.inspector.server.preference import Preference
from handrail.inspector.server.ranking import Ranking
from handrail.inspector.server.rows import name_of
from handrail.inspector.server.traces import groups
from handrail.inspector.terms import Rules
from handrail.recipes import best_of_n, ppo, reinforce, relaxed
from handrail.recipes import dpo as dpo_recipe
from handrail.recipes import reward as reward_recipe
from handrail.recipes.dpo_objectives import OBJECTIVES, Loss
from handrail.track.traces import write_trace
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


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"objective": {"kind": "ppo_clip"}, "epochs": 2, "baseline": {"kind": "group_normalised"}},
        {"baseline": {"kind": "value"}, "entropy_coef": 0.01},
    ],
    ids=["plain", "clip", "a critic"],
)
def test_the_same_of_reinforce(world, tmp_path, request, over):
    reinforce.run(world.reinforce(tmp_path / "runs/rl", SHORT | over))
    asked = client(tmp_path / "runs")
    for step, logged in enumerate(metrics(tmp_path / "runs/rl")):
        sums = asked.get("/api/sums/rl", params={"step": step}).json()
        assert sums["whole"] and sums["policy_loss"] == pytest.approx(logged["policy_loss"], rel=1e-4, abs=1e-6)
        assert (sums["value_loss"] is not None) == ("value_loss" in logged) == ("a critic" in request.node.name)
        assert (sums["value_loss"] or 0.0) == pytest.approx(logged.get("value_loss", 0.0), rel=1e-4, abs=1e-6)
    lines = {name: line for _, found in blocks(asked, "rl", 3) for name, line in found.items()}
    credit, advantage = lines["advantage"]
    assert advantage == pytest.approx((credit[0] - credit[1]) * (credit[2] if len(credit) > 2 else 1), rel=1e-4, abs=1e-5)
    if "value" in lines:
        (said, earned), error = lines["value"]
        assert earned == pytest.approx(lines["return"][1]) and error == pytest.approx(0.5 * (said - earned) ** 2, rel=1e-4)
        assert lines["loss"][1] == pytest.approx(lines["policy"][1] + error - 0.01 * lines["entropy"][1], rel=1e-4)


# --- direct preference ---

LOSSES: dict[str, dict] = {
    "dpo": {"beta": 0.3},
    "dpo, mislabelled": {"beta": 0.3, "smoothing": 0.2},
    "ipo": {"beta": 0.3},
    "orpo": {"odds_weight": 0.5, "smoothing": 0.1},
    "simpo": {"beta": 1.5, "gamma": 0.4, "smoothing": 0.1},
    "kto": {"beta": 0.3, "desirable": 1.5, "undesirable": 0.7},
}


@pytest.fixture(scope="module")
def apart(world, tmp_path_factory) -> tuple[dpo_recipe.DPO, dpo_recipe.Parts]:
    """Settings and parts of DPO whose policy is not its reference any more."""
    cfg = world.dpo(tmp_path_factory.mktemp("dpo") / "run", {"run": {"trace_rows": 64}})
    parts, _ = dpo_recipe.build(cfg)
    parts.source.prepare()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in parts.policy.parameters().values():
            parameter += 0.05 * torch.randn(parameter.shape)
    return cfg, parts


def kept(folder: Path, columns: dict[str, list]) -> list[dict]:
    """The rows of a trace as the inspector reads them from its file."""
    return [
        row | {"in_step": number}
        for number, row in enumerate(groups(write_trace(folder, 0, columns), None, list(range(len(columns["response"])))))
    ]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_of_preferences_is_what_its_responses_add_up_to(apart, tmp_path, name):
    (cfg, parts), settings = apart, {"name": name.split(",")[0], **LOSSES[name]}
    cfg = cfg.model_copy(update={"loss": Loss.model_validate(settings)})
    parts = replace(parts, objective=OBJECTIVES[cfg.loss.name](cfg.loss))
    drawn = replace(parts.source.draw(0), kl=torch.tensor(0.7))
    logged, read = dpo_recipe.gradient(cfg, parts, drawn.batch, drawn.kl)
    rows = kept(tmp_path, dpo_recipe.trace(cfg, parts, drawn, read))
    found = Preference({"loss": settings}).sums(rows)
    assert found["whole"] and found["loss"] == pytest.approx(logged["loss"], rel=1e-5)
    assert found["margin"] == pytest.approx(logged["margin"], rel=1e-4, abs=1e-6)
    for term in LOSSES[name]:
        without = Preference({"loss": {key: value for key, value in settings.items() if key != term}}).sums(rows)
        assert abs(without["loss"] - logged["loss"]) > 1e-3, f"nobody would notice if {term} were left out"
    assert not Preference({"loss": settings}).sums(rows[:-1])["whole"]


def blocks(
    asked: TestClient, run: str, row: int, token: int = 0, number: int = 0
) -> list[tuple[str, dict[str, tuple[list[float], float]]]]:
    """The steps of a derivation: of each result the numbers it was made of, and what the page says it is."""
    found = asked.get(f"/api/arithmetic/{run}", params={"row": row, "token": token, "pass": number}).json()["blocks"]
    return [(b["title"], {line["named"]: (numbers(line["numbers"]), numbers(line["value"])[0]) for line in b["lines"]}) for b in found]


def whole(asked: TestClient, run: str, row: int, name: str) -> float:
    """The sum over tokens of a quantity that a response is coloured by."""
    found = asked.get(f"/api/response/{run}", params={"row": row}).json()
    return sum(next(one["values"] for one in found["quantities"] if one["name"] == name))


def test_a_pair_can_be_followed_by_hand_from_its_tokens_to_the_loss_of_the_batch(world, tmp_path):
    over = {"epochs": 1, "lr": 0.01, "loss": {"beta": 0.3, "smoothing": 0.2}, "run": {"trace_rows": 64}}
    dpo_recipe.run(world.dpo(tmp_path / "runs/dpo", over))
    asked, logged = client(tmp_path / "runs"), metrics(tmp_path / "runs/dpo")[1]
    shown = asked.get("/api/response/dpo", params={"row": name_of(1, 0)}).json()
    rows = range(name_of(1, 0), name_of(1, shown["of_step"]))
    sums = {row: tuple(whole(asked, "dpo", row, name) for name in ("logp", "logp_ref")) for row in rows}
    assert len(rows) > 5 and all(abs(policy - reference) > 1e-3 for policy, reference in sums.values()), "the first step has moved it"
    loss = 0.0
    for row in rows:
        (_, response), *pairs = blocks(asked, "dpo", row)[1:]
        logp, reference = sums[row]
        assert (response["logp"][1], response["logp_ref"][1]) == pytest.approx((logp, reference), rel=1e-5)
        beta, *both = response["reward"][0]
        assert (beta, *both) == pytest.approx((0.3, logp, reference), rel=1e-5)
        mine = response["reward"][1]
        assert mine == pytest.approx(0.3 * (logp - reference), abs=1e-4)
        for title, lines in pairs:
            side, other = title.rsplit(" response ", 1)
            theirs, (policy, reference) = lines["other"][1], sums[name_of(1, int(other) - 1)]
            assert theirs == pytest.approx(0.3 * (policy - reference), abs=1e-4)
            won, lost = (mine, theirs) if side == "Chosen over" else (theirs, mine)
            assert lines["margin"][0] == pytest.approx([won, lost]) and lines["margin"][1] == pytest.approx(won - lost, abs=1e-5)
            right, wrong = (1 / (1 + math.exp(-x)) for x in (won - lost, lost - won))
            assert (lines["sigmoid"][1], lines["opposite"][1]) == pytest.approx((right, wrong), abs=1e-5)
            assert lines["loss"][1] == pytest.approx(-0.8 * math.log(right) - 0.2 * math.log(wrong), abs=1e-5)
            weight, again, count = lines["part"][0]
            assert again == lines["loss"][1] and lines["part"][1] == pytest.approx(weight * again / count, rel=1e-5)
            loss += lines["part"][1] if side == "Chosen over" else 0.0
    assert loss == pytest.approx(logged["loss"], rel=1e-4)


def test_the_two_of_a_pair_stand_side_by_side_and_a_ranking_is_not_cut_in_two(world, tmp_path):
    dpo_recipe.run(world.dpo(tmp_path / "runs/dpo", {"epochs": 1, "run": {"trace_rows": 7}}))
    asked = client(tmp_path / "runs")
    shown = asked.get("/api/response/dpo", params={"row": 0}).json()
    rows = [asked.get("/api/response/dpo", params={"row": row}).json() for row in range(shown["of_step"])]
    assert 4 < len(rows) <= 7 and not asked.get("/api/sums/dpo", params={"step": 0}).json()["whole"]
    for row in rows:
        beside = row["beside"]
        assert 2 <= len(beside) <= 3 and [one["row"] for one in beside if one["mine"]] == [row["row"]]
        for one in beside:
            own = dict(one["figures"])
            assert one["response"] == rows[one["row"]]["response"] and int(own["tokens"]) == len(rows[one["row"]]["tokens"])
            assert numbers(own["log π_θ(y)"])[0] == pytest.approx(whole(asked, "dpo", one["row"], "logp"), rel=1e-5)
        if len(beside) == 2:
            assert [one["heading"] for one in beside] in (["chosen", "rejected"], ["place 1", "place 1"])
        titles = [title for title, _ in blocks(asked, "dpo", row["row"])[2:]]
        assert titles and not any(title == "Others" for title in titles), "whoever it is compared with is there"


# --- best of n, and the differentiable reward ---


@pytest.mark.parametrize("weighting", ["best", "reward", "advantage"])
def test_an_imitated_response_can_be_followed_from_its_score_to_the_loss(world, tmp_path, weighting):
    over = {"steps": 1, "rounds": 1, "weighting": weighting, "beta": 0.5, "max_weight": 2.0, "sampling": {"max_new_tokens": 4}}
    best_of_n.run(world.best_of_n(tmp_path / "runs/best", over | {"run": {"trace_rows": 16}}))
    asked, (logged,) = client(tmp_path / "runs"), metrics(tmp_path / "runs/best")
    found = asked.get("/api/sums/best", params={"step": 0}).json()
    assert found["whole"] and found["updates"] == logged["updates"] == 4
    assert found["loss"] == pytest.approx(logged["loss"], rel=1e-5)
    rows = [asked.get("/api/response/best", params={"row": row}).json() for row in range(12)]
    scores = [row["scores"]["score"] for row in rows]
    total, loss = sum(math.exp(score / 0.5) for score in scores), 0.0
    for number, row in enumerate(rows):
        group = scores[number // 3 * 3 : number // 3 * 3 + 3]
        assert sorted(numbers(dict(one["figures"])["reward"])[0] for one in row["beside"]) == pytest.approx(sorted(group), rel=1e-5)
        weight = {
            "best": float(scores[number] == max(group)),
            "reward": math.exp(scores[number] / 0.5) / total,
            "advantage": min(2.0, math.exp((scores[number] - sum(group) / 3) / 0.5)),
        }[weighting]
        shown = blocks(asked, "best", number)[0][1]["weight"][1]
        assert shown == pytest.approx(weight, rel=1e-4) == row["scores"]["weight"]
        assert len(row["passes"]) == (2 if weight else 0)
        for seen in range(len(row["passes"])):
            for token in range(len(row["tokens"])):
                lines = blocks(asked, "best", number, token, seen)[1][1]
                logp = next(one["values"] for one in row["quantities"] if one["name"] == "pass_logp")[seen][token]
                assert lines["loss"][1] == pytest.approx(-weight * logp, rel=1e-4)
                assert lines["part"][0][0] == lines["loss"][1]
                loss += lines["loss"][1] / lines["part"][0][1]
    assert loss / 4 == pytest.approx(logged["loss"], rel=1e-4)


@pytest.mark.parametrize("choice", ["straight_through", "expected"])
def test_the_objective_of_the_differentiable_reward_is_written_out_as_far_as_it_goes(world, tmp_path, choice):
    over = {"steps": 2, "batch_size": 4, "beta": 0.3, "choice": choice, "sampling": {"max_new_tokens": 6}}
    relaxed.run(world.relaxed(tmp_path / "runs/relaxed", over))
    asked, logged = client(tmp_path / "runs"), metrics(tmp_path / "runs/relaxed")[1]
    found = asked.get("/api/sums/relaxed", params={"step": 1}).json()
    assert found["whole"] and logged["kl_exact"] > 1e-4
    parts = 0.0
    for row in range(name_of(1, 0), name_of(1, 4)):
        (_, reward), (_, objective) = blocks(asked, "relaxed", row)[1:]
        shown = asked.get("/api/response/relaxed", params={"row": row}).json()
        divergence = whole(asked, "relaxed", row, "kl_exact")
        assert objective["kl"][1] == pytest.approx(divergence, rel=1e-4)
        assert reward["score"][1] == pytest.approx(shown["scores"]["score_relaxed"], rel=1e-5)
        assert objective["objective"][1] == pytest.approx(reward["score"][1] - 0.3 * divergence, abs=1e-5)
        assert objective["part"][1] == pytest.approx(-objective["objective"][1] / 4, rel=1e-5)
        if choice == "straight_through":
            assert shown["scores"]["score_relaxed"] == pytest.approx(shown["scores"]["score"], abs=1e-3)
        parts += objective["part"][1]
    assert parts == pytest.approx(-(logged["reward_relaxed"] - 0.3 * logged["kl_exact"]), abs=1e-4)
    for name in ("reward_relaxed", "kl_exact"):
        assert found[name] == pytest.approx(logged[name], rel=1e-4, abs=1e-6)


# --- SFT and the reward model ---


def test_demonstrations_and_rankings_add_up_to_the_losses_of_their_runs(world):
    asked = client(world.folder)
    for run in ("sft", "reward"):
        lines = metrics(world.folder / run)
        for step in (0, len(lines) - 1):
            sums = asked.get(f"/api/sums/{run}", params={"step": step}).json()
            if run == "reward" or sums["whole"]:
                assert sums["whole"] and sums["loss"] == pytest.approx(lines[step]["loss"], rel=1e-4)
    row = asked.get("/api/response/sft", params={"row": 0}).json()
    losses = [blocks(asked, "sft", 0, token)[0][1]["loss"][1] for token in range(len(row["tokens"]))]
    assert row["quantities"][0]["values"] == pytest.approx([-x for x in losses], rel=1e-5)


OF_RANKINGS: dict[str, dict] = {
    "pairs": {"label_smoothing": 0.1, "margin_per_point": 0.2, "token_weight": 0.5, "centring": 0.3},
    "plackett_luce": {"margin_per_point": 0.2, "token_weight": 0.5, "centring": 0.3},
}


@pytest.mark.parametrize("loss", OF_RANKINGS)
def test_every_term_of_a_reward_models_loss_is_in_what_is_written_out(world, tmp_path, loss):
    """Of an ensemble, on rankings with ties, margins, weights and points."""
    lines = [json.loads(line) for line in (world.folder / "rankings.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines):
        places = line["places"] if number % 3 else [1] * (len(line["places"]) - 1) + [2]
        line |= {"places": places, "scores": [-1.5 * place for place in places], "margin": 0.25 * (number % 2), "weight": 1 + number % 2}
    (tmp_path / "rankings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    over = {"data": {"path": str(tmp_path / "rankings.jsonl")}, "loss": loss, "heads": 2, "run": {"trace_rows": 64}}
    cfg = world.reward(tmp_path / "run", over | OF_RANKINGS[loss])
    parts, _ = reward_recipe.build(cfg)
    batch = ranking_batch(parts.codec, parts.train[:5], parts.model.context)
    logged, read = reward_recipe.gradient(cfg, parts, batch, list(range(5)))
    rows = kept(tmp_path / "tokens", reward_recipe.trace(cfg, parts, batch, list(range(5)), read))
    config = cfg.model_dump(mode="json")
    assert Ranking(config).sums(rows)["loss"] == pytest.approx(logged["loss"], rel=1e-5)
    for term in ("token_weight", "centring", "label_smoothing"):
        if config[term]:
            assert abs(Ranking(config | {term: 0.0}).sums(rows)["loss"] - logged["loss"]) > 1e-3, term
    for column, nothing in (("lead", 0.0), ("margin", 0.0), ("member_weights", [1.0, 1.0])):
        assert abs(Ranking(config).sums([row | {column: nothing} for row in rows])["loss"] - logged["loss"]) > 1e-3, column
    parts_of_all = 0.0
    for group in (g for n in range(5) if (g := [row for row in rows if row["group"] == n])):
        for member in range(2):
            *_, last = Ranking(config).written(group[0], group, 0, member)
            parts_of_all += numbers(last.lines[-1].value)[0] / 2
    assert parts_of_all == pytest.approx(logged["loss"], rel=1e-4)


def test_a_trace_of_an_earlier_version_says_so_and_breaks_nothing():
    row = {"tokens": ["a", "b"], "logp": [-1.0, -2.0], "wins": 1.0, "losses": 0.0, "score": 1.0, "weight": 1.0}
    for stage in ("dpo", "best_of_n", "relaxed", "ppo"):
        its = method(stage, {}, 0, {})
        assert its is not None and "earlier version" in its.missing(row)
        assert its.beside(row, []) == [] and not its.sums([row])["whole"]
        assert stage == "ppo" or its.written(row, [], 0, 0) == []


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
