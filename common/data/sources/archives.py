"""Oxford-IIIT Pet, Oxford Flowers 102 and ImageNet from the files that their publishers hand out."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.data.lists import lines
from common.data.prepare import IMAGENET_LAYOUT, prepared_folder
from common.data.sources import Places, tfds
from common.data.sources import folder as image_folder
from common.data.sources.tfds_folder import data_folder
from common.data.split import Dataset, Split
from common.system.errors import UserError
from common.system.files import read_regular

# Class k of `imagelabels.mat` is the k-th name here. Source: the lists of torchvision and of TFDS, which are the same.
FLOWERS = tuple(
    """pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid,
    bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris,
    globe-flower, purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower,
    fritillary, red ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke,
    sweet william, carnation, garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya,
    cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia,
    bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula,
    sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange dahlia, pink-yellow dahlia?, cautleya spicata,
    japanese anemone, black-eyed susan, silverbush, californian poppy, osteospermum, spring crocus, bearded iris,
    windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple, morning glory, passion flower, lotus,
    toad lily, anthurium, frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen,
    watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia, mallow,
    mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily""".replace("\n    ", " ").split(", ")
)


SUITES = {  # split of imagenet2012 -> (set of TFDS, its split, its label, its order)
    "v2": ("imagenet_v2/matched-frequency", "test", "label", ("label", "file_name")),
    "real": ("imagenet2012_real", "val", "real_label", ("original_label", "file_name")),
}
PET_LISTS = {"train": "trainval", "test": "test"}  # our split -> the official list


def open_imagenet(name: str, places: Places) -> Dataset:
    """ImageNet: `train`, `val`, and where they are at hand `v2` and `real`.

    They come from the folder, or else from ArrayRecord files of TFDS; `train` may be missing. Both give one order:
    classes (wnids) by name, and within a class files by name. Raises UserError.
    """
    root = places.datadir / name
    if (root / "val").is_dir():
        opened = image_folder.open_folder(str(root), places)
    elif is_prepared(name, places.tfds_data_dir):
        opened = tfds.open_tfds(name, places, order_by=("label", "file_name"))
    else:
        raise UserError(
            f"The dataset {name} is not prepared: its licence asks everyone to fetch it by hand, from "
            f"https://image-net.org; expected its images as {IMAGENET_LAYOUT.format(folder=root)}, or ArrayRecord "
            f"files of TFDS in {data_folder(places.tfds_data_dir) / name}."
        )
    splits = dict(opened.splits)
    for split, (suite, its_split, label, order_by) in SUITES.items():
        if split not in splits and is_prepared(suite, places.tfds_data_dir):
            its = tfds.open_tfds(suite, places, label=label, order_by=order_by)
            if its.class_names == opened.class_names:  # a folder called imagenet2012 may hold a part of the classes
                splits[split] = its.splits[its_split]
    splits = {split: splits[split] for split in ("train", "val", *SUITES) if split in splits}
    return dataclasses.replace(opened, splits=splits)


def is_prepared(name: str, tfds_data_dir: str | Path | None) -> bool:
    """Whether TFDS has prepared the set `NAME` or `NAME/CONFIG`."""
    return (data_folder(tfds_data_dir, name) / name).is_dir()


def open_pets(name: str, places: Places) -> Dataset:
    """Oxford-IIIT Pet: 37 breeds, `train` (the official trainval) and `test`, in list order.

    Source: https://www.robots.ox.ac.uk/~vgg/data/pets. Raises UserError for missing files and broken lists.
    """
    root = prepared_folder(name, places.datadir)
    listed = {split: _pet_list(root / "annotations" / f"{file}.txt") for split, file in PET_LISTS.items()}
    breeds = dict(sorted((label, image.rpartition("_")[0]) for image, label in listed["train"]))
    unknown = sorted({label for _, label in listed["test"]} - set(breeds))
    if list(breeds) != list(range(len(breeds))) or unknown:
        raise UserError(
            f"{root / 'annotations'} numbers the classes with gaps; remove {root} and prepare {name} again."
        )
    class_names = tuple(breed.replace("_", " ").title() for breed in breeds.values())
    splits = {
        split: _files([root / "images" / f"{image}.jpg" for image, _ in rows], [label for _, label in rows])
        for split, rows in listed.items()
    }
    return Dataset(name, class_names, splits)


def _pet_list(path: Path) -> list[tuple[str, int]]:
    """(image, label from 0) per line `Abyssinian_100 1 1 1`: image, class, species, breed within the species."""
    rows = []
    for number, line in lines(path):
        fields = line.split()
        if line.startswith("#"):
            continue
        if len(fields) != 4 or not fields[1].isdecimal():
            raise UserError(
                f"Line {number} of {path} is {line!r}, expected an image and three numbers; prepare the set again."
            )
        rows.append((fields[0], int(fields[1]) - 1))
    if not rows:
        raise UserError(f"{path} lists no image; remove {path.parent.parent} and prepare the dataset again.")
    return rows


def open_flowers(name: str, places: Places) -> Dataset:
    """Oxford Flowers 102: `train` (1,020), `val` (1,020), `test` (6,149), as in `setid.mat`.

    Source: https://www.robots.ox.ac.uk/~vgg/data/flowers/102. Raises UserError for missing or broken files.
    """
    root = prepared_folder(name, places.datadir)
    numbers = _mat(root / "imagelabels.mat", "labels")  # the class of image 1, 2, ..., counted from 1
    splits = {}
    for split, key in {"train": "trnid", "val": "valid", "test": "tstid"}.items():
        images = _mat(root / "setid.mat", key)
        if images.max() > len(numbers) or images.min() < 1 or numbers.max() > len(FLOWERS) or numbers.min() < 1:
            raise UserError(
                f"{root / 'setid.mat'} and imagelabels.mat do not belong together: expected images 1 to {len(numbers)} "
                f"and classes 1 to {len(FLOWERS)}; remove {root} and prepare {name} again."
            )
        splits[split] = _files([root / "jpg" / f"image_{i:05d}.jpg" for i in images], numbers[images - 1] - 1)
    return Dataset(name, FLOWERS, splits)


def _mat(path: Path, key: str) -> np.ndarray:
    """int64 [N]: the one row that a MATLAB file holds under `key`."""
    from scipy.io import loadmat

    try:
        values = loadmat(path, appendmat=False, variable_names=[key])[key].ravel().astype(np.int64)
    except Exception as error:  # scipy raises MatReadError, KeyError, ValueError, zlib.error and more
        raise UserError(
            f"{path} holds no row of numbers {key!r} ({error}); remove {path.parent} and prepare it again."
        ) from error
    if not values.size:
        raise UserError(f"{path} holds an empty {key!r}; remove {path.parent} and prepare it again.")
    return values


def _files(paths: Sequence[Path], labels: Sequence[int]) -> Split:
    return Split(lambda i: read_regular(paths[i]), np.array(labels, np.int32), lambda i: str(paths[i]), forks=True)
