"""`handrail plan`: what is foreseen is what the same work holds, costs and trains."""

import gc
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from encoder_decoder_models import write_model
from handrail.batch import Sequences
from handrail.cli import app
from handrail.config import load, validate
from handrail.data import write_records
from handrail.errors import ConfigError, ModelError
from handrail.models import LanguageModel, ModelSettings, ScalarModel, count_parameters
from handrail.pipeline.settings import SCHEMAS
from handrail.plan import Foreseen, gpu, plan
from handrail.plan.machine import Machine
from handrail.plan.meter import Meter
from handrail.plan.plan import otherwise, rehearse, told
from handrail.plan.rehearsal import Rehearsal, Shape
from handrail.plan.stages import Texts, sft
from handrail.plan.texts import of_stage
from handrail.recipes.ppo_parts import build as ppo_parts
from handrail.recipes.reinforce_parts import build as reinforce_parts
from handrail.recipes.sft import SFT
from handrail.records import Ranking
from handrail.tasks import TASKS
from recipe_runs import World, make_world

MACHINE = Machine("a machine", 2**34, 2**34, 0, 1.0, 0.0, {torch.float32: 1e9, torch.bfloat16: 1e10}, 1e9, 1e-6, 1280, True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def metered() -> Meter:
    return Meter(MACHINE)


def test_meter_counts_what_is_held_and_forgets_what_is_let_go() -> None:
    meter = metered()
    with FakeTensorMode(), meter:
        a = torch.zeros(1000, 100)
        assert meter.live == 400_000
        b = a.view(100, 1000).t()[3:]  # nothing new
        a.add_(1)
        assert meter.live == meter.peak == 400_000
        c = (a * 2).sum()
        gc.collect()
        assert meter.peak == 800_000 + 4 or meter.peak == 800_000
        assert meter.live == 400_004
        del a, b, c
        gc.collect()
        assert meter.live == 0


def test_meter_prices_a_product_by_its_operations_and_a_copy_by_its_bytes() -> None:
    meter = metered()
    with FakeTensorMode(), meter:
        a, b = torch.zeros(500, 400), torch.zeros(400, 300)
        wide, other = a.bfloat16(), b.bfloat16()
        with meter.phase("product", 3):
            a @ b
        with meter.phase("narrow product", 1):
            wide @ other
        with meter.phase("copy", 1):
            a + 1
        with meter.phase("view", 1):
            a.view(-1)
    operations = 2 * 500 * 400 * 300
    assert meter.seconds["product"] == pytest.approx(3 * operations / 1e9)
    assert meter.seconds["narrow product"] == pytest.approx(operations / 1e10)
    assert meter.seconds["copy"] == pytest.approx(2 * 800_000 / 1e9)
    assert meter.seconds["view"] < 1e-5  # nothing but calls


def test_what_is_foreseen_of_an_update_is_what_torch_allocates() -> None:
    """The same two updates, once without numbers and once with: the peaks of what is held differ by less than a twentieth."""
    config = LlamaConfig(
        vocab_size=2000,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    cfg = validate(SFT, {"model": {"path": "m"}, "data": {"path": "d"}, "batch_tokens": 640, "held_out": 0.5}, "test")
    rehearsal = Rehearsal(MACHINE, {"m": Shape(config)})
    sft(rehearsal, cfg, Texts([40], [40], 8))

    sequences = Sequences.of([([i + 1] * 40, list(range(1, 41))) for i in range(8)])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model = LanguageModel(LlamaForCausalLM(config).eval())
        adam = torch.optim.AdamW(model.parameters().values(), lr=1.0, fused=True)
        for _ in range(2):
            for _ in range(2):
                (-model.logp(sequences).sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters().values(), 1.0)
            adam.step()
            adam.zero_grad()
    live = peak = 0
    events = seen.profiler.kineto_results.events()
    for change in (e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if e.name() == "[memory]"):
        live += change
        peak = max(peak, live)
    assert rehearsal.meter.peak == pytest.approx(peak, rel=0.05)
    assert peak > 5 * 4 * count_parameters(model.hf) * 0.9  # weights, gradients, two moments, activations


def test_products_cost_six_operations_a_weight_and_token() -> None:
    """Kaplan et al. 2020, section 2.1: forward 2, backward 4; attention and the embedding's reading are not among them."""
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=704, num_hidden_layers=3, num_attention_heads=4, tie_word_embeddings=False
    )
    only_products = Machine("", 1, 1, 0, 1.0, 0.0, {torch.float32: 1.0, torch.bfloat16: 1.0}, 1e30, 0.0, 1280, True)
    rehearsal = Rehearsal(only_products, {"m": Shape(config)})
    cfg = validate(SFT, {"model": {"path": "m"}, "data": {"path": "d"}, "batch_tokens": 1000, "epochs": 1, "held_out": 0.5}, "test")
    sft(rehearsal, cfg, Texts([1], [99], 20))
    with FakeTensorMode():
        hf = LlamaForCausalLM(config)
    weights = count_parameters(hf) - 512 * 256
    assert rehearsal.steps == 1
    assert rehearsal.meter.seconds["improve"] == pytest.approx(6 * weights * 1000, rel=0.1)


@pytest.mark.parametrize(
    "stage, over",
    [
        ("ppo", {}),
        ("ppo", {"roles": "one_trunk"}),
        ("ppo", {"roles": "one_trunk_shared", "policy": {"lora": {"rank": 3}}}),
        ("ppo", {"policy": {"lora": {"rank": 4}}}),
        ("reinforce", {"baseline": {"kind": "value"}}),
    ],
)
def test_what_is_trained_is_what_the_recipe_trains(world: World, tmp_path: Path, stage: str, over: dict) -> None:
    function = {"reward": {"function": "builtins:len", "model": ""}} if "roles" in over else {}
    cfg = getattr(world, stage)(tmp_path / "run", over | function)
    parts, _ = (ppo_parts if stage == "ppo" else reinforce_parts)(cfg)
    trained = [p for group in parts.optimizer.groups.values() for p in group.values()]
    assert rehearse(stage, cfg, Texts([20], [12], 30), MACHINE, {}).trained == sum(p.numel() for p in trained)


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "reinforce", "best_of_n", "dpo", "relaxed"])
def test_every_stage_is_foreseen_and_less_is_less(world: World, tmp_path: Path, stage: str) -> None:
    sizes = {"micro_tokens": 1280} | ({"batch_size": 32, "minibatches": 1} if stage in ("ppo", "reinforce", "best_of_n") else {})
    cfg = getattr(world, stage)(tmp_path / "run", sizes if stage != "relaxed" else {"rows": 8})
    texts = Texts([30], [40], 64, 4)
    shapes = {"": Rehearsal.of_disk(ModelSettings(path=str(world.folder / "sft")))}
    whole = rehearse(stage, cfg, texts, MACHINE, shapes)
    assert whole.memory > 4 * whole.parameters and whole.total > 0 and whole.steps > 0
    smaller = rehearse(stage, cfg.model_copy(update={"rows": 1} if stage == "relaxed" else {"micro_tokens": 80}), texts, MACHINE, shapes)
    assert smaller.memory < whole.memory
    assert smaller.trained == whole.trained


