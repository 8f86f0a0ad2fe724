"""A search over settings: what may be searched, which settings come next, what a kill leaves, what is shown."""

import importlib
import itertools
import json
import math
import os
import random
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from markupsafe import escape
from typer.testing import CliRunner

from handrail import pipeline, search
from handrail.cli import app
from handrail.config import load, validate
from handrail.errors import ConfigError, DataError, RewardError, RunLocked
from handrail.inspector import write_report
from handrail.inspector.scatter import corners
from handrail.pipeline import Round
from handrail.recipes import evaluate, ppo
from handrail.recipes.evaluate import Evaluate
from handrail.search import Search, base, prepare, run, trials
from handrail.search.front import front
from handrail.search.space import Choice, Range
from handrail.search.suggest import suggest
from recipe_runs import NEW, SAMPLING, World, in_child, make_world

JUDGE = "def score(prompts, responses):\n    return [-abs(len(r) - 20) / 10 for r in responses]\n"
NAN = "def score(prompts, responses):\n    return [float('nan') for r in responses]\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    made = make_world(tmp_path_factory.mktemp("world"))
    (made.folder / "judge.py").write_text(JUDGE)
    both = {"path": str(made.folder / "sft")}
    settings = {"before": both, "after": both, "prompts": {"path": str(made.folder / "prompts.jsonl")}, "limit": 4}
    settings |= {"function": f"{made.folder / 'judge.py'}:score", "sampling": SAMPLING, "sampling_before": SAMPLING}
    (made.folder / "evaluate.yaml").write_text(yaml.safe_dump(settings))
    trained = {"policy": both, "prompts": settings["prompts"], "reward": {"function": settings["function"]}, "sampling": SAMPLING}
    trained |= {"steps": 2, "batch_size": 4, "micro_tokens": 300, "warmup": 0, "run": {"save_every": 1}}
    (made.folder / "ppo.yaml").write_text(yaml.safe_dump(trained))
    return made


def of_sampling(world: World, out: Path, **over) -> Search:
    """A search over how an untouched model samples."""
    space = {"sampling.temperature": {"low": 0.3, "high": 2.0}, "sampling.top_k": [0, 5, 20]}
    given = {"verb": "evaluate", "config": str(world.folder / "evaluate.yaml"), "out": str(out), "space": space}
    given |= {"objectives": {"gold_after": "maximise", "distinct_after": "maximise"}, "trials": 8, "startup": 3, "population": 3}
    return validate(Search, given | over, "test")


def of_ppo(world: World, out: Path, **over) -> Search:
    """A search over PPO's learning rate."""
    given = {
        "verb": "ppo",
        "config": str(world.folder / "ppo.yaml"),
        "out": str(out),
        "space": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}},
    }
    return validate(Search, given | {"objectives": {"reward": "maximise"}, "trials": 3} | over, "test")


def made_up(cfg: Evaluate, peers: object) -> dict:
    """A summary without any work: one figure that rises with the temperature and one that falls."""
    t, k = cfg.sampling.temperature, cfg.sampling.top_k
    return {"gold_after": t + 0.1 * math.sin(9 * t) - 0.01 * k, "distinct_after": 2 - t * t + 0.02 * k, "length_after": 10 * t}


@pytest.fixture
def cheap(monkeypatch) -> list[Evaluate]:
    """Trials cost nothing; each one's settings are noted."""
    asked: list[Evaluate] = []
    monkeypatch.setitem(base.WORK, "evaluate", lambda cfg, peers: (asked.append(cfg), made_up(cfg, peers))[1])
    return asked


def record(folder: Path) -> list[dict]:
    """Every trial as it stands on the disk, without the clock."""
    return [json.loads(path.read_text()) | {"seconds": 0} for path in sorted(folder.glob("trials/*/trial.json"))]


