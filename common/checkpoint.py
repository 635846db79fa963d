"""Checkpoints that every engine reads: safetensors with a digest, the current and the previous one, never half a file.

`checkpoint.safetensors` holds `model/...` and `optimizer/...` arrays; its metadata holds the step and a SHA-256 over
header and data (computed with the digest's own 64 characters as zeros).
"""

import concurrent.futures
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import safetensors.numpy

from common.errors import UserError
from common.files import sync_folder, write_atomically

CURRENT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
NO_DIGEST = "0" * 64


class Checkpoints:
    """The checkpoints of one run's folder, written by a background thread."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._current_is_intact = True
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future | None = None

    def save(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        """Write `arrays` (already on the host, not to be changed any more) in the background."""
        self.wait()
        self._pending = self._writer.submit(self._write, step, arrays)

    def wait(self) -> None:
        """Return once the last save is on disk; raises its UserError."""
        if self._pending:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Wait for the last save and end the background thread."""
        self._writer.shutdown(wait=True)
        self.wait()

    def restore(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """(step, arrays) of the newest intact checkpoint, or None where there is none; UserError if all are damaged."""
        damaged = []
        for path in (self.folder / CURRENT, self.folder / PREVIOUS):
            if path.exists():
                try:
                    return read(path)
                except UserError as error:
                    damaged.append(str(error))
                    self._current_is_intact = False
        if damaged:
            raise UserError(f"{' '.join(damaged)} No intact checkpoint is left; start again under another --name.")
        return None

    def _write(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        current, previous = self.folder / CURRENT, self.folder / PREVIOUS
        data = encode(step, arrays)
        if current.exists() and self._current_is_intact:  # a damaged one must not take the place of the good one
            try:
                os.replace(current, previous)  # one of the two is whole at every moment
                sync_folder(self.folder)
            except OSError as error:
                raise UserError(f"Cannot write {previous} ({error.strerror or error}); free its disk.") from error
        write_atomically(current, lambda file: file.write(data), lambda new: read(new))
        self._current_is_intact = True


def encode(step: int, arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of a checkpoint."""
    arrays = {
        name: np.asarray(array, order="C") for name, array in arrays.items()
    }  # safetensors scrambles other orders
    data = safetensors.numpy.save(arrays, {"sha256": NO_DIGEST, "step": str(step)})
    return data.replace(NO_DIGEST.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def read(path: Path) -> tuple[int, dict[str, np.ndarray]]:
    """(step, arrays) of one checkpoint; UserError when a single bit of it is wrong."""
    try:
        data = Path(path).read_bytes()
        header_bytes = int.from_bytes(data[:8], "little")
        metadata = _metadata(data[8 : 8 + header_bytes])
        digest = metadata["sha256"]
        intact = hashlib.sha256(data.replace(digest.encode(), NO_DIGEST.encode(), 1)).hexdigest() == digest
        if intact:
            return int(metadata["step"]), safetensors.numpy.load(data)
    except OSError as error:
        raise UserError(f"The checkpoint {path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError):
        pass
    raise UserError(f"The checkpoint {path} is damaged: its digest does not match its contents.")


def _metadata(header: bytes) -> dict[str, str]:
    return json.loads(header)["__metadata__"]
