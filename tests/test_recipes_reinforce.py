"""REINFORCE and its kin as they are run: each baseline and objective, people's ratings, further rewards, a mixed-in loss."""

import json
import signal
from pathlib import Path

import pytest
import torch

from handrail.errors import HandrailError, NonFiniteError, RewardError
from handrail.models import LanguageModel, ModelSettings, ScalarModel
from handrail.pipeline.settings import of_round
from handrail.pipeline.stages import reads
from handrail.recipes import ppo, reinforce
from handrail.recipes.parts import Optimizer
from handrail.recipes.reinforce_baseline import BASELINES as BASELINES_BY_NAME
from handrail.recipes.reinforce_baseline import BaselineSettings
from killing import assert_same_run
from recipe_runs import World, in_child, make_world, metrics

BASELINES = ["none", "constant", "moving_average", "leave_one_out", "group", "group_normalised", "batch_normalised", "value"]
LETTER = """
def score(prompts, responses):
    return [response.count("e") / 4 for response in responses]

def tokens(prompts, responses, pieces):
    return [[0.0 if piece.startswith("<|") else piece.count("e") / 4 for piece in row] for row in pieces]  # but for the end

def short(prompts, responses, pieces):
    return [[0.0] * (len(row) - 1) for row in pieces]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    made = make_world(tmp_path_factory.mktemp("world"))
    (made.folder / "rewards.py").write_text(LETTER)
    return made


def first_step(cfg):
    """Parts, and the experience and totals of the first step."""
    parts, _ = reinforce.build(cfg)
    parts.eval()
    rollout, numbers = parts.source.act(parts.policy, 0)
    verdict = reinforce.judge(parts, rollout, numbers)
    return parts, verdict, *reinforce.credit(cfg, parts, rollout, verdict)


@pytest.mark.parametrize("kind", BASELINES)
def test_every_baseline_trains_and_resumes(world, tmp_path, kind):
    over = {"baseline": {"kind": kind, "constant": 0.5}, "steps": 4}
    whole = reinforce.run(world.reinforce(tmp_path / "whole", over)).folder
    lines = metrics(whole)
    assert len(lines) == 4 and lines[0]["kl"] == 0 and lines[-1]["kl"] != 0
    assert ("value_loss" in lines[0]) == (kind == "value")
    killed = tmp_path / "killed"
    work = world.work("reinforce", killed, over)
    assert in_child(work, "reinforce:3") == -signal.SIGKILL and in_child(work) == 0
    assert_same_run(killed, whole)


def test_baselines_subtract_what_they_say(world, tmp_path):
    def of(kind: str, **settings):
        return first_step(world.reinforce(tmp_path / kind, {"baseline": {"kind": kind, **settings}, "credit": "whole_return"}))

    _, verdict, plain, total = of("none")
    mask, pairs = plain.mask, total.view(-1, 2)
    assert torch.equal(plain.advantage, torch.where(mask, total[:, None], 0)), "the whole return on every token"
    torch.testing.assert_close(total, verdict.score, msg="at step 0 the policy is the reference: nothing is paid for")
    others = pairs.flip(1).flatten()
    torch.testing.assert_close(of("leave_one_out")[2].advantage, torch.where(mask, (total - others)[:, None], 0))
    mean = pairs.mean(1, keepdim=True).expand(-1, 2).flatten()
    torch.testing.assert_close(of("group")[2].advantage, torch.where(mask, (total - mean)[:, None], 0))
    normalised = of("group_normalised")[2].advantage
    torch.testing.assert_close(normalised[mask].abs(), torch.ones(int(mask.sum())), rtol=1e-4, atol=0)
    torch.testing.assert_close(of("constant", constant=0.5)[2].advantage, torch.where(mask, total[:, None] - 0.5, 0))
    whitened = of("batch_normalised")[2].advantage[mask]
    assert abs(whitened.mean()) < 1e-5 and abs(whitened.std(correction=0) - 1) < 1e-4
    assert (of("value")[2].values_old == 0).all(), "a new critic says 0"


def test_the_moving_average_knows_only_earlier_steps(world, tmp_path):
    lines = metrics(
        reinforce.run(world.reinforce(tmp_path / "run", {"baseline": {"kind": "moving_average", "decay": 0.5}, "kl": {"beta": 0.0}}))
    )
    weight = average = 0.0
    for line in lines:
        assert line["value"] == pytest.approx(average / weight if weight else 0.0, rel=1e-4, abs=1e-6)
        average, weight = 0.5 * average + 0.5 * line["reward"], 0.5 * weight + 0.5


def test_the_first_gradient_is_that_of_the_responses_themselves(world, tmp_path):
    """Slice by slice in the recipe; by hand in one piece: -sum A log pi / number of responses."""
    cfg = world.reinforce(tmp_path / "run", {"minibatches": 1, "objective": {"weigh": "responses"}})
    parts, _, experience, _ = first_step(cfg)
    reinforce.gradient(cfg, parts, experience)
    found = {name: p.grad.clone() for name, p in parts.policy.parameters().items()}
    parts.optimizer.clear()
    logp = parts.policy.logp(experience.rollout.sequences)
    (-(logp * experience.advantage).sum() / len(experience)).backward()
    for name, p in parts.policy.parameters().items():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["reinforce", "importance", "ppo_penalty", "ppo_clip", "gspo"])
@pytest.mark.parametrize("recipe", ["reinforce", "ppo"])
def test_every_objective_trains_in_both_recipes(world, tmp_path, kind, recipe):
    over = {"objective": {"kind": kind, "target": 1e-6, "clip": 0.003 if kind == "gspo" else 0.2}, "steps": 3, "lr": 1e-3}
    over |= {"epochs": 1 if kind == "reinforce" else 2}
    run = world.work(recipe, tmp_path / kind, over)()
    lines = metrics(run)
    assert lines[0]["kl"] == 0 and lines[-1]["kl"] != 0 and lines[0]["approx_kl"] > 0
    assert ("clip_fraction" in lines[0]) == (kind in ("ppo_clip", "gspo"))
    if kind == "ppo_penalty":
        assert [line["penalty"] for line in lines] == [1.0, 2.0, 4.0], "a step moves more than a millionth of a nat"
        assert all(line["step_kl"] > 1.5e-6 for line in lines)


def test_the_penalty_is_part_of_a_checkpoint(world, tmp_path):
    over = {"objective": {"kind": "ppo_penalty", "target": 1e-6}, "epochs": 2}
    whole = world.work("reinforce", tmp_path / "whole", over)().folder
    work = world.work("reinforce", tmp_path / "killed", over)
    assert in_child(work, "reinforce:3") == -signal.SIGKILL and in_child(work) == 0
    assert_same_run(tmp_path / "killed", whole)


def test_it_learns_to_write_a_letter(world, tmp_path):
    """The mean of the last steps is above that of the first, by far more than both scatter."""
    over = {"reward": {"model": "", "function": f"{world.folder}/rewards.py:score"}, "kl": {"beta": 0.0}, "steps": 16, "batch_size": 32}
    over |= {"responses": 4, "minibatches": 1, "lr": 1e-2}
    lines = metrics(reinforce.run(world.reinforce(tmp_path / "run", over)))
    early, late = ([line["reward"] for line in part] for part in (lines[:3], lines[-3:]))
    assert min(late) > max(early) + 0.3


def test_a_reward_of_each_token_is_credited_from_there_on(world, tmp_path):
    """The letters' reward a token at a time: the sum is the score of whole responses, and what came before is not credited."""
    term = {"token_function": f"{world.folder}/rewards.py:tokens", "weight": 2.0, "name": "letters"}
    over = {"reward": {"model": "", "more": [term]}, "baseline": {"kind": "none"}, "kl": {"beta": 0.0}}
    _, verdict, experience, total = first_step(world.reinforce(tmp_path / "run", over))
    counts = torch.tensor([text.count("e") / 2 for text in verdict.texts])
    ended = experience.rollout.ended
    torch.testing.assert_close(total, counts - (~ended).float())
    assert torch.equal(verdict.components["reward.letters"] * 2, counts)
    row = int(counts.argmax())
    assert experience.advantage[row, 0] == total[row]
    spent = torch.cumsum(verdict.tokens[row], 0)
    torch.testing.assert_close(experience.advantage[row, 1:], torch.where(experience.mask[row, 1:], total[row] - spent[:-1], 0))


