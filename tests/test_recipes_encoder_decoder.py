"""T5 and BART through every stage: the verbs of the command line, what must hold of PPO, and a run that was killed."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForSeq2SeqLM
from typer.testing import CliRunner

from encoder_decoder_models import BEGIN, END, law_of, write_model
from handrail.cli import app
from handrail.data import Codec, demonstration_example, load_demonstrations, load_rankings, ranking_batch
from handrail.data.settings import Source
from handrail.models import LanguageModel, ModelSettings, load_tokenizer
from handrail.pipeline.settings import merge
from handrail.recipes import ppo, reinforce, reward, sft
from handrail.recipes.parts import Optimizer
from killing import assert_same_run
from recipe_runs import World, in_child, make_records, metrics

KINDS = ["t5", "bart"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def world(kind, tmp_path_factory) -> World:
    """Records, a model from the hub as it were in base/, the same after SFT, and a reward model."""
    folder = tmp_path_factory.mktemp(kind)
    world = make_records(folder)
    records = load_demonstrations(Source(path=str(folder / "demonstrations.jsonl"))).records
    write_model(kind, folder / "base", [d.prompt.text + d.response for d in records], vocabulary=600, context=128)
    for stage, done in (("sft", call(world, "sft")), ("reward", call(world, "reward"))):
        assert done["folder"] == str(folder / stage)
    return world


def over(world: World, stage: str) -> dict:
    """What a stage of this world is told beside what `World` says."""
    starting = {"path": str(world.folder / "base"), "new": None}
    return {"sft": {"model": starting, "epochs": 4, "lr": 5e-3}}.get(stage, {})


def call(world: World, stage: str) -> dict:
    """The stage by its verb; what it says with --json."""
    return told(stage, settings_file(world, stage))


def settings_file(world: World, stage: str) -> str:
    """The stage's settings as a user would write them."""
    cfg = getattr(world, stage)(world.folder / stage, over(world, stage))
    file = world.folder / f"{stage}.yaml"
    file.write_text(yaml.safe_dump(cfg.model_dump(mode="json")), encoding="utf-8")
    return str(file)


def told(*arguments: str, spoken: str = "") -> dict:
    done = CliRunner(env={"COLUMNS": "160"}).invoke(app, [*arguments, "--json"], input=spoken)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_every_stage_from_the_command_line(world, kind):
    folder = world.folder
    losses = [line["eval_loss"] for line in metrics(folder / "sft") if "eval_loss" in line]
    assert losses[-1] < losses[0] - 0.3
    assert 0 <= json.loads((folder / "reward/summary.json").read_text())["accuracy"]["value"] <= 1

    done = call(world, "ppo")
    first, *_, last = metrics(folder / "ppo")
    assert abs(first["kl"]) < 1e-5 and first["engine_difference"] < 1e-4 and last["kl"] > 1e-3
    trained, start = (AutoModelForSeq2SeqLM.from_pretrained(folder / name / "model") for name in ("ppo", "sft"))
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    assert all(moved), "encoder and decoder alike"

    file = folder / "sample.yaml"
    file.write_text(yaml.safe_dump({"model": {"path": done["folder"]}, "prompts": {"path": str(folder / "prompts.jsonl")}}))
    given = [f"out={folder / 'responses.jsonl'}", "responses=2", "sampling.max_new_tokens=12"]
    assert told("sample", str(file), *given)["responses"] == 24
    written = (folder / "responses.jsonl").read_bytes()
    told("sample", str(file), *given)
    assert (folder / "responses.jsonl").read_bytes() == written and "</s>" not in written.decode()

    sides = {"before": {"path": str(folder / "sft")}, "after": {"path": str(folder / "ppo")}, "reward": str(folder / "reward")}
    file = folder / "evaluate.yaml"
    file.write_text(yaml.safe_dump(sides | {"out": str(folder / "evaluation"), "prompts": {"path": str(folder / "prompts.jsonl")}}))
    summary = told("evaluate", str(file), "sampling.max_new_tokens=12")["summary"]
    assert summary["prompts"] == 12 and 0 <= summary["win_rate"]["value"] <= 1 and summary["kl"] != 0

    spoken = told("chat", str(folder / "sft"), str(folder / "ppo"), "--max-new-tokens", "8", spoken="a film, please\n/quit\n")
    assert len(spoken["turns"][0]["replies"]) == 2
    told("report", str(folder / "ppo"))
    assert "<html" in (folder / "ppo/report.html").read_text(encoding="utf-8")


def test_the_batch_is_shown_as_the_model_sees_it(world, kind):
    for stage, sides in (("sft", 2), ("reward", 2), ("ppo", 1)):
        shown = told("show", "tokens", settings_file(world, stage), "--stage", stage)
        assert len(shown["rows"]) == 4
        for row in shown["rows"]:
            ids = [token["id"] for token in row["tokens"]]
            assert ids.count(END) == sides and ids[-1] == END
            assert ids.count(BEGIN) == sides * (kind == "bart") and (kind == "t5" or ids[0] == BEGIN)


