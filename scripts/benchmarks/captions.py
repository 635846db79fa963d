"""Models that write: a training step, and tokens a second with and without what was computed before."""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from common.models import DecoderConfig, find_model
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
    rows |= {f"{engine}, nothing kept": (rewriting, args, engine) for engine in args.engines}
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


def asked(args: argparse.Namespace, engine: str) -> tuple[DecoderConfig, Any, dict[str, Any]]:
    """(configuration, model, images on its devices that are to have texts)."""
    api, _, loop, _ = import_engine(engine)
    config = find_model(MODEL).config()
    model = api.build(config, initial_parameters(0, config), precision=args.precision)
    prompt = {"prompt": np.zeros((args.batch, config.length), np.int32), "end": np.ones(args.batch, np.int32)}
    batch = {"images": images(args), "mask": np.ones(args.batch, bool)} | prompt
    return config, model, next(iter(loop.to_device(iter([batch]), model.devices)))


def writing(args: argparse.Namespace, engine: str) -> Work:
    """Tokens a second of one engine; an untrained head ends no text before its last place."""
    config, model, batch = asked(args, engine)
    eval_step, task = import_engine(engine)[2].eval_step, Captioning()  # one task, as in a run: TF2 compiles for each

    def work() -> float:
        started = time.perf_counter()
        found = eval_step({"model": model}, batch, "captions", task)["tokens"]
        assert np.asarray(found.cpu() if engine == "bit_pytorch" else found).shape == (args.batch, config.length)
        return args.batch * config.length / (time.perf_counter() - started)

    return work


def rewriting(args: argparse.Namespace, engine: str) -> Work:
    """Tokens a second of one engine where every token takes a whole forward pass of the decoder."""
    config, model, batch = asked(args, engine)
    encode, decode, on_device = COMPILED[engine](model)

    def work() -> float:
        started, tokens = time.perf_counter(), np.zeros((args.batch, config.length), np.int32)
        encoded = encode(batch)
        for place in range(config.length):
            tokens[:, place] = np.asarray(decode(encoded, on_device(tokens), on_device(np.int32(place))))
        return tokens.size / (time.perf_counter() - started)

    return work


Compiled = tuple[
    Callable, Callable, Callable
]  # of a batch: patches; of those, tokens and a place: the token there; numpy to the device


def compiled_pytorch(model: Any) -> Compiled:
    """See `Compiled`."""
    import torch

    from bit_pytorch.losses import mixed

    def decode(encoded: Any, tokens: Any, place: Any) -> Any:
        return model.decode(encoded, tokens.long())[:, place].argmax(1).cpu()

    inference = torch.inference_mode()
    return inference(lambda batch: model.encode(mixed(batch, model))), inference(decode), torch.as_tensor


def compiled_jax(model: Any) -> Compiled:
    """See `Compiled`."""
    from flax import nnx
    from jax import numpy as jnp

    from bit_jax.losses import mixed

    encode = nnx.jit(lambda model, batch: model.encode(mixed(batch, model)))
    decode = nnx.jit(lambda model, encoded, tokens, place: model.decode(encoded, tokens)[:, place].argmax(1))
    return functools.partial(encode, model), functools.partial(decode, model), jnp.asarray


def compiled_tf2(model: Any) -> Compiled:
    """See `Compiled`."""
    import tensorflow as tf

    from bit_tf2.losses import mixed

    def decode(encoded: Any, tokens: Any, place: Any) -> Any:
        return tf.argmax(tf.gather(model.decode(encoded, tokens), place, axis=1), 1)

    return tf.function(lambda batch: model.encode(mixed(batch, model))), tf.function(decode), tf.convert_to_tensor


COMPILED = {"bit_pytorch": compiled_pytorch, "bit_jax": compiled_jax, "bit_tf2": compiled_tf2}