def test_a_token_function_that_forgets_a_token_is_refused_by_sample(world, tmp_path):
    term = {"token_function": f"{world.folder}/rewards.py:short"}
    with pytest.raises(RewardError, match=r"for the \d+ tokens of sample 0 \(prompt [0-9a-f]{16}\)"):
        reinforce.run(world.reinforce(tmp_path / "run", {"reward": {"model": "", "more": [term], "attempts": 1}}))


def test_further_terms_are_weighted_and_logged(world, tmp_path):
    terms = [
        {"length": 6, "weight": 0.5},
        {"pattern": "^I", "weight": -2.0, "name": "begins"},
        {"model": str(world.folder / "reward"), "weight": 3.0},
        {"function": f"{world.folder}/rewards.py:score"},
    ]
    over = {"reward": {"more": terms, "end_penalty": 0.0}, "baseline": {"kind": "none"}, "credit": "whole_return"}
    parts, verdict, experience, _ = first_step(world.reinforce(tmp_path / "run", over))
    found, lengths = verdict.components, experience.rollout.response_lengths
    torch.testing.assert_close(found["reward.length"], -(lengths - 6).abs() / 6)
    assert found["reward.begins"].tolist() == [float(text.startswith("I")) for text in verdict.texts]
    torch.testing.assert_close(found["reward.model"], found["reward_model"])
    expected = 4 * found["reward_model"] + 0.5 * found["reward.length"] - 2 * found["reward.begins"] + found["reward.function"]
    torch.testing.assert_close(verdict.score, expected)
    assert parts.source.reward.more[1][0] == "begins"


