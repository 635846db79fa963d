"""Image files with captions: `captions.tsv` in a folder, and `coco:FOLDER` as the publishers of COCO hand it out.

`PATH/{train,val,test}/captions.tsv` has a line `path<TAB>caption<TAB>caption...` for each image, the path below the list's
folder or absolute. Without split folders, `PATH/captions.tsv` lists training images.

Of COCO, `FOLDER/annotations/captions_train2017.json` has the captions of `FOLDER/train2017/*.jpg`. Source:
https://cocodataset.org/#format-data

The sample that ships with the project is a folder of the first kind, in a zip file.
"""

import dataclasses
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from common.data.captions import Captions, cleaned
from common.data.lists import is_quoted, lines
from common.data.sources import Places
from common.data.sources.image_files import Files, packed
from common.data.sources.index import Arrays, indexed
from common.data.sources.listed import Seen
from common.data.sources.shards import Shards, find_shards
from common.data.split import Dataset, MultiLabels, Split
from common.system.errors import UserError, printable, reason
from common.system.files import read_regular
from common.system.progress import Count

LIST = "captions.tsv"
EXPECTED = "expected `path<TAB>caption<TAB>caption...`"
SAMPLE = Path(__file__).resolve().parents[2] / "captions-sample.zip"
COCO = "coco:"
Row = tuple[str, tuple[str, ...]]  # an image, its captions


def open_captioned(root: Path, places: dict[str, Path]) -> Dataset:
    """The splits in `places` {split: folder}, each with its list. UserError for a line that fits nothing."""
    without = next((place for place in places.values() if not (place / LIST).is_file()), None)
    if without:
        raise UserError(f"The folder {root} holds a {LIST} and {without} does not; give every split one, or none.")
    lists = {split: place / LIST for split, place in places.items()}
    arrays = indexed(root, list(lists.values()), lambda _: dump(lists, listed_rows), "-captions")
    return Dataset(str(root), (), {split: split_of(place, arrays, split) for split, place in places.items()})


def split_of(folder: Path, arrays: Arrays, split: str) -> Split:
    """The images of an index, whose paths begin in a folder, with their captions."""
    captions = Captions.load(
        {key.removeprefix(f"{split}/"): array for key, array in arrays.items() if key.startswith(split)}
    )
    files = Files(folder, arrays[f"{split}/names"], arrays[f"{split}/ends"])
    return dataclasses.replace(files.split(MultiLabels.none(len(captions))), captions=captions)


def dump(lists: dict[str, Path], rows_of: Any) -> Arrays:
    """`names`, `ends` and `captions/...` of every split, from `rows_of(list)`."""
    arrays = {}
    for split, path in lists.items():
        files, texts = zip(*rows_of(path))
        names, arrays[f"{split}/ends"] = packed(files)
        arrays[f"{split}/names"] = np.frombuffer(names, np.uint8)
        arrays |= {f"{split}/{key}": array for key, array in Captions.pack(texts).dump().items()}
    return arrays


def listed_rows(path: Path) -> Iterator[Row]:
    """The images of a `captions.tsv` in its order. UserError for a line that fits nothing, and where there is none."""
    seen = Seen(path)
    with Count(f"indexing {path}", path.stat().st_size, "B") as count:
        for number, line in lines(path):
            where, (file, *fields) = f"Line {number} of {path}", line.split("\t")
            texts = cleaned(
                [field.strip()[1:-1].replace('""', '"') if is_quoted(field.strip()) else field for field in fields],
                where,
            )
            if not file.strip() or not texts:
                raise UserError(f"{where} is {line.strip()!r}, {EXPECTED}; mend the line.")
            yield seen.file(file, where), texts
            count.advance(len(line) + 1)
    if not seen.files:
        raise UserError(f"{path} lists no image; {EXPECTED} on each line.")


