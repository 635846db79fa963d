"""One prepared run for the day a GPU is at hand, below 12 minutes there; on a CPU the same parts in a minute, with small models.

Parts: float64 parity of the engines on the device, training in bfloat16 against timm with the part of the device's peak
that is used, and how long a step waits for its data. An engine that is not installed is named and left out.
"""

import argparse
import contextlib
import dataclasses
import importlib
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data.batches import TrainBatches, prefetch
from common.datasets import open_dataset
from common.models.initial import initial_parameters
from common.recipes.recipe import Recipe
from common.system.environment import accelerators
from scripts.benchmarks import roofline
from scripts.benchmarks.flops import training_step
from scripts.benchmarks.inputs import write_images
from scripts.benchmarks.measure import import_engine, measure, median, show
from scripts.benchmarks.steps import RECIPE, describe, engine_training, model_config, timm_training

TESTS = Path(__file__).parents[2] / "tests"  # whose golden cases are computed again
PEAKS = {  # dense products in bfloat16, FLOP/s, as NVIDIA states them; the first name that fits
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}


class Case(NamedTuple):
    """A training step that is measured."""

    model: str
    resolution: int
    batch: int


class Sizes(NamedTuple):
    """How much is measured on one kind of device."""

    steps: tuple[Case, ...]
    fed: Case  # by the input pipeline
    images: int  # files of the pipeline
    golden: tuple[str, ...]  # cases below tests/golden/
    repeats: int
    loops: int  # steps in a repeat
    product: roofline.Sizes


CPU = Sizes(
    steps=(Case("ViT-Ti/16", 32, 2), Case("BiT-S-R50x1", 32, 2), Case("Mixer-S/32", 64, 2)),
    fed=Case("ViT-Ti/16", 32, 4), images=40, golden=("vit_jax_vit/tiny_token", "bv_bit/bit_tiny2"), repeats=1, loops=1,
    product=roofline.Sizes(512, 2**20, 2),
)  # fmt: skip
GPU = Sizes(
    steps=(
        Case("ViT-B/16", 224, 256), Case("ViT-S/16", 224, 512), Case("BiT-S-R50x1", 224, 256),
        Case("BiT-S-R50x1", 448, 64), Case("Mixer-B/16", 224, 256),
    ),
    fed=Case("ViT-S/16", 224, 128), images=2560,
    golden=("vit_jax_vit/tiny_token", "vit_jax_vit/tiny_hybrid_stages", "vit_jax_vit/full_Ti16_224", "bv_bit/bit_tiny2",
            "bv_bit/bit_paper_tiny2", "bv_mixer/tiny", "bv_vit/tiny_map_learn_rep24"),
    repeats=3, loops=10, product=roofline.GPU,
)  # fmt: skip


def gpu_section(args: argparse.Namespace) -> None:
    """The parts that --parts names, each with its seconds."""
    sizes = GPU if accelerators() else CPU
    # Several processes share a device: none may take all of its memory.
    os.environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    if not accelerators():  # whose threads would wait for one another where other processes run
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(f"\nOn {accelerators() or 'the CPU, with small models: no figure of use'}", flush=True)
    for name in args.parts:
        started = time.perf_counter()
        PARTS[name](args, sizes)
        print(f"  ({name} took {time.perf_counter() - started:.0f} s)", flush=True)


