"""Images from files to batches: against the torch DataLoader, tf.data, webdataset and datasets."""

import argparse
import dataclasses
import importlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from common.data.batches import TrainBatches, prefetch
from common.data.columns import labels, train_images
from common.data.decoded import Room, kept, nameless_file, training_shrink
from common.data.makers import Makers
from common.data.split import Split
from common.datasets import open_dataset
from common.recipes.recipe import Recipe
from scripts.benchmarks.measure import Work, measure, show
from scripts.benchmarks.steps import RECIPE

BOXES = dataclasses.replace(RECIPE, crop_min_area=0.08)  # of torchvision's RandomResizedCrop


def our_pipeline(folder: Path | str, workers: int, randaugment_layers: int = 0, processes: bool = True) -> Work:
    """Images per second of common/data/batches.py, by processes as in a long run, or by threads."""
    split, layers = open_dataset(str(folder)).splits["train"], randaugment_layers
    recipe = dataclasses.replace(RECIPE, randaugment_layers=layers, randaugment_magnitude=10.0)
    batches, steps = batches_of(split, recipe, workers * processes), len(split) // recipe.batch
    return one_pass(lambda: prefetch(batches, range(steps), workers), recipe.batch)


def later_epochs(folder: Path, workers: int, boxes: bool, processes: bool = True) -> Work:
    """Images per second of an epoch after the first one: pixels are in memory (common/data/decoded.py)."""
    split, room = open_dataset(str(folder)).splits["train"], Room.of(nameless_file(2**33))
    recipe = BOXES if boxes else RECIPE
    split = kept(split, room, training_shrink(recipe, split.size(0), len(split), room))
    batches, steps = batches_of(split, recipe, workers * processes), len(split) // recipe.batch
    for _ in prefetch(batches, range(steps + 1), workers):
        pass  # the first epoch
    return one_pass(lambda: prefetch(batches, range(steps, 2 * steps), workers), recipe.batch)


def batches_of(split: Split, recipe: Recipe, processes: int) -> TrainBatches:
    """The training batches, whose rows so many processes make, or threads, as in a run."""
    columns, makers = (train_images(recipe), labels(split)), None
    if processes and split.forks:
        makers = Makers(processes, lambda _: (split, columns))  # a room that is there before the fork is theirs, too
        makers.begin(-1)
    return TrainBatches(split, recipe, seed=0, columns=columns, makers=makers)


def one_pass(batches: Callable[[], Iterator], batch: int) -> Work:
    """Images per second of a fresh iterator until its end: nothing is prepared before, nothing after."""

    def work() -> float:
        started = time.perf_counter()
        count = sum(1 for _ in batches())
        return count * batch / (time.perf_counter() - started)

    return work


def torch_view(floats: bool, boxes: bool = False) -> Callable:
    """The recipe's pixels by torchvision's transforms of Pillow's images; with `boxes`, random boxes of them.

    With `floats`, as in torchvision's own reference training: on Pillow's images, then float32 and normalised.
    """
    import torch
    from torchvision.transforms import v2

    recipe = RECIPE
    steps = [v2.Resize((recipe.resize, recipe.resize)), v2.RandomCrop(recipe.crop), v2.RandomHorizontalFlip()]
    if boxes:
        steps = [v2.RandomResizedCrop(recipe.crop, (BOXES.crop_min_area, 1.0)), v2.RandomHorizontalFlip()]
    if floats:
        steps += [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    else:
        steps = [v2.ToImage(), *steps]
    return v2.Compose(steps)


def torch_loader(images: Any, workers: int, **options: Any) -> Work:
    """Images per second of the torch DataLoader."""
    import torch

    options |= {"drop_last": True, "persistent_workers": True, "multiprocessing_context": "fork"}
    loader = torch.utils.data.DataLoader(images, RECIPE.batch, num_workers=workers, **options)
    return one_pass(lambda: iter(loader), RECIPE.batch)


def torch_pipeline(folder: Path, workers: int, floats: bool, boxes: bool = False) -> Work:
    """Images per second of the torch DataLoader with torchvision's transforms."""
    from torchvision import datasets

    return torch_loader(datasets.ImageFolder(folder / "train", torch_view(floats, boxes)), workers, shuffle=True)


def webdataset_pipeline(pattern: str, workers: int) -> Work:
    """Images per second of webdataset with the torch DataLoader, shuffled by a buffer of 1,000 images."""
    import webdataset

    view = torch_view(floats=False)
    images = webdataset.WebDataset(pattern, shardshuffle=100, seed=0, workersplitter=webdataset.split_by_worker)
    images = images.shuffle(1000).decode("pil").to_tuple("jpg", "cls").map_tuple(view, int)
    return torch_loader(images, workers)


def datasets_pipeline(pattern: str, workers: int) -> Work:
    """Images per second of Hugging Face `datasets` with the torch DataLoader."""
    import datasets

    view = torch_view(floats=False)
    cache = Path(pattern).parent / "cache"
    images = datasets.load_dataset("parquet", data_files=pattern, split="train", cache_dir=str(cache))
    images.set_transform(lambda rows: {"image": [view(image) for image in rows["image"]], "label": rows["label"]})
    return torch_loader(images, workers, shuffle=True)


def tf_pipeline(folder: Path, workers: int) -> Work:
    """Images per second of tf.data."""
    importlib.import_module("bit_tf2").import_tensorflow()
    import tensorflow as tf

    recipe = RECIPE
    files = sorted(str(path) for path in folder.glob("train/*/*.jpg"))

    def view(path):
        image = tf.image.decode_jpeg(tf.io.read_file(path), 3)
        image = tf.image.resize(image, (recipe.resize, recipe.resize), antialias=True)
        image = tf.image.random_crop(tf.cast(tf.round(image), tf.uint8), (recipe.crop, recipe.crop, 3))
        return tf.image.random_flip_left_right(image)

    data = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).map(view, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.batch(recipe.batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return one_pass(lambda: iter(data), recipe.batch)


def pipeline_section(args: argparse.Namespace) -> None:
    """The input pipeline against the torch DataLoader and tf.data."""
    for side_px in (64, 500):
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), side_px, count=4096 if side_px < 100 else 640)
            workers = os.cpu_count()
            rows = {
                "DataLoader, Pillow, float32": (torch_pipeline, Path(folder), workers, True),
                "DataLoader, uint8 tensors": (torch_pipeline, Path(folder), workers, False),
                "tf.data, uint8": (tf_pipeline, Path(folder), workers),
                "common.data, processes": (our_pipeline, Path(folder), workers),
                "common.data, threads": (our_pipeline, Path(folder), workers, 0, False),
            }
            show(f"Input pipeline, {side_px}-px JPEG -> 160 -> crop 128", measure(rows, args.repeats), "images/s")
            for boxes, what in ((False, "160 -> crop 128"), (True, "random box -> 128")):
                rows = {
                    "DataLoader, Pillow, float32": (torch_pipeline, Path(folder), workers, True, boxes),
                    "common.data, processes": (later_epochs, Path(folder), workers, boxes),
                    "common.data, threads": (later_epochs, Path(folder), workers, boxes, False),
                }
                show(f"Later epochs, {side_px}-px JPEG -> {what}", measure(rows, args.repeats), "images/s")


