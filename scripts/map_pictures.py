"""The picture of docs/features.md: photographs, what the embedded model looks at in them, and components of its patches' features.

    python scripts/map_pictures.py [bit_pytorch|bit_jax|bit_tf2] [docs/maps.jpg]

It is drawn with `predict --map` from test images of cifar10-sample; every engine gives the same one.
"""

import argparse
import importlib
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from common.config import PredictConfig
from common.data.catalogue import open_dataset
from common.runs.jobs import prediction
from common.system.files import write_atomically

CLASSES = ("bird", "cat", "dog", "horse")
FLAGS = {"model": "SigLIP-T/8", "resolution": 64, "patch_size": 4, "precision": "float64"}
SIDE_PX, GAP_PX = 96, 2


def photographs(folder: Path) -> list[Path]:
    """The first two test images of some classes, as files."""
    dataset, files = open_dataset("cifar10-sample"), []
    split = dataset.splits["test"]
    for name in CLASSES:
        for number in np.flatnonzero(split.labels == dataset.class_names.index(name))[:2]:
            files.append(folder / f"{name}{number}.png")
            Image.fromarray(split.decode(int(number))).save(files[-1])
    return files


def sheet(rows: list[list[Path]]) -> Image.Image:
    """Pictures in rows, enlarged; their patches stay sharp."""
    found = Image.new("RGB", [len(one) * (SIDE_PX + GAP_PX) - GAP_PX for one in (rows[0], rows)], "white")
    for top, row in enumerate(rows):
        for left, path in enumerate(row):
            kind = Image.Resampling.NEAREST if top else Image.Resampling.BICUBIC
            picture = Image.open(path).resize((SIDE_PX, SIDE_PX), kind)
            found.paste(picture, (left * (SIDE_PX + GAP_PX), top * (SIDE_PX + GAP_PX)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", nargs="?", default="bit_pytorch")
    parser.add_argument("path", nargs="?", type=Path, default=Path("docs/maps.jpg"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        files = photographs(Path(place))
        rows = [files]
        for kind in ("attention", "pca"):
            flags = FLAGS | {"map": kind, "output": place, "images": tuple(map(str, files))}
            job = prediction(PredictConfig(**flags))
            importlib.import_module(f"{args.engine}.inference").predict_main(job)
            rows.append(job.places())
        write_atomically(args.path, lambda file: sheet(rows).save(file, "JPEG", quality=80))


if __name__ == "__main__":
    main()
