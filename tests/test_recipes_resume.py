"""Nothing lost: every recipe, killed anywhere and started again, ends as if nothing had happened."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from handrail.errors import NonFiniteError, RunLocked
from handrail.recipes import ppo
from handrail.recipes.parts import Optimizer
from handrail.track import Run, read_run
from killing import assert_same_run
from recipe_runs import World, in_child, make_world, metrics

STAGES = ("sft", "reward", "ppo", "reinforce", "best_of_n", "dpo", "relaxed")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory) -> dict[str, Path]:
    """Each stage, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    for stage in STAGES:
        assert in_child(world.work(stage, folder / stage)) == 0
    return {stage: folder / stage for stage in STAGES}


def killed_and_resumed(world: World, stage: str, out: Path, step: int, method: str = "log", over: dict | None = None) -> None:
    work = world.work(stage, out, over)
    assert in_child(work, f"{stage}:{step}", method) == -signal.SIGKILL
    assert not (out / "summary.json").exists()
    assert in_child(work) == 0


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("step", [1, 4])  # before the first checkpoint; after the second
def test_killed_and_started_again_a_recipe_ends_the_same(world, whole, tmp_path, stage, step):
    killed_and_resumed(world, stage, tmp_path / stage, step)
    assert_same_run(tmp_path / stage, whole[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_the_seconds_of_every_step_are_kept_over_an_interruption(world, tmp_path, stage):
    killed_and_resumed(world, stage, tmp_path / stage, 4)
    view = read_run(tmp_path / stage)
    assert [line["step"] for line in view.timing] == [line["step"] for line in view.metrics] == list(range(len(view.metrics)))


@pytest.mark.parametrize("call", [0, 1])  # once the verdicts are written; once the attributions are
def test_killed_at_its_end_a_reward_model_leaves_the_same_verdicts_and_attributions(world, whole, tmp_path, call):
    killed_and_resumed(world, "reward", tmp_path / "reward", call, "keep_lines")
    assert_same_run(tmp_path / "reward", whole["reward"])
    for name in ("verdicts.jsonl", "attributions.jsonl"):
        content = (tmp_path / "reward" / name).read_bytes()
        assert content == (whole["reward"] / name).read_bytes() and content


def test_beta_goes_on_where_it_was(world, whole, tmp_path):
    killed_and_resumed(world, "ppo", tmp_path / "ppo", 4)
    betas = [line["beta"] for line in metrics(tmp_path / "ppo")]
    assert betas == [line["beta"] for line in metrics(whole["ppo"])]
    assert len(set(betas)) == 6 and betas[4] != 0.05
    assert "restored step-00000004" in (tmp_path / "ppo/log.txt").read_text()


@pytest.mark.parametrize("stage", STAGES)
def test_asked_to_stop_it_saves_and_goes_on_later(world, whole, tmp_path, stage, monkeypatch):
    log = Run.log

    def stopped(self, step, *rest):
        log(self, step, *rest)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", stopped)
        assert in_child(world.work(stage, tmp_path / stage)) == 143
    assert (tmp_path / stage / "checkpoints/step-00000003").is_dir() and len(metrics(tmp_path / stage)) == 3
    assert in_child(world.work(stage, tmp_path / stage)) == 0
    assert_same_run(tmp_path / stage, whole[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(world, whole, tmp_path, stage):
    work = world.work(stage, tmp_path / stage)
    assert in_child(work, f"{stage}:4") == -signal.SIGKILL
    newest = sorted((tmp_path / stage / "checkpoints").iterdir())[-1]
    tensors = newest / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[len(content) // 2] ^= 1
    tensors.write_bytes(content)
    assert newest.name == "step-00000004" and in_child(work) == 0
    said = (tmp_path / stage / "log.txt").read_text()
    assert "step-00000004" in said and "restored step-00000002" in said
    assert_same_run(tmp_path / stage, whole[stage])


def test_two_processes_do_not_work_in_one_folder(world, tmp_path):
    cfg = world.ppo(tmp_path / "ppo")
    parts, inputs = ppo.build(cfg)
    with ppo.open_run(cfg.out, "ppo", cfg, cfg.run, inputs):
        assert in_child(lambda: refused(world, tmp_path / "ppo")) == 0
    assert parts.described


def refused(world: World, out: Path) -> None:
    with pytest.raises(RunLocked):
        ppo.run(world.ppo(out))


def test_a_finished_run_is_left_alone(world, whole):
    before = {path: path.stat().st_mtime_ns for path in whole["sft"].rglob("*") if path.suffix in (".safetensors", ".jsonl", ".json")}
    assert world.work("sft", whole["sft"])().finished
    assert before == {path: path.stat().st_mtime_ns for path in before}


# --- numbers that are none ---


def bad_numbers(world: World, out: Path, stage: str) -> tuple[list[int], Path]:
    """Runs until NonFiniteError; how many updates were made."""
    taken: list[int] = []
    original = Optimizer.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimizer, "step", lambda self, share: (taken.append(1), original(self, share))[1])
        with pytest.raises(NonFiniteError, match="3 such steps in a row"):
            world.work(stage, out)()
    return taken, out / "bad-batches"


def test_a_gradient_that_is_nan_makes_no_update_and_three_in_a_row_end_the_run(world, tmp_path, monkeypatch):
    for stage in STAGES:
        original, calls = Optimizer.clip, []

        def clip(self, original=original, calls=calls):
            calls.append(1)
            norms = original(self)
            return dict.fromkeys(norms, float("nan")) if len(calls) > 2 else norms

        with monkeypatch.context() as patch:
            patch.setattr(Optimizer, "clip", clip)
            taken, kept = bad_numbers(world, tmp_path / stage, stage)
        assert len(taken) == 2 and len(calls) == 5
        assert list(kept.glob("*.safetensors"))
        assert "no update" in (tmp_path / stage / "log.txt").read_text()


@pytest.mark.parametrize("minibatches", [1, 2])
def test_bad_updates_count_on_over_good_rollouts(world, tmp_path, monkeypatch, minibatches):
    over = {"epochs": 1, "minibatches": minibatches}
    monkeypatch.setattr(Optimizer, "clip", lambda self: {"grad_norm.policy": float("inf")})
    with pytest.raises(NonFiniteError, match="3 such steps in a row"):
        ppo.run(world.ppo(tmp_path / "ppo", over))


def test_a_reward_that_is_infinite_makes_no_update_and_leaves_beta(world, tmp_path, monkeypatch):
    original = ppo.judge

    def judge(parts, rollout, prompts):
        verdict = original(parts, rollout, prompts)
        verdict.score[3], verdict.logp[0, 0] = float("inf"), float("nan")
        return verdict

    monkeypatch.setattr(ppo, "judge", judge)
    taken, kept = bad_numbers(world, tmp_path / "ppo", "ppo")
    assert not taken and len(list(kept.glob("*.safetensors"))) == 3
    lines = metrics(tmp_path / "ppo")
    assert [line["beta"] for line in lines] == [0.05] * 2 and lines[0]["reward"] == float("inf")
    assert "updates" not in lines[0]


def test_weights_that_are_nan_end_the_run(world, tmp_path):
    cfg = world.ppo(tmp_path / "ppo")
    parts, inputs = ppo.build(cfg)
    with torch.no_grad():
        next(iter(parts.policy.parameters().values())).view(-1)[::7] = float("nan")
    with pytest.raises(NonFiniteError), ppo.open_run(cfg.out, "ppo", cfg, cfg.run, inputs) as run:
        ppo.train(cfg, parts, run)
    assert not (tmp_path / "ppo/summary.json").exists()


# --- at every step ---


@pytest.mark.slow
@pytest.mark.parametrize("save_every", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_step(world, whole, tmp_path, stage, save_every):
    over = {"run": {"save_every": save_every}}
    base = tmp_path / "base"
    assert in_child(world.work(stage, base, over)) == 0
    for step in range(len(metrics(base))):
        for method in ("log", "due"):
            out = tmp_path / f"{method}-{step}"
            killed_and_resumed(world, stage, out, step, method, over)
            assert_same_run(out, base)
    for step in (json.loads(line)["step"] for line in (whole[stage] / "metrics.jsonl").read_text().splitlines()):
        if step and step % save_every == 0:
            killed_and_resumed(world, stage, tmp_path / f"save-{step}", step, "save", over)
            assert_same_run(tmp_path / f"save-{step}", base)
    assert (base / "metrics.jsonl").read_bytes() == (whole[stage] / "metrics.jsonl").read_bytes()  # saving changes nothing


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_again_and_again(world, whole, tmp_path, stage):
    work, steps = world.work(stage, tmp_path / stage), len(metrics(whole[stage]))
    for step in range(2, steps):
        assert in_child(work, f"{stage}:{step}") == -signal.SIGKILL
    assert in_child(work) == 0
    assert_same_run(tmp_path / stage, whole[stage])
