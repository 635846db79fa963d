"""Files of weights: loading them, and converting them."""

import argparse
import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.convert import convert
from common.models import PublishedModel, find_model
from common.models.initial import initial_parameters
from common.weights import write_weights
from scripts.benchmarks.measure import (
    EXACT_MALLOC,
    Work,
    growing,
    import_engine,
    in_fresh_process,
    measure,
    peak_growth_bytes,
    show,
)


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
        os.environ |= EXACT_MALLOC
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
