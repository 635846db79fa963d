"""Files that hold many examples each, such as tar archives: which of them a name means, and of which split each is."""

import functools
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path
from typing import NamedTuple

from common.data.sources.image_files import is_hidden
from common.system.errors import UserError, shortened
from common.system.remote import RemoteFolder, is_remote, local_folder

SPLITS = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
CLASS_NAMES = "classnames.txt"  # as CLIP_benchmark calls it
MAX_FILES = 10**5


class Shards(NamedTuple):
    """The files of every split, in the order of their names."""

    name: str  # after the prefix
    folder: Path  # in which all of them lie
    splits: dict[str, list[Path]]
    class_names: Path | None  # a list of them, one a line

    @property
    def watched(self) -> list[Path]:
        """All files on which an index depends."""
        return [*itertools.chain(*self.splits.values()), *filter(None, [self.class_names])]

    def purpose(self, kind: str) -> str:
        """A name for their index, of which a folder may hold several."""
        name = os.path.relpath(self.name, self.folder)
        return f"-{kind}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"


def find_shards(prefix: str, name: str, ending: str) -> Shards:
    """The files that `name` means: a file, a pattern such as `PATH/{000..099}.tar` or `PATH/*.tar`, or a folder of them.

    Those in a `gs://` or `s3://` store are copied to this machine first.

    The name of a file says of which split it is (`train-003.tar`, `x-validation-0.tar`), or else that of its folder; others
    are of `train`. Raises UserError where there is none, or one is missing or named twice.
    """
    given, name = name, fetched(name, ending)
    paths = [Path(path) for path in (in_folder(name, ending) if os.path.isdir(name) else expanded(name))]
    again = next((path for i, path in enumerate(sorted(paths)[1:]) if path == sorted(paths)[i]), None)
    if again:
        raise UserError(f"--dataset {prefix}{shortened(given)} names {again} twice; name every file once.")
    missing = next((path for path in paths if not path.is_file()), None)
    if missing or not paths:
        none = f"the folder holds no *{ending}" if os.path.isdir(name) else "its range ends before it begins"
        found = f"there is no file {missing}" if missing else none
        raise UserError(
            f"--dataset {prefix}{shortened(given)} names nothing: {found}; give a file, a pattern such as "
            f"{prefix}PATH/{{000..099}}{ending}, or a folder that holds such files."
        )
    splits = {}
    for path in paths:
        splits.setdefault(split_of(path), []).append(path)
    folder = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    lists = (place / CLASS_NAMES for place in (folder, folder.parent))
    ordered = {split: splits[split] for split in ("train", "val", "test") if split in splits}
    return Shards(name, folder, ordered, next((path for path in lists if path.is_file()), None))


def fetched(name: str, ending: str) -> str:
    """The name itself; of a `gs://` or `s3://` one, that of copies on this machine of the files that it means.

    UserError where the store does not answer.
    """
    if not is_remote(name):
        return name
    fixed = name[: min([name.find(letter) for letter in "{*?[" if letter in name], default=len(name))].rstrip("/")
    folder = fixed.rpartition("/")[0] if fixed != name.rstrip("/") or fixed.endswith(ending) else fixed
    above, part = folder.rsplit("/", 1) if folder.count("/") > 2 else (folder, "")  # a list of classes may lie above
    rest = name[len(above) + 1 :].rstrip("/")
    names = {*without_braces(rest), f"{part}/{CLASS_NAMES}".lstrip("/"), CLASS_NAMES}
    patterns = (
        [each for each in names if set(each) & set("*?[")] if folder != fixed else [f"{part}/*{ending}".lstrip("/")]
    )
    is_meant = lambda one: one in names or any(fnmatchcase(one, pattern) for pattern in patterns)
    copies = local_folder(above, part, is_meant)
    if part:
        RemoteFolder(above).fetch(CLASS_NAMES, copies / CLASS_NAMES)
    return str(copies / rest)


def in_folder(folder: str, ending: str) -> list[str]:
    """The files of a kind in a folder and in the folders in it, but for hidden ones, in the order of their paths."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [os.path.join(place, name) for name in files if name.endswith(ending) and not is_hidden(name)]
    return sorted(found)


def expanded(pattern: str) -> list[str]:
    """The paths that a pattern with `{000..099}`, `{a,b}`, `*` or `?` means, or the pattern itself.

    UserError where it means too many.
    """
    if os.path.exists(pattern):
        return [pattern]
    names = [*itertools.islice(without_braces(pattern), MAX_FILES + 1)]
    if len(names) > MAX_FILES:
        raise UserError(f"The pattern {shortened(pattern)} means more than {MAX_FILES:,} files; name fewer.")
    return [path for name in names for path in sorted(glob(name)) or [name]]


def without_braces(pattern: str) -> Iterator[str]:
    """What a pattern's braces mean, also one within another, in the order of a shell."""
    found = braces(pattern)
    if found is None:
        yield pattern
        return
    start, commas, end = found
    first, dots, last = pattern[start + 1 : end].partition("..")
    if dots and first.isdecimal() and last.isdecimal():
        choices = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    else:
        choices = (pattern[left + 1 : right] for left, right in itertools.pairwise([start, *commas, end]))
    for choice in choices:
        for inner in without_braces(choice):
            for rest in without_braces(pattern[end + 1 :]):
                yield pattern[:start] + inner + rest


def braces(pattern: str) -> tuple[int, list[int], int] | None:
    """Where the first pair of braces begins, has its own commas, and ends; None without any."""
    depth, start, commas = 0, 0, []
    for place, letter in enumerate(pattern):
        if letter == "{":
            start, depth = (place if depth == 0 else start), depth + 1
        elif letter == "," and depth == 1:
            commas.append(place)
        elif letter == "}" and depth:
            depth -= 1
            if depth == 0:
                return start, commas, place
    return None


def split_of(path: Path) -> str:
    """By the first word of the file's name that names a split, or else by the name of its folder."""
    words = [*re.split("[^a-z]+", path.name.lower()), path.absolute().parent.name.lower()]
    return next((SPLITS[word] for word in words if word in SPLITS), "train")


# --- reading


class Opened:
    """A file that is open as long as anybody holds this object; threads share it, since no read depends on another."""

    def __init__(self, path: Path):
        """Raises OSError."""
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its writer

    def read(self, start: int, size: int) -> bytes:
        """The bytes from `start` on, fewer where the file ends. Raises OSError."""
        return os.pread(self.descriptor, size, start)  # while this call holds the object, no other thread closes it

    @property
    def size(self) -> int:
        """Its bytes at this moment."""
        return os.fstat(self.descriptor).st_size

    def __del__(self):
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def keep_open(
    paths: Sequence[Path], most: int = 64, check: Callable[[int, Opened], None] = lambda number, file: None
) -> Callable[[int], Opened]:
    """number of a file -> the file, opened and checked where it is not among those used last."""

    def opened(number: int) -> Opened:
        file = Opened(paths[number])
        check(number, file)
        return file

    return functools.lru_cache(most)(opened)
