"""Methods against each other: what is compared, how it is counted, and what is shown."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from handrail.cli import app
from handrail.compare import Comparison, gather
from handrail.compare.figures import Mean
from handrail.compare.settings import nested, place, round_of, sampled, slug
from handrail.config import load
from handrail.errors import ConfigError
from handrail.inspector import write_report

EXAMPLE = Path(__file__).parents[1] / "examples/compare_movie_night.yaml"


def comparison(**over) -> Comparison:
    methods = {"PPO": {"method": "ppo"}, "Best of 4": {"method": "best_of_n", "best_of_n.n": 4, "best_of_n.steps": 20}}
    return Comparison.model_validate({"round": "movie-night", "methods": methods, "out": "runs/c"} | over)


@pytest.mark.parametrize("example", sorted(EXAMPLE.parent.glob("compare_*.yaml")), ids=lambda path: path.stem)
def test_every_method_of_the_examples_samples_as_many_responses(example):
    cfg = load(Comparison, example, [])
    counts = {name: sampled(round_of(cfg, 0, name)) for name in cfg.methods}
    assert [counts.pop(name) for name in ("DPO", "IPO", "KTO", "ORPO", "SimPO")] == [0] * 5, "they learn from the labelled ones"
    assert set(counts.values()) == {1920} and len(counts) == 10


def test_a_methods_round_is_the_common_one_with_its_own_keys_and_place():
    cfg = comparison(common={"ppo.steps": 7, "best_of_n": {"lr": 1e-4}, "task.prompts": 50})
    ppo, best = (round_of(cfg, 3, name) for name in cfg.methods)
    assert (ppo.seed, ppo.ppo["steps"], ppo.task.prompts, ppo.method) == (3, 7, 50, "ppo")
    assert ppo.task.name == "movie-night" and ppo.ppo["batch_size"] == 96, "what is not said stays"
    assert best.best_of_n == {"lr": 1e-4, "n": 4, "steps": 20} and Path(best.out) == Path("runs/c/seed-3/best-of-4")
    assert nested("a.b", 1) == {"a": {"b": 1}} and slug("RLOO, clipped!") == "rloo-clipped"


@pytest.mark.parametrize(
    "over, message",
    [
        ({"methods": {}}, "give at least one"),
        ({"methods": {"a b": {}, "a-b": {}}}, "would share the folder 'a-b'"),
        ({"best_of": [1]}, "numbers from 2 on"),
        ({"seeds": []}, "at least 1 item"),
    ],
)
def test_what_cannot_be_compared_is_refused(over, message):
    with pytest.raises(ValueError, match=message):
        comparison(**over)


def test_a_wrong_key_of_a_method_is_found_before_anything_is_done(tmp_path):
    with pytest.raises(ConfigError, match="stepz"):
        round_of(comparison(methods={"PPO": {"ppo.stepz": 3}}), 0, "PPO")
    (tmp_path / "c.yaml").write_text(f"round: movie-night\nout: {tmp_path}/out\nmethods: {{PPO: {{ppo.stepz: 3}}}}\n")
    told = CliRunner().invoke(app, ["compare", str(tmp_path / "c.yaml")])
    assert told.exit_code == 2 and "stepz" in told.stderr and not (tmp_path / "out").exists()


def test_the_mean_over_seeds_has_students_interval():
    """Three values: t = 4.303 for two degrees of freedom."""
    found = Mean.of([1.0, 2.0, 4.5])
    half = 4.303 * math.sqrt(((1.5**2) + (0.5**2) + (2.0**2)) / 2) / math.sqrt(3)
    assert found.value == 2.5 and found.high == pytest.approx(2.5 + half, rel=1e-6) and found.low == pytest.approx(2.5 - half, rel=1e-6)
    alone = Mean.of([1.0])
    assert alone.value == 1.0 and alone.low is None


def fake_round(folder: Path, method: str, before: float, after: float) -> None:
    (folder / f"round-1/{method}").mkdir(parents=True)
    summary = {"gold_before": before, "gold_after": after, "kl": 2.0, "win_rate": {"value": 0.8}, "length_ratio": 0.9}
    (folder / "summary.json").write_text(json.dumps(summary))
    took = {"sft": 99.0, "reward": 70.0, method: 30.0, "evaluation": 9.0}
    stages = [{"name": name, "folder": f"elsewhere/round-1/{name}", "seconds": seconds} for name, seconds in took.items()]
    (folder / "round.json").write_text(json.dumps({"stages": stages}))
    (folder / f"round-1/{method}/timing.jsonl").write_text('{"memory_mib": 500.0}\n{"memory_mib": 700.0}\n')


def test_figures_come_from_the_rounds_and_the_page_shows_them_with_what_failed(tmp_path):
    cfg = comparison(out=str(tmp_path), seeds=[0, 1])
    fake_round(place(cfg, 0, "PPO"), "ppo", 0.5, 2.0)
    fake_round(place(cfg, 1, "PPO"), "ppo", 0.7, 1.9)
    fake_round(place(cfg, 0, "Best of 4"), "best_of_n", 0.5, 1.0)
    place(cfg, 1, "Best of 4").mkdir(parents=True)
    (place(cfg, 1, "Best of 4") / "failed.json").write_text('{"reason": "the numbers <are> not finite"}')
    for seed, gold in ((0, 1.4), (1, 1.6)):
        rows = [{"n": 1, "kl": 0.0, "reward": 0.0, "gold": 0.5}, {"n": 4, "kl": 0.636, "reward": 1.0, "gold": gold}]
        (place(cfg, seed) / "yardstick.json").write_text(json.dumps({"rows": rows}))
    found = gather(cfg)
    ppo, best = found.rows
    assert ppo.figures["gain"].value == pytest.approx((1.5 + 1.2) / 2) and ppo.done == 2 and not ppo.failed
    assert (ppo.figures["seconds"].value, ppo.figures["memory_mib"].value) == (30.0, 700.0)
    assert best.done == 1 and best.failed == [{"seed": 1, "reason": "the numbers <are> not finite"}] and best.figures["gain"].low is None
    assert found.yardstick[1]["score"]["value"] == pytest.approx(1.5) and found.before.value == pytest.approx(0.6)
    (tmp_path / "compare.json").write_text(json.dumps(found.to_json()))
    page = write_report(tmp_path, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "2 methods, 2 seeds" in page and "PPO gains most: +1.35" in page and "the numbers &lt;are&gt; not finite" in page
    assert page.count("<circle") >= 4 and "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_a_later_round_counts_with_all_that_leads_to_it(tmp_path):
    """The first round's labels and reward model are shared by all methods; the second round's are the method's own."""
    cfg = comparison(out=str(tmp_path), seeds=[0], common={"rounds": 2})
    folder = place(cfg, 0, "PPO")
    fake_round(folder, "ppo", 0.5, 2.0)
    later = {"responses": 1.0, "labels": 2.0, "reward": 4.0, "ppo": 8.0, "evaluation": 16.0}
    stages = json.loads((folder / "round.json").read_text())["stages"]
    stages += [{"name": name, "folder": f"elsewhere/round-2/{name}", "seconds": seconds} for name, seconds in later.items()]
    (folder / "round.json").write_text(json.dumps({"stages": stages}))
    (folder / "round-2/reward").mkdir(parents=True)
    (folder / "round-2/reward/timing.jsonl").write_text('{"memory_mib": 900.0, "device_mib": 300.0}\n{"memory_mib": 800.0}\n')
    (row, _) = gather(cfg).rows
    assert (row.figures["seconds"].value, row.figures["memory_mib"].value) == (30.0 + 15.0, 800.0)
    assert row.responses == 2 * gather(comparison(out=str(tmp_path), seeds=[0])).rows[0].responses > 0


