"""Checkpoints that every engine reads: safetensors with a digest, the current and the previous one, never half a file.

`checkpoint.safetensors` holds `model/...` and `optimizer/...` arrays; its metadata holds the step, what else the run
wants to know (seed, config, ... as JSON), and a digest (common/weights/containers/sealed.py).
"""

import concurrent.futures
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors.numpy

from common.system.errors import UserError
from common.system.files import sync, written_beside
from common.weights.containers import sealed

CURRENT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


class Checkpoint(NamedTuple):
    """The contents of a checkpoint, saved after `step` completed updates."""

    step: int
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run's folder, written by a background thread.

    `publish(step, moved=...)` follows every save, `moved` if the one before it became the previous one.
    """

    def __init__(self, folder: Path, publish: Callable[..., None] = lambda step, *, moved: None):
        self.folder, self.publish = Path(folder), publish
        self.damaged: list[str] = []  # what `restore` found to be so, in sentences
        self._intact: dict[str, int] = {}  # file -> its step
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future | None = None

    def save(self, step: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Write `arrays` (already on the host, not to be changed any more) in the background.

        Blocks while the save before is still being written: ask `is_writing` first.
        """
        self.wait()
        self._pending = self._writer.submit(self._write, step, arrays, facts)

    def is_writing(self) -> bool:
        """Whether the last save is not yet on disk; raises its UserError."""
        if self._pending and not self._pending.done():
            return True
        self.wait()
        return False

    def wait(self) -> None:
        """Return once the last save is on disk; raises its UserError, once."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def close(self) -> None:
        """Wait for the last save and end the background thread."""
        self._writer.shutdown(wait=True)
        self.wait()

    def restore(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None where there is none; UserError if all are damaged."""
        for name in (CURRENT, PREVIOUS):
            if (self.folder / name).exists():
                try:
                    checkpoint = read(self.folder / name)
                    self._intact[name] = checkpoint.step
                    return checkpoint
                except UserError as error:
                    self.damaged.append(str(error))
        if self.damaged:
            raise UserError(
                f"{' '.join(self.damaged)} No intact checkpoint is left; choose another --name, or remove "
                f"{self.folder} to start over."
            )
        return None

    def what_is_left(self) -> str:
        """A sentence on what a restart would find."""
        if not self._intact:
            return "No checkpoint has been written yet."
        if not any((self.folder / name).exists() for name in self._intact):
            return f"The folder {self.folder} and its checkpoints have been removed meanwhile."
        return f"The checkpoint of step {max(self._intact.values())} is intact; the same command continues after it."

    def _write(self, step: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        current, previous = self.folder / CURRENT, self.folder / PREVIOUS
        check_finite(step, arrays)
        with written_beside(current, lambda file: write(file, step, arrays, facts), check) as new:
            sync_if_there(self.folder / "metrics.jsonl")  # the checkpoint counts its lines
            moved = CURRENT in self._intact
            if moved:  # a damaged one must not take the place of the good one
                os.replace(current, previous)  # from here to the next rename, the previous one is the newest
                self._intact = {PREVIOUS: self._intact[CURRENT]}
            os.replace(new, current)
            self._intact[CURRENT] = step
            sync(self.folder)
        self.publish(step, moved=moved)


def write(file: BinaryIO, step: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """Write a checkpoint to an open file, taking no memory but that of one array which is not contiguous."""
    sealed.write(file, arrays, {"step": str(step)} | {name: json.dumps(fact) for name, fact in facts.items()})


def check(path: Path) -> bytes:
    """The header of the checkpoint `path`; UserError when its digest does not match its contents. Takes no memory."""
    return sealed.check(path, "checkpoint")


def read(path: Path) -> Checkpoint:
    """One checkpoint; UserError when a single bit of it is wrong, before more memory is taken than the file has."""
    try:
        metadata = json.loads(check(path))["__metadata__"]
        facts = {name: json.loads(fact) for name, fact in metadata.items() if name not in ("sha256", "step")}
        if not (metadata["step"].isascii() and metadata["step"].isdecimal()):
            raise ValueError(f"step {metadata['step']!r}")
        return Checkpoint(int(metadata["step"]), safetensors.numpy.load_file(path), facts)
    except OSError as error:
        raise UserError(f"The checkpoint {path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError) as error:
        raise UserError(f"The checkpoint {path} is damaged: its header makes no sense ({error!r}).") from error


def check_finite(step: int, arrays: dict[str, np.ndarray]) -> None:
    """Raise UserError for a state that no run can go on from."""
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise UserError(
            f"The state after step {step} is not finite ({bad[0]}, {len(bad)} of {len(arrays)} tensors); "
            "start again under another --name with a lower --base_lr or longer --warmup_steps."
        )


def sync_if_there(path: Path) -> None:
    """Make what was written to `path`, if it exists, survive a power cut."""
    if path.exists():
        sync(path)
