"""A ViT on images at their own aspect ratio (a NaFlex) against squares of as many patches: training steps and inference."""

import argparse
import dataclasses

import numpy as np

from common.data import naflex
from common.models import ViTConfig, find_model
from scripts.benchmarks.measure import Work, measure, show
from scripts.benchmarks.steps import CLASSES, RECIPE, inferring, stepping

MODEL, SIDE = "ViT-S/16", 256  # 256 patches of 16 pixels
PHOTOGRAPHS = ((480, 640), (427, 640), (640, 480), (500, 500))  # height and width: of these ratios are the images


def batch_of(count: int, keeps_ratio: bool) -> dict[str, np.ndarray]:
    """Random bytes with labels: squares, or strips of patches whose padding is that of photographs."""
    config, rng = find_model(MODEL).config(CLASSES), np.random.default_rng(0)
    patch, tokens = config.patch_size, (SIDE // config.patch_size[0]) ** 2
    shape = (tokens * patch[0], patch[1]) if keeps_ratio else (SIDE, SIDE)
    images = {"images": rng.integers(0, 256, (count, *shape, 3), np.uint8), "labels": np.arange(count) % CLASSES}
    images["labels"] = images["labels"].astype(np.int32)
    if not keeps_ratio:
        return images
    sizes = [naflex.fitted_size(PHOTOGRAPHS[i % len(PHOTOGRAPHS)], patch, tokens) for i in range(count)]
    grids = [(height // patch[0], width // patch[1]) for height, width in sizes]
    mask = np.arange(tokens) < np.prod(grids, axis=1)[:, None]
    return images | {"coordinates": np.stack([naflex.places(*grid, tokens) for grid in grids]), "patch_mask": mask}


def config_of(keeps_ratio: bool) -> ViTConfig:
    """The model of either."""
    fields = {"image_size": (SIDE, SIDE), "pooling": "gap", "cls_position": False, "naflex": keeps_ratio}
    return dataclasses.replace(find_model(MODEL).config(CLASSES), **fields)


def training(args: argparse.Namespace, engine: str, keeps_ratio: bool) -> Work:
    """Training steps of one engine."""
    recipe = dataclasses.replace(RECIPE, lrs=(1e-4,), weight_decay=1e-4, token_lengths="256" if keeps_ratio else "")
    return stepping(args, engine, config_of(keeps_ratio), batch_of(args.batch, keeps_ratio), recipe)


def inference(args: argparse.Namespace, engine: str, keeps_ratio: bool) -> Work:
    """Logits of one engine."""
    return inferring(args, engine, config_of(keeps_ratio), batch_of(args.batch, keeps_ratio))


def naflex_section(args: argparse.Namespace) -> None:
    """Two tables for each engine."""
    for engine in args.engines:
        for title, work in (("Training step", training), ("Inference", inference)):
            names = {f"{engine}, squares": False, f"{engine}, their ratio": True}
            rows = {name: (work, args, engine, keeps_ratio) for name, keeps_ratio in names.items()}
            described = f"{title}, {MODEL}, {(SIDE // 16) ** 2} patches, batch {args.batch}, {args.precision}"
            show(described, measure(rows, args.repeats), "ms", 1000 / args.steps)