def each_engine(function: Callable, args: argparse.Namespace, *arguments: Any) -> Iterator[tuple[str, Any]]:
    """(engine, what the function returns) of every engine, all at once, each in a process of its own."""
    with ProcessPoolExecutor(len(args.engines), multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        asked = {engine: pool.submit(function, engine, *arguments) for engine in args.engines}
        for engine, found in asked.items():
            try:
                yield engine, found.result()
            except ImportError as error:
                print(f"  {engine}: left out ({error})", flush=True)


def parity_part(args: argparse.Namespace, sizes: Sizes) -> None:
    """How far each engine is from the original code, and from the first engine after three steps, in float64."""
    print(
        "\nFloat64 on the device: relative distance from the original code, and after three steps from the first engine"
    )
    first = None
    for engine, (outputs, trained) in each_engine(exactly, args, sizes.golden):
        first = first or trained
        for name, error in outputs.items():
            apart = max(relative(trained[name][part], first[name][part]) for part in first[name])
            print(f"  {engine:<12} {name:<32} {error:.1e}, {apart:.1e}{verdict(max(error, apart))}", flush=True)


def verdict(distance: float) -> str:
    """A remark where the engines are further apart than they promise to be."""
    return "" if distance < 1e-9 else "   MORE THAN 1e-9"


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def exactly(engine: str, names: tuple[str, ...]) -> tuple[dict[str, float], dict[str, dict[str, np.ndarray]]]:
    """({golden case: distance of its logits from the original}, {case: parameters after three steps}) in float64."""
    sys.path.insert(0, str(TESTS))
    cases = importlib.import_module("golden_cases")
    api, _, loop, optim = import_engine(engine)
    weights, wide = importlib.import_module(f"{engine}.weights"), contextlib.nullcontext()
    if engine == "bit_jax":
        wide = importlib.import_module("jax").enable_x64(True)
    outputs, trained = {}, {}
    with wide:
        for name in names:
            case = cases.case(name)
            model = api.build(case.config, case.arrays(), precision="float64")
            outputs[name] = relative(logits(engine, model, case.images()), golden_logits(case))
            recipe = dataclasses.replace(RECIPE, lrs=(0.01,) * 3)
            batch = integers(case.images().shape, case.config.num_classes)
            optimizer = optim.create_optimizer(model, recipe)
            for step, on_device in enumerate(loop.to_device(iter([batch] * 3), model.devices)):
                loop.train_step({"model": model}, optimizer, on_device, recipe, step=step)
            trained[name] = weights.dump(model)
    return outputs, trained


def golden_logits(case: Any) -> np.ndarray:
    """What the original code computed."""
    outputs = ("logits_exact_gelu_coefficient", "logits", "model_output")
    return case.expected(next(name for name in outputs if name in case.golden["outputs"]))


def integers(shape: tuple[int, ...], num_classes: int) -> dict[str, np.ndarray]:
    """A batch of random bytes with labels."""
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return {"images": images, "labels": np.arange(shape[0], dtype=np.int32) % num_classes}


def logits(engine: str, model: Any, images: np.ndarray) -> np.ndarray:
    """Those of images [B, H, W, 3] in [-1, 1], in float64 on the device."""
    images = images.astype(np.float64)
    if engine != "bit_pytorch":
        return np.asarray(model(images))
    tensor = importlib.import_module("torch").from_numpy(images).permute(0, 3, 1, 2)
    return model(tensor.to(model.device)).detach().cpu().numpy()


def training_part(args: argparse.Namespace, sizes: Sizes) -> None:
    """Steps in bfloat16 against timm, compiled and not, and the part of the device's peak that their products reach."""
    source, peak = peak_flops(args, sizes)
    print(f"\nPeak of the device in bfloat16: {peak / 1e12:,.4g} TFLOP/s ({source})", flush=True)
    for case in sizes.steps:
        asked = asked_for(args, case, sizes)
        rows = {"timm": (timm_training, asked, "channels_last" if "BiT" in case.model else "contiguous_format")}
        if accelerators() or args.compile:
            rows["timm, compiled"] = (*rows["timm"], True)
        rows |= {engine: (engine_training, asked, engine, case.batch) for engine in args.engines}
        found = measure(rows, sizes.repeats, at_once=True)
        show(f"Training step, {describe(asked)}", found, "ms", 1000 / sizes.loops)
        flops = training_step(model_config(asked), case.resolution, case.batch).flops
        for row, repeats in found.items():
            rate = flops * sizes.loops / median(repeats).figure
            print(
                f"  {row:<28} {rate / 1e12:,.4g} TFLOP/s of the model, {100 * rate / peak:.0f} % of the peak",
                flush=True,
            )


def asked_for(args: argparse.Namespace, case: Case, sizes: Sizes) -> argparse.Namespace:
    """The flags with those of a case."""
    return argparse.Namespace(**vars(args) | case._asdict() | {"precision": "bfloat16", "steps": sizes.loops})


def peak_flops(args: argparse.Namespace, sizes: Sizes) -> tuple[str, float]:
    """(where from, FLOP/s) of the device: as NVIDIA states it, or else what a product in bfloat16 reaches."""
    for name, peak in PEAKS.items():
        if name in accelerators():
            return f"stated for {name}", peak
    found = measure({"product": (roofline.product, "bfloat16", args.engines[0], sizes.product)}, 3)["product"]
    side = sizes.product.side
    return f"a product of {side} x {side}", 2 * side**3 * sizes.product.loops / median(found).figure


def feeding_part(args: argparse.Namespace, sizes: Sizes) -> None:
    """How long a step in bfloat16 waits for images that are decoded, cut and flipped meanwhile, none of them kept."""
    case = sizes.fed
    print(f"\nWaiting for 500-px JPEG files, {describe(asked_for(args, case, sizes))}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name), 500, sizes.images)
        for engine, (waited, whole) in each_engine_in_turn(fed, args, case, Path(name)):
            share = f"{1000 * waited:,.4g} ms of {1000 * whole:,.4g} ms a step, {100 * waited / whole:.1f} %"
            print(f"  {engine:<28} {share}; {case.batch / whole:,.4g} images/s", flush=True)


def each_engine_in_turn(function: Callable, args: argparse.Namespace, *arguments: Any) -> Iterator[tuple[str, Any]]:
    """`each_engine`, one after the other, where they would take one another's cores."""
    for engine in args.engines:
        yield from each_engine(function, argparse.Namespace(engines=(engine,)), *arguments)


def fed(engine: str, case: Case, folder: Path) -> tuple[float, float]:
    """(seconds that a step waits, seconds that it takes), medians of the steps of one epoch after the first ones."""
    api, _, loop, optim = import_engine(engine)
    split = open_dataset(str(folder)).splits["train"]
    steps = len(split) // case.batch
    recipe = recipe_of(case, steps)
    config = model_config(argparse.Namespace(model=case.model, resolution=case.resolution))
    model = api.build(config, initial_parameters(0, config), precision="bfloat16")
    optimizer = optim.create_optimizer(model, recipe)
    prepared = prefetch(TrainBatches(split, recipe, 0), range(steps), os.cpu_count())
    batches, times = loop.to_device(prepared, model.devices), []
    for step in itertools.count():
        asked = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        given = time.perf_counter()
        float(loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"])
        times.append((given - asked, time.perf_counter() - asked))
    return tuple(statistics.median(column) for column in zip(*times[2:]))  # the first ones compile


def recipe_of(case: Case, steps: int) -> Recipe:
    """Random boxes, as in training from scratch."""
    sizes = {"resize": case.resolution, "crop": case.resolution, "crop_min_area": 0.08}
    return dataclasses.replace(RECIPE, batch=case.batch, lrs=(1e-4,) * steps, **sizes)


PARTS = {"parity": parity_part, "training": training_part, "feeding": feeding_part}
