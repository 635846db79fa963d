"""`wds:PATH/{000..099}.tar`: tar archives as webdataset writes them, at random access.

An example is what stands side by side in an archive under one key, the path up to the first dot of the file's name:
`dogs/0001.jpg` and `dogs/0001.cls`. It has one image (`jpg`, `png`, ...) and a label, the number or name of its class in
`cls`, or under `label` in `json`; or captions, one in `txt`, or under `caption`, or several under `captions`, in `json`; or both.
Entries with other endings are never read, and no name is ever used as a path.

One pass over the headers finds where every image lies; the result is kept, see index.py. It holds the CRC-32 of each
image's header, which is checked whenever the image is read.
"""

import errno
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.data.blocks import Blocks
from common.data.sources import Places
from common.data.sources.image_files import ENDINGS, Unused, is_hidden, packed
from common.data.sources.index import Arrays, indexed
from common.data.sources.shards import Shards, find_shards, keep_open
from common.data.sources.tar_entries import BLOCK, BrokenArchive, Entry, entries
from common.data.sources.told import Gathered, Label, Told, arrays_of_splits, dataset_of, split_of_rows
from common.data.split import Dataset
from common.system.errors import UserError, printable
from common.system.files import MAX_READ_BYTES, open_regular
from common.system.progress import Count

PREFIX = "wds:"
TEXT_BYTES = {"cls": 2**12, "txt": 2**16, "json": 2**20}  # of entries that are read, at most
CAPTIONS = ("captions", "caption", "text")  # in json
EXPECTED = (
    "an entry .cls, .txt or .json of the same name, with a label or a caption, right before or behind, as "
    "`tar --sort=name` writes them"
)
SORT = "write it again with the entries of an example side by side, as `tar --sort=name` does"


def open_tar(name: str, places: Places) -> Dataset:
    """The archives that `name` means, see `find_shards`; examples in the order of the archives.

    Class names are those of a list `classnames.txt` beside the archives or in the folder above. Raises UserError for an
    archive that is cut off or compressed, an image without label, a label without image, and a key that occurs twice.
    """
    del places  # the name says where they are
    shards = find_shards(PREFIX, name, ".tar")
    arrays = indexed(shards.folder, shards.watched, lambda _: scan(shards), shards.purpose("wds"))
    splits = {}
    for split, own in arrays_of_splits(shards, arrays).items():
        splits[split] = split_of_rows(
            Rows(shards.splits[split], own), own, Blocks.of_bytes(own["archive"], own["start"])
        )
    return dataset_of(PREFIX, shards, arrays, splits)


class Rows:
    """The images of one split: where the bytes of each lie."""

    forks = True

    def __init__(self, paths: list[Path], arrays: Arrays):
        """`archive` int32 [N] among the paths; `start` and `size` int64 [N]; `check` uint32 [N]; packed `names`."""
        self.paths, self.arrays, self.opened = paths, arrays, keep_open(paths)

    def read(self, i: int) -> bytes:
        """The bytes of example `i`, in any thread. Raises OSError where its archive is not what was indexed."""
        archive, start, size, check = (int(self.arrays[key][i]) for key in ("archive", "start", "size", "check"))
        data = self.opened(archive).read(start - BLOCK, BLOCK + size)
        if len(data) < BLOCK + size or zlib.crc32(data[:BLOCK]) != check:
            raise OSError(errno.EIO, "its archive is damaged, or has changed since it was opened")
        return data[BLOCK:]

    def describe(self, i: int) -> str:
        """`dogs/0001.jpg in PATH/000.tar`."""
        ends = self.arrays["ends"]
        name = self.arrays["names"][ends[i - 1] if i else 0 : ends[i]].tobytes()
        return f"{os.fsdecode(name)} in {self.paths[self.arrays['archive'][i]]}"


# --- the pass over the headers


def scan(shards: Shards) -> Arrays:
    """What `Rows` and `split_of_rows` need of every split; `class_names` and what is `unused` as JSON."""
    arrays, gathered, unused = {}, Gathered(), Unused()
    total_bytes = sum(path.stat().st_size for paths in shards.splits.values() for path in paths)
    with Count(f"indexing {shards.name}", total_bytes, "B") as count:
        for split, paths in shards.splits.items():
            images, archives = [], []
            for number, path in enumerate(paths):
                for image, told in examples(path, unused):
                    where = f"The image {printable(image.name)} in {path}"
                    images.append(image)
                    archives.append(number)
                    if not gathered.add(split, told, where, EXPECTED):
                        unused.add("with an empty caption", f"{path}/{image.name}")
                count.advance(path.stat().st_size)
            names, ends = packed([image.name for image in images])
            own = {"archive": np.array(archives, np.int32), "names": np.frombuffer(names, np.uint8), "ends": ends}
            own |= {key: np.array([getattr(image, key) for image in images], np.int64) for key in ("start", "size")}
            own["check"] = np.array([image.check for image in images], np.uint32)
            arrays |= {f"{split}/{key}": array for key, array in own.items()}
    return arrays | gathered.dump(shards) | {"unused": unused.dump(shards.folder)}


