"""`gs://` and `s3://` through fsspec: objects that are there as a whole or not at all, but cannot be renamed.

What is read from there is copied to this machine first. A run works in a local folder as any other and publishes it with
every checkpoint: a new object, then, last, the pointer `checkpoint.json` that names it, in place of a rename.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from common import events
from common.checkpoint import CURRENT, PREVIOUS
from common.errors import UserError
from common.files import locked_log
from common.predictions import PREDICTIONS
from common.progress import Count

POINTER = "checkpoint.json"
STATE = (
    "config.json",
    "recipe.json",
    "environment.json",
    "metrics.jsonl",
    "train.log",
    "best.npz",
    events.FILE,
)  # what a run needs, with a checkpoint
RESULTS = (
    "card.json",
    "curves.png",
    PREDICTIONS,
    events.FILE,
    "metrics.jsonl",
    "train.log",
    "weights.npz",  # says: finished
)


def is_remote(path: str | Path | None) -> bool:
    """Whether a path is the address of an object, such as `gs://bucket/name`."""
    return "://" in str(path)


def local_file(path: str | Path, *beside: str) -> Path:
    """`path` itself, or a copy of the object that it names, in a folder with those of the names `beside` that exist.

    UserError where there is no such object.
    """
    if not is_remote(path):
        return Path(path)
    folder, name = str(path).rsplit("/", 1)
    source, copies = RemoteFolder(folder), staging_folder(folder)
    if not source.fetch(name, copies / name):
        raise UserError(f"There is no object {path}; name an existing one.")
    for each in beside:
        if not source.fetch(each, copies / each):
            (copies / each).unlink(missing_ok=True)  # of an earlier copy
    return copies / name


def local_folder(path: str | Path, part: str) -> Path:
    """`path` itself, or a local folder that holds a copy of the objects below `part`; what is there already stays.

    UserError where an object's name leads out of it.
    """
    if not is_remote(path):
        return Path(path)
    source, copies = RemoteFolder(str(path)), staging_folder(str(path))
    sizes = source.sizes(part)
    with Count(f"copying {path}/{part}", sum(sizes.values()), "B") as count:
        for name, size in sizes.items():
            if ".." in name.split("/"):
                raise UserError(f"{path} holds an object called {name}, which leads out of a folder; rename it.")
            if not (copies / name).is_file() or (copies / name).stat().st_size != size:
                source.fetch(name, copies / name)
            count.advance(size)
    return copies


def staging_folder(url: str) -> Path:
    """Where copies of a remote folder lie on this machine."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "bit-zoo" / hashlib.sha256(url.encode()).hexdigest()[:24]


@contextlib.contextmanager
def explained(action: str) -> Iterator[None]:
    """Whatever goes wrong with a network becomes one sentence; every library has errors of its own.

    Raises UserError.
    """
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"Cannot {action} ({error}); install the packages with `pip install '.[cloud]'`.") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"Cannot {action} ({reason}); check the address, the network and your rights.") from error


class RemoteFolder:
    """The objects below one address."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        with explained(f"open {self.url}"):
            import fsspec

            self.files, self.root = fsspec.core.url_to_fs(self.url)

    def sizes(self, part: str = "") -> dict[str, int]:
        """{name below the folder: bytes} of the objects below `part`."""
        with explained(f"list {self.url}/{part}"):
            self.files.invalidate_cache()
            found = self.files.find(f"{self.root}/{part}".rstrip("/"), detail=True)
            return {path.removeprefix(f"{self.root}/"): entry["size"] for path, entry in found.items()}

    def fetch(self, name: str, to: Path) -> bool:
        """Copy one object to a file, whole or not at all; False where there is no such object."""
        with explained(f"read {self.url}/{name}"):
            if not self.files.exists(f"{self.root}/{name}"):
                return False
            to.parent.mkdir(parents=True, exist_ok=True)
            partial = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                self.files.get_file(f"{self.root}/{name}", str(partial))
                partial.replace(to)
            finally:
                partial.unlink(missing_ok=True)
            return True

    def put(self, path: Path, name: str) -> None:
        """Make a file an object, and see that all of it arrived."""
        with explained(f"write {self.url}/{name}"):
            size = path.stat().st_size  # a log may grow from here on
            self.files.put_file(str(path), f"{self.root}/{name}")
            self.files.invalidate_cache()
            arrived = self.files.info(f"{self.root}/{name}")["size"]
            if arrived < size:
                raise OSError(f"{arrived} of {size} bytes arrived")

    def remove(self, name: str) -> None:
        """Remove an object that nobody needs."""
        with contextlib.suppress(Exception):  # it takes space and does no harm
            self.files.rm_file(f"{self.root}/{name}")


class RemoteRun(RemoteFolder):
    """The folder of a run: entered, `folder` is its local copy, locked against other runs on this machine.

    Processes that only read have a `copy` each, of their own number.
    """

    def __init__(self, url: str, copy: int = 0):
        super().__init__(url)
        self.folder = staging_folder(f"{self.url}#{copy}" if copy else self.url)
        self.objects: dict[str, str] = {}  # checkpoint file -> name of its object

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked_log(self.folder.with_suffix(".lock")))
            shutil.rmtree(self.folder, ignore_errors=True)  # what a killed run left; the objects count
            names = self.sizes()
            if POINTER in names:
                self.fetch(POINTER, self.folder / POINTER)
                with explained(f"understand {self.url}/{POINTER}"):
                    pointer = json.loads((self.folder / POINTER).read_text())
                    self.objects = {file: pointer[file] for file in (CURRENT, PREVIOUS) if file in pointer}
            for file, name in self.objects.items():
                self.fetch(name, self.folder / file)
            for name in names.keys() & {*STATE, *RESULTS}:
                self.fetch(name, self.folder / name)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._open.close()

    def publish_checkpoint(self, step: int, *, moved: bool) -> None:
        """Make the new checkpoint the one that counts, and the one before it the previous one if it has `moved`."""
        self.publish(STATE)
        objects = dict(self.objects)
        if moved:
            objects[PREVIOUS] = objects.pop(CURRENT)
        objects[CURRENT] = f"checkpoint-{step}-{uuid.uuid4().hex[:8]}.safetensors"
        self.put(self.folder / CURRENT, objects[CURRENT])
        (self.folder / POINTER).write_text(json.dumps(objects))
        self.put(self.folder / POINTER, POINTER)  # from here on it counts
        self.objects = objects
        for name in self.sizes():
            if name.startswith("checkpoint-") and name not in objects.values():
                self.remove(name)

    def publish(self, names: tuple[str, ...] = RESULTS) -> None:
        """Make objects of the files that exist, in this order."""
        for name in names:
            if (self.folder / name).exists():
                self.put(self.folder / name, name)
