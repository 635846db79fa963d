"""Files that are there as a whole or not at all."""

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from common.errors import UserError


def write_atomically(
    path: Path, write: Callable[[BinaryIO], None], verify: Callable[[Path], None] | None = None
) -> None:
    """Let `write` fill a temporary file beside `path`, sync it, let `verify` read it, and rename it to `path`.

    Whatever happens on the way, `path` keeps its old contents or has all of the new ones. Raises UserError when the
    disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if verify:
            verify(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror or error}); free or choose another place.") from error
    finally:
        with contextlib.suppress(OSError):  # the error above is the one to tell
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