@pytest.mark.parametrize(
    "over, message",
    [
        ({"reward": {"more": [{"length": 5, "pattern": "a"}]}}, "exactly one of"),
        ({"reward": {"more": [{"weight": 2.0}]}}, "exactly one of"),
        ({"reward": {"more": [{"pattern": "("}]}}, "is no regular expression"),
        ({"reward": {"more": [{"length": 5}, {"length": 6}]}}, "two terms of reward.more are called 'length'"),
        ({"batch_size": 9}, "does not divide by responses 2"),
        ({"responses": 1}, "compares the responses to a prompt"),
        ({"ratings": {"path": "x"}}, "give either prompts"),
        ({"reward": {"cut": "bootstrap"}}, "needs a critic that looks ahead"),
        ({"sampling": {"top_k": 5}}, "samples the full distribution"),
    ],
)
def test_settings_that_cannot_be_are_refused(world, tmp_path, over, message):
    with pytest.raises(ValueError, match=message):
        world.reinforce(tmp_path / "run", over)


def test_cut_responses_can_be_left_out(world, tmp_path):
    """Their score counts for the baseline of their group, but nothing is learned from them."""
    for recipe in ("reinforce", "ppo"):
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            module = {"reinforce": reinforce, "ppo": ppo}[recipe]
            original = module.gradient
            patch.setattr(
                module, "gradient", lambda cfg, parts, m, *r, o=original, s=seen: (s.append(m.rollout.ended), o(cfg, parts, m, *r))[1]
            )
            over = {"reward": {"cut": "mask"}, "sampling": {"max_new_tokens": 40}, "steps": 3, "batch_size": 32}
            lines = metrics(world.work(recipe, tmp_path / recipe, over)())
        assert seen and all(ended.all() for ended in seen)
        assert any(line["ended"] < 1 for line in lines)