TINY = {
    "task.demonstrations": 60, "task.prompts": 40, "task.held_out": 24, "model.new.hidden": 32, "model.new.layers": 1,
    "sample.limit": 20, "reward.epochs": 1, "ppo.steps": 2, "ppo.batch_size": 8, "best_of_n": {"steps": 2, "batch_size": 2},
}  # fmt: skip


@pytest.mark.slow
def test_a_comparison_shares_what_comes_before_the_method_and_goes_on_where_it_was(tmp_path):
    methods = {"PPO": {"method": "ppo"}, "best of 4": {"method": "best_of_n"}, "diverging": {"method": "ppo", "ppo.lr": 1e30}}
    settings = {"round": "movie-night", "out": str(tmp_path / "out"), "seeds": [0], "methods": methods, "common": TINY}
    (tmp_path / "c.yaml").write_text(json.dumps(settings | {"best_of": [2, 4], "prompts": 8}))
    told = CliRunner().invoke(app, ["--json", "compare", str(tmp_path / "c.yaml")])
    assert told.exit_code == 0, told.stderr
    rows = {row["name"]: row for row in json.loads(told.stdout)["compare"]["rows"]}
    assert rows["PPO"]["done"] == rows["best of 4"]["done"] == 1
    noted = [json.loads((tmp_path / f"out/seed-0/{name}/round.json").read_text())["stages"] for name in ("ppo", "best-of-4")]
    spent = [{s["name"]: s["seconds"] for s in stages} for stages in noted]
    assert spent[0]["sft"] == spent[1]["sft"] > 0, "what was taken over counts as long as it took"
    assert rows["diverging"]["done"] == 0 and "3 such steps in a row" in rows["diverging"]["failed"][0]["reason"]
    models = [tmp_path / f"out/seed-0/{name}/round-1/reward/model/model.safetensors" for name in ("ppo", "best-of-4")]
    assert models[0].samefile(models[1]), "the reward model is one"
    assert [row["n"] for row in json.loads((tmp_path / "out/seed-0/yardstick.json").read_text())["rows"]] == [1, 2, 4]
    before = (tmp_path / "out/seed-0/ppo/round-1/ppo/summary.json").stat().st_mtime_ns
    again = CliRunner().invoke(app, ["--json", "compare", str(tmp_path / "c.yaml")])
    assert again.exit_code == 0 and (tmp_path / "out/seed-0/ppo/round-1/ppo/summary.json").stat().st_mtime_ns == before
    assert json.loads(again.stdout)["compare"]["rows"][0]["figures"] == rows["PPO"]["figures"]
