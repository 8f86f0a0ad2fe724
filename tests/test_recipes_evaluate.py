"""Evaluation by every judge, and the priority of sampled responses, on tiny trained models."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from handrail.algo.selection import information_gain
from handrail.batch import Sequences
from handrail.cli import app, frame
from handrail.config import validate
from handrail.data import Codec, Source, load_responses, write_records
from handrail.errors import ConfigError, JudgeError
from handrail.inspector import write_report
from handrail.models import ModelSettings, ScalarModel, load_tokenizer
from handrail.pipeline.stages import plain, reads
from handrail.recipes import evaluate, reward, sample
from handrail.recipes.evaluate import Evaluate
from handrail.recipes.sample import Sample
from handrail.records import Pair, Prompt, Ranking
from judge_server import Fault, always_first, serving
from recipe_runs import NEW, SAMPLING, World, make_world

JUDGE = "def score(prompts, responses):\n    return [-abs(len(r) - 20) / 10 for r in responses]\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    made = make_world(tmp_path_factory.mktemp("world"))
    (made.folder / "judge.py").write_text(JUDGE)
    reward.run(made.reward(made.folder / "ensemble", {"heads": 3}))
    return made


def settings(world: World, out: Path, **over) -> dict:
    both = {"path": str(world.folder / "sft")}
    found = {"before": both, "after": both, "prompts": {"path": str(world.folder / "prompts.jsonl")}, "out": str(out), "limit": 8}
    return found | {"sampling": SAMPLING | {"temperature": 1.0}} | over


def evaluated(world: World, out: Path, **over) -> dict:
    return evaluate.run(validate(Evaluate, settings(world, out, **over), "test"))


def pairs_of(out: Path) -> list[Pair]:
    return [Pair.model_validate_json(line) for line in (out / "pairs.jsonl").read_text().splitlines()]


def said_of(pairs: list[Pair], path: Path) -> str:
    """Two labellers: one prefers the model after everywhere, the other on every second pair."""
    rankings = [
        Ranking(prompt=p.prompt, responses=p.responses, models=p.models, places=(2, 1) if n or i % 2 else (1, 2), labeller=f"labeller-{n}")
        for i, p in enumerate(pairs)
        for n in range(2)
    ]
    write_records(path, rankings)
    return str(path)


def test_every_judge_has_its_row(world, tmp_path):
    out = tmp_path / "evaluation"
    by_all = {"function": f"{world.folder / 'judge.py'}:score", "reward": str(world.folder / "reward"), "people": {}}
    first = evaluated(world, out, **by_all)
    assert [j["kind"] for j in first["judges"]] == ["function", "reward model", "people"] and first["judges"][2]["win_rate"] is None
    pairs = pairs_of(out)
    assert pairs and {p.models for p in pairs} == {(str(world.folder / "sft"),) * 2}
    samples = {s["prompt"]: s for s in map(json.loads, (out / "samples.jsonl").read_text().splitlines())}
    assert all(p.responses == (samples[p.prompt.text]["before"], samples[p.prompt.text]["after"]) for p in pairs)

    path = said_of(pairs, tmp_path / "rankings.jsonl")
    with serving(always_first) as server:
        told = evaluated(world, out, **by_all | {"people": {"path": path}, "judge": {"endpoint": server.url, "model": "judge-1"}})
        assert len(server.asked) == 2 * len(pairs)
    assert {k: v for k, v in told.items() if k != "judges"} == {k: v for k, v in first.items() if k != "judges"}
    function, model, persons, endpoint = told["judges"]
    assert function["win_rate"] == told["win_rate"] and function["control"] == told["control"] and told["judge"] == function["name"]
    assert model["win_rate"] == told["reward_win_rate"]
    ties = 8 - len(pairs)
    each = [1.0 if i % 2 else 0.5 for i in range(len(pairs))]
    assert persons["win_rate"]["value"] == pytest.approx((sum(each) + ties / 2) / 8) and persons["labellers"] == 2
    assert endpoint["win_rate"]["value"] == 0.5 and endpoint["contradictions"]["value"] == 1.0
    assert endpoint["tokens"] == {"prompt": 200 * len(pairs), "completion": 14 * len(pairs), "answers_untold": 0}
    sample = json.loads((out / "samples.jsonl").read_text().splitlines()[0])
    assert sample["judge"] == {"gain": 0.5, "verdicts": ["first", "first"]} and sample["people"] in (0.5, 1.0)


def short_prompts(folder: Path) -> dict:
    write_records(folder / "short.jsonl", [Prompt.of(f"film {n}") for n in range(8)])
    return {"path": str(folder / "short.jsonl")}


GARBAGE = {"max_new_tokens": 72, "temperature": 9.0}  # nearly every token alike: many are bytes that make no character


def test_a_reward_model_judges_what_was_sampled_though_its_text_would_be_too_long(world, tmp_path):
    """Bytes that are no character are read back as three tokens each: a text may be longer than what it came from."""
    asked = {"reward": str(world.folder / "reward"), "sampling": GARBAGE, "prompts": short_prompts(tmp_path)}
    told = evaluated(world, tmp_path / "evaluation", **asked)
    codec = Codec(load_tokenizer(ModelSettings(path=str(world.folder / "sft"))), "auto")
    samples = [json.loads(line) for line in (tmp_path / "evaluation/samples.jsonl").read_text().splitlines()]
    pairs = pairs_of(tmp_path / "evaluation")
    longest = max(len(codec.encode_prompt(p.prompt)) + len(codec.encode_response(p.responses[1], True)) for p in pairs)
    assert longest > NEW["context"] and len(samples) == told["win_rate"]["n"] == 8


def test_a_response_that_the_ensemble_cannot_read_has_no_say_in_the_priority(world, tmp_path):
    asked = {"priority": {"reward": str(world.folder / "ensemble")}, "sampling": GARBAGE, "prompts": short_prompts(tmp_path)}
    records = sample.run(sampled(world, tmp_path / "r.jsonl", **asked))
    assert len(records) == 18 and all(r.priority >= 0 for r in records)


def test_a_judge_at_an_endpoint_alone_and_a_failure_that_is_taken_up(world, tmp_path):
    out = tmp_path / "evaluation"
    with serving(faults=lambda number, question: Fault(500) if number >= 5 else None) as server:
        alone = {"judge": {"endpoint": server.url, "model": "judge-1", "retries": 0, "concurrency": 1}}
        with pytest.raises(JudgeError):
            evaluated(world, out, **alone)
        assert not (out / "summary.json").exists() and pairs_of(out)
        server.faults = lambda number, question: None
        told = evaluated(world, out, **alone)
        assert len(server.asked) == 2 * len(pairs_of(out)) + 1  # the one that failed, and nothing else twice
        before = (out / "summary.json").read_bytes()
        evaluated(world, out, **alone)
        assert (out / "summary.json").read_bytes() == before
    assert told["judge"].startswith("judge-1 at 127.0.0.1:") and told["win_rate"] == told["judges"][0]["win_rate"] and "control" not in told


def test_people_alone_from_the_command_line_to_the_report(world, tmp_path, monkeypatch):
    monkeypatch.setattr(frame.out, "_width", 200)  # it was made when the module was imported, as wide as the terminal of then
    out, config = tmp_path / "round" / "evaluation", tmp_path / "evaluate.yaml"
    config.write_text(yaml.safe_dump(settings(world, out, people={})))
    run = CliRunner().invoke
    first = run(app, ["evaluate", str(config)])
    assert first.exit_code == 0, first.stderr
    assert "unknown" in first.stdout and "wait in pairs.jsonl" in first.stdout and "people.path=rankings.jsonl" in first.stdout
    path = said_of(pairs_of(out), tmp_path / "rankings.jsonl")
    with serving(always_first) as server:
        judge = [f"judge.endpoint={server.url}", "judge.model=<b>judge", f"reward={world.folder / 'reward'}"]
        second = run(app, ["evaluate", str(config), f"people.path={path}", *judge])
    assert second.exit_code == 0, second.stderr
    assert "2 labellers on" in second.stdout and "went by the place in 100.0 % of pairs" in second.stdout and "tokens" in second.stdout
    (tmp_path / "round" / "summary.json").write_bytes((out / "summary.json").read_bytes())
    page = write_report(tmp_path / "round", tmp_path / "report.html").read_text()
    assert "by people" in page and "2 labellers gave" in page and "by &lt;b&gt;judge at 127.0.0.1" in page and "<b>judge" not in page
    assert "preferred one reply in one order and the other in the other" in page


def test_what_is_wrong_with_a_judge_is_said_before_anything_is_written(world, tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    out, somewhere = tmp_path / "evaluation", {"endpoint": "http://127.0.0.1:1/v1", "model": "m"}
    with pytest.raises(ConfigError, match="give a judge"):
        evaluated(world, out)
    for judge in (somewhere | {"key_env": "JUDGE_KEY"}, somewhere | {"rubric": str(tmp_path / "missing.txt")}):
        with pytest.raises(ConfigError, match=r"judge\."):
            evaluated(world, out, judge=judge)
    assert not out.exists()


def test_a_stage_is_known_by_what_its_judges_read_and_not_by_their_patience(world, tmp_path):
    (tmp_path / "rubric.txt").write_text("short is good")
    judge = {"endpoint": "http://127.0.0.1:1/v1", "model": "m", "rubric": str(tmp_path / "rubric.txt")}
    cfg = validate(Evaluate, settings(world, tmp_path, judge=judge, people={"path": str(world.folder / "rankings.jsonl")}), "test")
    assert {str(tmp_path / "rubric.txt"), str(world.folder / "rankings.jsonl")} <= reads(cfg).keys()
    patient = validate(Evaluate, settings(world, tmp_path, judge=judge | {"concurrency": 1, "timeout": 9.0}, people=cfg.people), "test")
    assert plain(patient)["judge"] == plain(cfg)["judge"] and "concurrency" not in plain(cfg)["judge"]


# --- which responses people are asked about first ---


def sampled(world: World, out: Path, **over) -> Sample:
    base = {"out": str(out), "model": {"path": str(world.folder / "sft")}, "prompts": {"path": str(world.folder / "prompts.jsonl")}}
    return validate(Sample, base | {"responses": 3, "limit": 6, "sampling": SAMPLING} | over, "test")


def test_the_priority_is_that_of_the_heads_as_they_were_trained(world, tmp_path):
    cfg = sampled(world, tmp_path / "r.jsonl", priority={"reward": str(world.folder / "ensemble")})
    records = sample.run(cfg)
    plainly = sample.run(sampled(world, tmp_path / "plain.jsonl"))
    assert [r.text for r in records] == [r.text for r in plainly] and {r.priority for r in plainly} == {0.0}
    assert load_responses(Source(path=str(tmp_path / "r.jsonl"))).records == records
    assert str(world.folder / "ensemble") in str(cfg.priority) and "reward" in reads(cfg)

    model = ScalarModel.load(ModelSettings(path=str(world.folder / "ensemble"))).freeze()
    codec = Codec(load_tokenizer(ModelSettings(path=str(world.folder / "sft"))), "auto")
    for start in range(0, len(records), 3):
        group = records[start : start + 3]
        assert len({r.prompt.text for r in group}) == 1 and len({r.priority for r in group}) == 1
        texts = list(dict.fromkeys(r.text for r in group))
        rows = Sequences.of([(codec.encode_prompt(group[0].prompt), codec.encode_response(t, end=True)) for t in texts])
        with torch.no_grad():  # the head's own numbers, before any normalisation
            reads_of = [model.head(r.output) for r in model.forward(rows, rows.lengths - 1, rows.lengths)]
        wanted = float(information_gain(torch.cat(reads_of).double())) if len(texts) > 1 else 0.0
        assert group[0].priority == pytest.approx(wanted, rel=1e-3, abs=1e-9)
    assert any(r.priority > 0 for r in records)


def test_the_two_ways_differ_and_one_head_has_no_say(world, tmp_path):
    by = {
        name: sample.run(sampled(world, tmp_path / f"{name}.jsonl", priority={"reward": str(world.folder / "ensemble"), "by": name}))
        for name in ("information", "disagreement")
    }
    assert [r.priority for r in by["information"]] != [r.priority for r in by["disagreement"]]
    with pytest.raises(ConfigError, match="one head"):
        sample.run(sampled(world, tmp_path / "none.jsonl", priority={"reward": str(world.folder / "reward")}))
    assert not (tmp_path / "none.jsonl").exists()


def test_a_single_response_has_no_priority(world, tmp_path):
    alone = sampled(world, tmp_path / "r.jsonl", responses=1, priority={"reward": str(world.folder / "ensemble")})
    assert {r.priority for r in sample.run(alone)} == {0.0}