def test_when_every_response_was_cut_nothing_is_learned(world, tmp_path):
    over = {"reward": {"cut": "mask"}, "sampling": {"max_new_tokens": 1}, "steps": 2}
    lines = metrics(reinforce.run(world.reinforce(tmp_path / "run", over)))
    assert [line["updates"] for line in lines] == [0, 0] and lines[1]["kl"] == 0


# --- people's ratings as the reward ---


@pytest.fixture(scope="module")
def ratings(world) -> Path:
    """The starting model's own responses, rated by how many e they have."""
    from handrail.recipes import sample

    out = world.folder / "sampled.jsonl"
    prompts = {"path": str(world.folder / "prompts.jsonl")}
    settings = {"out": str(out), "model": {"path": str(world.folder / "sft")}, "prompts": prompts, "responses": 16}
    records = sample.run(sample.Sample.model_validate(settings | {"sampling": {"max_new_tokens": 12}}))
    rated = world.folder / "ratings.jsonl"
    lines = [{"prompt": r.prompt.text, "response": r.text, "score": r.text.count("e") / 4} for r in records if r.text.strip()]
    unique = list({(line["prompt"], line["response"]): line for line in lines}.values())
    rated.write_text("".join(json.dumps(line) + "\n" for line in unique))
    assert len(unique) > 40
    return rated


def of_ratings(world: World, out: Path, ratings: Path, over: dict):
    base = {"prompts": None, "reward": None, "ratings": {"path": str(ratings)}, "responses": 1}
    return world.reinforce(out, base | {"baseline": {"kind": "moving_average"}, "objective": {"kind": "importance"}} | over)


def test_ratings_are_the_reward_and_no_reward_model_is_needed(world, ratings, tmp_path):
    over = {"kl": {"beta": 0.02}, "steps": 60, "batch_size": 32, "minibatches": 1, "lr": 1e-3}
    cfg = of_ratings(world, tmp_path / "run", ratings, over | {"objective": {"kind": "ppo_clip", "clip": 0.5}})
    run = reinforce.run(cfg)
    lines = metrics(run)
    assert lines[0]["rating"] == lines[0]["reward"] > 0

    parts, _ = reinforce.build(cfg.model_copy(update={"out": str(tmp_path / "again")}))
    before, after = (LanguageModel.load(ModelSettings(path=str(path))).freeze() for path in (world.folder / "sft", run.folder))
    with torch.no_grad():
        gained = (after.logp(parts.source.sequences) - before.logp(parts.source.sequences)).sum(1)
    scores = torch.tensor([rating.score for rating in parts.source.ratings])
    high, low = gained[scores > scores.median()], gained[scores <= scores.median()]
    assert high.mean() > low.mean() + 1.0, "in nats: what was rated high has become likelier than what was rated low"


def test_rated_responses_are_off_policy_and_weighted(world, ratings, tmp_path):
    cfg = of_ratings(world, tmp_path / "run", ratings, {"epochs": 1, "minibatches": 1})
    parts, verdict, experience, _ = first_step(cfg)
    assert torch.equal(experience.logp_old, verdict.logp_ref), "the starting model has sampled"
    with torch.no_grad():
        for parameter in parts.policy.parameters().values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    again = reinforce.judge(parts, *parts.source.act(parts.policy, 0))
    assert torch.equal(again.logp_old, verdict.logp_ref) and not torch.equal(again.logp, again.logp_old)
    reinforce.gradient(cfg, parts, experience)
    found = next(iter(parts.policy.parameters().values())).grad.clone()
    parts.optimizer.clear()
    logp = parts.policy.logp(experience.rollout.sequences)
    ratio = torch.where(experience.mask, logp - experience.logp_old, 0).sum(1).exp().detach()
    assert (ratio - 1).abs().max() > 0.01
    (-(ratio[:, None] * logp * experience.advantage).sum() / experience.mask.sum()).backward()
    torch.testing.assert_close(found, next(iter(parts.policy.parameters().values())).grad, rtol=1e-3, atol=1e-6)


