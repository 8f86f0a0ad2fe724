"""Conversations of several turns: what is sampled, what is credited, and that it learns and resumes."""

import signal
from dataclasses import replace

import pytest
import torch

from handrail.errors import RewardError
from handrail.recipes import ppo, reinforce
from handrail.recipes.conversation import PartnerSettings, Played, converse, make_partner
from handrail.records import Prompt
from handrail.rollout import NativeEngine, Sampling
from killing import assert_same_run
from recipe_runs import World, in_child, make_world, metrics

PARTNER = """
def again(conversations):
    return ["And turn %d?" % (len(c) // 2 + 1) for c in conversations]

def quiet(conversations):
    return ["" for c in conversations]

def wrong(conversations):
    return [None for c in conversations]

def letters(prompts, responses):
    return [response.count("e") / 4 for response in responses]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    made = make_world(tmp_path_factory.mktemp("world"))
    (made.folder / "partner.py").write_text(PARTNER)
    return made


def settings(world: World, over: dict | None = None) -> dict:
    partner = {"function": f"{world.folder}/partner.py:again", "turns": 3} | (over or {})
    reward = {"model": "", "function": f"{world.folder}/partner.py:letters", "end_penalty": 0.0}
    # A stop that every response reaches soon, so that turns end by themselves in a model that has hardly learned to.
    return {"partner": partner, "reward": reward, "sampling": {"max_new_tokens": 8, "stop": ["e", "a", "o", "i", " "]}}


def first_step(cfg):
    parts, _ = reinforce.build(cfg)
    parts.eval()
    rollout, numbers = parts.source.act(parts.policy, 0)
    verdict = reinforce.judge(parts, rollout, numbers)
    return parts, verdict, *reinforce.credit(cfg, parts, rollout, verdict)


def test_a_turn_is_asked_with_all_that_was_said_before(world, tmp_path):
    parts, verdict, experience, _ = first_step(world.reinforce(tmp_path / "run", settings(world)))
    following, number = verdict.turns.following.tolist(), verdict.turns.number.tolist()
    assert number[:8] == list(range(8)) and len(number) > 12 and max(verdict.components["turns"]) == 3
    for row, after in enumerate(following):
        if after < 0:
            continue
        assert number[after] == number[row]
        before, then = verdict.turns.prompts[row].messages, verdict.turns.prompts[after].messages
        assert then[: len(before)] == before and [m.role for m in then[len(before) :]] == ["assistant", "user"]
        assert then[-2].content == verdict.texts[row] and then[-1].content == f"And turn {len(then) // 2 + 1}?"
    ids = [parts.codec.encode_prompt(p) for p in verdict.turns.prompts]
    assert experience.rollout.prompt_lengths.tolist() == [len(i) for i in ids]
    assert [row[: len(i)] for row, i in zip(experience.rollout.ids.tolist(), ids, strict=True)] == ids


@pytest.mark.parametrize("reward", ["last", "each"])
def test_what_later_turns_earn_is_credited_to_earlier_ones(world, tmp_path, reward):
    over = settings(world, {"reward": reward}) | {"baseline": {"kind": "none"}, "kl": {"beta": 0.0}}
    _, verdict, experience, total = first_step(world.reinforce(tmp_path / "run", over))
    letters = torch.tensor([text.count("e") / 4 for text in verdict.texts])
    earned = letters if reward == "each" else torch.where(verdict.turns.following < 0, letters, 0)
    for row in range(len(letters)):
        expected, at = float(earned[row]), row
        while (at := int(verdict.turns.following[at])) >= 0:
            expected += float(earned[at])
        assert experience.advantage[row, 0] == pytest.approx(expected)
    assert total.tolist() == pytest.approx([float(earned[verdict.turns.number == i].sum()) for i in range(8)])


def test_conversations_of_one_prompt_are_each_others_baseline(world, tmp_path):
    over = settings(world, {"reward": "each"}) | {"kl": {"beta": 0.0}}
    _, verdict, experience, total = first_step(world.reinforce(tmp_path / "run", over))
    others = total.view(-1, 2).flip(1).flatten()
    values = torch.where(experience.mask, others[verdict.turns.number][:, None], 0)
    torch.testing.assert_close(experience.values_old, values)


def test_it_ends_where_the_partner_is_quiet_and_refuses_what_is_no_text(world, tmp_path):
    _, verdict, _, _ = first_step(world.reinforce(tmp_path / "quiet", settings(world, {"function": f"{world.folder}/partner.py:quiet"})))
    assert (verdict.turns.following == -1).all() and len(verdict.turns.number) == 8
    with pytest.raises(RewardError, match="returned None for conversation 0"):
        reinforce.run(world.reinforce(tmp_path / "wrong", settings(world, {"function": f"{world.folder}/partner.py:wrong"})))


def test_a_conversation_never_outgrows_the_context(world, tmp_path):
    parts, verdict, experience, _ = first_step(world.reinforce(tmp_path / "run", settings(world, {"turns": 12})))
    assert int(experience.rollout.lengths.max()) <= parts.policy.context == 96
    assert max(verdict.components["turns"]) < 12


@pytest.mark.parametrize("lam", [1.0, 0.9])
def test_ppo_credits_a_turn_across_the_turns_that_follow(world, tmp_path, lam):
    """With the whole return that is what the conversation still earns; otherwise the next turn's value and advantage."""
    over = settings(world, {"reward": "each"}) | {"kl": {"beta": 0.0}, "lam": lam, "whiten_advantages": False}
    cfg = world.ppo(tmp_path / "run", over)
    parts, _ = ppo.build(cfg)
    parts.eval()
    verdict = ppo.judge(parts, *ppo.act(cfg, parts, 0))
    rollout = parts.answers.done.rollout()
    values = torch.randn(verdict.values.shape, generator=torch.Generator().manual_seed(0))  # those of a new critic are zeros
    verdict = replace(verdict, values=torch.where(rollout.mask, values, 0))
    experience = ppo.credit(cfg, parts, rollout, verdict)
    earned, following, last = verdict.reward, verdict.turns.following.tolist(), rollout.response_lengths - 1
    assert torch.allclose(earned, torch.tensor([text.count("e") / 4 for text in verdict.texts])) and max(following) > 0
    for row, then in enumerate(following):
        ahead = float(verdict.values[then, 0] + lam * experience.advantage[then, 0]) if then >= 0 else 0.0
        expected = float(earned[row] - verdict.values[row, last[row]]) + ahead
        assert float(experience.advantage[row, last[row]]) == pytest.approx(expected, abs=1e-5)
    if lam == 1:
        rest = [float(earned[row]) for row in range(len(following))]
        for row in reversed(range(len(following))):
            rest[row] += rest[following[row]] if following[row] >= 0 else 0.0
        assert experience.returns[:, 0].tolist() == pytest.approx(rest, abs=1e-5)


