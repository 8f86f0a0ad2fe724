"""Checkpoints that are whole or do not exist.

A checkpoint is a folder: tensors.safetensors, state.json, and manifest.json with the size and SHA-256 of both.  It is
written under another name, made durable, renamed, read back; only then is an older one removed.  Nothing is unpickled.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.errors import CheckpointError, StorageError
from handrail.track.storage import human_bytes, require_space, storing, sync_folder, write_all, write_synced

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
FORMAT = 1
_NAME = re.compile(r"^step-(\d{8,})$")
_ALIGNMENT = 64
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint holds: everything needed to do step `step` next."""

    step: int
    tensors: "dict[str, Tensor]"
    state: dict[str, Any]


class Damaged(Exception):
    """Why a checkpoint is not to be trusted."""


class Checkpoints:
    """The folder of a run's checkpoints.  The `keep` newest stay."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def write(self, step: int, tensors: "dict[str, Tensor]", state: dict[str, Any]) -> Path:
        """A new checkpoint, durable and verified.  Raises StorageError; then the older ones stand as before."""
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".tmp-{final.name}"
        with storing(final):
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            require_space(self.folder, sum(t.numel() * t.element_size() for t in tensors.values()))
            try:
                temporary.mkdir()
                _fill(temporary, step, tensors, state)
                sync_folder(temporary)
                _put_in_place(temporary, final)
                sync_folder(self.folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        try:
            verify(final)
        except Damaged as damage:
            raise StorageError(
                f"{final}: what was written reads back different: {damage}",
                "",
                "check the disk; older checkpoints were kept",
            ) from None
        self._prune(step)
        return final

    def newest(self) -> Path | None:
        """The newest checkpoint that verifies, or None if there are none.  Damaged ones are named in the log.

        Raises CheckpointError if there are checkpoints and none is good.
        """
        self._recover()
        faults = []
        for step in sorted(self.steps(), reverse=True):
            path = self.folder / f"step-{step:08d}"
            try:
                verify(path)
            except Damaged as damage:
                faults.append(f"{path}: {damage}")
                logger.warning("refused the checkpoint %s: %s", path.name, damage)
            else:
                return path
        if faults:
            raise CheckpointError(
                "no checkpoint can be trusted:\n" + "\n".join(f"  {fault}" for fault in faults),
                "a checkpoint whose files have the size and SHA-256 of its manifest",
                f"bring one back from a backup, or remove {self.folder} to start this run from its beginning",
            )
        return None

    def steps(self) -> list[int]:
        """The steps of all checkpoints there are, good or not."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.match(path.name) for path in self.folder.iterdir() if path.is_dir())
        return [int(match[1]) for match in found if match]

    def only_last(self) -> None:
        """Remove all but the newest."""
        for step in sorted(self.steps())[:-1]:
            self._remove(step)

    def _prune(self, newest: int) -> None:
        # A step beyond the newest belongs to a checkpoint that was refused when the run was taken up again.
        good = sorted(step for step in self.steps() if step <= newest)[-self.keep :]
        for step in self.steps():
            if step not in good:
                self._remove(step)

    def _remove(self, step: int) -> None:
        path = self.folder / f"step-{step:08d}"
        with storing(path):
            # The manifest goes first: killed halfway, what is left does not pass for a checkpoint.
            (path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path)

    def _recover(self) -> None:
        """Clear away what a process left behind that was killed while saving."""
        if not self.folder.is_dir():
            return
        with storing(self.folder):
            for old in self.folder.glob(".old-step-*"):
                final = self.folder / old.name.removeprefix(".old-")
                if final.exists():
                    shutil.rmtree(old)
                else:
                    os.rename(old, final)
            for temporary in self.folder.glob(".tmp-*"):
                shutil.rmtree(temporary)


def _put_in_place(temporary: Path, final: Path) -> None:
    old = final.with_name(f".old-{final.name}")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
    os.rename(temporary, final)
    shutil.rmtree(old, ignore_errors=True)


def _fill(folder: Path, step: int, tensors: "dict[str, Tensor]", state: dict[str, Any]) -> None:
    encoded = json.dumps(state, ensure_ascii=False, indent=1).encode()
    write_synced(folder / STATE, encoded)
    files = {
        TENSORS: write_tensors(folder / TENSORS, tensors),
        STATE: {"size": len(encoded), "sha256": hashlib.sha256(encoded).hexdigest()},
    }
    manifest = {"format": FORMAT, "step": step, "files": files}
    write_synced(folder / MANIFEST, json.dumps(manifest | {"sha256": _seal(manifest)}, indent=1).encode())


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def write_tensors(path: Path, tensors: "dict[str, Tensor]") -> dict[str, Any]:
    """`tensors` as a safetensors file, synced; returns its size and SHA-256.  Raises OSError.

    Written here and not by the library because this neither copies the tensors nor reads the file again to hash it.
    The format: 8 bytes with the length of a JSON header, the header padded with spaces, the tensors' bytes.
    """
    import torch

    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        kind = _DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        beginning = len(text).to_bytes(8, "little") + text
        digest.update(beginning)
        write_all(descriptor, beginning)
        for name in order:
            flat = tensors[name].detach().to("cpu").contiguous().reshape(-1)
            data = flat.view(torch.uint8).numpy().data
            digest.update(data)
            write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return {"size": len(beginning) + end, "sha256": digest.hexdigest()}


def verify(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint at `path` after each of its files was held against it.  Raises Damaged."""
    manifest = _read_manifest(path)
    for name, claim in manifest["files"].items():
        file = path / name
        try:
            size = file.stat().st_size
            if size != claim["size"]:
                raise Damaged(f"{name} has {human_bytes(size)} instead of {human_bytes(claim['size'])}")
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise Damaged(f"{name} cannot be read: {error.strerror}") from None
        if found != claim["sha256"]:
            raise Damaged(f"{name} does not have the SHA-256 of the manifest")
    return manifest


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        seal = manifest.pop("sha256")
    except OSError as error:
        raise Damaged(f"{MANIFEST} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise Damaged(f"{MANIFEST} is not a manifest") from None
    if seal != _seal(manifest):
        raise Damaged(f"{MANIFEST} was changed")
    if manifest.get("format") != FORMAT:
        raise Damaged(f"{MANIFEST} has format {manifest.get('format')}; this version reads {FORMAT}")
    if set(manifest["files"]) != {TENSORS, STATE} or path.name != f"step-{manifest['step']:08d}":
        raise Damaged(f"{MANIFEST} belongs to another checkpoint")
    return manifest


def load(path: Path) -> Saved:
    """The checkpoint at `path`, which has been verified.  The tensors are copies in memory of their own."""
    from safetensors.torch import load_file

    tensors = {name: tensor.clone() for name, tensor in load_file(path / TENSORS).items()}
    step = int(path.name.removeprefix("step-"))
    return Saved(step, tensors, json.loads((path / STATE).read_bytes()))