def test_rated_responses_refuse_what_needs_fresh_ones(world, ratings, tmp_path):
    for over, message in (
        ({"objective": {"kind": "reinforce"}}, "starting model's, not the policy's"),
        ({"baseline": {"kind": "group"}}, "not in groups to a prompt"),
        ({"reward": {"function": "a.py:b"}}, "ratings are the reward"),
    ):
        with pytest.raises(ValueError, match=message):
            of_ratings(world, tmp_path / "run", ratings, over)
    empty = tmp_path / "one.jsonl"
    empty.write_text(ratings.read_text().splitlines()[0] + "\n")
    with pytest.raises(HandrailError, match="1 rated responses"):
        reinforce.run(of_ratings(world, tmp_path / "run", empty, {}))


# --- a supervised loss beside the objective ---


@pytest.mark.parametrize("recipe", ["reinforce", "ppo"])
def test_a_mixed_in_loss_keeps_what_was_learned_before(world, tmp_path, recipe):
    """The same steps with and without: the loss on demonstrations ends lower with it."""
    mix = {"data": {"path": str(world.folder / "demonstrations.jsonl")}, "coef": 2.0, "batch_size": 8}
    base = {"kl": {"beta": 0.0}, "steps": 6, "lr": 3e-3}
    with_it = metrics(world.work(recipe, tmp_path / "with", base | {"mix": mix})())
    hardly = metrics(world.work(recipe, tmp_path / "hardly", base | {"mix": mix | {"coef": 1e-9}})())
    assert with_it[0]["ptx_loss"] == pytest.approx(hardly[0]["ptx_loss"], rel=0.05)
    assert with_it[-1]["ptx_loss"] < hardly[-1]["ptx_loss"] - 0.1


def test_the_mixed_in_gradient_is_coef_times_that_of_the_mean_loss(world, tmp_path):
    mix = {"data": {"path": str(world.folder / "prompts.jsonl")}, "kind": "texts", "coef": 0.7, "batch_size": 5}
    parts, _ = reinforce.build(world.reinforce(tmp_path / "run", {"mix": mix}))
    parts.eval()
    loss = parts.mix.gradient(parts.policy, 0, 100)["ptx_loss"]
    found = {name: p.grad.clone() for name, p in parts.policy.parameters().items()}
    parts.optimizer.clear()
    seen = [row for update in range(12) for row in reinforce_rows(parts, update)]
    assert sorted(seen[:10]) != list(range(10)) and sorted(set(seen)) == list(range(len(parts.mix.sequences)))
    batch = parts.mix.sequences[torch.tensor(reinforce_rows(parts, 0))]
    assert (batch.prompt_lengths == 1).all(), "a text is learned from its second token on"
    mean = -parts.policy.logp(batch).sum() / batch.response_lengths.sum()
    assert loss == pytest.approx(float(mean.detach()), rel=1e-5)
    (0.7 * mean).backward()
    for name, p in parts.policy.parameters().items():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-6)


def reinforce_rows(parts, update: int) -> list[int]:
    from handrail.recipes.parts import shuffled

    return shuffled(len(parts.mix.sequences), parts.mix.settings.batch_size, update, parts.mix.seed)


def test_the_optimiser_steps_once_a_minibatch(world, tmp_path, monkeypatch):
    taken: list[int] = []
    original = Optimizer.step
    monkeypatch.setattr(Optimizer, "step", lambda self, share: (taken.append(1), original(self, share))[1])
    reinforce.run(world.reinforce(tmp_path / "run", {"steps": 2, "epochs": 3, "objective": {"kind": "ppo_clip"}}))
    assert len(taken) == 2 * 3 * 2


