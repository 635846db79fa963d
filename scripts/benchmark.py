"""Measure speed and memory against named peers, and print ratios.

Every contender runs in a process of its own, kept alive. Their repeats are interleaved, so that a change of the
machine's load meets all of them; a row shows the median, the range, and the ratio of medians to the first row.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import io
import itertools
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from common.convert import convert
from common.data.batches import TrainBatches, prefetch
from common.data.sources import Places
from common.data.sources.folder import open_folder
from common.data.sources.index import SETTLED_SECONDS
from common.data.text import find_vocabulary, open_tokenizer
from common.data.text.peers import peer_files
from common.datasets import open_dataset
from common.models import ModelConfig, PublishedModel, find_model, tokens
from common.models.initial import initial_parameters
from common.models.published import DOWNLOADS
from common.recipes.recipe import Recipe
from common.system.environment import processor
from common.system.errors import UserError, exit_with_sentence
from common.weights import write_weights

ENGINES = ("bit_pytorch", "bit_jax", "bit_tf2")
PEERS = {  # our model -> timm's, and the resolution at which they are compared
    "BiT-S-R50x1": ("resnetv2_50x1_bit", 128),
    "BiT-S-R101x1": ("resnetv2_101x1_bit", 128),
    "ViT-S/16": ("vit_small_patch16_224", 224),
    "ViT-B/16": ("vit_base_patch16_224", 224),
    "Mixer-B/16": ("mixer_b16_224", 224),
}
Work = Callable[[], float | None]  # one repeat; returns its own figure, or None for its seconds
CLASSES = 10
# Freed memory returns to the system at once, so that what is in use can be seen from outside.
EXACT_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
PAGE_BYTES = resource.getpagesize()
RECIPE = Recipe(  # the BiT-HyperRule's pixels for small images, at any batch
    name="benchmark", batch=128, batch_split=1, batch_eval=128, lrs=(0.0,), resize=160, crop=128, crop_min_area=1.0,
    mixup=0.0, momentum=0.9, weight_decay=0.0,
)  # fmt: skip


# --- contenders: each prepares in its process and returns the work of one repeat ---------------------------------


def training_batch(args: argparse.Namespace, batch: int) -> dict[str, np.ndarray]:
    """Random bytes with labels."""
    images = np.random.default_rng(0).integers(0, 256, (batch, args.resolution, args.resolution, 3), np.uint8)
    return {"images": images, "labels": np.arange(batch, dtype=np.int32) % CLASSES}


def import_engine(engine: str) -> tuple:
    """(api, inference, loop, optim) of an engine."""
    if engine == "bit_tf2":
        importlib.import_module(engine).import_tensorflow()
    return tuple(importlib.import_module(f"{engine}.{part}") for part in ("api", "inference", "loop", "optim"))


def model_config(args: argparse.Namespace) -> ModelConfig:
    """Our model for a few classes, and for the resolution where its parameters depend on it."""
    config = find_model(args.model).config(CLASSES)
    fixed = bool(config.image_size)
    return dataclasses.replace(config, image_size=(args.resolution, args.resolution)) if fixed else config


def engine_training(args: argparse.Namespace, engine: str, batch: int, batch_split: int = 1, **numbers) -> Work:
    """Training steps of one engine, each read back, perhaps with other `numbers` of the recipe."""
    api, _, loop, optim = import_engine(engine)
    config = model_config(args)
    model = api.build(config, initial_parameters(0, config), precision=args.precision)
    recipe = dataclasses.replace(RECIPE, batch_split=batch_split, lrs=(1e-4,), weight_decay=1e-4, **numbers)
    optimizer = optim.create_optimizer(model, recipe)
    on_device = next(iter(loop.to_device(iter([training_batch(args, batch)]), model.devices)))

    def work() -> None:
        for _ in range(args.steps):
            loss = loop.train_step({"model": model}, optimizer, on_device, recipe, step=0)["loss"]
        float(loss)
        str(next(iter(optimizer.parameters.values())))  # waits for the update: the loss of SAM comes half a step before

    return work


def engine_inference(args: argparse.Namespace, engine: str) -> Work:
    """Logits of one engine, as `predict` computes them."""
    api, inference, _, _ = import_engine(engine)
    config = model_config(args)
    model = api.build(config, initial_parameters(0, config), precision=args.precision)
    inference.standardize_once(model)
    batch = training_batch(args, args.batch) | {"mask": np.ones(args.batch, bool)}

    def work() -> None:
        for _ in inference.predict(model, iter([batch] * args.steps)):
            pass

    return work


def timm_model(args: argparse.Namespace, memory_format: str, compiled: bool):
    """(model, images on the device) of timm, in the layout of memory that is named, with the GELU of our model."""
    import timm
    import torch
    from timm.layers import get_act_layer

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = getattr(torch, memory_format)
    gelu = {None: None, "tanh": "gelu_tanh", "erf": "gelu"}[gelu_of(args)]
    options = {"act_layer": get_act_layer(gelu), "img_size": args.resolution} if gelu else {}
    model = timm.create_model(PEERS[args.model][0], num_classes=CLASSES, **options).to(device, memory_format=layout)
    images = torch.from_numpy(training_batch(args, args.batch)["images"]).permute(0, 3, 1, 2).to(device)
    images = (images / 127.5 - 1).contiguous(memory_format=layout)
    return (torch.compile(model) if compiled else model), images


def gelu_of(args: argparse.Namespace) -> str | None:
    """The kind of GELU of the model, `tanh` in Google's weights; None for ResNets."""
    return getattr(model_config(args), "gelu", None)


