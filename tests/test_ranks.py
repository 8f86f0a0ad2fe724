"""O9, the last part: one, two or four processes do the same, beyond rounding; and when one dies none waits for it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from handrail.batch import RankingBatch, Sequences
from handrail.cli import app
from handrail.config import read_yaml
from handrail.errors import ConfigError, HandrailError, RewardError, RunError
from handrail.parallel import Parallel
from handrail.recipes import dpo, parts, ppo, reward, reward_parts, sft
from handrail.recipes.dpo_exam import Exam
from handrail.recipes.dpo_objectives import OBJECTIVES
from handrail.recipes.dpo_sources import Online
from handrail.recipes.rewards import RewardSource
from handrail.selftest import tiny
from handrail.selftest.enumerated import PENALTY, RESPONSES, N, S, World
from handrail.selftest.loops import LOOPS, Cast, run_loop, settings
from handrail.selftest.roles import Places, TableEngine
from handrail.track import Run, read_run
from killing import arm, assert_same_run
from ranks import ends, found, start, together
from recipe_runs import World as Records
from recipe_runs import make_world

WORLD = World.random(7)
WORLDS = (2, 4)
Update = Callable[[Path], tuple[Tensor, list[dict]]]  # what a recipe's own update makes of the weights, and what it logs

# --- O9: the same update, on the language that can be written down ---


def online(name: str, **over: Any) -> Update:
    """Two steps of a loop; with ten responses and fewer some processes have no share of a minibatch."""

    def update(folder: Path) -> tuple[Tensor, list[dict]]:
        sizes = {"steps": 2, "batch_size": 10, "epochs": 2, "minibatches": 5, "warmup": 0}
        logits = run_loop(name, WORLD, folder, 0, **(sizes | over))
        return logits, read_run(folder).metrics

    return update


def of_dpo(folder: Path) -> tuple[Tensor, list[dict]]:
    sampling = {"max_new_tokens": 4}
    asked = {"prompts": {"path": "table"}, "reward": {"model": "table", "end_penalty": PENALTY}, "sampling": sampling, "responses": 3}
    base = {"out": str(folder), "policy": {"path": "table"}, "online": asked | {"pairs": "all", "steps": 2}, "batch_size": 3, "lr": 0.02}
    cfg, cast, parallel = dpo.DPO.model_validate(base | {"run": {"trace_every": 0}}), Cast.of(WORLD), Parallel.joined()
    assert cfg.online
    source = RewardSource(cfg.online.reward, cast.scores, cfg.policy, cast.codec)
    drawn = Online(cfg.online, 3, 0, cast.codec, cast.engine, cast.policy, cast.reference.logp, source, cast.prompts)
    optimizer = parts.Optimizer({"policy": (cast.policy.parameters(), cfg.lr)}, 0.0, 1.0, parallel)
    exam, objective = Exam(cast.codec, [], 4, None), OBJECTIVES["dpo"](cfg.loss)
    made = dpo.Parts(cast.codec, cast.policy, objective, drawn, exam, cast.policy.logp, optimizer, parallel, "")
    with parts.open_run(cfg.out, "dpo", cfg, cfg.run, {}) as run:
        dpo.train(cfg, made, run)
    return cast.policy.weights.detach(), read_run(folder).metrics


def some_sequences(count: int) -> Sequences:
    """Responses of one to four tokens, to prompts of two lengths."""
    return Sequences.of([([4] * (1 + row % 2), list(RESPONSES[17 * row % N])) for row in range(count)])


def of_sft(folder: Path) -> tuple[Tensor, list[dict]]:
    base = {"out": str(folder), "data": {"path": "table"}, "lr": 0.02, "eval_every": 1, "weight_decay": 0.0, "run": {"trace_every": 0}}
    cfg, cast, parallel = sft.SFT.model_validate(base), Cast.of(WORLD), Parallel.joined()
    optimizer = parts.Optimizer({"policy": (cast.policy.parameters(), cfg.lr)}, 0.0, 1.0, parallel)
    batches = [[0, 1, 2, 3, 4, 5, 6], [7, 8]]
    made = sft.Parts(cast.codec, cast.policy, optimizer, parallel, some_sequences(9), [], some_sequences(5), batches, "")
    with parts.open_run(cfg.out, "sft", cfg, cfg.run, {}) as run:
        sft.train(cfg, made, run)
    return cast.policy.weights.detach(), read_run(folder).metrics


class TableReward:
    """A reward model of one head; weights are what it says at each state, and of each whole response."""

    def __init__(self) -> None:
        self.hf = nn.Module()
        noise = torch.randn(2, S + N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        self.hf.weights = nn.Parameter(noise)
        self.heads, self.device, self.forward, self.tokens = reward_parts.Heads(("",)), torch.device("cpu"), self, 9

    def head_values(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        at = Places.of(sequences)
        before = torch.where(at.mask, self.hf.weights[at.prompt, at.state], 0)
        return before[..., None], self.hf.weights[at.prompt[:, 0], S + at.response][:, None]


def of_reward(folder: Path) -> tuple[Tensor, list[dict]]:
    """Four rankings of two or three, one with a tie."""
    model, parallel = TableReward(), Parallel.joined()
    cfg = reward_parts.Reward.model_validate({"out": str(folder), "model": {"path": "table"}, "data": {"path": "table"}})
    index = torch.tensor([[0, 2, 4], [1, 3, 0], [6, 8, 10], [5, 7, 9]])
    places = torch.tensor([[1, 2, 3], [2, 1, 0], [1, 1, 2], [3, 1, 2]])
    mask = places > 0
    none, weight = torch.zeros(4), torch.tensor([1.0, 0.5, 2.0, 1.0])
    batch = RankingBatch(some_sequences(11), torch.where(mask, index, 0), mask, places, torch.zeros(4, 3), none, weight)
    optimizer = parts.Optimizer({"reward": ({"w": model.hf.weights}, 0.02)}, 0.0, 1.0, parallel)
    criterion, share, loss = torch.zeros(4, dtype=torch.int64), torch.ones(4, 1), reward_parts.ranking_loss
    made: Any = reward_parts.Parts(None, model, None, optimizer, parallel, loss, [], criterion, share, [], "")
    logged = []
    for _ in range(2):
        logged.append(reward.gradient(cfg, made, batch, [0, 1, 2, 3])[0] | optimizer.clip())
        optimizer.step(1.0)
    return model.hf.weights.detach(), logged


GRPO = {"baseline": {"kind": "group_normalised"}, "responses": 5, "kl": {"beta": 0.5, "placement": "loss"}}
UPDATES: dict[str, Update] = {
    "ppo": online("ppo", entropy_coef=0.1, value_clip=0.3),
    "ppo_penalty": online("ppo", objective={"kind": "ppo_penalty"}, minibatches=1, kl={"beta": 1.0, "target": 0.5, "horizon": 20}),
    "rloo": online("rloo", responses=2, epochs=1),
    "grpo": online("rloo", **GRPO, objective={"kind": "ppo_clip", "weigh": "lengths"}, minibatches=2),
    "value_baseline": online("value_baseline", responses=2, epochs=1),
    "dpo": of_dpo,
    "sft": of_sft,
    "reward": of_reward,
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, tuple[Tensor, list[dict]]]:
    """Each update by one process."""
    folder = tmp_path_factory.mktemp("alone")
    return {name: update(folder / name) for name, update in UPDATES.items()}


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> dict[int, list[dict[str, tuple[Tensor, list[dict]]]]]:
    """Each update by so many processes, as each of them has it."""
    folder = tmp_path_factory.mktemp("shared")
    return {
        world: found(world, folder, lambda world=world: {name: update(folder / f"{name}-{world}") for name, update in UPDATES.items()})
        for world in WORLDS
    }


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", UPDATES)
def test_several_processes_make_the_update_of_one(alone, shared, name, world):
    weights, logged = alone[name]
    for other, _ in (of_each[name] for of_each in shared[world]):
        torch.testing.assert_close(other, weights, rtol=1e-10, atol=1e-10)
        assert torch.equal(other, shared[world][0][name][0]), "all have the same bits"
    for line, found_line in zip(logged, shared[world][0][name][1], strict=True):
        assert found_line == pytest.approx(line, rel=1e-9, abs=1e-10)
    assert not torch.equal(weights, WORLD.reference[: len(weights)])


# --- statement 18: who samples what ---


def asked_of_the_engine(folder: Path) -> tuple[list[int], list[list[int]]]:
    """The seeds that this process sampled with, and all responses of a step as it has them."""
    seeds: list[int] = []

    class Watched(TableEngine):
        def generate(self, prompts, own, sampling, progress=None):
            seeds.extend(own)
            return super().generate(prompts, own, sampling, progress)

    cfg, cast = settings("ppo", WORLD, folder, 0, {"batch_size": 9, "minibatches": 1}), Cast.of(WORLD)
    cast.engine.engine = Watched()
    rollout, _ = ppo.act(cfg, LOOPS["ppo"].assemble(cfg, cast), 3)
    return seeds, rollout.responses()


def test_processes_sample_with_different_seeds_what_one_alone_would_sample(tmp_path):
    seeds, responses = asked_of_the_engine(tmp_path)
    each = found(2, tmp_path, lambda: asked_of_the_engine(tmp_path))
    assert [seed for own, _ in each for seed in own] == seeds and len(set(seeds)) == 9
    assert all(len(own) in (4, 5) for own, _ in each)
    assert [got for _, got in each] == [responses] * 2


def test_what_a_process_draws_for_itself_no_other_draws():
    assert Parallel(0, 2).apart == Parallel().apart == (), "the first draws as one alone does"
    assert len({parts.derive(0, "step", 1, *Parallel(rank, 4).apart) for rank in range(4)}) == 4


# --- the parts of it ---


def outcomes() -> dict[str, Any]:
    """What becomes of an error in one process, in each of them."""
    parallel, seen, calls = Parallel.joined(), {}, []

    def raised(work: Callable[[], object]) -> str:
        try:
            return f"no error but {work()}"
        except HandrailError as error:
            return f"{type(error).__name__}: {error.found} / {error.remedy}"

    def refuse() -> None:
        calls.append(1)
        raise ConfigError("found", "allowed", "remedy")

    def odd(rows: Tensor) -> Tensor:
        if 3 in rows:
            raise RewardError("row 3")
        return rows

    seen["first"] = raised(lambda: parallel.first(refuse))
    seen["calls"] = len(calls)
    seen["each"] = raised(lambda: parallel.each(odd, torch.arange(4)))
    seen["after"] = parallel.first(lambda: "still together")
    wide, table = parallel.each(lambda rows: (rows.ids, {"n": rows.lengths}), some_sequences(5))
    seen["rows"] = torch.equal(wide, some_sequences(5).ids) and torch.equal(table["n"], some_sequences(5).lengths)
    seen["few"] = parallel.each(lambda row: row.double(), torch.tensor([7])).tolist()
    seen["none"] = parallel.each(lambda rows: rows, torch.zeros(0, 2)).shape
    seen["totals"] = parallel.totals({"all": 1.0} | ({"last": torch.tensor(2.5)} if parallel.rank else {}))
    here, nowhere = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    here.grad = torch.full((3,), 4.0) if parallel.rank else None
    seen["norm"] = float(parallel.clip_grad([here, nowhere], 1e9)), here.grad.tolist(), nowhere.grad
    return seen


def test_an_error_in_one_process_is_raised_in_all_and_they_stay_together(tmp_path):
    first, second = found(2, tmp_path, outcomes)
    assert first["calls"] == 1 and second["calls"] == 0, "the first alone does it"
    for seen in (first, second):
        assert seen["first"] == "ConfigError: found / remedy"
        assert seen["each"] == "RewardError: row 3 / "
        assert seen["after"] == "still together" and seen["rows"]
        assert seen["few"] == [7.0] and seen["none"] == (0, 2)
        assert seen["totals"] == {"all": 2.0, "last": 2.5}
        assert seen["norm"] == (pytest.approx(48**0.5), [4.0] * 3, None), "a gradient that no process has is not made"


def test_memory_that_ran_out_is_not_told_as_the_loss_of_the_others(monkeypatch):
    def full(_: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def gone(_: Tensor) -> None:
        raise RuntimeError("connection closed by peer")

    parameter = nn.Parameter(torch.zeros(1))
    for happens, told in ((full, torch.OutOfMemoryError), (gone, RunError)):
        monkeypatch.setattr(torch.distributed, "all_reduce", happens)
        with pytest.raises(told):
            Parallel(0, 2).sum_gradients([parameter])


def test_verbs_for_one_process_refuse_several(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = CliRunner(env={"COLUMNS": "160", "TERM": "dumb"}).invoke(app, ["report", "nowhere"])
    assert told.exit_code == 2
    assert "2 processes at `handrail report`" in told.stderr and "start it without torchrun" in told.stderr


# --- a transformer, a run folder, signals and deaths ---


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make(folder)
    return folder


def short(made: Path, out: Path) -> Callable[[], object]:
    """Six steps of PPO on a transformer."""
    run = {"save_every": 2, "trace_every": 1, "trace_rows": 4}
    sizes = {"steps": 6, "batch_size": 14, "minibatches": 2, "lr": 3e-3, "kl": {"target": 0.5, "horizon": 100}}
    return lambda: ppo.run(tiny.settings(made, out, run=run, **sizes))


@pytest.fixture(scope="module")
def whole(made) -> Path:
    """The run of two processes, not interrupted."""
    assert together(2, short(made, made / "whole")) == [0, 0]
    return made / "whole"


def test_two_processes_train_a_transformer_as_one_does(made, whole):
    short(made, made / "one")()
    one, two = read_run(made / "one"), read_run(whole)
    for line, other in zip(one.metrics, two.metrics, strict=True):
        assert other == pytest.approx(line, abs=1e-4, rel=1e-4)
    assert [one.read_trace(step)["response"] for step in one.traces] == [two.read_trace(step)["response"] for step in two.traces]
    log = (whole / "log.txt").read_text()
    assert log.count("is next, process") == log.count("ppo: finished") == 1, "the first alone writes"
    assert (whole / "environment.json").read_text().count('"processes": 2') == 1


@pytest.mark.parametrize("asked", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_one_process_stops_all_and_they_go_on_later(made, whole, tmp_path, asked):
    def prepare(rank: int) -> None:
        log = Run.log

        def stopped(self, step, *rest):
            log(self, step, *rest)
            if rank == asked and step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        Run.log = stopped

    work = short(made, tmp_path / "run")
    assert together(2, work, prepare) == [143, 143]
    assert (tmp_path / "run/checkpoints/step-00000003").is_dir() and len(read_run(tmp_path / "run").metrics) == 3
    assert together(2, work) == [0, 0]
    assert_same_run(tmp_path / "run", whole)


def killed_and_resumed(work: Callable[[], object], stage_step: str, killed: int, folder: Path) -> None:
    def prepare(rank: int) -> None:
        if rank == killed:
            arm(stage_step, "log")

    began = time.monotonic()
    statuses = ends(start(2, work, prepare))
    assert statuses[killed] == -signal.SIGKILL and statuses[1 - killed] == 1 and time.monotonic() - began < 60
    if killed:
        assert "process 0 of 2 has lost the others" in (folder / "log.txt").read_text()
    assert together(2, work) == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_process_is_killed_the_other_ends_and_the_same_command_goes_on(made, whole, tmp_path, killed):
    killed_and_resumed(short(made, tmp_path / "run"), "ppo:3", killed, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


# --- every recipe, and what a run may have beside it ---

FUNCTIONS = """
import os
from pathlib import Path