# --- what may be searched ---


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"sampling.temprature": {"low": 0, "high": 1}}, "did you mean 'sampling.temperature'"),
        ({"samplin.top_k": [0, 1]}, "did you mean 'sampling'"),
        ({"sampling": [1, 2]}, "a group of settings"),
        ({"template": {"low": 0, "high": 1}}, "no number"),
        ({"sampling.top_k": {"low": 0.5, "high": 4}}, "whole numbers"),
        ({"sampling.temperature": {"low": 0, "high": 1, "log": True}}, "above 0"),
        ({"sampling.temperature": {"low": 1, "high": 1}}, "low below high"),
        ({"sampling.temperature": {"low": 1, "high": 2, "step": 3}}, "the whole range"),
        ({"sampling.temperature": {"low": 1, "hihg": 2}}, "did you mean 'high'"),
        ({"sampling.temperature": {"low": 1, "high": "2"}}, "text '2'"),
        ({"sampling.top_k": [5]}, "at least two"),
        ({"sampling.top_k": 5}, "`fixed`"),
        ({"sampling.temperature": {"low": -1, "high": 1}}, "sampling.temperature=-1"),  # the schema's bound, with what was tried
        ({"sampling.top_p": {"low": 0.5, "high": 1.5}}, "sampling.top_p=1.5"),
        ({"sampling.top_k": ["many", 5]}, "text 'many'"),
    ],
)
def test_a_space_that_cannot_be_is_refused_before_anything_is_written(world, tmp_path, space, said):
    with pytest.raises(ConfigError) as caught:
        run(of_sampling(world, tmp_path / "s", space=space), "mine.yaml")
    assert said in str(caught.value) and "mine.yaml" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_values_that_do_not_go_together_are_found_first(world, tmp_path):
    space = {"batch_size": {"low": 4, "high": 6}, "minibatches": [1, 4]}
    with pytest.raises(ConfigError, match=r"batch_size=5, minibatches=4.*does not divide"):
        prepare(of_ppo(world, tmp_path, space=space), "mine.yaml")
    prepare(of_ppo(world, tmp_path, space={"batch_size": {"low": 4, "high": 8, "step": 4}, "minibatches": [1, 4]}), "mine.yaml")
    with pytest.raises(ConfigError, match="full distribution"):
        prepare(of_ppo(world, tmp_path, space={"sampling.top_p": [0.9, 1.0]}), "mine.yaml")


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"objectives": {"gold": "maximise"}}, "no such figure"),
        ({"objectives": {"gold_afte": "maximise"}}, "did you mean 'gold_after'"),
        ({"objectives": {"reward_after": "maximise"}}, "no such figure"),  # no reward model judges here
        ({"objectives": {"kl": "minimise"}}, "no divergence can be told"),  # top_k filters
        ({"constraints": {"kl": {"most": 3.0}}}, "no divergence can be told"),
        ({"constraints": {"length_after": {}}}, "least, most or both"),
        ({"objectives": {"gold_after": "max"}}, "maximise"),
        ({"fixed": {"sampling.top_k": 1}}, "in space and in fixed"),
        ({"fixed": {"out": "x"}}, "folder of its own"),
        ({"config": "nowhere.yaml"}, "no such file"),
        ({"fixed": {"limt": 3}}, "did you mean 'limit'"),
    ],
)
def test_an_aim_that_cannot_be_is_refused(world, tmp_path, over, said):
    with pytest.raises(ConfigError) as caught:
        prepare(of_sampling(world, tmp_path, **over), "mine.yaml")
    assert said in str(caught.value)


def test_kl_can_be_sought_where_nothing_is_filtered(world, tmp_path):
    space = {"sampling.temperature": {"low": 0.5, "high": 2.0}}
    prepare(of_sampling(world, tmp_path, space=space, objectives={"gold_after": "maximise", "kl": "minimise"}), "x")