def timm_training(args: argparse.Namespace, memory_format: str, compiled: bool = False) -> Work:
    """Training steps of the peer, with PyTorch's SGD and, for bfloat16, its automatic mixed precision."""
    import torch

    model, images = timm_model(args, memory_format, compiled)
    labels = torch.arange(args.batch, device=images.device) % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def work() -> None:
        for _ in range(args.steps):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=args.precision == "bfloat16"):
                loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        float(loss.detach())

    return work


def timm_inference(args: argparse.Namespace, memory_format: str, compiled: bool = False) -> Work:
    """Logits of the peer."""
    import torch

    model, images = timm_model(args, memory_format, compiled)
    model.eval()

    def work() -> None:
        with (
            torch.inference_mode(),
            torch.autocast(images.device.type, torch.bfloat16, enabled=args.precision == "bfloat16"),
        ):
            for _ in range(args.steps):
                model(images).cpu()

    return work


def our_pipeline(folder: Path | str, workers: int, randaugment_layers: int = 0) -> Work:
    """Images per second of common/data/batches.py."""
    split, layers = open_dataset(str(folder)).splits["train"], randaugment_layers
    recipe = dataclasses.replace(RECIPE, randaugment_layers=layers, randaugment_magnitude=10.0)
    steps = len(split) // recipe.batch
    return one_pass(lambda: prefetch(TrainBatches(split, recipe, seed=0), range(steps), workers), recipe.batch)


def one_pass(batches: Callable[[], Iterator], batch: int) -> Work:
    """Images per second of a fresh iterator until its end: nothing is prepared before, nothing after."""

    def work() -> float:
        started = time.perf_counter()
        count = sum(1 for _ in batches())
        return count * batch / (time.perf_counter() - started)

    return work


def torch_view(floats: bool) -> Callable:
    """The recipe's pixels by torchvision's transforms of Pillow's images.

    With `floats`, as in torchvision's own reference training: on Pillow's images, then float32 and normalised.
    """
    import torch
    from torchvision.transforms import v2

    recipe = RECIPE
    steps = [v2.Resize((recipe.resize, recipe.resize)), v2.RandomCrop(recipe.crop), v2.RandomHorizontalFlip()]
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


def torch_pipeline(folder: Path, workers: int, floats: bool) -> Work:
    """Images per second of the torch DataLoader with torchvision's transforms."""
    from torchvision import datasets

    return torch_loader(datasets.ImageFolder(folder / "train", torch_view(floats)), workers, shuffle=True)


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


def peak_of_training(args: argparse.Namespace, engine: str, batch: int, batch_split: int) -> Work:
    """MiB by which memory grows during a step, beyond what stays when it is over."""
    if engine == "bit_tf2":  # keeps the memory of its tensors: only the first step of a process shows how much
        return lambda: in_fresh_process(growth_of_first_step, args, engine, batch, batch_split) / 2**20
    step = engine_training(args, engine, batch, batch_split)
    step()  # compiled, momenta allocated
    return lambda: peak_growth_bytes(engine, step) / 2**20