@pytest.mark.parametrize("recipe", ["reinforce", "ppo"])
def test_it_trains_and_resumes(world, tmp_path, recipe):
    over = settings(world) | {"steps": 4}
    whole = world.work(recipe, tmp_path / "whole", over)().folder
    assert all(line["turns"] > 1 for line in metrics(whole))
    work = world.work(recipe, tmp_path / "killed", over)
    assert in_child(work, f"{recipe}:3") == -signal.SIGKILL and in_child(work) == 0
    assert_same_run(tmp_path / "killed", whole)


def test_a_model_plays_the_user_with_the_roles_exchanged(world):
    settings = PartnerSettings.model_validate({"model": {"path": str(world.folder / "sft")}, "persona": "You like films.", "turns": 2})
    partner = make_partner(settings)
    assert isinstance(partner, Played)
    seen = partner.exchanged(Prompt.of("Name a film."), "Metropolis.")
    assert [(m.role, m.content) for m in seen.messages] == [
        ("system", "You like films."),
        ("user", "Begin."),
        ("assistant", "Name a film."),
        ("user", "Metropolis."),
    ]
    engine = NativeEngine(partner.codec.tokenizer, partner.codec.end_ids)
    engine.sync(partner.model)
    law = Sampling(max_new_tokens=8, stop=["e", "a", "o", "i", " "])
    found = converse(engine, partner.codec, [Prompt.of("Name a film.")] * 4, partner, 2, 88, 0, law)
    assert len(found.number) > 4 and all(p.messages[-1].role == "user" for p in found.prompts)
    again = converse(engine, partner.codec, [Prompt.of("Name a film.")] * 4, partner, 2, 88, 0, law)
    assert torch.equal(found.rollout().ids, again.rollout().ids) and found.prompts == again.prompts


def test_a_partner_is_one_thing(world):
    for given in ({}, {"function": "a.py:b", "model": {"path": "x"}}):
        with pytest.raises(ValueError, match=r"exactly one of partner.function and partner.model"):
            PartnerSettings.model_validate(given)
