"""`gs://` and `s3://` through fsspec: objects that are there as a whole or not at all, but cannot be renamed.

What is read from there is copied to this machine first; a run writes there by common/runs/mirror.py.
"""

import contextlib
import hashlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from common.system.errors import UserError
from common.system.files import cache_folder
from common.system.progress import Count


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


def local_folder(path: str | Path, part: str, wanted: Callable[[str], bool] = lambda name: True) -> Path:
    """`path` itself, or a local folder that holds a copy of the objects below `part`; what is there already stays.

    Of these only the ones whose names, from `path` on, are `wanted`.

    UserError where an object's name leads out of it.
    """
    if not is_remote(path):
        return Path(path)
    source, copies = RemoteFolder(str(path)), staging_folder(str(path))
    sizes = {name: size for name, size in source.sizes(part).items() if wanted(name)}
    with Count(f"copying {path}/{part}", sum(sizes.values()), "B") as count:
        for name, size in sizes.items():
            if ".." in name.split("/"):
                raise UserError(f"{path} holds an object called {name}, which leads out of a folder; rename it.")
            if not (copies / name).is_file() or (copies / name).stat().st_size != size:
                source.fetch(name, copies / name)
            count.advance(size)
    return copies


def staging_folder(url: str) -> Path:
    """The folder with the copies of a remote folder on this machine."""
    return cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:24]


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