def growth_of_first_step(args: argparse.Namespace, engine: str, batch: int, batch_split: int) -> float:
    """Bytes by which memory grows during the first step, the compiled graph and the momenta included."""
    return peak_growth_bytes(engine, engine_training(args, engine, batch, batch_split))


def in_fresh_process(function: Callable, *arguments):
    """What `function` returns in a process of its own, whose memory nothing has used before."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(function, arguments)


def peak_growth_bytes(engine: str, work: Callable[[], None]) -> float:
    """Largest growth of the memory in use while `work` runs: the GPU's where there is one, else the process's."""
    if engine == "bit_pytorch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            work()
            return torch.cuda.max_memory_allocated() - before
    resting, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return peak - resting


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def loading(args: argparse.Namespace, engine: str, file: Path) -> Work:
    """From an .npz file to a model."""
    import_engine(engine)
    create_model = importlib.import_module(engine).create_model

    def work() -> None:
        create_model("BiT-M-R50x1", weights=file)

    return work


def memory_of_loading(args: argparse.Namespace, engine: str, file: Path) -> Work:
    """Growth of memory from an .npz file to a model, in sizes of the file, each in a fresh process."""

    return lambda: in_fresh_process(growth_while_loading, engine, file) / file.stat().st_size


def growth_while_loading(engine: str, file: Path) -> float:
    """Bytes by which memory grows while a file becomes a model, after a small model has been made."""
    import_engine(engine)
    create_model = importlib.import_module(engine).create_model
    create_model("BiT-T-R26x0.5", weights="pretrained")
    return peak_growth_bytes("the process", lambda: create_model("BiT-M-R50x1", weights=file))


# --- the interleaved measurement --------------------------------------------------------------------------------


def serve(connection, prepare: Callable[..., Work], arguments: tuple) -> None:
    """A contender's process: prepare, warm up once, then answer every request with one figure."""
    try:
        work = prepare(*arguments)
        work()
        connection.send(None)
        while connection.recv():
            started = time.perf_counter()
            figure = work()
            connection.send(time.perf_counter() - started if figure is None else figure)
    except (EOFError, KeyboardInterrupt):
        pass


def measure(contenders: dict[str, tuple], repeats: int) -> dict[str, list[float]]:
    """{row: its figures}, from {row: (prepare, *arguments)}; one contender works at a time."""
    context, workers = multiprocessing.get_context("spawn"), {}
    for row, (prepare, *arguments) in contenders.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, prepare, tuple(arguments)), daemon=False)
        process.start()
        theirs.close()
        try:
            ours.recv()
            workers[row] = (process, ours)
        except EOFError:
            print(f"  {row}: its process ended without a figure (see above)", flush=True)
    figures = {row: [] for row in workers}
    for _ in range(repeats):
        for row, (_, connection) in workers.items():
            connection.send(True)
            figures[row].append(connection.recv())
    for process, connection in workers.values():
        connection.send(False)
        process.join(30)
        process.kill()
    return figures


def show(title: str, figures: dict[str, list[float]], unit: str, scale: float = 1.0) -> None:
    """Print one table."""
    print(f"\n{title}\n  {'':<28} {'median':>10} {'range':>21}  ratio", flush=True)
    first = None
    for row, values in figures.items():
        middle = statistics.median(values) * scale
        first = first or middle
        spread = f"{min(values) * scale:,.4g} .. {max(values) * scale:,.4g}"
        print(f"  {row:<28} {middle:>10,.4g} {spread:>21}  {middle / first:.2f}   {unit}", flush=True)


# --- sections ----------------------------------------------------------------------------------------------------


def train_section(args: argparse.Namespace) -> None:
    """A training step of the three engines against timm."""
    rows = {f"timm {layout}": (timm_training, args, layout) for layout in ("contiguous_format", "channels_last")}
    rows |= {"timm channels_last, compiled": (timm_training, args, "channels_last", True)} if args.compile else {}
    rows |= {engine: (engine_training, args, engine, args.batch) for engine in args.engines}
    show(f"Training step, {describe(args)}", measure(rows, args.repeats), "ms", 1000 / args.steps)


