"""What all verbs share: help, options, errors, exit codes."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from handrail import __version__
from handrail.cli import app
from handrail.cli.frame import finite, out, shown, verb
from handrail.cli.settings_help import SCHEMAS, default, kind, nested, rows, says, schema
from handrail.config import Settings
from handrail.errors import ConfigError, StorageError
from handrail.recipes.progress import console

WIDE = {"COLUMNS": "160", "TERM": "dumb"}


@pytest.fixture(autouse=True)
def same_log_after() -> Iterator[None]:
    """The consoles and the log as they were, for the tests of other rooms."""
    logger = logging.getLogger("handrail")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
    console.quiet = out.quiet = False


def call(*arguments: str):
    return CliRunner(env=WIDE).invoke(app, list(arguments))


def only(work) -> typer.Typer:
    """A command line of this one verb."""
    made = typer.Typer(pretty_exceptions_enable=False)
    made.command()(verb(work))
    return made


def test_help_names_every_verb() -> None:
    told = call("--help")
    assert told.exit_code == 0
    verbs = "demo init run sft sample reward ppo reinforce best_of_n dpo relaxed evaluate search compare report chat selftest show"
    for name in verbs.split():
        assert f" {name} " in told.stdout


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, handrail.cli; print([m for m in ('torch', 'transformers', 'numpy', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "handrail", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"handrail {__version__}"


@pytest.mark.parametrize("name", SCHEMAS)
def test_help_teaches_every_setting(name: str) -> None:
    told = call(name, "--help").stdout
    assert f"handrail {name}" in told.split("Example:")[1]
    table = told.split("Settings of")[1]
    for key, field in rows(schema(name)):
        assert says(key, field) or nested(field.annotation), f"{key} has no meaning"
        lines = table.splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith(f"{key} "))
        line = " ".join(lines[start : start + 2])  # a narrow column puts a long default below its type
        given = default(field)
        assert (given.split()[-1][:20] if given else kind(field.annotation)) in line, (key, given)


def test_a_list_is_called_a_list_and_a_choice_a_choice() -> None:
    told = call("compare", "--help").stdout
    seeds = next(line for line in told.splitlines() if line.startswith("seeds "))
    assert "list = [0, 1, 2]" in seeds and "list of whole number" in seeds
    assert "choice = tpe" in call("search", "--help").stdout


def test_help_says_which_file_a_verb_takes_and_where_a_round_has_the_stage() -> None:
    assert "OUT/round-1/sft" in " ".join(call("sft", "--help").stdout.split())
    assert "OUT/round-1/evaluation" in " ".join(call("evaluate", "--help").stdout.split())
    for name in ("compare", "search", "run"):
        told = call(name, "--help").stdout
        assert "a whole round's." not in told and "data.path=my.jsonl" not in told and "OUT/round-1" not in told
    assert "a whole round's." in call("ppo", "--help").stdout


def test_rows_reach_every_nested_setting() -> None:
    keys = [key for key, _ in rows(schema("ppo"))]
    assert {"lr", "kl", "kl.beta", "policy.new.hidden", "policy.lora.rank", "reward.end_penalty", "run.save_every"} <= set(keys)
    assert len(keys) == len(set(keys))


def test_an_error_says_three_things_and_has_its_code() -> None:
    def work() -> dict:
        raise ConfigError("found this", "that is allowed", "do so")

    told = CliRunner(env=WIDE).invoke(only(work), [])
    assert told.exit_code == 2
    assert told.stdout == ""
    assert told.stderr.splitlines() == ["error: found this", "allowed: that is allowed", "what to do: do so"]


def test_an_error_while_working_has_code_1() -> None:
    def work() -> dict:
        raise StorageError("disk full")

    assert CliRunner().invoke(only(work), []).exit_code == 1


def test_verbose_adds_the_traceback() -> None:
    def work() -> dict:
        raise ConfigError("found this")

    assert "Traceback" not in CliRunner(env=WIDE).invoke(only(work), []).stderr
    assert "Traceback" in CliRunner(env=WIDE).invoke(only(work), ["-v"]).stderr


@pytest.mark.parametrize(
    "arguments", [("--json", "sft", "nowhere.yaml"), ("sft", "nowhere.yaml", "--json"), ("sft", "--json", "nowhere.yaml")]
)
def test_json_before_and_after_the_verb(arguments: tuple[str, ...]) -> None:
    told = call(*arguments)
    assert told.exit_code == 2
    error = json.loads(told.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == ("ConfigError", 2)
    assert "nowhere.yaml" in error["found"] and "handrail init" in error["remedy"]


def test_json_is_alone_on_standard_output() -> None:
    def work() -> dict:
        print("a reward function says something")
        out.print("a panel")
        return {"value": float("nan"), "list": [1, float("inf")]}

    told = CliRunner().invoke(only(work), ["--json"])
    assert json.loads(told.stdout) == {"value": None, "list": [1, None]}
    assert "reward function" in told.stderr and "a panel" in told.stderr


def test_quiet_says_nothing() -> None:
    def work() -> dict:
        out.print("a panel")
        console.print("a stage")
        logging.getLogger("handrail.test").warning("take care")
        return {}

    told = CliRunner().invoke(only(work), ["--quiet"])
    assert (told.exit_code, told.stdout, told.stderr) == (0, "", "")
    loud = CliRunner().invoke(only(work), [])
    assert "a panel" in loud.stdout and "a stage" in loud.stderr and "take care" in loud.stderr


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143), (SystemExit(130), 130)])
def test_a_stop_keeps_its_code(stop: BaseException, status: int) -> None:
    def work() -> dict:
        raise stop

    told = CliRunner(env=WIDE).invoke(only(work), ["--json"])
    assert told.exit_code == status
    assert json.loads(told.stdout)["error"]["exit_code"] == status
    assert "Traceback" not in told.stderr and "goes on" in told.stderr


def test_what_nobody_foresaw_is_told_whole() -> None:
    def work() -> dict:
        raise ZeroDivisionError("division by zero")

    told = CliRunner(env=WIDE).invoke(only(work), ["--json"])
    assert told.exit_code == 1
    assert json.loads(told.stdout)["error"]["kind"] == "ZeroDivisionError"
    assert "Traceback" in told.stderr


def test_an_unknown_verb_gets_the_nearest() -> None:
    told = call("evalute")
    assert told.exit_code == 2 and "evaluate" in told.stderr


def test_an_unknown_task_gets_the_nearest() -> None:
    told = call("demo", "--task", "movi-night")
    assert told.exit_code == 2 and "did you mean 'movie-night'" in told.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {pth: a.jsonl}\n", "did you mean 'data.path'"),
        ("data: {path: a.jsonl}\nlr: fast\n", "lr"),
        ("lr: 1\nlr: 2\n", "second time"),
        ("data: {path: a.jsonl}\nepochs: no\n", "epochs"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_a_bad_config_ends_with_2_and_writes_nothing(tmp_path, monkeypatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sft.yaml").write_text(text)
    told = call("sft", "sft.yaml")
    assert told.exit_code == 2 and said in told.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["sft.yaml"]


def test_hostile_text_is_made_visible() -> None:
    assert shown("a\x1b[31mb\u202ec\n\td\x7f") == "a<U+001B>[31mb<U+202E>c\n\td<U+007F>"


def test_finite_keeps_what_json_has() -> None:
    assert finite({"a": (1.5, float("-inf")), "b": True, "c": "x"}) == {"a": [1.5, None], "b": True, "c": "x"}


def test_a_group_is_recognised_inside_a_union() -> None:
    class Inner(Settings):
        size: int = 3

    class Outer(Settings):
        inner: Inner | None = None

    assert [key for key, _ in rows(Outer)] == ["inner", "inner.size"]