def test_checkpointing_saves_memory_and_costs_time(tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=300, hidden_size=64, intermediate_size=176, num_hidden_layers=8, num_attention_heads=4)
    found = []
    for given in (False, True):
        cfg = validate(SFT, {"model": {"path": "m", "gradient_checkpointing": given}, "data": {"path": "d"}, "epochs": 1}, "test")
        found.append(rehearse("sft", cfg, Texts([40], [40], 400), MACHINE, {"m": Shape(config)}))
    assert found[1].memory < 0.7 * found[0].memory
    assert found[0].seconds["improve"] < found[1].seconds["improve"] < 1.6 * found[0].seconds["improve"]


@pytest.mark.parametrize("kind", ["t5", "bart"])
@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "reinforce", "dpo"])
def test_encoder_decoders_too(world: World, tmp_path: Path, kind: str, stage: str) -> None:
    folder = str(write_model(kind, tmp_path / kind, ["some words"]))
    cfg = getattr(world, stage)(tmp_path / "run")
    place = "policy" if hasattr(cfg, "policy") else "model"
    cfg = cfg.model_copy(update={place: getattr(cfg, place).model_copy(update={"path": folder, "new": None})})
    shape = Rehearsal.of_disk(getattr(cfg, place))
    found = rehearse(stage, cfg, Texts([10], [12], 30, 2), MACHINE, {str(world.folder / "reward"): shape})
    assert found.memory > 4 * found.parameters and found.total > 0