def sharpness_section(args: argparse.Namespace) -> None:
    """A step of SAM and of GSAM against a plain one, in each engine."""
    numbers = {"plain": {}, "SAM": {"rho": 0.05, "rho_min": 0.05}, "GSAM": {"rho": 0.05, "gsam_alpha": 0.4}}
    for engine in args.engines:
        rows = {
            f"{engine}, {name}": (functools.partial(engine_training, **changes), args, engine, args.batch)
            for name, changes in numbers.items()
        }
        show(f"Training step, {describe(args)}", measure(rows, args.repeats), "ms", 1000 / args.steps)


def inference_section(args: argparse.Namespace) -> None:
    """Inference of the three engines against timm."""
    rows = {f"timm {layout}": (timm_inference, args, layout) for layout in ("contiguous_format", "channels_last")}
    rows |= {"timm channels_last, compiled": (timm_inference, args, "channels_last", True)} if args.compile else {}
    rows |= {engine: (engine_inference, args, engine) for engine in args.engines}
    show(f"Inference, {describe(args)}", measure(rows, args.repeats), "ms", 1000 / args.steps)


def describe(args: argparse.Namespace) -> str:
    gelu = f", GELU {gelu_of(args)} in all" if gelu_of(args) else ""
    return f"{args.model}, batch {args.batch}, {args.resolution} px, {args.precision}{gelu}"


def memory_section(args: argparse.Namespace) -> None:
    """Peak memory of a training step with and without --batch_split, and what of it grows with the images."""
    os.environ |= EXACT_MALLOC
    args = argparse.Namespace(**vars(args) | {"steps": 1})  # a second step takes no more memory
    few = args.memory_batch // 4
    for engine in args.engines:
        rows = {
            f"{engine}, {batch} images, --batch_split {split}": (peak_of_training, args, engine, batch, split)
            for split in (1, 8)
            for batch in (args.memory_batch, few)
        }
        figures = measure(rows, 3)
        show(f"Growth of memory during a step, {args.model}, {args.resolution} px", figures, "MiB")
        if len(figures) < len(rows):
            continue  # a process ended without a figure, and said so
        whole, whole_few, split, split_few = map(statistics.median, figures.values())
        activations, of_split = (x / (1 - few / args.memory_batch) for x in (whole - whole_few, split - split_few))
        print(f"  activations, extrapolated from both batches: {activations:,.0f} and {of_split:,.0f} MiB, ", end="")
        print(f"{of_split / activations:.2f}", flush=True)


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
                "common.data.batches, uint8": (our_pipeline, Path(folder), workers),
            }
            show(f"Input pipeline, {side_px}-px JPEG -> 160 -> crop 128", measure(rows, args.repeats), "images/s")


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


