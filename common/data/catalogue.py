"""The datasets that `--dataset` takes: those with a name, and the sources of all others."""

import dataclasses
import os
import re
from pathlib import Path

from common.data.lists import lookalikes
from common.data.sources import Opener, Places, archives, captioned, cifar, folder, mapped, parquet, tar, tfds, vtab
from common.data.split import Dataset
from common.system.errors import UserError, nearest, printable, shortened


@dataclasses.dataclass(frozen=True)
class Named:
    """A dataset with a name: how to open it, its typical (height, width), and where its recipe departs from the rule."""

    open: Opener
    image_size: tuple[int, int]
    recipe: dict = dataclasses.field(default_factory=dict)  # values of flags that the user left alone


# The sizes are those of `bit_hyperrule.py` of google-research/big_transfer.
NAMED = {
    # The rule's 500 steps of 512 images at 128 px would take an hour on two cores; this takes under two minutes. The
    # rate lies between the best two of those tried on a fifth of the training images: 0.003 (43 %), 0.01 (51.5 %),
    # 0.03 (52 %), 0.1 (26 %); 0.02 itself was not among them.
    "cifar10-sample": Named(
        folder.open_sample,
        (32, 32),
        {"steps": 100, "batch": 64, "base_lr": 0.02, "resize": 72, "crop": 64, "batch_eval": 250, "mixup": 0.0},
    ),
    "captions-sample": Named(captioned.open_sample, (64, 64)),
    "cifar10": Named(cifar.open_cifar, (32, 32)),
    "cifar100": Named(cifar.open_cifar, (32, 32)),
    "imagenet2012": Named(archives.open_imagenet, (224, 224)),
    "oxford_flowers102": Named(archives.open_flowers, (224, 224)),
    "oxford_iiit_pet": Named(archives.open_pets, (224, 224)),
}


def open_engines_own(name: str, places: Places) -> Dataset:
    """The class `torchvision.datasets.NAME`; UserError in an engine without torchvision."""
    if places.open_torchvision is None:
        raise UserError(
            f"--dataset torchvision:{name} needs PyTorch; use bit_pytorch, or tfds:NAME or a folder of images."
        )
    return places.open_torchvision(name, places)


def open_path(name: str, places: Places) -> Dataset:
    """The folder `name`; UserError, with all that --dataset takes, where there is none."""
    if not folder.is_there(name):
        raise UserError(
            f"No dataset or folder is called {shortened(name)!r}{nearest(name, NAMED)} Give one of {', '.join(NAMED)}, "
            "tfds:NAME, vtab:TASK, wds:PATTERN, parquet:PATTERN, coco:FOLDER, coco_panoptic:FOLDER, maps:FOLDER, or a folder "
            "that holds train/<class>/ and val/<class>/ or test/<class>/."
        )
    return folder.open_folder(name, places)


SOURCES: dict[str, Opener] = {  # how a name begins -> what opens the rest of it; the first that fits
    "tfds:": tfds.open_tfds,
    "vtab:": vtab.open_vtab,
    "torchvision:": open_engines_own,
    tar.PREFIX: tar.open_tar,
    parquet.PREFIX: parquet.open_parquet,
    captioned.COCO: captioned.open_coco,
    mapped.MAPS: mapped.open_maps,
    mapped.COCO: mapped.open_coco_panoptic,
    "": open_path,
}


def listed(names: str) -> list[str]:
    """The data sets of a flag that takes several, with commas between: not those of a pattern's braces, nor of a folder."""
    return [names] if os.path.exists(names) else list(dict.fromkeys(re.findall(r"(?:\{[^{}]*\}|[^,])+", names)))


def open_dataset(
    name: str,
    datadir: str | Path = "data",
    tfds_data_dir: str | Path | None = None,
    open_torchvision: Opener | None = None,
) -> Dataset:
    """The dataset called `name`: one of NAMED, `tfds:NAME`, `vtab:TASK`, `wds:` or `parquet:PATTERN`, or a folder
    `PATH/{train,val,test}/<class>/*`.

    `torchvision:NAME` needs the `open_torchvision` of an engine. Raises UserError when there is no such dataset, or its
    files are missing or broken.
    """
    places = Places(Path(datadir), tfds_data_dir, open_torchvision)
    if name in NAMED:
        row = NAMED[name]
        opened = row.open(name, places)
        opened = dataclasses.replace(opened, known_size=row.image_size, recipe=row.recipe or opened.recipe)
    else:
        prefix = next(prefix for prefix in SOURCES if name.startswith(prefix))
        opened = SOURCES[prefix](name.removeprefix(prefix), places)
    class_names = tuple(map(printable, opened.class_names))
    notes = (*opened.notes, *filter(None, [lookalikes(class_names)]))
    return dataclasses.replace(opened, name=name, class_names=class_names, notes=notes)