# --- what a reviewer would try ---


def test_a_group_that_earned_the_same_teaches_nothing():
    """Equal totals, unequal rewards to go: a deviation of zero must not blow them up."""
    baseline = BASELINES_BY_NAME["group_normalised"](BaselineSettings(kind="group_normalised"))
    total = torch.tensor([0.5, 0.5, 0.1, 0.3])
    mean, factor = baseline(torch.zeros(4, 3), total, None, torch.tensor([0, 0, 1, 1]))
    assert factor[:, 0].tolist() == pytest.approx([0, 0, 10, 10], rel=1e-5) and mean[:, 0].tolist() == pytest.approx([0.5, 0.5, 0.2, 0.2])


def test_a_penalty_measures_the_step_where_cut_responses_are_left_out(world, tmp_path):
    """The longest responses are those that were cut: what is kept is narrower than the batch."""
    over = {
        "objective": {"kind": "ppo_penalty", "target": 1e-6},
        "reward": {"cut": "mask"},
        "sampling": {"max_new_tokens": 40},
        "batch_size": 32,
    }
    for recipe in ("reinforce", "ppo"):
        lines = metrics(world.work(recipe, tmp_path / recipe, over | {"steps": 4})())
        assert any(line["ended"] < 1 and line["updates"] for line in lines) and all("step_kl" in line for line in lines if line["updates"])


def test_a_reward_that_is_no_number_ends_the_run_and_does_not_hang(world, tmp_path, monkeypatch):
    monkeypatch.setattr(ScalarModel, "judged", lambda self, sequences: (self.score(sequences) * float("nan"), {}))
    with pytest.raises(NonFiniteError, match="3 such steps in a row"):
        reinforce.run(world.reinforce(tmp_path / "run"))


@pytest.mark.parametrize("recipe", ["reinforce", "ppo"])
def test_several_passes_need_a_ratio(world, tmp_path, recipe):
    with pytest.raises(ValueError, match="has no ratio"):
        getattr(world, recipe)(tmp_path / "run", {"epochs": 2, "objective": {"kind": "reinforce"}})


def test_with_a_discount_the_baseline_is_on_the_scale_of_the_returns(world, tmp_path):
    _, _, experience, total = first_step(
        world.reinforce(tmp_path / "run", {"gamma": 0.9, "kl": {"beta": 0.0}, "baseline": {"kind": "none"}})
    )
    torch.testing.assert_close(total, experience.returns[:, 0])


def test_a_round_takes_ratings_in_the_place_of_prompts_and_reward(tmp_path):
    settings = {"task": {"name": "movie-night"}, "labels": "simulated", "method": "reinforce"}
    rated = settings | {
        "reinforce": {"ratings": {"path": "ratings.jsonl"}, "objective": {"kind": "ppo_clip"}, "baseline": {"kind": "value"}}
    }
    found = of_round(rated, "reinforce", tmp_path / "round.yaml", ["batch_size=50"])
    assert found.prompts is None and found.reward is None and found.batch_size == 50


def test_what_a_partner_says_is_another_input_than_the_reward(tmp_path):
    for name in ("reward.py", "partner.py"):
        (tmp_path / name).write_text("def f(*_): ...")
    settings = {"task": {"name": "movie-night"}, "labels": "simulated", "method": "reinforce"}
    given = {"reward": {"function": f"{tmp_path}/reward.py:f"}, "partner": {"function": f"{tmp_path}/partner.py:f"}}
    cfg = of_round(settings | {"reinforce": given}, "reinforce", tmp_path / "round.yaml", [])
    seen = [reads(cfg)]
    for name in ("reward.py", "partner.py"):
        (tmp_path / name).write_text("def f(*_): return 1")
        seen.append(reads(cfg))
    assert seen[0] != seen[1] != seen[2]