def index_section(args: argparse.Namespace) -> None:
    """A folder of as many (empty) files as ImageNet has images: scanned once, opened ever after."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for split, count in {"train": args.index_files, "val": args.index_files // 25}.items():
            for i in range(count):
                path = root / split / f"n{i % 1000:08d}"
                if i < 1000:
                    path.mkdir(parents=True)
                os.close(os.open(path / f"n{i % 1000:08d}_{i}.JPEG", os.O_CREAT | os.O_WRONLY))
        time.sleep(SETTLED_SECONDS + 1)  # what changed a moment ago is not kept
        what = f"A folder of {args.index_files + args.index_files // 25:,} files in 1,000 classes"
        rows = {"scanned, and the index written": (opening, root, True), "opened by its index": (opening, root, False)}
        show(what, measure(rows, 3), "s")
        index = next(path for path in root.iterdir() if path.is_file())
        rows = {"to open it": (memory_of_plans, root, 0), "and walk 10,000 batches": (memory_of_plans, root, 10_000)}
        show(f"{what}: memory (index {index.stat().st_size / 2**20:.0f} MiB)", measure(rows, 1), "MiB")


def opening(root: Path, scan: bool) -> Work:
    """Seconds until a folder can be read from; with `scan`, without its index."""

    def work() -> None:
        if scan:
            for path in root.glob(".*.safetensors"):
                path.unlink()
        open_folder(str(root), Places())

    return work


def memory_of_plans(root: Path, num_batches: int) -> Work:
    """Growth of memory while random batches of 1,024 are planned and their labels and paths looked up."""

    def work() -> float:
        def walk() -> None:
            split = open_folder(str(root), Places()).splits["train"]
            batches = TrainBatches(split, dataclasses.replace(RECIPE, batch=1024), seed=0)
            for step in np.random.default_rng(0).integers(0, 2 * len(split) // 1024, num_batches):  # of two epochs
                examples = batches.plan(int(step))["examples"]
                split.targets(examples)
                split.describe(int(examples[0]))

        return peak_growth_bytes("the process", walk) / 2**20

    return work


def load_section(args: argparse.Namespace) -> None:
    """Time and memory from a published file to a model."""
    model: PublishedModel = find_model("BiT-M-R50x1")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "BiT-M-R50x1.npz"
        write_weights(file, initial_parameters(0, model.config()), model.config())
        size = f"BiT-M-R50x1.npz ({file.stat().st_size / 1e6:,.0f} MB)"
        rows = {engine: (loading, args, engine, file) for engine in args.engines}
        show(f"Loading {size}", measure(rows, args.repeats), "s")
        rows = {engine: (memory_of_loading, args, engine, file) for engine in args.engines}
        show(f"Growth of memory while loading {size}, in sizes of the file", measure(rows, 3), "x")


def convert_section(args: argparse.Namespace) -> None:
    """Conversions into new files, verified by reading back, against a bare copy of the arrays."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        published = folder / "ViT-B_16.npz"
        config = find_model("ViT-B/16-ILSVRC2012").config()
        write_weights(published, initial_parameters(0, config), config)
        timm = convert(published, folder / "timm", "timm")
        rows = {
            "arrays copied, .npz to safetensors": (copying, published, folder / "copy" / "model.safetensors"),
            "vision_transformer to timm": (converting, published, folder / "there" / "model.safetensors", "timm"),
            "timm to vision_transformer": (
                converting,
                timm.parent,
                folder / "back" / "model.npz",
                "vision_transformer",
            ),
            "vision_transformer to huggingface": (
                converting,
                published,
                folder / "hub" / "model.safetensors",
                "huggingface",
            ),
        }
        size = f"{config.image_size[0]}-px ViT-B/16 ({published.stat().st_size / 1e6:,.0f} MB)"
        show(f"Conversion of {size}", measure(rows, args.repeats), "MB/s")
        os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        rows = {row: (growing, published.stat().st_size, *work) for row, work in rows.items()}
        show("Growth of memory while converting, in sizes of the file", measure(rows, 3), "x")


def copying(source: Path, target: Path) -> Work:
    """MB/s where NumPy reads and the safetensors library writes; no name changes and nothing is verified or synced."""
    from safetensors.numpy import save_file

    def copy() -> None:
        with np.load(source) as arrays:
            save_file(dict(arrays), target)

    return written(target, copy)


def converting(source: Path, target: Path, to: str) -> Work:
    """MB/s of `python -m common.convert SOURCE TARGET --to TO` without the start of a process."""
    return written(target, lambda: convert(source, target, to))


def written(target: Path, write: Callable[[], object]) -> Work:
    """MB/s at which a file is written into a folder of its own, which is empty before."""

    def work() -> float:
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        started = time.perf_counter()
        write()
        return target.stat().st_size / 1e6 / (time.perf_counter() - started)

    return work


def growing(size: int, prepare: Callable[..., Work], *arguments) -> Work:
    """Growth of memory during some work, relative to a size in bytes."""
    work = prepare(*arguments)
    return lambda: peak_growth_bytes("the process", work) / size


def startup_section(args: argparse.Namespace) -> None:
    """Seconds from the command to the first line of metrics, on the embedded default."""
    rows = {engine: (starting, args, engine) for engine in args.engines}
    show("From the command to the end of the first step, embedded default", measure(rows, 3), "s")


def starting(args: argparse.Namespace, engine: str) -> Work:
    """Seconds until a fresh process has written its first line of metrics."""

    def work() -> float:
        with tempfile.TemporaryDirectory() as folder:
            flags = ["--logdir", folder, "--name", "run", "--log_every", "1", "--steps", "50"]
            started = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-m", f"{engine}.train", *flags], stdout=subprocess.DEVNULL)
            metrics = Path(folder) / "run" / "metrics.jsonl"
            while not metrics.exists() and process.poll() is None:
                time.sleep(0.01)
            seconds = time.perf_counter() - started
            process.kill()
            process.wait()
            return seconds

    return work