def letters(prompts, responses):
    Path(__file__).with_suffix(".calls").open("a").write(f"{os.environ.get('RANK', 'alone')} {len(responses)}\\n")
    return [float(len(set(r))) / 10 for r in responses]

def again(conversations):
    return ["Go on." if len(c) < 5 else "" for c in conversations]
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Records:
    folder = tmp_path_factory.mktemp("records")
    (folder / "functions.py").write_text(FUNCTIONS)
    return make_world(folder)


def stages(world: Records) -> dict[str, dict]:
    """Settings over those of the small world, by recipe and a letter."""
    function = {"model": "", "function": f"{world.folder}/functions.py:letters", "end_penalty": 0.1}
    mix = {"data": {"path": str(world.folder / "demonstrations.jsonl")}, "batch_size": 5}
    talks = {"partner": {"function": f"{world.folder}/functions.py:again", "turns": 2}, "mix": mix}
    talks |= {"sampling": {"max_new_tokens": 8, "stop": ["e", "a", "o", "i", " "]}}  # so that turns end in a model that hardly learned to
    lora = {"path": str(world.folder / "sft"), "lora": {"rank": 4}}
    return {
        "sft": {"epochs": 1},
        "reward": {"heads": 2, "epochs": 2},
        "ppo-talks": {"steps": 2} | talks,
        "ppo-trunk": {"steps": 2, "policy": lora, "roles": "one_trunk_shared", "reward": function},
        "reinforce": {"steps": 2, "baseline": {"kind": "value"}},
        "dpo": {"loss": {"name": "kto"}, "epochs": 2},
        "best_of_n": {"steps": 2},
        "relaxed": {"steps": 2},
    }


