"""The recipes as they are run: what must hold of them, and that each setting does what it says."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from handrail import pipeline
from handrail.batch import Rollout
from handrail.errors import ConfigError, HandrailError, RewardError
from handrail.models import ModelSettings, ScalarModel, load_causal
from handrail.recipes import ppo, reward, sft
from handrail.recipes.experience import minibatches
from handrail.recipes.parts import Optimizer, constant, cosine, derive, open_run, shuffled, slices
from handrail.recipes.ppo_parts import Parts, Verdict
from handrail.rollout import NativeEngine
from recipe_runs import NEW, SAMPLING, World, make_world, metrics

LORA = {"rank": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def adapted(world) -> str:
    """A reward model that is an adapter on the SFT weights."""
    out = world.folder / "reward-lora"
    reward.run(world.reward(out, {"model": {"lora": LORA}, "epochs": 1}))
    return str(out)


def weights(model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys() and a
    return all(torch.equal(a[name], b[name]) for name in a)


def disturb(parts: Parts, scale: float = 0.05) -> None:
    """Move the policy away from the reference."""
    with torch.no_grad():
        for parameter in parts.policy.parameters().values():
            parameter += scale * torch.randn(parameter.shape)


def first_step(cfg, parts: Parts) -> tuple[Rollout, Verdict]:
    parts.eval()
    rollout, prompts = ppo.act(cfg, parts, 0)
    return rollout, ppo.judge(parts, rollout, prompts)


# --- what must hold of PPO ---


@pytest.mark.parametrize("policy", [{}, {"lora": LORA | {"dropout": 0.5}}])
def test_the_first_inner_step_is_on_policy_and_step_0_is_the_reference(world, tmp_path, policy):
    cfg = world.ppo(tmp_path / "ppo", {"steps": 1, "epochs": 1, "minibatches": 1, "policy": policy})
    (line,) = metrics(ppo.run(cfg))
    assert abs(line["approx_kl"]) < 1e-9 and line["clip_fraction"] == 0 and line["updates"] == 1
    assert abs(line["kl"]) < 1e-5 and abs(line["engine_difference"]) < 1e-5


def test_dropout_is_off_for_every_role(world, tmp_path):
    cfg = world.ppo(tmp_path / "ppo", {"policy": {"lora": LORA | {"dropout": 0.5}}})
    parts, _ = ppo.build(cfg)
    disturb(parts)  # a fresh adapter is zero, with dropout or without
    rollout, one = first_step(cfg, parts)
    sequences = rollout.sequences
    assert torch.equal(one.logp, parts.policy.logp(sequences)) and torch.equal(one.values, parts.critic.values(sequences)[0])
    parts.policy.hf.train()
    assert not torch.equal(one.logp, parts.policy.logp(sequences))


def test_the_reference_and_the_reward_model_stay_bit_identical_and_the_policy_moves(world, tmp_path):
    cfg = world.ppo(tmp_path / "ppo", {"steps": 2})
    parts, inputs = ppo.build(cfg)
    before = [weights(m) for m in (parts.reference, parts.reward.model, parts.policy, parts.critic)]
    with ppo.open_run(cfg.out, "ppo", cfg, cfg.run, inputs) as run:
        ppo.train(cfg, parts, run)
    after = [weights(m) for m in (parts.reference, parts.reward.model, parts.policy, parts.critic)]
    assert [same(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, False]
    assert same(before[0], before[2])


def test_the_logged_divergence_is_that_of_the_models_read_one_row_at_a_time(world, tmp_path):
    cfg = world.ppo(tmp_path / "ppo", {"sampling": {"temperature": 0.7}})
    parts, _ = ppo.build(cfg)
    disturb(parts)
    rollout, verdict = first_step(cfg, parts)
    logged = ppo.summary(parts, ppo.credit(cfg, parts, rollout, verdict), verdict)["kl"]
    total = 0.0
    for row, (start, stop) in enumerate(zip(rollout.prompt_lengths.tolist(), rollout.lengths.tolist(), strict=True)):
        ids = rollout.ids[row : row + 1, :stop]
        with torch.no_grad():
            laws = [(m.hf(input_ids=ids).logits[0].double() / 0.7).log_softmax(-1) for m in (parts.policy, parts.reference)]
        total += sum(float(laws[0][t - 1, ids[0, t]] - laws[1][t - 1, ids[0, t]]) for t in range(start, stop))
    assert abs(logged) > 0.1
    assert logged == pytest.approx(total / len(rollout), abs=1e-4)


def test_each_response_is_used_epochs_times_and_every_epoch_has_its_own_order(world, tmp_path):
    cfg = world.ppo(tmp_path / "ppo", {"epochs": 3, "minibatches": 2})
    parts, _ = ppo.build(cfg)
    rollout, verdict = first_step(cfg, parts)
    numbered = torch.arange(8.0)[:, None].expand(8, 12)
    experience = ppo.Experience(rollout, numbered, verdict.logp_ref, verdict.values, verdict.values, verdict.values)
    used = [batch.logp_old[:, 0].tolist() for batch in minibatches(experience, cfg.epochs, cfg.minibatches, cfg.seed, 0)]
    assert [len(batch) for batch in used] == [4] * 6
    epochs = [used[i] + used[i + 1] for i in (0, 2, 4)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]
    again = [batch.logp_old[:, 0].tolist() for batch in minibatches(experience, cfg.epochs, cfg.minibatches, cfg.seed, 1)]
    assert again != used


def test_responses_that_were_cut_are_penalised_or_bootstrapped(world, tmp_path):
    plain = {"lam": 1.0, "whiten_advantages": False, "kl": {"beta": 0.0, "target": 0.0}}
    found = {}
    for cut in ("penalty", "bootstrap"):
        cfg = world.ppo(tmp_path / cut, {**plain, "reward": {"cut": cut, "end_penalty": 2.5}})
        parts, _ = ppo.build(cfg)
        rollout, verdict = first_step(cfg, parts)
        ended = torch.arange(8) % 2 == 0  # the rule goes by the finish reason alone
        rollout = Rollout(rollout.ids, rollout.prompt_lengths, rollout.lengths, ended, rollout.logp)
        score, components = parts.reward(rollout, [parts.answers.prompts[0]] * 8, verdict.texts)
        returns = ppo.credit(cfg, parts, rollout, replace(verdict, score=score)).returns
        last = returns[torch.arange(8), rollout.response_lengths - 1]
        found[cut] = last, components["reward_model"], verdict.after
    last, raw, after = found["penalty"]
    torch.testing.assert_close(last, torch.where(ended, raw, raw - 2.5), atol=1e-5, rtol=0)
    last, raw, after = found["bootstrap"]
    torch.testing.assert_close(last, torch.where(ended, raw, after), atol=1e-5, rtol=0)


# --- the reward model ---


def test_the_reward_model_has_mean_0_and_deviation_1_on_responses_of_the_model_it_starts_from(world, tmp_path, monkeypatch):
    kept, sampled = [], NativeEngine.generate

    def generate(self, *given, **named):
        kept.append((sampled(self, *given, **named), {n: p.clone() for n, p in self.policy.state().items()}))
        return kept[-1][0]

    monkeypatch.setattr(NativeEngine, "generate", generate)
    run = reward.run(world.reward(tmp_path / "reward", {"normalise_on": 16}))
    ((rollout, sampler),) = kept
    model = ScalarModel.load(ModelSettings(path=str(run.folder))).freeze()
    scores = model.score(rollout.sequences)
    assert abs(float(scores.mean())) < 1e-4 and abs(float(scores.std(correction=0)) - 1) < 1e-4 and len(scores) == 16
    start = load_causal(ModelSettings(path=str(world.folder / "sft"))).state_dict()
    assert all(torch.equal(sampler[name], start[name]) for name in sampler)


# --- settings that change nothing, and settings that do something ---


def first_gradient(monkeypatch, work) -> dict[str, Tensor]:
    """Gradients at the first step of a run, which is then left."""

    class Enough(Exception):
        pass

    found: dict[str, Tensor] = {}

    def step(self, share):
        found.update({name: p.grad.clone() for name, p in self._named() if p.grad is not None})
        raise Enough

    with monkeypatch.context() as patch, pytest.raises(Enough):
        patch.setattr(Optimizer, "step", step)
        work()
    return found


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "reinforce", "best_of_n", "dpo"])
def test_micro_batches_change_nothing(world, tmp_path, monkeypatch, stage):
    over = {"max_grad_norm": 1e9}
    grads = [first_gradient(monkeypatch, world.work(stage, tmp_path / f"{n}", over | {"micro_tokens": n})) for n in (64, 100_000)]
    assert grads[0].keys() == grads[1].keys() and grads[0]
    biggest = max(float(g.abs().max()) for g in grads[1].values())
    for name in grads[0]:
        assert float((grads[0][name] - grads[1][name]).abs().max()) < 1e-5 * max(1.0, biggest), name


def test_an_adaptive_beta_follows_the_divergence(world, tmp_path):
    cfg = world.ppo(tmp_path / "ppo", {"steps": 4, "lr": 2e-2, "kl": {"target": 0.05, "horizon": 40}})
    lines = metrics(ppo.run(cfg))
    assert lines[0]["beta"] == 0.05 and lines[1]["beta"] == pytest.approx(0.05 * (1 - 0.2 * 8 / 40))
    for line, following in pairwise(lines):
        error = min(max(line["kl"] / 0.05 - 1, -0.2), 0.2)
        assert following["beta"] == pytest.approx(line["beta"] * (1 + error * 8 / 40))
    assert len({line["beta"] for line in lines}) == 4


def test_divergence_in_the_loss_pulls_the_policy_back(world, tmp_path):
    loss = {"kl": {"placement": "loss", "beta": 1.0, "target": 0.0}, "steps": 2}
    cfg = world.ppo(tmp_path / "ppo", loss)
    start = ppo.build(cfg)[0].policy.state()
    run = ppo.run(cfg)
    moved = load_causal(ModelSettings(path=str(run.folder))).state_dict()
    assert any(not torch.equal(moved[name], start[name]) for name in start)

    slopes = []
    for beta in (0.0, 5.0):
        cfg = world.ppo(tmp_path / f"{beta}", {"kl": {"placement": "loss", "beta": beta, "target": 0.0}})
        parts, _ = ppo.build(cfg)
        torch.manual_seed(0)
        disturb(parts, 0.02)
        rollout, verdict = first_step(cfg, parts)
        assert parts.divergence.in_reward == 0
        ppo.gradient(cfg, parts, ppo.credit(cfg, parts, rollout, verdict), learn_policy=True)
        slopes.append({name: p.grad.clone() for name, p in parts.policy.parameters().items()})
        back = {name: p.detach() - parts.reference.state()[name] for name, p in parts.policy.parameters().items()}
    pull = sum(float(((slopes[1][name] - slopes[0][name]) * back[name]).sum()) for name in back)
    assert pull > 0  # downhill is towards the reference


def test_value_clip_entropy_bonus_and_target_kl(world, tmp_path):
    over = {"steps": 2, "epochs": 3, "minibatches": 1, "lr": 1e-2, "warmup": 0}
    usual = metrics(ppo.run(world.ppo(tmp_path / "usual", over)))
    assert [line["updates"] for line in usual] == [3, 3]
    bonus = metrics(ppo.run(world.ppo(tmp_path / "bonus", over | {"entropy_coef": 1.0})))
    assert bonus[1]["entropy"] > usual[1]["entropy"]
    early = metrics(ppo.run(world.ppo(tmp_path / "early", over | {"target_kl": 1e-7})))
    assert [line["updates"] for line in early] == [2, 2]  # the first moves the policy, the second sees that it has moved
    clipped = metrics(ppo.run(world.ppo(tmp_path / "clipped", over | {"value_clip": 1e-6})))
    assert clipped[0]["value_loss"] > usual[0]["value_loss"]  # the critic cannot leave its old values


@pytest.mark.parametrize("roles", ["separate", "one_trunk", "one_trunk_shared"])
def test_only_the_critic_learns_while_it_warms_up(world, adapted, tmp_path, roles):
    over = {"roles": roles, "steps": 1, "critic_warmup": 1, "reward": {"model": adapted}, "policy": {"lora": LORA}}
    cfg = world.ppo(tmp_path / "ppo", over)
    parts, inputs = ppo.build(cfg)
    policy, critic = weights(parts.policy), weights(parts.critic)
    with ppo.open_run(cfg.out, "ppo", cfg, cfg.run, inputs) as run:
        ppo.train(cfg, parts, run)
    assert same(policy, weights(parts.policy)) and not same(critic, weights(parts.critic))


@pytest.mark.parametrize("roles", ["one_trunk", "one_trunk_shared"])
def test_all_roles_on_one_trunk(world, adapted, tmp_path, roles):
    cfg = world.ppo(tmp_path / "ppo", {"roles": roles, "steps": 2, "reward": {"model": adapted}, "policy": {"lora": LORA}})
    parts, inputs = ppo.build(cfg)
    rollout, verdict = first_step(cfg, parts)
    before = {name: p.clone() for name, p in parts.policy.hf.named_parameters() if "policy" not in name and "critic" not in name}
    assert before
    with ppo.open_run(cfg.out, "ppo", cfg, cfg.run, inputs) as run:
        ppo.train(cfg, parts, run)
    lines = metrics(run)
    assert abs(lines[0]["kl"]) < 1e-5 and abs(lines[0]["engine_difference"]) < 1e-5
    assert torch.equal(parts.reference.logp(rollout.sequences), verdict.logp_ref)
    assert not torch.equal(parts.policy.logp(rollout.sequences), verdict.logp)
    after = dict(parts.policy.hf.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    separate, _ = ppo.build(world.ppo(tmp_path / "separate", {"reward": {"model": adapted}}))
    torch.testing.assert_close(separate.reference.logp(rollout.sequences), verdict.logp_ref, atol=1e-5, rtol=0)
    torch.testing.assert_close(separate.reward.model.score(rollout.sequences), verdict.components["reward_model"], atol=1e-4, rtol=0)


def test_a_function_alone_is_a_reward(world, tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text("def score(prompts, responses):\n    return [len(r) / 10 for r in responses]\n")
    cfg = world.ppo(tmp_path / "ppo", {"steps": 1, "reward": {"model": "", "function": f"{file}:score", "end_penalty": 0.0}})
    run = ppo.run(cfg)
    (line,) = metrics(run)
    assert line["reward"] == pytest.approx(line["reward_function"]) and line["reward"] > 0
    assert line["value"] == 0 and "reward_model" not in line


def test_a_function_that_gives_nan_ends_the_run_with_the_prompt_that_it_failed_on(world, tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text("def score(prompts, responses):\n    return [float('nan')] * len(responses)\n")
    cfg = world.ppo(tmp_path / "ppo", {"steps": 1, "reward": {"model": "", "function": f"{file}:score"}})
    with pytest.raises(RewardError, match="sample 0") as caught:
        ppo.run(cfg)
    assert isinstance(caught.value, HandrailError) and caught.value.exit_code == 1
    assert not (tmp_path / "ppo/summary.json").exists()


# --- what recipes are assembled from ---


def test_each_item_is_drawn_once_an_epoch_in_an_order_of_its_own():
    drawn = [i for step in range(9) for i in shuffled(12, 4, step, 7)]
    epochs = [drawn[i : i + 12] for i in (0, 12, 24)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]
    ragged = [i for step in range(12) for i in shuffled(5, 3, step, 7)]  # a batch across the boundary of two epochs
    assert all(sorted(ragged[i : i + 5]) == list(range(5)) for i in range(0, 35, 5))
    assert shuffled(12, 4, 1, 7) == drawn[4:8] != shuffled(12, 4, 1, 8)
    assert sorted(shuffled(3, 7, 0, 1)[:6]) == [0, 0, 1, 1, 2, 2]


def test_slices_cover_all_rows_within_the_budget():
    lengths = torch.tensor([5, 40, 7, 7, 1, 12, 3, 9])
    groups = [g.tolist() for g in slices(lengths, 16)]
    assert sorted(i for g in groups for i in g) == list(range(8))
    assert [g for g in groups if int(lengths[g].sum()) > 16] == [[1]]
    assert len(groups) < 8 and list(slices(torch.tensor([], dtype=torch.int64), 16)) == []


def test_schedules():
    assert [cosine(s, 100, 4) for s in (0, 3, 4)] == pytest.approx([0.2, 0.8, 1.0])
    assert cosine(52, 100, 4) == pytest.approx(0.55) and cosine(100, 100, 4) == pytest.approx(0.1)
    assert [constant(s, 100, 3) for s in (0, 1, 2, 3, 99)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert constant(0, 10, 0) == 1 and cosine(0, 1, 0) == 1


def test_derived_seeds_are_stable_and_distinct():
    assert derive(0, "order", 1) == 4489457307835839548  # a run begun with another version goes on the same
    seeds = {derive(s, name, i) for s in (0, 1) for name in ("order", "rollout") for i in range(50)}
    assert len(seeds) == 200 and all(0 <= s < 2**63 for s in seeds)


def test_the_optimiser_goes_on_bit_by_bit_where_it_was():
    def make() -> tuple[torch.nn.Linear, Optimizer]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(5, 3)
        return layer, Optimizer({"all": (dict(layer.named_parameters()), 1e-2)}, 0.1, 1.0, sft.Parallel())

    def work(layer: torch.nn.Linear, optimizer: Optimizer, steps: range) -> None:
        for step in steps:
            layer(torch.full((2, 5), float(step + 1))).pow(2).sum().backward()
            optimizer.clip()
            optimizer.step(1 / (step + 1))

    whole, one = make()
    work(whole, one, range(6))
    part, two = make()
    work(part, two, range(3))
    fresh, three = make()
    fresh.load_state_dict(part.state_dict())
    three.load_state({name: tensor.clone() for name, tensor in two.state().items()})
    work(fresh, three, range(3, 6))
    assert torch.equal(whole.weight, fresh.weight) and torch.equal(whole.bias, fresh.bias)
    assert one.state().keys() == three.state().keys() and all(torch.equal(one.state()[n], three.state()[n]) for n in one.state())
    assert set(one.clip()) == {"grad_norm.all"}


def test_each_group_of_weights_has_a_gradient_clip_of_its_own():
    small, large = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = Optimizer({"policy": ({"w": small}, 1e-3), "critic": ({"w": large}, 1e-3)}, 0.0, 1.0, sft.Parallel())
    small.grad, large.grad = torch.tensor([0.3, 0.4]), torch.tensor([30.0, 40.0])
    assert optimizer.clip() == pytest.approx({"grad_norm.policy": 0.5, "grad_norm.critic": 50.0})
    assert small.grad.tolist() == pytest.approx([0.3, 0.4]) and large.grad.tolist() == pytest.approx([0.6, 0.8], abs=1e-5)


@pytest.mark.parametrize(("dtype", "kept"), [(torch.bfloat16, False), (torch.float16, False), (torch.float32, True), (torch.float64, True)])
def test_weights_in_which_small_steps_would_round_away_are_refused(dtype, kept):
    given = {"policy": ({"head": torch.nn.Parameter(torch.zeros(2, dtype=dtype))}, 1e-3)}
    if kept:
        assert Optimizer(given, 0.0, 1.0, sft.Parallel()).rates == {"policy": 1e-3}
    else:
        with pytest.raises(ConfigError, match=r"policy\.head"):
            Optimizer(given, 0.0, 1.0, sft.Parallel())


def test_the_loss_of_sft_is_that_of_response_tokens_in_nats_a_token(world, tmp_path):
    """The first step's, against a plain forward of the model as it was then, one demonstration at a time."""
    cfg = world.sft(tmp_path / "sft", {"model": {"new": None, "path": str(world.folder / "sft")}, "epochs": 1})
    parts, inputs = sft.build(cfg)
    batch = parts.train[torch.tensor(parts.batches[0])]
    total, count = 0.0, 0
    for ids, start, stop in zip(batch.ids, batch.prompt_lengths.tolist(), batch.lengths.tolist(), strict=True):
        with torch.no_grad():
            law = parts.policy.hf(input_ids=ids[None, :stop]).logits[0].double().log_softmax(-1)
        total -= sum(float(law[t - 1, ids[t]]) for t in range(start, stop))
        count += stop - start
    with open_run(cfg.out, "sft", cfg, cfg.run, inputs) as run:
        sft.train(cfg, parts, run)
    assert metrics(run)[0]["loss"] == pytest.approx(total / count, rel=1e-5)