def overlap_section(args: argparse.Namespace) -> None:
    """How long a step waits for its data while the model trains, and how much of the step that is."""
    rows = {engine: (waiting, args, engine) for engine in args.engines}
    show("Share of a training step spent waiting for data, embedded default", measure(rows, 3), "")


def waiting(args: argparse.Namespace, engine: str) -> Work:
    """Part of the time of 20 steps on real images that passes in `next(batches)`."""
    from common.config import TrainConfig
    from common.recipes.create import create_recipe

    api, _, loop, optim = import_engine(engine)
    dataset = open_dataset("cifar10-sample")
    split = dataset.splits["train"]
    recipe = create_recipe(TrainConfig(), len(split), dataset.image_size, dataset.recipe)
    config = find_model(TrainConfig.model).config(CLASSES)
    model = api.build(config, initial_parameters(0, config))
    optimizer = optim.create_optimizer(model, recipe)

    def work() -> float:
        batches = loop.to_device(prefetch(TrainBatches(split, recipe, 0), range(20), os.cpu_count()), model.devices)
        started, waited = time.perf_counter(), 0.0
        for step in itertools.count():
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                return waited / (time.perf_counter() - started)
            float(loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"])

    return work


FREQUENT = (
    "a the of on in with and photo man woman dog cat sitting standing red blue street kitchen table plate food riding "
    "bicycle skateboard beach ocean two people playing frisbee near building train large small white black"
)


def text_section(args: argparse.Namespace) -> None:
    """Captions per second of the tokenizers whose vocabularies are there, CLIP's against open_clip and transformers."""
    rows = {"open_clip, CLIP": (peer_tokenizing, "open_clip"), "transformers, CLIP": (peer_tokenizing, "transformers")}
    for name in ("CLIP", "SIGLIP", "SIGLIP2", "LIT"):
        with contextlib.suppress(UserError):
            find_vocabulary(getattr(tokens, name), DOWNLOADS)
            rows[f"common.data.text, {name}"] = (our_tokenizing, name)
    show("50,000 captions of 7 to 14 English words, in batches of 1,000", measure(rows, args.repeats), "captions/s")


def captions(count: int = 50_000) -> list[str]:
    """Sentences of frequent words, with a capital and a full stop."""
    words = FREQUENT.split()
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, rng.integers(7, 15))).capitalize() + "." for _ in range(count)]


def tokenizing(encode: Callable[[list[str]], Any]) -> Work:
    """Captions per second."""
    texts = captions()
    encode(texts[:1000])

    def work() -> float:
        started = time.perf_counter()
        for start in range(0, len(texts), 1000):
            encode(texts[start : start + 1000])
        return len(texts) / (time.perf_counter() - started)

    return work


def our_tokenizing(name: str) -> Work:
    """With the facts of a published model."""
    return tokenizing(open_tokenizer(getattr(tokens, name)).encode)


def peer_tokenizing(name: str) -> Work:
    """CLIP's vocabulary with a peer's code."""
    if name == "open_clip":
        from open_clip.tokenizer import SimpleTokenizer

        return tokenizing(SimpleTokenizer())
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for file, data in peer_files(tokens.CLIP, find_vocabulary(tokens.CLIP, DOWNLOADS))[0].items():
            (Path(folder) / file).write_bytes(data)
        peer = AutoTokenizer.from_pretrained(folder)
    return tokenizing(lambda texts: peer(texts, padding="max_length", truncation=True, return_tensors="np"))


def image_text_section(args: argparse.Namespace) -> None:
    """Memory of the contrastive losses and their gradients, at once and in chunks."""
    os.environ |= EXACT_MALLOC
    rows, width, chunk = 4096, 768, 128
    for loss, engine in itertools.product(("sigmoid", "softmax"), args.engines):
        ways = {"dense": 0, f"chunks of {chunk}": chunk}
        works = {f"{engine}, {way}": (memory_of_pairs, engine, loss, rows, width, size) for way, size in ways.items()}
        title = f"Memory of {loss} and its gradients, {rows} pairs of {width}, beside memory of the gradients' size"
        show(title, measure(works, 1), "MiB")


