"""Write files as a whole or not at all, and read regular files only."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from common.system.errors import UserError
from common.system.progress import note

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems without locks answer


MAX_READ_BYTES = 2**30  # of a file that is read at once
KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}  # others are devices


def in_one_word(text: str) -> str:
    """A name for a file, of text that may be of paths and patterns."""
    return re.sub("[/:{}*?,]", "_", text)


def cache_folder() -> Path:
    """The user's folder for what this project could make again; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bit-zoo"


def open_regular(path: Path | str, max_bytes: float = math.inf) -> BinaryIO:
    """`open(path, "rb")` for regular files of at most `max_bytes` alone.

    A named pipe would make the reader wait for ever, and a device such as /dev/zero has no end. Raises OSError as `open`
    does, also for these, with what was found as its `strerror`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # else opening a pipe waits for its writer
    try:
        regular_bytes(descriptor, path, max_bytes)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def regular_bytes(descriptor: int, path: Path | str, max_bytes: float) -> int:
    """The size of an open file. Raises OSError where it is no regular file, or has more than `max_bytes`."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "device")
        raise OSError(errno.EINVAL, f"it is a {kind}, expected a file", str(path))
    if found.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, expected at most {max_bytes:,}", str(path))
    return found.st_size


def digest(path: Path | str, kind: str = "sha256") -> str:
    """The hexadecimal digest of a file, of a kind that hashlib knows."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def read_regular(path: Path | str, max_bytes: int = MAX_READ_BYTES) -> bytes:
    """All bytes of a regular file of at most `max_bytes`, also where it grows meanwhile. Raises OSError as `open_regular`."""
    with open_regular(path, max_bytes) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than the {max_bytes:,} bytes expected at most", str(path))
    return data


def write_atomically(
    path: Path, write: Callable[[BinaryIO], None], verify: Callable[[Path], None] | None = None
) -> None:
    """Let `write` fill a temporary file beside `path`, sync it, let `verify` read it, and rename it to `path`.

    Whatever happens on the way, `path` keeps its old contents or has all of the new ones. Raises UserError when the
    disk is full or the folder cannot be written.
    """
    path = Path(path)
    with written_beside(path, write, verify) as temporary:
        os.replace(temporary, path)
        sync(path.parent)


def check_replaced(path: Path, force: bool) -> None:
    """Raise UserError where a command would replace a file, unless the user asks for it."""
    if path.exists() and not force:
        raise UserError(f"{path} exists already; give --force to replace it, or choose another name.")


def check_place(flag: str, path: Path, *, is_folder: bool) -> None:
    """Raise UserError where the value of a flag cannot be a file, or a folder, since another kind of thing is there or on the way."""
    found = next(place for place in (path, *path.parents) if place.exists())
    if found.is_dir() != (is_folder or found != path):
        kind = "a folder" if found.is_dir() else "a file"
        raise UserError(f"{flag} {path} cannot be written, since {found} is {kind}; give another place.")


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON."""
    write_atomically(path, lambda file: file.write((json.dumps(value, indent=1) + "\n").encode()))


@contextlib.contextmanager
def written_beside(
    path: Path, write: Callable[[BinaryIO], None], verify: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """A temporary file that `write` filled and `verify` read, already on the disk, for the caller to rename to `path`.

    It is gone afterwards. An OSError, the caller's too, becomes a UserError.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if verify:
            verify(temporary)
        yield temporary
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror or error}); free or choose another place.") from error
    finally:
        with contextlib.suppress(OSError):  # the error above is the one to report
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a writer that was killed; only for who holds the folder's lock."""
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(OSError):  # they take space and do no harm
                path.unlink()


@contextlib.contextmanager
def locked_log(path: Path) -> Iterator[TextIO]:
    """The text file `path` to append to, with its folder made where missing, locked as long as it is open.

    The lock is the operating system's: it ends with the process, however that ends. Raises UserError when another
    process holds it, or the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a")  # noqa: SIM115
            stack.callback(_close, file)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is at work in {path.parent}; wait for its end, or choose another --name."
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise UserError(f"Cannot write {path} ({error.strerror or error}); choose another place.") from error
            note(f"The file system of {path.parent} has no locks: see to it that only one process works there.")
        yield file


def _close(file: TextIO) -> None:
    with contextlib.suppress(OSError):  # whoever wrote the last lines has flushed them, or has been told
        file.close()


def sync(path: Path) -> None:
    """Make what was written to the file `path`, or the renames in the folder `path`, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
