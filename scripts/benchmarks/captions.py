"""Models that write: a training step, and tokens a second with and without what was computed before."""

import argparse
import dataclasses
import time

import numpy as np

from common.models import find_model
from common.models.initial import initial_parameters
from common.recipes.task import Captioning
from scripts.benchmarks.measure import Work, import_engine, measure, show
from scripts.benchmarks.steps import RECIPE, stepping

MODEL = "CapPa-S/16"


def captions_section(args: argparse.Namespace) -> None:
    """A training step of CapPa-S/16 and its tokens a second, of the engines over PyTorch."""
    config = find_model(MODEL).config()
    what = f"{MODEL}, {args.batch} images of 224 px, texts of {config.length} tokens, {args.precision}"
    rows = {engine: (training, args, engine) for engine in args.engines}
    show(
        f"Training step, {what}, AdamW, three quarters predicted at once",
        measure(rows, args.repeats),
        "ms",
        1000 / args.steps,
    )
    rows = {engine: (writing, args, engine) for engine in args.engines}
    rows["bit_pytorch, nothing kept"] = (rewriting, args)
    show(f"Writing, {what}, the likeliest token", measure(rows, args.repeats), "tokens/s")


def training(args: argparse.Namespace, engine: str) -> Work:
    """Training steps of one engine."""
    config, rng = find_model(MODEL).config(), np.random.default_rng(0)
    tokens = rng.integers(2, config.vocabulary, (args.batch, config.length), np.int32)
    batch = {
        "images": images(args), "tokens": tokens, "counted": tokens > 0, "masked": tokens > 0,
        "parallel": np.arange(args.batch) % 4 > 0,
    }  # fmt: skip
    numbers = {"optimizer": "adam", "decay": "decoupled", "weight_decay": 1e-4, "lrs": (1e-4,)}
    recipe = dataclasses.replace(RECIPE, batch=args.batch, task=Captioning(parallel=0.75), **numbers)
    return stepping(args, engine, config, batch, recipe)


def images(args: argparse.Namespace) -> np.ndarray:
    """Random bytes."""
    return np.random.default_rng(0).integers(0, 256, (args.batch, 224, 224, 3), np.uint8)


def writing(args: argparse.Namespace, engine: str) -> Work:
    """Tokens a second of one engine; an untrained head ends no text before its last place."""
    api, _, loop, _ = import_engine(engine)
    config = find_model(MODEL).config()
    model = api.build(config, initial_parameters(0, config), precision=args.precision)
    asked = {"prompt": np.zeros((args.batch, config.length), np.int32), "end": np.ones(args.batch, np.int32)}
    batch = {"images": images(args), "mask": np.ones(args.batch, bool)} | asked
    on_device = next(iter(loop.to_device(iter([batch]), model.devices)))

    def work() -> float:
        started = time.perf_counter()
        found = loop.eval_step({"model": model}, on_device, "captions", Captioning())["tokens"]
        assert np.asarray(found.cpu() if engine == "bit_pytorch" else found).shape == asked["prompt"].shape
        return args.batch * config.length / (time.perf_counter() - started)

    return work


def rewriting(args: argparse.Namespace) -> Work:
    """Tokens a second in PyTorch where every token takes a whole forward pass of the decoder."""
    import torch

    api, _, _, _ = import_engine("bit_pytorch")
    from bit_pytorch.losses import scale

    config = find_model(MODEL).config()
    model = api.build(config, initial_parameters(0, config), precision=args.precision)
    pixels = torch.from_numpy(images(args)).to(model.device)

    @torch.inference_mode()
    def work() -> float:
        started = time.perf_counter()
        encoded = model.encode(scale(pixels, model).to(model.compute_dtype))
        tokens = torch.zeros(args.batch, config.length, dtype=torch.int64, device=model.device)
        for place in range(config.length):
            tokens[:, place] = model.decode(encoded, tokens)[:, place].argmax(1)
        tokens.cpu()
        return args.batch * config.length / (time.perf_counter() - started)

    return work