def memory_of_pairs(engine: str, loss: str, rows: int, width: int, chunk: int) -> Work:
    """MiB of a loss and its gradients in a fresh process."""
    return lambda: in_fresh_process(growth_of_pairs, engine, loss, rows, width, chunk) / 2**20


def growth_of_pairs(engine: str, loss: str, rows: int, width: int, chunk: int) -> float:
    """Bytes by which memory grows for a loss and its gradients, beyond what these take."""
    drawn = np.random.default_rng(0).normal(size=(2, rows, width)).astype(np.float32)
    embeddings = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    few = chunk or rows // 32 if engine == "bit_tf2" else rows  # TensorFlow keeps the memory of its tensors
    PAIRS[engine](loss, chunk, embeddings[:, :few])()
    return peak_growth_bytes(engine, PAIRS[engine](loss, chunk, embeddings)) - embeddings.nbytes


def pairs_in_pytorch(loss: str, chunk: int, embeddings: np.ndarray) -> Callable[[], None]:
    """What computes the loss of embeddings and its gradients."""
    import torch

    from bit_pytorch.devices import FirstDevice
    from bit_pytorch.similarity import SIMILARITIES

    devices = FirstDevice()
    given = [torch.as_tensor(value).to(devices.device).requires_grad_() for value in (*embeddings, *T_AND_B)]
    return lambda: SIMILARITIES[loss](*given, devices, chunk).backward()


def pairs_in_jax(loss: str, chunk: int, embeddings: np.ndarray) -> Callable[[], None]:
    """What computes the loss of embeddings and its gradients."""
    import jax

    from bit_jax.devices import FirstDevice
    from bit_jax.similarity import SIMILARITIES

    given = [jax.device_put(value) for value in (*embeddings, *T_AND_B)]
    slopes = jax.jit(jax.grad(lambda *given: SIMILARITIES[loss](*given, FirstDevice(), chunk), (0, 1, 2, 3)))
    compiled = slopes.lower(*given).compile()
    return lambda: jax.block_until_ready(compiled(*given))


def pairs_in_tensorflow(loss: str, chunk: int, embeddings: np.ndarray) -> Callable[[], None]:
    """What computes the loss of embeddings and its gradients."""
    import_engine("bit_tf2")
    import tensorflow as tf

    from bit_tf2.devices import FirstDevice
    from bit_tf2.similarity import SIMILARITIES

    @tf.function(autograph=False)
    def slopes(given: list[tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(given)
            found = SIMILARITIES[loss](*given, FirstDevice(), chunk)
        return tape.gradient(found, given, unconnected_gradients="zero")

    given = [tf.convert_to_tensor(value) for value in (*embeddings, *T_AND_B)]
    compiled = slopes.get_concrete_function(given)
    return lambda: compiled(given)


T_AND_B = np.log([10.0]).astype(np.float32), np.float32([-10])
PAIRS = {"bit_pytorch": pairs_in_pytorch, "bit_jax": pairs_in_jax, "bit_tf2": pairs_in_tensorflow}
SECTIONS = {
    "train": train_section,
    "sharpness": sharpness_section,
    "inference": inference_section,
    "memory": memory_section,
    "pipeline": pipeline_section,
    "archives": archives_section,
    "randaugment": randaugment_section,
    "index": index_section,
    "load": load_section,
    "convert": convert_section,
    "startup": startup_section,
    "overlap": overlap_section,
    "text": text_section,
    "image_text": image_text_section,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--model", choices=tuple(PEERS), default="BiT-S-R50x1")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--resolution", type=int, help="side in pixels; by default 128 for BiT and 224 for the others")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="also time the peer under torch.compile")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved repeats per row")
    parser.add_argument("--steps", type=int, default=2, help="steps per repeat")
    parser.add_argument("--index_files", type=int, default=1_281_167, help="training images of the indexed folder")
    parser.add_argument("--memory_batch", type=int, default=32, help="images per step where memory is measured")
    args = parser.parse_args()
    args.resolution = args.resolution or PEERS[args.model][1]
    unknown = [section for section in args.sections if section not in SECTIONS]
    if unknown:
        raise UserError(f"There is no section {unknown[0]!r}; choose of {', '.join(SECTIONS)}.")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "jax", "tensorflow"))
    print(
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    )
    for section in args.sections or SECTIONS:
        SECTIONS[section](args)


if __name__ == "__main__":
    with exit_with_sentence():
        main()
