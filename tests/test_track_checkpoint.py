"""Checkpoints: what goes in comes out, a damaged one is refused by name, and no moment exists without a good one."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest
import torch

from handrail.errors import CheckpointError, StorageError
from handrail.track import storage
from handrail.track.checkpoint import Checkpoints, load

OS_CALLS = ("write", "fsync", "mkdir", "rename", "unlink", "rmdir")


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {
        "weight": torch.full((64, 8), value),
        "step": torch.tensor(int(value)),
        "random": torch.arange(16, dtype=torch.uint8),
    }


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def written(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoints", keep)
    for step in steps:
        checkpoints.write(step, tensors(step), {"step": step})
    return checkpoints


def test_every_kind_of_tensor_comes_back_bit_by_bit(tmp_path):
    shared = torch.randn(4, 4)
    given = {
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 5),
        "transposed": torch.randn(3, 5).t(),
        "half": torch.randn(7).bfloat16(),
        "double": torch.randn(2, dtype=torch.float64),
        "flags": torch.tensor([True, False, True]),
        "bytes": torch.arange(255, dtype=torch.uint8),
        "tied": shared,
        "tied again": shared[:2],
        "not finite": torch.tensor([float("nan"), float("inf"), -0.0]),
        "learned": torch.nn.Parameter(torch.randn(3)),
    }
    state = {"beta": 0.1 + 0.2, "none": None, "order": [3, 1, 2], "ü": "\u2028"}
    saved = load(Checkpoints(tmp_path / "c", 1).write(7, given, state))
    assert saved.step == 7 and saved.state == state and saved.tensors.keys() == given.keys()
    for name, tensor in given.items():
        found = saved.tensors[name]
        assert found.dtype == tensor.dtype and found.shape == tensor.shape
        assert bits(found) == bits(tensor), name


def test_the_newest_stay_and_older_ones_go(tmp_path):
    checkpoints = written(tmp_path, 2, 4, 6, 8, keep=2)
    assert sorted(checkpoints.steps()) == [6, 8]
    checkpoints.only_last()
    assert checkpoints.steps() == [8]


def damage(path: Path, how: str) -> None:
    target = path / "tensors.safetensors"
    content = target.read_bytes()
    middle = len(content) // 2
    if how == "empty":
        target.write_bytes(b"")
    elif how == "truncated":
        target.write_bytes(content[:middle])
    elif how == "bit-flipped":
        target.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == "incomplete":
        target.unlink()
    elif how == "without manifest":
        (path / "manifest.json").unlink()
    elif how == "manifest cut":
        manifest = (path / "manifest.json").read_bytes()
        (path / "manifest.json").write_bytes(manifest[: len(manifest) // 2])
    elif how == "state changed":
        (path / "state.json").write_text('{"step": 9}')
    elif how == "manifest changed":
        manifest = json.loads((path / "manifest.json").read_bytes())
        (path / "manifest.json").write_text(json.dumps(manifest | {"step": 5}))


DAMAGES = [
    "empty", "truncated", "bit-flipped", "incomplete",
    "without manifest", "manifest cut", "state changed", "manifest changed",
]  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_next_older_is_used(tmp_path, caplog, how):
    checkpoints = written(tmp_path, 2, 4)
    damage(tmp_path / "checkpoints/step-00000004", how)
    with caplog.at_level(logging.WARNING, "handrail"):
        found = checkpoints.newest()
    assert found is not None and load(found).step == 2
    assert "refused the checkpoint step-00000004" in caplog.text


def test_every_single_flipped_byte_is_noticed(tmp_path):
    checkpoints = written(tmp_path, 1)
    for file in (tmp_path / "checkpoints/step-00000001").iterdir():
        content = file.read_bytes()
        for position in range(0, len(content), 1 if file.name == "manifest.json" else 37):
            file.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
            with pytest.raises(CheckpointError):
                checkpoints.newest()
        file.write_bytes(content)
    assert checkpoints.newest() is not None


def test_none_good_is_an_error_and_none_at_all_is_a_beginning(tmp_path):
    assert Checkpoints(tmp_path / "nothing", 2).newest() is None
    checkpoints = written(tmp_path, 2, 4)
    damage(tmp_path / "checkpoints/step-00000002", "empty")
    damage(tmp_path / "checkpoints/step-00000004", "without manifest")
    with pytest.raises(CheckpointError, match=r"step-00000004(.|\n)*step-00000002"):
        checkpoints.newest()


def test_a_refused_checkpoint_is_replaced_when_its_step_comes_again(tmp_path):
    checkpoints = written(tmp_path, 2, 4)
    damage(tmp_path / "checkpoints/step-00000004", "truncated")
    checkpoints.write(3, tensors(3), {})
    assert sorted(checkpoints.steps()) == [2, 3]
    checkpoints.write(3, tensors(5), {"again": True})
    assert load(checkpoints.newest()).state == {"again": True}


def _counting(call: int, action, monkeypatch) -> list[int]:
    """Before the call-th call of those that change the disk, `action` happens."""
    count = [0]

    def wrap(original):
        def counted(*given, **named):
            count[0] += 1
            if count[0] == call:
                action()
            return original(*given, **named)

        return counted

    for name in OS_CALLS:
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))
    return count


def _calls_of_a_save(tmp_path, monkeypatch, step: int) -> int:
    checkpoints = written(tmp_path / "count", 2, 4)
    with monkeypatch.context() as patched:
        count = _counting(0, lambda: None, patched)
        checkpoints.write(step, tensors(step), {"step": step})
    return count[0]


@pytest.mark.parametrize("step", [6, 4], ids=["a new step", "the same step again"])
def test_killed_before_any_change_of_the_disk_the_old_or_the_new_one_loads(tmp_path, monkeypatch, step):
    calls = _calls_of_a_save(tmp_path, monkeypatch, step)
    assert calls > 15
    for call in range(1, calls + 1):
        folder = tmp_path / str(call)
        checkpoints = written(folder, 2, 4)
        child = os.fork()
        if child == 0:
            _counting(call, lambda: os._exit(9), monkeypatch)
            checkpoints.write(step, tensors(60), {"step": 60})
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        saved = load(checkpoints.newest())
        assert (saved.step, saved.state["step"]) in {(4, 4), (step, 60)}
        assert saved.tensors["weight"].unique().tolist() == [saved.state["step"]]
        assert not [path for path in (folder / "checkpoints").iterdir() if path.name.startswith(".")]


def test_disk_full_at_any_write_leaves_the_old_one_and_no_half_file(tmp_path, monkeypatch):
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls = _calls_of_a_save(tmp_path, monkeypatch, 6)
    errors = []
    for call in range(1, calls + 1):
        folder = tmp_path / str(call)
        checkpoints = written(folder, 2, 4)
        with monkeypatch.context() as patched:
            _counting(call, full, patched)
            try:
                checkpoints.write(6, tensors(6), {"step": 6})
            except StorageError as error:
                errors.append(str(error))
        left = {path.name for path in (folder / "checkpoints").iterdir()}
        assert left >= {"step-00000004"} and left <= {f"step-0000000{step}" for step in (2, 4, 6)}
        assert load(checkpoints.newest()).step == (6 if "step-00000006" in left else 4)
    assert len(errors) >= calls - 1  # making a folder that is there already needs no room
    assert all(str(tmp_path) in text and "No space left" in text and "free on its disk" in text for text in errors)


def test_a_checkpoint_that_cannot_fit_is_refused_before_it_is_written(tmp_path, monkeypatch):
    checkpoints = written(tmp_path, 2)
    monkeypatch.setattr(storage, "free_bytes", lambda path: 100)
    with pytest.raises(StorageError, match="100 bytes are free"):
        checkpoints.write(4, tensors(4), {})
    assert checkpoints.steps() == [2]


def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path):
    checkpoints = written(tmp_path, 2)
    with pytest.raises(TypeError):
        checkpoints.write(4, tensors(4), {"object": object()})
    with pytest.raises(KeyError):
        checkpoints.write(4, {"complex": torch.zeros(2, dtype=torch.complex64)}, {})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    import pickle

    checkpoints = written(tmp_path, 2)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *given, **named: pytest.fail("a pickle was read"))
    monkeypatch.setattr(torch, "load", lambda *given, **named: pytest.fail("torch.load was called"))
    assert load(checkpoints.newest()).step == 2