def test_a_tree_and_dotted_keys_mean_the_same(world, tmp_path):
    tree = {"sampling": {"temperature": {"low": 0.3, "high": 2.0}, "top_k": [0, 5, 20]}}
    assert of_sampling(world, tmp_path, space=tree) == of_sampling(world, tmp_path)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(of_sampling(world, tmp_path).model_dump()))
    given = load(Search, tmp_path / "s.yaml", ["space.sampling.top_k=[1, 2]", "fixed.limit=3"])
    assert given.space["sampling.top_k"] == [1, 2] and given.fixed == {"limit": 3}
    assert given.space["sampling.temperature"] == {"low": 0.3, "high": 2.0}


def test_a_missing_package_is_named(world, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "handrail\[search\]"'):
        prepare(of_sampling(world, tmp_path), "x")


def test_values_are_written_as_they_were_tried():
    rate = Range("lr", 1e-5, 1e-3, True, None, False)
    assert rate.tidy(0.000123456789) == 1.235e-4 and rate.tidy(9.999e-6) == 1e-5
    assert rate.contains(2e-4) and not rate.contains(2e-3) and not rate.contains(True)
    stepped = Range("p", 0.5, 1.0, False, 0.05, False)
    assert stepped.contains(0.65) and not stepped.contains(0.66) and stepped.tidy(0.6500000000000001) == 0.65
    assert Range("k", 2, 8, False, 3, True).points() == [2, 5, 8]
    assert Choice("x", (1, True, None)).contains(True) and not Choice("x", (1, 0)).contains(True)


# --- the front ---


def test_the_front_is_what_nothing_dominates():
    rng = random.Random(0)
    for size, depth in itertools.product((1, 2, 7, 40), (1, 2, 3)):
        points = [tuple(rng.randrange(8) for _ in range(depth)) for _ in range(size)]  # few values: many ties
        beaten = {
            i
            for i, p in enumerate(points)
            for q in points
            if all(b <= a for a, b in zip(p, q, strict=True)) and any(b < a for a, b in zip(p, q, strict=True))
        }
        assert front(points) == [i for i in range(size) if i not in beaten]
    assert front([]) == []


# --- searches ---


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_search_of_real_evaluations(world, tmp_path, sampler):
    cfg = of_sampling(world, tmp_path / "s", sampler=sampler, constraints={"length_after": {"most": 11.9}})
    found = run(cfg)
    written = record(tmp_path / "s")
    assert [t["number"] for t in written] == list(range(8)) and {t["state"] for t in written} == {"complete"}
    assert written[0]["settings"] == {"sampling.temperature": 1.0, "sampling.top_k": 0} and written[0]["origin"] == "config"
    for t in (t for t in written if t["same_as"] is None):
        made = json.loads((tmp_path / "s" / "trials" / f"{t['number']:04d}" / "evaluate" / "summary.json").read_text())
        assert {name: made[name] for name in t["values"]} == t["values"]
    within = [t for t in written if t["values"]["length_after"] <= 11.9]
    assert 0 < len(within) < 8
    best = {
        t["number"]
        for t in within
        if not any(
            u["values"] != t["values"] and all(u["values"][n] >= t["values"][n] for n in ("gold_after", "distinct_after")) for u in within
        )
    }
    assert set(found["front"]) <= best and {tuple(written[n]["values"].values()) for n in found["front"]} == {
        tuple(written[n]["values"].values()) for n in best
    }
    assert found["best"] == max(within, key=lambda t: (t["values"]["gold_after"], t["values"]["distinct_after"], -t["number"]))["number"]
    generations = [g for t in written for g in t["sampler"].values()]
    assert generations == ([0, 0, 0, 1, 1, 1, 2, 2] if sampler == "nsga2" else [])


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_what_was_found_decides_what_comes_next(world, tmp_path, cheap, sampler):
    plan = prepare(of_sampling(world, tmp_path / "s", sampler=sampler, trials=9, objectives={"gold_after": "maximise"}), "x")
    run(plan.cfg)
    history = trials.existing(tmp_path / "s")
    upside_down = [replace(t, values={k: -v for k, v in t.values.items()}) for t in history]
    asked = [[suggest(plan.cfg, plan.space, seen, n, None)[0] for n in range(9, 14)] for seen in (history, history, upside_down)]
    assert asked[0] == asked[1] != asked[2] and len({json.dumps(settings) for settings in asked[0]}) > 1


def test_the_same_settings_are_not_tried_twice(world, tmp_path, cheap):
    cfg = of_sampling(world, tmp_path / "s", space={"sampling.top_k": [0, 5]}, sampler="random", trials=6)
    run(cfg)
    written = record(tmp_path / "s")
    assert len(cheap) == 2 and len(written) == 6
    for t in written:
        first = next(u for u in written if u["settings"] == t["settings"])
        assert t["values"] == first["values"] and t["same_as"] == (None if t is first else first["number"])


def test_more_trials_go_on_and_other_settings_are_refused(world, tmp_path, cheap):
    cfg = of_sampling(world, tmp_path / "s", trials=4)
    run(cfg)
    before = record(tmp_path / "s")
    run(of_sampling(world, tmp_path / "s", trials=6))
    run(of_sampling(world, tmp_path / "whole", trials=6))
    assert record(tmp_path / "s")[:4] == before and record(tmp_path / "s") == record(tmp_path / "whole") and len(cheap) == 12
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):
        run(of_sampling(world, tmp_path / "s", seed=1))
    (tmp_path / "copy.yaml").write_text(Path(cfg.config).read_text() + "seed: 3\n")
    with pytest.raises(ConfigError, match="config"):
        run(of_sampling(world, tmp_path / "s", config=str(tmp_path / "copy.yaml")))