def examples(path: Path, unused: Unused) -> Iterator[tuple[Entry, Told]]:
    """The images of an archive, in its order, and what stands beside each. UserError for what is broken, alone or twice."""
    count = 0
    try:
        with open_regular(path) as file:
            for key, parts in grouped(file, path, unused):
                count += 1
                yield read_example(file, key, parts, path)
    except BrokenArchive as error:
        raise UserError(f"The archive {path} {printable(error)}; fetch or write it again, as plain tar.") from error
    except OSError as error:
        raise UserError(f"The archive {path} cannot be read ({error.strerror or error}); restore it.") from error
    if not count:
        raise UserError(f"The archive {path} holds no image; expected entries such as 0001.jpg and 0001.cls.")


def grouped(file: BinaryIO, path: Path, unused: Unused) -> Iterator[tuple[str, dict[str, Entry]]]:
    """(key, {ending: entry}) of what stands side by side; hidden and other files are passed over.

    UserError for a key that occurs twice.
    """
    key, parts, seen = None, {}, set()
    for entry in entries(file, os.fstat(file.fileno()).st_size):
        folder, slash, name = entry.name.removeprefix("./").rpartition("/")
        stem, _, ending = name.partition(".")
        ending = ending.lower()
        if is_hidden(name) or any(map(is_hidden, folder.split("/"))):
            unused.add("hidden", f"{path}/{entry.name}")
        elif f".{ending}" not in ENDINGS and ending not in TEXT_BYTES:
            unused.add(f".{ending}" if ending else "without an ending", f"{path}/{entry.name}")
        else:
            if folder + slash + stem != key:
                if parts:
                    yield key, parts
                key, parts = folder + slash + stem, {}
                if key in seen:
                    raise UserError(f"The archive {path} holds {printable(key)} twice, apart from each other; {SORT}.")
                seen.add(key)
            if ending in parts:
                raise UserError(f"The archive {path} holds {printable(entry.name)} twice; write it again without one.")
            parts[ending] = entry
    if parts:
        yield key, parts


def read_example(file: BinaryIO, key: str, parts: dict[str, Entry], path: Path) -> tuple[Entry, Told]:
    """The example that the entries of one key make. UserError where they make none."""
    images = [entry for ending, entry in parts.items() if f".{ending}" in ENDINGS]
    texts = {ending: read_text(file, parts[ending], path) for ending in TEXT_BYTES if ending in parts}
    where = f"The archive {path} holds"
    if len(images) != 1:
        found = f"{len(images)} images" if images else "no image"
        raise UserError(f"{where} {found} of {printable(key)} and {', '.join(parts)}, expected one image; {SORT}.")
    (image,) = images
    if image.size > MAX_READ_BYTES:
        raise UserError(
            f"{where} {printable(image.name)} of {image.size:,} bytes; expected at most {MAX_READ_BYTES:,}."
        )
    facts = read_json(texts["json"], image.name, path) if "json" in texts else {}
    return image, Told(label_of(texts.get("cls"), facts, image.name, path), captions_of(texts.get("txt"), facts))


def read_text(file: BinaryIO, entry: Entry, path: Path) -> str:
    """A small entry's text. UserError for a large one, or no text."""
    most = TEXT_BYTES[entry.name.rpartition(".")[2].lower()]
    if entry.size > most:
        raise UserError(f"{path} holds {printable(entry.name)} of {entry.size:,} bytes; expected at most {most:,}.")
    file.seek(entry.start)
    try:
        return file.read(entry.size).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{printable(entry.name)} in {path} is no text in UTF-8; write it again.") from error


def read_json(text: str, name: str, path: Path) -> dict[str, Any]:
    """The facts beside an image. UserError for what is no JSON object."""
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise UserError(f"The json beside {printable(name)} in {path} cannot be read; write it again, as an object.")
    return facts


def label_of(cls: str | None, facts: dict[str, Any], name: str, path: Path) -> Label | None:
    """The class of an image, by number or name; None where nothing says. UserError for no class."""
    label = facts.get("label") if cls is None else cls.strip()
    is_number = isinstance(label, str) and re.fullmatch("[+-]?[0-9]+", label)
    if is_number and label.isdecimal() and len(label) < 8:
        return int(label)
    if label is None or isinstance(label, str) and label and not is_number or type(label) is int and 0 <= label < 10**7:
        return label
    raise UserError(f"The label {label!r} beside {printable(name)} in {path} is neither a number from 0 on nor a name.")


def captions_of(txt: str | None, facts: dict[str, Any]) -> list[str] | None:
    """The captions of an image, perhaps empty ones; None where nothing says."""
    found = next((facts[key] or [] for key in CAPTIONS if key in facts), None) if txt is None else txt
    found = [found] if isinstance(found, str) else found
    return found if isinstance(found, list) and all(isinstance(text, str) for text in found) else None