# --- a whole round ---


def settings(out: Path, lr: float = 1e-3, rounds: int = 1) -> pipeline.Round:
    return pipeline.Round.model_validate(
        {
            "out": str(out),
            "task": {"name": "short-version", "demonstrations": 40, "prompts": 16, "held_out": 10, "labellers": 2},
            "rounds": rounds,
            "labels": "simulated",
            "model": {"new": NEW},
            "sampling": SAMPLING,
            "sft": {"epochs": 1, "batch_tokens": 1500},
            "sample": {"responses": 3},
            "reward": {"batch_size": 4, "held_out": 0.4, "normalise_on": 8},
            "ppo": {"steps": 1, "batch_size": 4, "epochs": 1, "lr": lr},
        }
    )


def done(out: Path) -> list[str]:
    """The stages that the last call did, rather than skipped."""
    return [s["name"] for s in json.loads((out / "round.json").read_text())["stages"] if not s["skipped"]]


@pytest.fixture(scope="module")
def rounds(tmp_path_factory) -> tuple[Path, list[list[str]], list[dict]]:
    """One round; again; with another learning rate; with a second round.  What was done each time, and the summaries."""
    out = tmp_path_factory.mktemp("round") / "round"
    did, summaries = [], []
    for cfg in (settings(out), settings(out), settings(out, 2e-3), settings(out, 2e-3, 2)):
        summaries.append(pipeline.run(cfg))
        did.append(done(out))
    return out, did, summaries


