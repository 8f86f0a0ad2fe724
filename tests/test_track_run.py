"""The run folder: what is frozen, what is cut on resume, what is refused."""

import json
import logging
import os
import threading
from pathlib import Path

import pytest
import torch

from handrail.config import Settings
from handrail.errors import ConfigError, NonFiniteError, RunLocked, StorageError
from handrail.track import Guard, Run, read_run
from handrail.track.environment import redact, redact_arguments


class Inner(Settings):
    rate: float = 1e-5
    revision: str = "12345e7"


class Config(Settings):
    seed: int = 0
    optimiser: Inner = Inner()
    save_every: int = 2


def opened(folder: Path, config: Config | None = None, inputs: dict[str, str] | None = None, **named) -> Run:
    free = frozenset({"save_every"})
    return Run.open(folder, "sft", config or Config(), inputs or {"data": "abc"}, save_every=2, free=free, **named)


def step(run: Run, number: int) -> None:
    run.log(number, {"loss": 1 / (number + 1)}, {"update": 0.5})
    run.trace(number, {"response": ["a", "b"], "logp": [[-0.5, -1.0], []]})
    if run.due(number):
        run.save(number + 1, {"weight": torch.full((2,), float(number))}, {"number": number})
    run.check()


def test_a_run_from_its_beginning_to_its_end(tmp_path):
    with opened(tmp_path / "run") as run:
        assert run.step == 0 and run.restore() is None and not run.finished
        for number in range(5):
            step(run, number)
        run.finish({"loss": 0.2})
    view = read_run(tmp_path / "run")
    assert view.finished and view.summary == {"loss": 0.2} and view.stage == "sft" and view.inputs == {"data": "abc"}
    assert view.config == Config().model_dump()
    assert view.column("loss") == ([0, 1, 2, 3, 4], [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert view.names == ["loss"] and view.traces == [0, 1, 2, 3, 4]
    assert view.timing[0]["update"] == 0.5 and view.timing[0]["memory_mib"] > 1
    assert view.read_trace(3).to_pydict() == {"response": ["a", "b"], "logp": [[-0.5, -1.0], []]}
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000004"]
    with opened(tmp_path / "run") as again:
        assert again.finished and again.summary == {"loss": 0.2}


def test_what_the_last_look_finds_has_the_summary_before_it_and_is_durable(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size if os.fstat(descriptor).st_ino == findings.stat().st_ino else 0)
        sync(descriptor)

    def look(number: int, last: bool) -> str:
        if last:
            assert (tmp_path / "run/summary.json").exists()
            run.found(number, {"name": "ill", "evidence": "seen at the end"})
            monkeypatch.setattr(os, "fsync", noted)
        return ""

    findings = tmp_path / "run/findings.jsonl"
    with opened(tmp_path / "run") as run:
        run.attend(look)
        step(run, 0)
        run.finish({})
    assert synced == [findings.stat().st_size]


def test_resume_cuts_what_came_after_the_checkpoint(tmp_path):
    folder = tmp_path / "run"
    with opened(folder) as run:
        for number in range(3):
            step(run, number)
        run.log(5, {"loss": 9.0})
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 1, "lo')
    (folder / "tokens/.tmp-step-000009.parquet").write_bytes(b"half")
    with opened(folder) as run:
        assert run.step == 2
        saved = run.restore()
        assert saved is not None and saved.step == 2 and saved.state == {"number": 1}
        assert saved.tensors["weight"].tolist() == [1, 1]
        assert [line["step"] for line in read_run(folder).metrics] == [0, 1]
        assert [line["step"] for line in read_run(folder).timing] == [0, 1]
        traces = sorted(path.name for path in (folder / "tokens").iterdir())
        assert traces == ["step-000000.parquet", "step-000001.parquet"]
        for number in range(run.step, 5):
            step(run, number)
    with opened(tmp_path / "whole") as run:
        for number in range(5):
            step(run, number)
    assert (folder / "metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_a_number_cannot_take_the_name_of_the_step_or_of_what_every_line_has(tmp_path):
    with opened(tmp_path / "run") as run:
        for wrong in ("step", "time", "memory_mib"):
            with pytest.raises(ValueError, match=wrong):
                run.log(0, {"loss": 1.0}, {wrong: 0.5})
        with pytest.raises(ValueError, match="step"):
            run.log(0, {"step": 1.0})
    assert read_run(tmp_path / "run").metrics == [] and read_run(tmp_path / "run").timing == []


def test_lines_that_cannot_be_kept_are_told_of_once(tmp_path, caplog):
    with opened(tmp_path / "run") as run:
        step(run, 0)
    with (tmp_path / "run/timing.jsonl").open("a") as stream:
        stream.write('{"step": 0.25}\n' * 12)
    with caplog.at_level("WARNING", "handrail"), opened(tmp_path / "run"):
        pass
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "timing.jsonl: dropped 12 lines, the first is line 2: not written to its end, or no step in it"
    ]


def test_without_a_checkpoint_it_begins_again(tmp_path):
    with opened(tmp_path / "run") as run:
        step(run, 0)
    with opened(tmp_path / "run") as run:
        assert run.step == 0 and run.restore() is None
        assert read_run(tmp_path / "run").metrics == [] and read_run(tmp_path / "run").traces == []


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
    with opened(tmp_path / "run") as run:
        run.log(0, {"a": float("nan"), "b": float("inf"), "c": float("-inf"), "text": "words"})

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is not JSON")

    json.loads((tmp_path / "run/metrics.jsonl").read_text(), parse_constant=refuse)
    line = read_run(tmp_path / "run").metrics[0]
    assert line["a"] != line["a"] and line["b"] == float("inf") == -line["c"] and line["text"] == "words"


@pytest.mark.parametrize(
    ("config", "inputs", "said"),
    [
        (Config(optimiser=Inner(rate=2e-5)), None, "optimiser.rate: 1e-05 -> 2e-05"),
        (Config(seed=1), None, "seed: 0 -> 1"),
        (None, {"data": "xyz"}, 'input data: "abc" -> "xyz"'),
        (None, {"data": "abc", "model": "m"}, 'input model: not set -> "m"'),
    ],
)
def test_another_config_or_input_is_refused_and_the_key_named(tmp_path, config, inputs, said):
    with opened(tmp_path / "run") as run:
        step(run, 0)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as error:
        opened(tmp_path / "run", config, inputs)
    assert said in str(error.value) and "another folder" in str(error.value) and error.value.exit_code == 2
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    with opened(tmp_path / "run"):
        pass


def test_the_refusal_says_how_to_give_another_folder(tmp_path):
    with opened(tmp_path / "run"):
        pass
    with pytest.raises(ConfigError) as raised, opened(tmp_path / "run", inputs={"data": "other"}):
        pass
    assert "out=" in raised.value.remedy


def test_another_stage_is_refused(tmp_path):
    with opened(tmp_path / "run"):
        pass
    with pytest.raises(ConfigError, match="stage: sft -> ppo"):
        Run.open(tmp_path / "run", "ppo", Config(), {"data": "abc"}, save_every=2)


def test_keys_that_do_not_affect_results_may_differ(tmp_path):
    with opened(tmp_path / "run") as run:
        step(run, 0)
    with opened(tmp_path / "run", Config(save_every=7)) as run:
        assert run.step == 0
    with pytest.raises(ConfigError, match="save_every"):
        Run.open(tmp_path / "run", "sft", Config(save_every=7), {"data": "abc"}, save_every=2)


def test_a_run_without_its_config_is_not_taken_over(tmp_path):
    with opened(tmp_path / "run") as run:
        step(run, 0)
    (tmp_path / "run/config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"metrics\.jsonl but not the config"):
        opened(tmp_path / "run")


@pytest.mark.parametrize("name", [".hidden", "a b", "-x", "a" * 65, "ü", "a\nb"])
def test_a_bad_name_is_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be the name"):
        opened(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_fails_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="free on its disk"):
        opened(tmp_path / "file/run")


def test_one_run_at_a_time_even_in_one_process(tmp_path):
    with opened(tmp_path / "run"), pytest.raises(RunLocked, match=f"process {os.getpid()} on "):
        opened(tmp_path / "run")
    with opened(tmp_path / "run"):
        pass


def test_a_save_is_due_every_so_many_steps_and_after_the_last(tmp_path):
    with opened(tmp_path / "run") as run:
        assert [number for number in range(6) if run.due(number)] == [1, 3, 5]
        assert run.due(2, last=True)


def test_the_log_file_tells_the_story_and_no_secret(tmp_path):
    folder = tmp_path / "run"
    with opened(folder) as run:
        for number in range(4):
            step(run, number)
        logging.getLogger("handrail.anything").warning("password=hunter22 at https://me:word@host.example/x")
    for file in (folder / "checkpoints/step-00000004").glob("*.safetensors"):
        file.write_bytes(b"")
    with opened(folder) as run:
        assert run.step == 2
    logging.getLogger("handrail.anything").warning("after the end")
    text = (folder / "log.txt").read_text()
    assert "saved step-00000002" in text and "refused the checkpoint step-00000004" in text
    assert "hunter22" not in text and "word@" not in text and "host.example/x" in text and "after the end" not in text


def test_an_error_in_a_run_is_logged_and_the_folder_is_free_again(tmp_path):
    with pytest.raises(ZeroDivisionError), opened(tmp_path / "run"):
        raise ZeroDivisionError("by zero")
    assert "ended by ZeroDivisionError: by zero" in (tmp_path / "run/log.txt").read_text()
    with opened(tmp_path / "run"):
        pass


def test_another_machine_is_noted(tmp_path):
    folder = tmp_path / "run"
    with opened(folder):
        pass
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["cores"] >= 1 and "PATH" not in environment
    (folder / "environment.json").write_text(json.dumps(environment | {"cpu": "an abacus"}))
    with opened(folder):
        pass
    assert "the last bits may differ: cpu: an abacus ->" in (folder / "log.txt").read_text()


def test_secrets_are_removed_and_settings_that_speak_of_tokens_stay():
    kept = ["ppo", "max_new_tokens=64", "eos_token=<end>", "seed=1"]
    assert redact_arguments(kept) == kept
    shown = redact_arguments(["--token", "abc", "seed=1", "hub_token=abc123", "--api-key=zzz"])
    assert shown == ["--token", "[removed]", "seed=1", "hub_token=[removed]", "--api-key=[removed]"]
    assert redact("with hf_abcdefghijkl inside") == "with [removed] inside"
    assert redact("postgresql://someone:secret@host/db") == "postgresql://[removed]@host/db"
    assert redact("Authorization: Bearer abcdefghijk") == "Authorization: [removed]"


def test_a_run_can_be_opened_outside_the_main_thread(tmp_path):
    steps = []

    def work() -> None:
        with opened(tmp_path / "run") as run:
            step(run, 0)
            steps.append(run.step)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert steps == [0]


def test_the_guard_counts_in_a_row_keeps_the_batch_and_stops(tmp_path):
    with opened(tmp_path / "run") as run:
        guard = Guard(3, run)
        batch = {"ids": torch.arange(4)}
        assert guard.ok(0, {"loss": 1.0, "norm": 2.0}, batch)
        assert not guard.ok(1, {"loss": float("nan"), "norm": 2.0}, batch)
        assert guard.ok(2, {"loss": 1.0}, batch)
        assert not guard.ok(3, {"loss": float("inf")}, batch)
        assert not guard.ok(4, {"loss": 1.0, "reward": float("-inf")}, batch)
        other = Guard(3, run)
        other.load_state(json.loads(json.dumps(guard.state())))
        with pytest.raises(NonFiniteError, match="step 5: loss = nan"):
            other.ok(5, {"loss": float("nan")}, batch)
    names = sorted(path.name for path in (tmp_path / "run/bad-batches").iterdir())
    assert names == [f"step-{number:08d}.safetensors" for number in (1, 3, 4, 5)]
    from safetensors.torch import load_file

    assert load_file(tmp_path / "run/bad-batches" / names[0])["ids"].tolist() == [0, 1, 2, 3]
    assert "step 1: loss = nan; no update (1 in a row, limit 3)" in (tmp_path / "run/log.txt").read_text()


def test_bad_batches_do_not_fill_the_disk(tmp_path):
    with opened(tmp_path / "run") as run:
        for number in range(30):
            run.keep_batch(number, {"ids": torch.arange(4)})
    assert len(list((tmp_path / "run/bad-batches").iterdir())) == 10


def test_a_folder_without_a_run_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="there is no run here"):
        read_run(tmp_path)


def test_a_run_that_goes_on_can_be_read(tmp_path):
    with opened(tmp_path / "run") as run:
        step(run, 0)
        with (tmp_path / "run/metrics.jsonl").open("a") as stream:
            stream.write('{"step": 1, "loss": 0.')
        view = read_run(tmp_path / "run")
        assert not view.finished and view.column("loss") == ([0], [1.0])