def test_a_round_is_foreseen_before_anything_is_there(tmp_path: Path) -> None:
    config = tmp_path / "round.yaml"
    config.write_text(
        f"""
out: {tmp_path}/out
task: {{name: movie-night, demonstrations: 60, prompts: 40, held_out: 10}}
labels: simulated
model: {{new: {{hidden: 32, layers: 1, heads: 2, vocabulary: 300, context: 128}}}}
ppo: {{steps: 7, batch_size: 8}}
"""
    )
    found = plan(config, ["ppo.steps=9"], "", MACHINE)
    assert [s.stage for s in found.stages] == ["sft", "sample", "reward", "ppo", "evaluate"]
    assert {s.stage: s.steps for s in found.stages}["ppo"] == 9
    assert found.fits and found.memory == max(s.memory for s in found.stages)
    assert found.otherwise() and found.hungriest.stage in ("reward", "ppo")
    assert not (tmp_path / "out").exists()


def test_a_round_of_given_comparisons_too(world: World, tmp_path: Path) -> None:
    config = tmp_path / "round.yaml"
    data = {"demonstrations": {"path": f"{world.folder}/demonstrations.jsonl"}, "comparisons": {"path": f"{world.folder}/rankings.jsonl"}}
    config.write_text(json.dumps({"out": str(tmp_path / "out"), "data": data, "model": {"path": str(world.folder / "sft")}}))
    assert [s.stage for s in plan(config, [], "", MACHINE).stages] == ["sft", "reward", "ppo", "evaluate"]


def test_every_ranking_that_a_round_is_to_make_counts(tmp_path: Path) -> None:
    """More prompts than lengths are counted of: 300 prompts, of which a tenth is held out, four at a time."""
    config = tmp_path / "round.yaml"
    task = {"name": "movie-night", "demonstrations": 60, "prompts": 300, "held_out": 10}
    new = {"hidden": 32, "layers": 1, "heads": 2, "vocabulary": 300, "context": 128}
    settings = {"out": str(tmp_path / "out"), "task": task, "labels": "simulated", "model": {"new": new}, "reward": {"batch_size": 4}}
    config.write_text(json.dumps(settings))
    assert plan(config, [], "reward", MACHINE).stages[0].steps == 270 // 4
    assert plan(config, ["sample.limit=100"], "reward", MACHINE).stages[0].steps == 90 // 4


def test_few_layers_tell_of_many() -> None:
    """Extrapolated from 4 and 8 layers; and all 20 gone through."""
    sizes = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4}
    config, shapes = LlamaConfig(num_hidden_layers=20, **sizes), {}
    shapes["m"] = Shape(config)
    cfg = validate(SFT, {"model": {"path": "m"}, "data": {"path": "d"}, "epochs": 1}, "test")
    found = rehearse("sft", cfg, Texts([40], [40], 400), MACHINE, shapes)
    whole = Rehearsal(MACHINE, shapes)
    sft(whole, cfg, Texts([40], [40], 400))
    assert found.parameters == whole.parameters and found.trained == sum(p.numel() for p in whole.weights)
    assert found.memory == pytest.approx(whole.meter.peak, rel=0.01)
    assert found.total == pytest.approx(sum(whole.meter.seconds.values()), rel=0.01)