def test_a_round_ends_with_its_figures(rounds):
    out, _, summaries = rounds
    first = summaries[0]
    for name in ("win_rate", "control"):
        assert set(first[name]) >= {"value", "low", "high", "n"}
        assert 0 <= first[name]["low"] <= first[name]["value"] <= first[name]["high"] <= 1 and first[name]["n"] == 10
    numbers = ("kl", "length_ratio", "gold_before", "gold_after")
    assert all(isinstance(first[name], float) for name in numbers) and first["prompts"] == 10
    assert first["parts_before"].keys() == first["parts_after"].keys() == set(first["content_parts"] + first["manner_parts"])
    for side in ("before", "after"):
        assert sum(first[f"parts_{side}"].values()) == pytest.approx(first[f"gold_{side}"])
    reached = first["reward_accuracy"]
    assert reached.keys() >= {"value", "low", "high", "length_baseline", "ceiling"} and 0 <= reached["length_baseline"] <= 1
    assert first["seconds"].keys() == {"data", "sft", "responses", "labels", "reward", "ppo", "evaluation"}
    assert json.loads((out / "summary.json").read_text()) == summaries[-1]
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in (out / "round-1/evaluation/samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sum(row["gold_after"] for row in rows) / 10 == pytest.approx(summaries[2]["gold_after"])


def test_a_round_does_what_is_left_to_do(rounds):
    out, did, summaries = rounds
    assert did[0] == ["data", "sft", "responses", "labels", "reward", "ppo", "evaluation"]
    assert did[1] == [] and summaries[1] == summaries[0]
    assert did[2] == ["ppo", "evaluation"]
    assert {p.name for p in (out / "round-1").iterdir() if ".before-" in p.name} == {"ppo.before-1", "evaluation.before-1"}
    assert did[3] == ["responses", "labels", "reward", "ppo", "evaluation"]
    assert len(summaries[3]["rounds"]) == 2 and summaries[3]["rounds"][0] == summaries[2]["win_rate"]
    first, second = ((out / f"round-{n}/labels/rankings.jsonl").read_text().splitlines() for n in (1, 2))
    assert second[: len(first)] == first and len(second) > len(first)


def test_held_out_prompts_are_nowhere_else(rounds):
    folder = rounds[0]

    def texts(name: str) -> set[str]:
        rows = [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        messages = [row["prompt"]["messages"] if "prompt" in row else row["messages"] for row in rows]
        return {"\n".join(m["content"] for m in conversation) for conversation in messages}

    held_out = texts("round-1/data/held_out.jsonl")
    assert len(held_out) == 10 and held_out == texts("round-1/data/references.jsonl")
    for name in ("data/demonstrations", "data/prompts", "labels/rankings", "responses/responses"):
        assert texts(f"round-1/{name}.jsonl") and not held_out & texts(f"round-1/{name}.jsonl"), name
    assert not held_out & texts("round-2/labels/rankings.jsonl")