def open_sample(name: str, places: Places) -> Dataset:
    """The embedded sample: 1,944 drawings for training and 190 for tests, with titles, descriptions and keywords.

    A zip file with the layout of a folder. Source: scripts/make_captions_sample.py.
    """
    del places  # it travels with the project
    with zipfile.ZipFile(SAMPLE) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    splits = {}
    for split in ("train", "test"):
        rows = [line.split("\t") for line in members[f"{split}/{LIST}"].decode().splitlines()]
        splits[split] = sample_split([f"{split}/{file}" for file, *_ in rows], [texts for _, *texts in rows], members)
    return Dataset(name, (), splits)


def sample_split(names: Sequence[str], texts: Sequence[Sequence[str]], members: dict[str, bytes]) -> Split:
    """Members of the sample with their captions."""
    split = Split(
        lambda i: members[names[i]], MultiLabels.none(len(names)), lambda i: f"{names[i]} of {SAMPLE.name}", forks=True
    )
    return dataclasses.replace(split, captions=Captions.pack(texts))


# --- COCO


def open_coco(name: str, places: Places) -> Dataset:
    """The captions of COCO in the folder `name`, or those that `name` lists, `FOLDER/annotations/captions_val2017.json`.

    Images in the order of their names. UserError where files are missing or broken, an image has no caption, or a caption no
    image.
    """
    del places  # the name says where they are
    pattern = os.path.join(name, "annotations", "captions_*.json") if os.path.isdir(name) else name
    shards = find_shards(COCO, pattern, ".json")
    lists = {split: one_list(shards, split) for split in shards.splits}
    arrays = indexed(shards.folder, list(lists.values()), lambda _: dump(lists, coco_rows), shards.purpose("coco"))
    splits = {split: split_of(image_folder(path), arrays, split) for split, path in lists.items()}
    return Dataset(COCO + name, (), splits)


def one_list(shards: Shards, split: str) -> Path:
    """The list of a split. UserError where there are several, as of 2014 and 2017, which share images."""
    first, *more = shards.splits[split]
    if more:
        raise UserError(
            f"{COCO}{shards.name} names {first.name} and {more[0].name}, which share images; give one year, as in "
            f"{COCO}{shards.folder}/captions_{{train,val}}2017.json."
        )
    return first


def image_folder(path: Path) -> Path:
    """`FOLDER/val2017` of `FOLDER/annotations/captions_val2017.json`. UserError where it is missing."""
    folder = path.absolute().parent.parent / path.stem.removeprefix("captions_")
    if not folder.is_dir():
        raise UserError(f"The images of {path} are missing; expected them in the folder {folder}.")
    return folder


def coco_rows(path: Path) -> list[Row]:
    """The images of a list of COCO in the order of their names. UserError for what is broken."""
    folder, texts = image_folder(path), {}
    try:
        facts = json.loads(read_regular(path))
        files = {image["id"]: image["file_name"] for image in facts["images"]}
        for annotation in facts["annotations"]:
            texts.setdefault(annotation["image_id"], []).append(annotation["caption"])
        captions = {number: cleaned(own, str(path)) for number, own in texts.items()}
        names = {str(PurePosixPath(file)): number for number, file in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} holds no captions as COCO lists them ({printable(reason(error))}); fetch it again."
        ) from error
    strangers = captions.keys() - files.keys()
    if strangers or len(names) < len(files) or not files:
        found = (
            f"a caption of the image {min(map(str, strangers))}, which it does not list"
            if strangers
            else "an image twice"
        )
        raise UserError(f"{path} holds {found if files else 'no image'}; fetch it again.")
    for name, number in names.items():
        if name.startswith("/") or ".." in PurePosixPath(name).parts or not (folder / name).is_file():
            raise UserError(f"{path} lists {printable(name)}, which is not in {folder}; fetch the images again.")
        if not captions.get(number):
            raise UserError(
                f"{path} holds no caption of {printable(name)}; fetch it again, or remove the image from it."
            )
    return [(name, captions[names[name]]) for name in sorted(names)]