def test_one_beginning_and_one_end_on_either_side_in_every_path(world, kind):
    """The same tokens in SFT, in the reward model, in a rollout's prompt and in an evaluation."""
    codec = Codec(load_tokenizer(ModelSettings(path=str(world.folder / "sft"))))
    record = load_rankings(Source(path=str(world.folder / "rankings.jsonl"))).records[0]
    demonstration = load_demonstrations(Source(path=str(world.folder / "demonstrations.jsonl"))).records[0]
    example = demonstration_example(codec, demonstration, 1000)
    sides = [example.prompt_ids, example.response_ids, codec.encode_prompt(record.prompt), codec.encode_response(record.responses[0], True)]
    ranked = ranking_batch(codec, [record], 1000).sequences
    cut, stop = int(ranked.prompt_lengths[0]), int(ranked.lengths[0])
    assert [ranked.ids[0, :cut].tolist(), ranked.ids[0, cut:stop].tolist()] == sides[2:]
    cfg = world.ppo(world.folder / "unused")
    parts, _ = ppo.build(cfg)
    assert parts.answers.ids[0] == codec.encode_prompt(parts.answers.prompts[0])
    for ids in (*sides, *parts.answers.ids):
        assert ids.count(END) == 1 and ids[-1] == END
        assert (ids.count(BEGIN) == 1 and ids[0] == BEGIN) if kind == "bart" else BEGIN not in ids
    assert codec.decode(example.response_ids) == demonstration.response
    typed = codec.encode_response("what </s> is <s> this?", True)
    assert typed.count(END) == 1 and codec.decode(typed) == "what </s> is <s> this?"


def test_a_chat_template_that_frames_its_text_is_not_framed_again(world, kind):
    tokenizer = load_tokenizer(ModelSettings(path=str(world.folder / "base")))
    prompt = load_demonstrations(Source(path=str(world.folder / "demonstrations.jsonl"))).records[0].prompt
    turns = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    tokenizer.chat_template = turns
    bare = Codec(tokenizer).encode_prompt(prompt)
    tokenizer.chat_template = ("<s>" if kind == "bart" else "") + turns + "</s>"
    assert Codec(tokenizer).encode_prompt(prompt) == bare
    assert bare.count(END) == 1 and bare[-1] == END and bare.count(BEGIN) == (kind == "bart")


# --- what must hold of PPO ---


def test_the_first_inner_step_is_on_policy_and_step_0_is_the_reference(world, tmp_path):
    (line,) = metrics(ppo.run(world.ppo(tmp_path / "ppo", {"steps": 1, "epochs": 1, "minibatches": 1})))
    assert abs(line["approx_kl"]) < 1e-9 and line["clip_fraction"] == 0 and line["updates"] == 1
    assert abs(line["kl"]) < 1e-5 and line["engine_difference"] < 1e-4


def test_dropout_is_off_in_reinforcement_learning_and_on_in_sft(world, tmp_path, monkeypatch):
    cfg = world.ppo(tmp_path / "ppo")
    parts, _ = ppo.build(cfg)
    parts.eval()
    rollout, prompts = ppo.act(cfg, parts, 0)
    one, sequences = ppo.judge(parts, rollout, prompts), rollout.sequences
    with torch.no_grad():
        assert torch.equal(one.logp, parts.policy.logp(sequences)) and torch.equal(one.values, parts.critic.values(sequences)[0])
        parts.policy.hf.train()
        assert not torch.equal(one.logp, parts.policy.logp(sequences))
    seen: list[bool] = []
    original = LanguageModel.logp

    def logp(self, *rest):
        seen.append(self.causal.get_encoder().training and self.causal.get_decoder().training)
        return original(self, *rest)

    monkeypatch.setattr(LanguageModel, "logp", logp)
    sft.run(world.sft(tmp_path / "sft", over(world, "sft") | {"epochs": 1}))
    assert seen[0] is True and seen[-1] is False  # in training, and in the evaluation at the end


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "reinforce", "best_of_n", "dpo"])
def test_micro_batches_change_nothing(world, tmp_path, monkeypatch, stage):
    class Enough(Exception):
        pass

    found = []

    def step(self, share):
        found.append({f"{g}.{n}": p.grad.clone() for g, ps in self.groups.items() for n, p in ps.items() if p.grad is not None})
        raise Enough

    mode = torch.nn.Module.train
    monkeypatch.setattr(torch.nn.Module, "train", lambda self, on=True: mode(self, False))  # in other slices dropout draws otherwise
    monkeypatch.setattr(Optimizer, "step", step)
    for tokens in (64, 100_000):
        with pytest.raises(Enough):
            world.work(stage, tmp_path / f"{tokens}", over(world, stage) | {"micro_tokens": tokens, "max_grad_norm": 1e9})()
    assert found[0].keys() == found[1].keys() and found[0]
    biggest = max(float(g.abs().max()) for g in found[1].values())
    for name, gradient in found[0].items():
        assert float((gradient - found[1][name]).abs().max()) < 1e-5 * max(1.0, biggest), name