def test_the_time_limit_ends_it_and_a_higher_one_goes_on(world, tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 30))  # a trial takes half a minute
    monkeypatch.setattr(search.time, "perf_counter", lambda: next(clock))
    monkeypatch.setitem(base.WORK, "evaluate", made_up)
    assert len(run(of_sampling(world, tmp_path / "s", time_limit=1.5))["trials"]) == 3
    assert len(run(of_sampling(world, tmp_path / "s", time_limit=2.5))["trials"]) == 5
    assert len(run(of_sampling(world, tmp_path / "s"))["trials"]) == 8


def test_two_searches_do_not_work_in_one_folder(world, tmp_path, cheap):
    plan = prepare(of_sampling(world, tmp_path / "s"), "x")
    with search.opened(plan), pytest.raises(RunLocked):
        run(plan.cfg)


# --- killed ---


def killed(cfg: Search, at: int, after: bool) -> None:
    """The search, killed before or after it has written the record of a trial for the `at`-th time."""
    original, calls = trials.save, itertools.count()

    def save(folder, trial):
        hit = next(calls) == at
        if hit and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        original(folder, trial)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        trials.save = save  # of this process, which ends here
        run(cfg)

    assert in_child(work) == -signal.SIGKILL


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_killed_anywhere_it_ends_the_same(world, tmp_path, cheap, sampler, monkeypatch):
    monkeypatch.setattr(search.results, "write_report", lambda folder, out: out)
    sizes = {"sampler": sampler, "trials": 4, "startup": 2, "population": 2}
    run(of_sampling(world, tmp_path / "whole", **sizes))
    for at, after in itertools.product(range(8), (False, True)):  # each trial is written down twice
        out = tmp_path / f"{at}-{after}"
        killed(of_sampling(world, out, **sizes), at, after)
        run(of_sampling(world, out, **sizes))
        assert record(out) == record(tmp_path / "whole"), f"killed {'after' if after else 'before'} record {at}"
    again = tmp_path / "again"
    for at in (1, 1, 2):
        killed(of_sampling(world, again, **sizes), at, True)
    run(of_sampling(world, again, **sizes))
    assert record(again) == record(tmp_path / "whole")