def same(a: Any, b: Any) -> bool:
    """Equal but for rounding, lists within lists too."""
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == (pytest.approx(b, abs=1e-3, rel=1e-3) if isinstance(b, float) else b)


def attributions(folder: Path) -> list[list[float]]:
    """What each token of each pair adds, where a run has left that."""
    path = folder / "attributions.jsonl"
    pairs = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [[x for x in pair[which]["attributions"] if x is not None] for pair in pairs for which in ("better", "worse")]


@pytest.mark.slow
def test_two_processes_do_every_recipe_as_one_does(records, tmp_path):
    alone, shared = ({n: records.work(n.split("-")[0], tmp_path / who / n, over) for n, over in stages(records).items()} for who in "ab")

    def all_of_them() -> None:
        for work in shared.values():
            work()

    for name, work in alone.items():
        assert work().finished, name
    assert together(2, all_of_them) == [0, 0]
    for name in shared:
        one, two = read_run(tmp_path / "a" / name), read_run(tmp_path / "b" / name)
        for line, other in zip(one.metrics, two.metrics, strict=True):
            assert other == pytest.approx(line, abs=1e-4, rel=1e-4), name
        first, gathered = (run.read_trace(run.traces[0]).to_pydict() for run in (one, two))
        assert first.keys() == gathered.keys(), name
        for column in first.keys() - {"policy_top", "policy_top_ids", "reference_top", "reference_top_ids"}:  # of equals either may lead
            assert same(first[column], gathered[column]), (name, column)
        for line, other in zip(*(attributions(tmp_path / who / name) for who in "ab"), strict=True):
            assert other == pytest.approx(line, abs=1e-4, rel=1e-3), name
    assert read_run(tmp_path / "b/ppo-talks").metrics[0]["turns"] > 1
    calls = (records.folder / "functions.calls").read_text().splitlines()
    assert calls == ["alone 8"] * 2 + ["0 8"] * 2, "a function of the user's is called in one process, with all responses"


@pytest.mark.slow
def test_torchrun_starts_it_from_the_command_line(made, whole, tmp_path):
    (tmp_path / "ppo.yaml").write_text(json.dumps(read_yaml(whole / "config.yaml") | {"out": str(tmp_path / "run")}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "handrail", "ppo"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path / "ppo.yaml")], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓ ppo") == 1
    assert_same_run(tmp_path / "run", whole)