def killed_and_started_again(world: World, tmp_path: Path, stage: str) -> None:
    whole, again = (world.work(stage, tmp_path / f"{stage}-{name}", over(world, stage)) for name in ("whole", "again"))
    assert in_child(whole) == 0
    assert in_child(again, f"{stage}:4") == -signal.SIGKILL
    assert not (tmp_path / f"{stage}-again/summary.json").exists()
    assert in_child(again) == 0
    assert_same_run(tmp_path / f"{stage}-again", tmp_path / f"{stage}-whole")


def test_killed_and_started_again_a_recipe_ends_the_same(world, kind, tmp_path):
    for stage in {"t5": ["ppo"], "bart": ["sft", "reward"]}[kind]:
        killed_and_started_again(world, tmp_path, stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reinforce", "best_of_n", "dpo"])
def test_killed_and_started_again_the_other_methods_end_the_same(world, tmp_path, stage):
    killed_and_started_again(world, tmp_path, stage)


def test_all_roles_on_one_trunk(world, kind, tmp_path):
    roles = {"t5": "one_trunk", "bart": "one_trunk_shared"}[kind]
    lora = {"rank": 4, "alpha": 8.0}
    reward.run(world.reward(tmp_path / "reward", {"model": {"lora": lora}, "epochs": 1}))
    settings = {"roles": roles, "policy": {"lora": lora}, "reward": {"model": str(tmp_path / "reward")}, "steps": 2}
    first, last = metrics(ppo.run(world.ppo(tmp_path / "ppo", settings)))
    assert abs(first["kl"]) < 1e-5 and last["kl"] != 0 and Path(tmp_path / "ppo/model/adapter/adapter_model.safetensors").is_file()


# --- the methods without PPO's critic ---

GRPO = {"baseline": {"kind": "group_normalised"}, "credit": "whole_return", "kl": {"placement": "loss"}, "objective": {"weigh": "lengths"}}
METHODS = {
    "rloo": ("reinforce", {}),
    "grpo": ("reinforce", GRPO),
    "a learned baseline": ("reinforce", {"baseline": {"kind": "value"}}),
    "clipped, two passes": ("reinforce", {"objective": {"kind": "ppo_clip"}, "epochs": 2}),
    "best of 3, two rounds": ("best_of_n", {"steps": 4}),
    "reward-weighted": ("best_of_n", {"weighting": "reward"}),
    "advantage-weighted": ("best_of_n", {"weighting": "advantage"}),
    **{name: ("dpo", {"loss": {"name": name}, "epochs": 2}) for name in ("dpo", "ipo", "kto", "orpo", "simpo")},
    "online dpo": ("dpo", {"loss": {"name": "dpo"}}),
}
QUICK = ("rloo", "a learned baseline", "best of 3, two rounds", "dpo", "orpo", "online dpo")  # the others differ in a formula alone
FIRST_LOSS = {"dpo": math.log(2), "ipo": 25.0, "kto": 0.5}  # where the policy is the reference; of ipo (1 / (2 beta))^2


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in METHODS])
def test_every_other_method_from_the_command_line(world, tmp_path, name):
    stage, over = METHODS[name]
    online = world.online() if name == "online dpo" else {}
    steps = {} if stage == "dpo" else {"steps": 2}
    cfg = getattr(world, stage)(tmp_path / "run", merge(steps | online, over))
    file = tmp_path / f"{stage}.yaml"
    file.write_text(yaml.safe_dump(cfg.model_dump(mode="json")), encoding="utf-8")
    told(stage, str(file))
    first, *_, last = metrics(tmp_path / "run")
    if "kl" in first:
        assert abs(first["kl"]) < 1e-5 and first.get("engine_difference", 0.0) < 1e-4 and abs(last["kl"]) > 1e-4
    if stage == "dpo" and (loss := over["loss"]["name"]) in FIRST_LOSS:
        assert first["loss"] == pytest.approx(FIRST_LOSS[loss], rel=1e-4)
    trained, start = (AutoModelForSeq2SeqLM.from_pretrained(f / "model") for f in (tmp_path / "run", world.folder / "sft"))
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    assert all(moved), "encoder and decoder alike"


def test_the_policy_gradient_is_that_of_the_library_s_own_forward(world, tmp_path):
    cfg = world.reinforce(tmp_path / "run", {"minibatches": 1, "objective": {"weigh": "responses"}})
    parts, _ = reinforce.build(cfg)
    parts.eval()
    rollout, numbers = parts.source.act(parts.policy, 0)
    experience, _ = reinforce.credit(cfg, parts, rollout, reinforce.judge(parts, rollout, numbers))
    reinforce.gradient(cfg, parts, experience)
    found = {name: p.grad.clone() for name, p in parts.policy.parameters().items()}
    parts.optimizer.clear()
    for row, response in enumerate(rollout.responses()):
        logits = law_of(parts.policy.hf, rollout.ids[row, : rollout.prompt_lengths[row]].tolist(), response)
        logp = logits.log_softmax(-1)[torch.arange(len(response)), response]
        (-(logp * experience.advantage[row, : len(response)]).sum() / len(rollout)).backward()
    for name, p in parts.policy.parameters().items():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-5, msg=name)