def test_killed_in_the_middle_of_a_trial_its_run_goes_on(world, tmp_path):
    cfg = of_ppo(world, tmp_path / "killed", trials=2, config_first=False, keep_checkpoints=True)
    whole = of_ppo(world, tmp_path / "whole", trials=2, config_first=False, keep_checkpoints=True)
    assert in_child(lambda: run(cfg), "ppo:1") == -signal.SIGKILL
    left = record(tmp_path / "killed")
    assert [t["state"] for t in left] == ["running"] and (tmp_path / "killed/trials/0000/ppo/checkpoints").is_dir()
    assert in_child(lambda: run(cfg)) == 0 and in_child(lambda: run(whole)) == 0
    assert record(tmp_path / "killed") == record(tmp_path / "whole") and record(tmp_path / "whole")[1]["state"] == "complete"
    assert "restored step-00000001" in (tmp_path / "killed/trials/0000/ppo/log.txt").read_text()
    for trial in ("0000", "0001"):
        one, other = (tmp_path / name / "trials" / trial / "ppo/model/model.safetensors" for name in ("killed", "whole"))
        assert one.read_bytes() == other.read_bytes()


# --- what goes wrong ---


def test_a_trial_that_diverges_has_failed_and_the_search_goes_on(world, tmp_path):
    cfg = of_ppo(world, tmp_path / "s", space={"lr": [2e-4, 1e30]}, trials=4, startup=1)  # the first is the default
    found = run(cfg)
    states = {t["settings"]["lr"]: (t["state"], t["reason"]) for t in found["trials"]}
    assert states[2e-4] == ("complete", "") and states[1e30][0] == "failed"
    assert any(word in states[1e30][1] for word in ("nan", "inf", "finite"))
    assert found["trials"][found["best"]]["settings"]["lr"] == 2e-4
    assert "failed: " in (tmp_path / "s/report.html").read_text()
    assert not list((tmp_path / "s").glob(f"trials/{found['best']:04d}/ppo/checkpoints")) and found["model"]


def test_a_figure_that_is_none_is_a_failure(world, tmp_path, monkeypatch):
    work = {"gold_after": math.nan, "distinct_after": 0.5}
    monkeypatch.setitem(base.WORK, "evaluate", lambda cfg, peers: work if cfg.sampling.temperature > 1 else made_up(cfg, peers))
    found = run(of_sampling(world, tmp_path / "s"))
    failed = [t for t in found["trials"] if t["state"] == "failed"]
    assert {t["reason"] for t in failed} == {"gold_after: not a finite number"}
    assert all((t["settings"]["sampling.temperature"] > 1) == (t in failed) for t in found["trials"])


def test_what_no_setting_can_cause_ends_the_search(world, tmp_path):
    (tmp_path / "bad.py").write_text(NAN)
    cfg = of_sampling(world, tmp_path / "s", fixed={"function": f"{tmp_path / 'bad.py'}:score"}, trials=2)
    with pytest.raises(RewardError):
        run(cfg)
    assert [t["state"] for t in record(tmp_path / "s")] == ["running"]


# --- rounds ---


