"""The files of a split, and which of those in a folder are its images."""

import array
import collections
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

import numpy as np

from common.data.images import EXTENSIONS
from common.data.split import MultiLabels, Split
from common.system.errors import printable
from common.system.files import MAX_READ_BYTES, regular_bytes

SMALL_BYTES = 2**16  # of a file that is read at once
ENDINGS = frozenset(EXTENSIONS)
NOT_SHOWN = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found")  # what systems leave; some hold copies of images


class Files:
    """The files of a split, in 40 bytes each: an image folder may have millions."""

    def __init__(self, folder: Path | str, names: np.ndarray, ends: np.ndarray):
        """`names` uint8: the paths below `folder`, or absolute, one after another; `ends` int64 [N]: where each ends."""
        self.folder, self.names, self.ends = os.fsencode(folder), names, ends

    @classmethod
    def of(cls, paths: Iterable[str]) -> Self:
        """Those of the paths as they are."""
        names, ends = packed(paths)
        return cls("", np.frombuffer(names, np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        return map(self.path, range(len(self)))

    def __getitem__(self, some: slice) -> list[str]:
        """The paths of some examples."""
        return [*map(self.path, range(len(self))[some])]

    def path(self, i: int) -> str:
        """The path of example `i`."""
        start = self.ends[i - 1] if i else 0
        return os.fsdecode(os.path.join(self.folder, self.names[start : self.ends[i]].tobytes()))

    def read(self, i: int) -> bytes:
        """The bytes of example `i`. Raises OSError, also where it is no file."""
        # Around each system call threads pass Python's lock to one another, which takes longer than a small file:
        # three calls read it, where `open` makes seven. A pipe gives nothing, and a device is met after its first bytes.
        path = self.path(i)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            start = os.read(descriptor, SMALL_BYTES)
            if len(start) < SMALL_BYTES:
                return start
            return start + os.read(descriptor, regular_bytes(descriptor, path, MAX_READ_BYTES))
        finally:
            os.close(descriptor)

    def split(self, labels: np.ndarray | MultiLabels) -> Split:
        """The split of these files, with labels int32 [N] or several for each."""
        return Split(self.read, labels, self.path, forks=True)


def packed(names: Iterable[str]) -> tuple[bytearray, np.ndarray]:
    """(the names one after another, where each of them ends int64 [N])."""
    text, ends = bytearray(), array.array("q")
    for name in names:
        text += os.fsencode(name)
        ends.append(len(text))
    return text, np.frombuffer(ends, np.int64)


class Unused:
    """The number of files and folders that were passed over, by kind, with the first path of each kind by name."""

    def __init__(self, text: bytes = b"{}"):
        self.kinds: dict[str, list] = json.loads(text)  # kind -> [count, path]

    def add(self, kind: str, path: str, count: int = 1) -> None:
        """Count one more."""
        known = self.kinds.setdefault(kind, [0, path])
        known[:] = known[0] + count, min(known[1], path)

    def with_those_of(self, other: Self) -> Self:
        """This one, with what the other counted."""
        for kind, (count, path) in other.kinds.items():
            self.add(kind, path, count)
        return self

    def dump(self, root: Path) -> np.ndarray:
        """uint8: what the constructor reads, with paths below `root`."""
        kinds = {kind: [count, os.path.relpath(path, root)] for kind, (count, path) in self.kinds.items()}
        return np.frombuffer(json.dumps(kinds).encode(), np.uint8)

    def __str__(self) -> str:
        """`3 .txt, 2 hidden (such as a/notes.txt)`."""
        ordered = sorted(self.kinds.items(), key=lambda item: (item[0] == "hidden", -item[1][0], item[0]))
        counts = ", ".join(f"{count:,} {kind}" for kind, (count, _) in ordered)
        return printable(f"{counts} (such as {ordered[0][1][1]})")


def is_hidden(name: str) -> bool:
    """Whether a folder or file is one that systems keep for themselves."""
    return name.startswith(".") or name in NOT_SHOWN


def image_files(folder: str, unused: Unused, watch: Callable[[Path], None] = lambda folder: None) -> list[str]:
    """The paths below `folder` of all images in it and in the folders in it, in the order of torchvision's ImageFolder.

    That is by the folder's path and then by name. Links are followed, but not into a folder that they lie in. `watch`
    hears of every further folder before it is read. Raises OSError.
    """
    found = names_by_folder(folder, unused, watch)
    below = {path: f"{path}/"[len(folder) + 1 :] for path in found}
    return [below[path] + name for path in sorted(found) for name in found[path].split("/") if name]


def image_files_by_name(folder: str, unused: Unused) -> Iterator[str]:
    """The same paths in the order of their parts, so that a folder's images stand between their neighbours by name.

    Memory holds the names, and a list of those of a folder at a time.
    """
    found, inner = names_by_folder(folder, unused), collections.defaultdict(list)
    for path in found:
        if path != folder:
            parent, _, name = path.rpartition("/")
            inner[parent].append(name)

    def walk(path: str, below: str) -> Iterator[str]:
        for name in sorted(filter(None, [*found[path].split("/"), *inner[path]])):
            further = f"{path}/{name}"
            yield from walk(further, f"{below}{name}/") if further in found else [below + name]

    return walk(folder, "")


def names_by_folder(folder: str, unused: Unused, watch: Callable[[Path], None] = lambda folder: None) -> dict[str, str]:
    """{`folder` and every folder in it: the names of its images in order, with a slash between them}; see `image_files`."""
    found, waiting = {}, [(folder, (os.path.realpath(folder),))]
    while waiting:
        path, within = waiting.pop()  # `within`: the real places from which links led here, and the last of them
        names, folders = _listing(path, unused)
        found[path] = "/".join(sorted(names))
        for name, is_link in folders:
            inner, real = f"{path}/{name}", f"{within[-1]}/{name}"
            if is_link:
                real = os.path.realpath(inner)
                if any(f"{place}/".startswith(f"{real}/") for place in within):
                    unused.add("linked to a folder that it lies in", inner)
                    continue
            watch(Path(inner))
            waiting.append((inner, (*(within if is_link else within[:-1]), real)))
    return found


def _listing(path: str, unused: Unused) -> tuple[list[str], list[tuple[str, bool]]]:
    """(images, folders and whether each is a link) in a folder. What a link with an image's ending leads to is not asked."""
    images, folders = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            ending = name[name.rfind(".") :].lower()
            if ending in ENDINGS and name[0] != "." and (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                images.append(name)
            elif is_hidden(name):
                unused.add("hidden", entry.path)
            elif os.path.isdir(entry.path):  # unlike entry.is_dir(), it raises nothing for a link to itself
                folders.append((name, entry.is_symlink()))
            elif os.path.isfile(entry.path):
                unused.add(ending if "." in name else "without an ending", entry.path)
            else:
                unused.add("no file", entry.path)  # a pipe, a device, a link to nothing
    return images, folders