def write_images(folder: Path, side_px: int, count: int) -> None:
    """JPEG files of natural images: the embedded sample, enlarged, with a little noise in place of the lost detail."""
    import cv2

    split, rng = open_dataset("cifar10-sample").splits["train"], np.random.default_rng(0)
    for i in range(count):
        image = cv2.resize(split.decode(i % len(split)), (side_px, side_px * 3 // 4), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        path = folder / "train" / f"class{i % 10}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), noisy[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    shutil.copytree(folder / "train" / "class0", folder / "val" / "class0")
    for number in range(1, 10):
        (folder / "val" / f"class{number}").mkdir()
        shutil.copy(next((folder / "train" / f"class{number}").iterdir()), folder / "val" / f"class{number}")


def archives_section(args: argparse.Namespace) -> None:
    """Tar and parquet files against a folder of the same images, and against the libraries that read them."""
    for side_px in (64, 500):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_images(folder, side_px, count=4096 if side_px < 100 else 640)
            write_archives(folder)
            workers = os.cpu_count()
            rows = {
                "a folder": (our_pipeline, folder, workers),
                "wds:": (our_pipeline, f"wds:{folder}/archives/*.tar", workers),
                "parquet:": (our_pipeline, f"parquet:{folder}/archives/*.parquet", workers),
                "parquet:, compressed": (our_pipeline, f"parquet:{folder}/archives/snappy/*.parquet", workers),
                "webdataset, DataLoader": (webdataset_pipeline, f"{folder}/archives/train-{{0..7}}.tar", workers),
                "datasets, DataLoader": (datasets_pipeline, f"{folder}/archives/*.parquet", workers),
            }
            if not find_spec("datasets"):
                del rows["datasets, DataLoader"]
                print("\nThe library `datasets` is not installed, so that its row is missing.")
            show(f"{side_px}-px JPEG in archives -> 160 -> crop 128", measure(rows, args.repeats), "images/s")


def write_archives(folder: Path) -> None:
    """The training images as eight tar archives, as parquet like that of `datasets`, and as compressed parquet."""
    import pyarrow
    from pyarrow import parquet

    split, place = open_dataset(str(folder)).splits["train"], folder / "archives"
    (place / "snappy").mkdir(parents=True)
    numbers = np.random.default_rng(0).permutation(len(split))  # else each archive would hold one class
    for archive, own in enumerate(np.array_split(numbers, 8)):
        with tarfile.open(place / f"train-{archive}.tar", "w") as file:
            for i in own:
                for ending, data in (("jpg", split.read(int(i))), ("cls", str(split.labels[i]).encode())):
                    member = tarfile.TarInfo(f"{i:06d}.{ending}")
                    member.size = len(data)
                    file.addfile(member, io.BytesIO(data))
    images = [{"bytes": split.read(int(i)), "path": None} for i in numbers]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table({"image": pyarrow.array(images, kind), "label": split.labels[numbers]})
    features = {"image": {"_type": "Image"}, "label": {"_type": "Value", "dtype": "int32"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    as_they_are = {"compression": {"image.bytes": "NONE"}, "use_dictionary": ["label"]}
    parquet.write_table(table, place / "train.parquet", **as_they_are)
    parquet.write_table(table, place / "snappy/train.parquet", compression="snappy", row_group_size=100)


def randaugment_section(args: argparse.Namespace) -> None:
    """What RandAugment costs the input pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), 64, count=4096)
        rows = {
            "common.data.batches": (our_pipeline, Path(folder), os.cpu_count()),
            "with RandAugment(2, 10)": (our_pipeline, Path(folder), os.cpu_count(), 2),
        }
        show("Input pipeline, 64-px JPEG -> 160 -> crop 128", measure(rows, args.repeats), "images/s")