def test_a_critic_is_as_large_as_the_reward_model_that_it_copies(world: World, tmp_path: Path) -> None:
    large = LlamaConfig(vocab_size=600, hidden_size=128, intermediate_size=352, num_hidden_layers=2, num_attention_heads=4)
    cfg = world.ppo(tmp_path / "run", {"reward": {"model": "large"}})
    found = rehearse("ppo", cfg, Texts([20], [12], 30), MACHINE, {"large": Shape(large)})
    with FakeTensorMode():
        trunk = count_parameters(LlamaForCausalLM(large).model)
    policy = count_parameters(LanguageModel.load(cfg.policy).hf)
    assert found.trained == policy + trunk + 128  # and the head
    assert found.parameters == 2 * policy + 2 * (trunk + 128)


@pytest.mark.parametrize("over", [{}, {"epochs": 2, "batch_size": 3}, {"test": True}])
@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_steps_are_as_many_as_the_recipe_makes(world: World, tmp_path: Path, stage: str, over: dict) -> None:
    if "test" in over:
        over = {"test": {"path": str(tmp_path / "test.jsonl")}}
        others = [Ranking(prompt=p, responses=("yes", "no"), places=(1, 2)) for p in TASKS["movie-night"].prompts(5, 99)]
        write_records(tmp_path / "test.jsonl", others)
    cfg = getattr(world, stage)(tmp_path / "run", over)
    parts, _ = importlib.import_module(f"handrail.recipes.{stage}").build(cfg)
    made = max(1, cfg.epochs * len(parts.train) // cfg.batch_size) if stage == "reward" else parts.source.steps
    foreseen = rehearse(stage, cfg, of_stage(cfg)[0], MACHINE, {})
    assert abs(foreseen.steps - made) <= 1  # a split by prompts is not a share to the last ranking
    if "test" in over:
        assert foreseen.steps == made


def test_what_a_stage_has_beside_its_roles_counts(world: World, tmp_path: Path) -> None:
    texts, sft_model = Texts([20], [12], 30), {"path": str(world.folder / "sft")}

    def parameters(over: dict) -> int:
        return rehearse("ppo", world.ppo(tmp_path / "run", over), texts, MACHINE, {}).parameters

    alone = parameters({})
    assert parameters({"partner": {"model": sft_model, "turns": 2}}) > alone
    assert parameters({"reward": {"more": [{"model": str(world.folder / "reward"), "name": "second"}]}}) > alone
    trunk = parameters({"roles": "one_trunk"})
    assert count_parameters(LanguageModel.load(world.ppo(tmp_path / "x").policy).hf) < trunk < 0.7 * alone, "weights in common count once"


def test_smaller_minibatches_take_less_memory_and_a_mixture_more_time(world: World, tmp_path: Path) -> None:
    def foreseen(over: dict) -> Foreseen:
        return rehearse(
            "ppo", world.ppo(tmp_path / "run", {"batch_size": 96, "micro_tokens": 0} | over), Texts([20], [12], 30), MACHINE, {}
        )

    few, many = foreseen({"minibatches": 1}), foreseen({"minibatches": 96})
    assert many.memory < few.memory
    mix = {"mix": {"data": {"path": str(world.folder / "demonstrations.jsonl")}, "batch_size": 4}}
    extra = [foreseen({"minibatches": m} | mix).seconds["improve"] - foreseen({"minibatches": m}).seconds["improve"] for m in (1, 4)]
    assert extra[1] == pytest.approx(4 * extra[0], rel=0.05), "it is learned from in every update"


def test_the_reference_of_labelled_pairs_is_let_go(world: World, tmp_path: Path) -> None:
    texts, shapes = Texts([20], [12], 30, 2), {}
    with_it, without = (
        rehearse("dpo", world.dpo(tmp_path / "run", {"loss": {"name": name}}), texts, MACHINE, shapes) for name in ("dpo", "orpo")
    )
    assert with_it.parameters == 2 * without.parameters
    assert with_it.memory < without.memory + 2 * without.parameters  # less than half a copy of float32 weights


def test_what_is_proposed_is_taken_by_the_file(world: World, tmp_path: Path) -> None:
    own = tmp_path / "ppo.yaml"
    own.write_text(json.dumps(world.ppo(tmp_path / "run").model_dump(mode="json", exclude_defaults=True)))
    for other in plan(own, [], "ppo", MACHINE).otherwise():
        load(SCHEMAS["ppo"], own, list(other.assignments))


def test_the_command_says_it_for_people_and_for_programs(world: World, tmp_path: Path) -> None:
    config = tmp_path / "ppo.yaml"
    config.write_text(json.dumps(world.ppo(tmp_path / "run").model_dump(mode="json", exclude_defaults=True)))
    said = subprocess.run(
        [sys.executable, "-m", "handrail", "plan", str(config), "--stage", "ppo", "--gpu", "l4", "--price", "2"],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    assert "NVIDIA L4" in said.stdout and "It fits" in said.stdout and "at 2 an hour" in said.stdout
    found = json.loads(CliRunner().invoke(app, ["plan", str(config), "--stage", "ppo", "--gpu", "l4", "--json"]).stdout)
    assert found["fits"] and found["stages"][0]["steps"] == 6 and found["machine"]["measured"] is False


def test_what_does_not_fit_is_said_with_what_would(tmp_path: Path) -> None:
    """A model of which nothing but the config is there: training it takes 16 bytes a weight, and adapters far less."""
    LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=2, num_attention_heads=32, vocab_size=32000).save_pretrained(
        tmp_path / "m"
    )
    (tmp_path / "m" / "model.safetensors").touch()
    cfg = validate(SCHEMAS["sft"], {"model": {"path": str(tmp_path / "m")}, "data": {"path": "d"}, "out": str(tmp_path / "run")}, "test")
    texts, small = Texts([40], [40], 400), replace(gpu("t4"), memory=2**33, free=2**33)
    whole = rehearse("sft", cfg, texts, small, {})
    assert 32 * whole.parameters > whole.memory > 16 * whole.parameters > small.free
    fitting = {a for other in otherwise("sft", cfg, texts, small, {}) if other.foreseen.memory < small.free for a in other.assignments}
    assert fitting == {"model.lora.rank=16"}


def test_a_file_tells_its_stage_or_is_asked(tmp_path: Path) -> None:
    place = {"policy": {"path": "m"}, "prompts": {"path": "p"}, "reward": {"function": "a:b"}}
    assert told({"model": {"path": "m"}, "data": {"path": "d"}, "heads": 2}, Path("x")) == "reward"
    assert told(place | {"critic_lr": 1e-4}, Path("x")) == "ppo"
    with pytest.raises(ConfigError, match="--stage"):
        told(place, Path("x.yaml"))
    with pytest.raises(ConfigError, match="neither a round"):
        told({"nothing": 1}, Path("x.yaml"))


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="h100"):
        gpu("h10")
    with pytest.raises(ModelError, match="no such folder"):
        cfg = validate(SFT, {"model": {"path": str(tmp_path / "none")}, "data": {"path": "d"}}, "test")
        rehearse("sft", cfg, Texts([4], [4], 4), MACHINE, {})


def test_what_a_run_used_stands_beside(world: World, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lines = [{"step": 0, "time": 1.0, "improve": 2.5, "memory_mib": 900.0}, {"step": 1, "time": 2.0, "improve": 1.5, "memory_mib": 950.0}]
    (tmp_path / "run" / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = rehearse(
        "sft", world.sft(tmp_path / "run", {"model": {"new": None, "path": str(world.folder / "sft")}}), Texts([9], [9], 9), MACHINE, {}
    )
    assert found.used == {"memory": 950 * 2**20, "seconds": 4.0}


def test_the_rehearsal_leaves_modules_as_they_were() -> None:
    moves = torch.nn.Module.to
    cfg = validate(SFT, {"model": {"path": "m", "lora": {"rank": 2}}, "data": {"path": "d"}}, "test")
    config = LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    rehearse("sft", cfg, Texts([9], [9], 9), MACHINE, {"m": Shape(config)})
    assert torch.nn.Module.to is moves
    assert ScalarModel.from_causal(LlamaForCausalLM(config), "zero").score(Sequences.of([([1], [2])])).tolist() == [0.0]