@pytest.fixture
def tiny_round(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    settings = {
        "task": {"name": "movie-night", "demonstrations": 40, "prompts": 20, "held_out": 10, "labellers": 1},
        "out": "runs/base",
        "labels": "simulated",
        "model": {"new": NEW},
        "sampling": SAMPLING,
        "sft": {"epochs": 1},
        "sample": {"responses": 2, "limit": 12},
        "reward": {"normalise_on": 4, "epochs": 1, "held_out": 0.4},
        "ppo": {"steps": 1, "batch_size": 4},
        "evaluate": {"limit": 6},
    }
    Path("round.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def test_what_trials_share_is_done_once(tiny_round, monkeypatch):
    counts: dict[str, int] = {}

    def counting(name: str, work: Callable) -> Callable:
        def counted(cfg):
            counts[name] = counts.get(name, 0) + 1
            return work(cfg)

        return counted

    for name in ("sft", "sample", "reward", "ppo", "evaluate"):
        recipe = importlib.import_module(f"handrail.recipes.{name}")
        monkeypatch.setattr(recipe, "run", counting(name, recipe.run))
    own = pipeline.run(load(Round, "round.yaml"))
    given = {"config": "round.yaml", "out": "runs/s", "space": {"ppo.lr": {"low": 1e-5, "high": 1e-2}}, "trials": 2}
    found = run(validate(Search, given | {"objectives": {"win_rate": "maximise", "kl": "minimise"}}, "test"))
    first, second = found["trials"]
    assert first["origin"] == "config" and first["values"] == {"win_rate": own["win_rate"]["value"], "kl": own["kl"]}
    assert counts == {"sft": 1, "sample": 1, "reward": 1, "ppo": 2, "evaluate": 2}  # the first trial is what was run before
    alone = pipeline.run(load(Round, "round.yaml", [f"ppo.lr={second['settings']['ppo.lr']}", "out=runs/alone"]))
    assert counts["sft"] == 2 and second["values"] == {"win_rate": alone["win_rate"]["value"], "kl": alone["kl"]}
    for stage in ("sft", "reward", "ppo"):
        weights = f"round-1/{stage}/model/model.safetensors"
        assert (Path("runs/s/trials/0001") / weights).read_bytes() == (Path("runs/alone") / weights).read_bytes()
    assert Path("runs/s/trials/0001/report.html").is_file()


def test_a_stage_taken_over_is_whole_and_belongs_to_its_round(tiny_round, monkeypatch):
    cfg = load(Round, "round.yaml", ["ppo.steps=1"])
    pipeline.run(cfg)
    monkeypatch.setattr(ppo, "run", lambda cfg: pytest.fail("it was done before"))
    pipeline.run(load(Round, "round.yaml", ["out=runs/other"]), [Path("runs/base")])
    ours, theirs = (Path("runs") / name / "round-1/ppo" for name in ("other", "base"))
    assert (ours / "model/model.safetensors").samefile(theirs / "model/model.safetensors")
    assert not (ours / "summary.json").samefile(theirs / "summary.json") and not (ours / "lock").exists()
    pipeline.run(load(Round, "round.yaml", ["out=runs/other"]))  # as a round of its own: everything as before
    assert not list(Path("runs/other/round-1").glob("*.before-*"))


# --- what is shown ---


@pytest.fixture(scope="module")
def shown(world, tmp_path_factory) -> Path:
    """A search of two objectives with a constraint, from the command line; the second choice is hostile."""
    folder = tmp_path_factory.mktemp("shown")
    given = of_sampling(world, folder / "s", trials=12, constraints={"length_after": {"most": 16.0}}).model_dump()
    given["space"] |= {"sampling.stop": [[], ["<script>alert(1)</script>"]]}
    (folder / "search.yaml").write_text(yaml.safe_dump(given))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(base.WORK, "evaluate", made_up)
        told = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["search", str(folder / "search.yaml"), "--json"])
    assert told.exit_code == 0, told.stderr
    (folder / "result.json").write_text(told.stdout)
    (folder / "said.txt").write_text(told.stderr)
    return folder


def test_the_command_ends_with_the_front_and_what_to_type_next(shown):
    result, said = json.loads((shown / "result.json").read_text()), (shown / "said.txt").read_text()
    found = result["search"]
    assert result["report"] == f"{shown}/s/report.html" and found == json.loads((shown / "s/search.json").read_text())
    best = found["trials"][found["best"]]
    assert "What nothing beats: 12 of 12 trials" in said and "beyond a constraint" in said
    assert f"sampling.temperature={best['settings']['sampling.temperature']} " in found["again"] and "seed=1" in found["again"]
    assert found["again"] in said


def test_what_is_to_be_pasted_is_what_was_tried(shown, world):
    for trial in json.loads((shown / "s/search.json").read_text())["trials"]:
        words = shlex.split(trial["command"])
        assert words[:2] == ["handrail", "evaluate"]
        cfg = load(Evaluate, words[2], words[3:])
        assert {f"sampling.{k}": getattr(cfg.sampling, k) for k in ("temperature", "top_k", "stop")} == trial["settings"]


def test_the_report_holds_the_picture(shown, tmp_path):
    told = CliRunner().invoke(app, ["report", str(shown / "s"), "--out", str(tmp_path / "r.html")])
    assert told.exit_code == 0, told.stderr
    text = (tmp_path / "r.html").read_text()
    found = json.loads((shown / "s/search.json").read_text())
    drawn = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    kinds = [e.get("class") for e in drawn.iter("circle")]
    assert kinds.count("fill after") == len(found["front"]) > 1
    different = [t for t in found["trials"] if not t["front"]]
    assert kinds.count("fill muted") == sum(t["feasible"] for t in different)
    assert kinds.count("hollow") == sum(not t["feasible"] for t in different) > 0 and kinds.count("ring") == 1
    (stairs,) = [e for e in drawn.iter("path") if "stairs" in e.get("class", "")]
    assert stairs.get("d", "").count("L") == 2 * (len(found["front"]) - 1)
    assert "<script" not in text and "alert(1)" in text and "//" not in text
    for trial in found["trials"]:
        assert str(escape(trial["pasted"])) in text
    assert "PED-ANOVA" in text and "Distinct after" in text


def test_the_stairs_are_what_has_been_reached():
    assert corners([(2, 5), (1, 3)], True) == [(1, 3), (2, 3), (2, 5)]  # less is better across, more is better up
    assert corners([(1, 5), (2, 3)], False) == [(1, 5), (1, 3), (2, 3)]  # more is better both ways


def test_one_objective_has_a_report_without_a_trade_off(world, tmp_path, cheap):
    found = run(of_sampling(world, tmp_path / "s", objectives={"gold_after": "minimise"}, trials=3))
    assert found["front"] == [min(found["trials"], key=lambda t: t["values"]["gold_after"])["number"]]
    text = (tmp_path / "s/report.html").read_text()
    assert "The config’s own values gave" in text and "What nothing beats" not in text and "best so far" in text


def test_a_damaged_result_is_named_and_made_anew(world, tmp_path, cheap):
    cfg = of_sampling(world, tmp_path / "s", trials=2)
    run(cfg)
    good = (tmp_path / "s/search.json").read_text()
    (tmp_path / "s/search.json").write_text('{"objectives": {}}')
    with pytest.raises(DataError, match=r"search[.]json"):
        write_report(tmp_path / "s", tmp_path / "r.html")
    run(cfg)
    assert (tmp_path / "s/search.json").read_text() == good and len(cheap) == 2


# --- evaluation under two laws ---


def test_the_model_before_may_sample_by_a_law_of_its_own(world, tmp_path):
    def evaluated(name: str, **over) -> dict:
        given = yaml.safe_load((world.folder / "evaluate.yaml").read_text()) | {"out": str(tmp_path / name), "limit": 8} | over
        return evaluate.run(validate(Evaluate, given, "test"))

    hot, cold = SAMPLING | {"temperature": 1.0}, SAMPLING | {"temperature": 0.3}
    both, mixed = evaluated("both", sampling=hot, sampling_before=None), evaluated("mixed", sampling=cold, sampling_before=hot)
    assert both["gold_before"] == mixed["gold_before"] and both["gold_after"] != mixed["gold_after"]
    assert abs(both["kl"]) < 1e-6 < 0.05 < mixed["kl"]  # the same model, sharper
    assert "kl" not in evaluated("filtered", sampling=hot, sampling_before=hot | {"top_k": 3})


def test_the_example_is_valid():
    cfg = load(Search, Path(__file__).parents[1] / "examples/search_ppo.yaml")
    assert cfg.objectives == {"win_rate": "maximise", "kl": "minimise"}
    demo = Path(pipeline.__file__).parents[1] / "cli/demo/movie-night.yaml"
    prepare(cfg.model_copy(update={"config": str(demo)}), "example")
