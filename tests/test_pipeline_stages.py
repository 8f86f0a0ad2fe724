"""A stage of a round: nothing is lost where it fails, and it can be done by itself."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from handrail.cli import app
from handrail.config import dump, override, validate
from handrail.errors import ConfigError, DataError, InputError, ModelError, RunError
from handrail.pipeline import Round, stage_settings
from handrail.pipeline.alone import by_itself
from handrail.pipeline.records import SOURCES, provide
from handrail.pipeline.settings import KNOWN_AS
from handrail.pipeline.stages import Log, plain, reads, refuse_another, stage
from handrail.recipes.progress import console
from handrail.recipes.sft import SFT

CONFIG = Path("round.yaml")


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and every folder, with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def fails(error: Exception):
    def work() -> None:
        raise error

    return work


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "runs/round")


def done(log: Log, settings: dict, work=None, check=lambda: None) -> Path:
    """A stage that leaves a file, or does what is asked."""
    folder = log.root / "round-1/toy"
    stage(log, "toy", folder, settings, {}, work or (lambda: (folder / "result").write_text(str(settings))), check)
    return folder


@pytest.mark.parametrize("how", ["check", "work"])
def test_what_cannot_be_used_leaves_everything_as_it_was(log, tmp_path, how):
    wrong = fails(DataError("no such file"))
    given = {"check": wrong} if how == "check" else {"work": wrong}
    with pytest.raises(DataError):
        done(log, {"a": 0}, **given)
    assert everything(tmp_path) == {}, "not even the folder above"
    done(log, {"a": 1})
    before = everything(tmp_path)
    for _ in range(2):
        with pytest.raises(DataError):
            done(log, {"a": 2}, **given)
        assert everything(tmp_path) == before
    done(log, {"a": 1})
    assert log.stages[-1]["skipped"]


def test_work_that_has_begun_is_kept_and_taken_up(log):
    folder = log.root / "round-1/toy"

    def half() -> None:
        (folder / "half").write_text("")
        raise InputError("something in the middle")

    with pytest.raises(InputError):
        done(log, {"a": 1}, half)
    with pytest.raises(RunError):
        done(log, {"a": 1}, fails(RunError("later")))
    assert (folder / "half").exists() and not (folder.parent / "toy.before-1").exists()
    done(log, {"a": 1})
    assert (folder / "half").exists() and (folder / "result").exists()
    done(log, {"a": 2})
    assert (folder.parent / "toy.before-1/result").exists() and (folder / "result").read_text() == "{'a': 2}"


def test_the_stage_that_failed_is_named(log, capsys, monkeypatch):
    monkeypatch.setattr(console, "quiet", False)
    with pytest.raises(RunError):
        done(log, {}, fails(RunError("too long")))
    assert "✗ toy" in capsys.readouterr().err


def test_a_run_that_its_verb_began_is_the_rounds(log, tmp_path):
    """`handrail sft` and then `handrail run`: what the verb did, whole or in part, is taken up."""
    cfg = validate(SFT, {"out": str(log.root / "round-1/toy"), "data": {"path": "d.jsonl"}, "micro_tokens": 64}, "test")
    folder = Path(cfg.out)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(cfg))
    (folder / "model").mkdir()
    seen: list[bool] = []
    stage(log, "toy", folder, plain(cfg.model_copy(update={"micro_tokens": 0})), {}, lambda: seen.append((folder / "model").exists()))
    assert seen == [True]
    (folder / "stage.json").unlink()
    stage(log, "toy", folder, plain(cfg.model_copy(update={"lr": 1.0})), {}, lambda: seen.append((folder / "model").exists()))
    assert seen == [True, False] and (folder.parent / "toy.before-1/model").exists()


# ---- the user's own data ---------------------------------------------------------------------------------------------


def round_of(folder: Path, **over) -> dict:
    """A round over a file of comparisons with a column that nobody asked for and a row of no use."""
    rows = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}", "mood": "fine"} for i in range(30)]
    rows.append({"prompt": "same", "chosen": "a", "rejected": "a", "mood": "odd"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(folder / "pairs.jsonl")}
    new = {"hidden": 32, "layers": 1, "heads": 2, "vocabulary": 300, "context": 64}
    return {"out": str(folder / "runs/own"), "model": {"new": new}, "data": {"demonstrations": source, "comparisons": source}} | over


def provided(given: dict) -> Path:
    cfg = validate(Round, given, "test")
    provide(cfg, stage_settings(cfg, Path(cfg.out))[0]["reward"], Log(Path(cfg.out)))
    return Path(cfg.out) / "round-1/data"


@pytest.mark.parametrize(
    "wrong, error",
    [
        ({"data": {"demonstrations": {"path": "paris.jsonl"}, "comparisons": {"path": "paris.jsonl"}}}, DataError),
        ({"model": {"path": "./nowhere"}, "seed": 1}, ModelError),
    ],
)
def test_a_wrong_path_moves_nothing_aside_and_makes_nothing(tmp_path, wrong, error):
    given = round_of(tmp_path)
    start = everything(tmp_path)
    with pytest.raises(error):
        provided(given | wrong)
    assert everything(tmp_path) == start
    provided(given)
    before = everything(tmp_path)
    with pytest.raises(error):
        provided(given | wrong)
    assert everything(tmp_path) == before


def test_what_was_read_is_said_and_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "quiet", False)
    said = json.loads((provided(round_of(tmp_path)) / SOURCES).read_text())
    sentence = said[f"comparisons, {tmp_path / 'pairs.jsonl'}"]
    assert "not used: mood" in sentence and "31 rows, 30 rankings, 1 dropped (equal responses in different places: 1)" in sentence
    told = " ".join(capsys.readouterr().err.split())
    assert sentence in told and f"demonstrations, {tmp_path / 'pairs.jsonl'}: comparison" in told


# ---- a stage by itself -----------------------------------------------------------------------------------------------


def test_a_verb_makes_the_data_of_a_fresh_round_and_the_round_then_has_it(tmp_path, monkeypatch):
    given = round_of(tmp_path)
    cfg = by_itself(given, "sft", CONFIG, ["epochs=1"])
    assert cfg.epochs == 1 and Path(cfg.data.path).is_file()
    log = Log(Path(given["out"]))
    whole = validate(Round, given, "test")
    provide(whole, stage_settings(whole, log.root)[0]["reward"], log)
    assert [s["skipped"] for s in log.stages] == [True]


def test_a_setting_of_the_stage_does_not_make_the_rounds_data_anew(tmp_path):
    given = round_of(tmp_path)
    before = everything(provided(given))
    sft = Path(given["out"]) / "round-1/sft/model"
    sft.mkdir(parents=True)
    (sft / "config.json").write_text("{}")
    assert by_itself(given, "reward", CONFIG, ["held_out=0.4"]).held_out == 0.4
    assert everything(Path(given["out"]) / "round-1/data") == before


def test_data_made_from_something_else_is_used_and_told_of(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "quiet", False)
    before = everything(provided(round_of(tmp_path)))
    by_itself(round_of(tmp_path, seed=3), "sft", CONFIG, [])
    assert "`handrail run round.yaml` makes it anew" in " ".join(capsys.readouterr().err.split())
    assert everything(Path(round_of(tmp_path)["out"]) / "round-1/data") == before


@pytest.mark.parametrize(
    "name, commands",
    [
        ("sample", ["sft"]),
        ("reward", ["sft"]),
        ("dpo", ["sft"]),
        ("ppo", ["sft", "reward"]),
        ("evaluate", ["sft", "reward", "ppo"]),
    ],
)
def test_a_stage_whose_start_is_missing_says_which_commands_make_it(tmp_path, name, commands):
    given = round_of(tmp_path)
    start = everything(tmp_path)
    with pytest.raises(ConfigError) as raised:
        by_itself(given, name, CONFIG, [])
    assert raised.value.remedy == (
        ", then ".join(f"`handrail {c} round.yaml`" for c in commands) + "; or `handrail run round.yaml`, which does every stage"
    )
    assert everything(tmp_path) == start


def test_labels_that_nobody_has_given_yet_come_from_the_round(tmp_path):
    given = {"out": str(tmp_path / "runs"), "task": {"name": "movie-night"}, "labels": "simulated"}
    model = tmp_path / "runs/round-1/sft/model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"labels/rankings\.jsonl") as raised:
        by_itself(given, "reward", CONFIG, [])
    assert "handrail run round.yaml" in raised.value.remedy


def test_an_evaluation_of_other_settings_does_not_overwrite_the_rounds(tmp_path, monkeypatch):
    given = round_of(tmp_path)
    evaluation = stage_settings(validate(Round, given, "test"), Path(given["out"]))[0]["evaluate"]
    folder = Path(evaluation.out)
    stage(Log(Path(given["out"])), "evaluation", folder, plain(evaluation), reads(evaluation), lambda: None)
    refuse_another(folder, evaluation)
    with pytest.raises(ConfigError, match="holds a stage of a round") as raised:
        refuse_another(folder, evaluation.model_copy(update={"limit": 20}))
    assert "out=" in raised.value.remedy
    refuse_another(tmp_path, evaluation)


def test_the_verbs_refuse_before_any_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.yaml").write_text("{before: {path: b}, after: {path: a}, prompts: {path: p.jsonl}, reward: r, out: evaluation}")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/stage.json").write_text('{"identity": "another", "finished": true, "seconds": 1.0}')
    (tmp_path / "s.yaml").write_text("{model: {path: m}, prompts: {path: p.jsonl}, out: evaluation/responses.jsonl}")
    for verb, config in (("evaluate", "e.yaml"), ("sample", "s.yaml")):
        told = CliRunner().invoke(app, [verb, config, "limit=20", "--json"])
        assert told.exit_code == 2 and "evaluation holds a stage of a round" in json.loads(told.stdout)["error"]["found"]


# ---- what is not a setting -------------------------------------------------------------------------------------------


def refused(given: dict, *assignments: str) -> str:
    with pytest.raises(ConfigError) as raised:
        cfg = validate(Round, override(given, list(assignments)), "round.yaml")
        stage_settings(cfg, Path(cfg.out))
    return raised.value.found


@pytest.mark.parametrize("name", KNOWN_AS)
def test_a_method_is_found_by_the_name_that_the_field_has_for_it(tmp_path, name):
    given, written = round_of(tmp_path), KNOWN_AS[name]
    for spelling in (name, name.lower().replace(" ", "_"), name.upper()):
        assert refused(given, f"method={spelling}") == f"round.yaml: method: found text {spelling!r}; it is written as {written}"
    cfg = validate(Round, override(given, written.split()), "round.yaml")
    assert cfg.method in stage_settings(cfg, Path(cfg.out))[0]
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if f"`{written}`" in line)
    assert name in row


@pytest.mark.parametrize(
    "assignment, said",
    [
        ("steps=5", "steps: there is no such setting; did you mean ppo.steps, reinforce.steps, best_of_n.steps or relaxed.steps?"),
        ("temperature=1", "temperature: there is no such setting; did you mean sampling.temperature?"),
        ("rouds=1", "rouds: there is no such setting; did you mean 'rounds'?"),
        ("ppo.kl.bta=1", "kl.bta: there is no such setting; did you mean 'kl.beta'?"),
        ("seed=1.5", "seed: found 1.5; it should be a whole number"),
        ("ppo.lr=nan", "lr: found text 'nan'; it should be a number"),
        ("method=foo", "method: found text 'foo'; it should be 'ppo', 'reinforce', 'best_of_n', 'dpo' or 'relaxed'"),
    ],
)
def test_a_wrong_setting_gets_the_right_one(tmp_path, assignment, said):
    assert refused(round_of(tmp_path), assignment).split(": ", 1)[1] == said
