"""What bounds a training step: its products at the rate of a plain product of matrices, and what it moves at that of a copy."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from common.system.environment import accelerators, processor
from scripts.benchmarks.flops import training_step
from scripts.benchmarks.measure import Repeat, Work, import_engine, measure, median
from scripts.benchmarks.steps import PEERS, describe, engine_training, model_config

MODELS = ("BiT-S-R50x1", "ViT-S/16")
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


class Sizes(NamedTuple):
    """Of the plain product and of the copy."""

    side: int  # of square matrices
    values: int
    loops: int = 8  # in a repeat


CPU, GPU = Sizes(2048, 2**26), Sizes(8192, 2**30, 10)


def in_pytorch(precision: str) -> tuple[Callable, Callable, Callable, Callable]:
    """(ones(shape), product(a), passes(x, loops), wait(array)) of PyTorch, on a GPU where there is one.

    A pass reads and writes every value of an array in its place: memory that is new to the process would cost more.
    """
    import torch

    options = {"dtype": getattr(torch, precision), "device": "cuda" if torch.cuda.is_available() else "cpu"}

    def passes(x: torch.Tensor, loops: int) -> torch.Tensor:
        for _ in range(loops):
            x.mul_(x)
        return x

    return lambda shape: torch.ones(shape, **options), lambda a: a @ a, passes, lambda x: float(x.flatten()[0])


def in_jax(precision: str) -> tuple[Callable, Callable, Callable, Callable]:
    """See `in_pytorch`."""
    import jax
    from jax import numpy as jnp

    square = jax.jit(jnp.square, donate_argnums=0)

    def passes(x: jax.Array, loops: int) -> jax.Array:
        for _ in range(loops):
            x = square(x)
        return x

    product = jax.jit(lambda a: jnp.dot(a, a, precision=jax.lax.Precision.HIGHEST))
    return lambda shape: jnp.ones(shape, precision), product, passes, lambda x: x.block_until_ready()


def in_tensorflow(precision: str) -> tuple[Callable, Callable, Callable, Callable]:
    """See `in_pytorch`; within a graph, all passes but the first are in place."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def passes(x: tf.Tensor, loops: int) -> tf.Tensor:
        for _ in range(loops):
            x = tf.square(x)
        return x

    ones = lambda shape: tf.ones(shape, precision)
    return ones, lambda a: tf.matmul(a, a), passes, lambda x: float(tf.reshape(x, [-1])[0])


FRAMEWORKS = {"bit_pytorch": in_pytorch, "bit_jax": in_jax, "bit_tf2": in_tensorflow}


def product(precision: str, engine: str, sizes: Sizes) -> Work:
    """Products of two square matrices."""
    import_engine(engine)
    ones, product, _, wait = FRAMEWORKS[engine](precision)
    matrix = ones((sizes.side, sizes.side))

    def work() -> None:
        for _ in range(sizes.loops):
            found = product(matrix)
        wait(found)

    return work


def copy(precision: str, engine: str, sizes: Sizes) -> Work:
    """Passes over an array, which move what a copy moves."""
    import_engine(engine)
    ones, _, passes, wait = FRAMEWORKS[engine](precision)
    array = ones((sizes.values,))

    def work() -> None:
        nonlocal array
        array = passes(array, sizes.loops)
        wait(array)

    return work


def roofline_section(args: argparse.Namespace) -> None:
    """Steps of R50x1 and of ViT-S/16 in each engine, and how near they come to a product and to a copy."""
    sizes = GPU if accelerators() else CPU
    of_models = {
        name: argparse.Namespace(**vars(args) | {"model": name, "resolution": PEERS[name][1]}) for name in MODELS
    }
    for engine in args.engines:
        rows = {name: (engine_training, of_model, engine, args.batch) for name, of_model in of_models.items()}
        rows |= {"product": (product, args.precision, engine, sizes), "copy": (copy, args.precision, engine, sizes)}
        found = {row: median(repeats) for row, repeats in measure(rows, args.repeats).items()}
        if len(found) < len(rows):
            continue  # a process ended without a figure, and said so
        flops_rate = [2 * sizes.side**3 * sizes.loops / seconds for seconds in found["product"]]
        copied = 2 * sizes.values * ITEM_BYTES[args.precision] * sizes.loops
        byte_rate = [copied / seconds for seconds in found["copy"]]
        print(
            f"\nRoofline of {engine}, {processor()}{accelerators() and ', '}{accelerators()}: a product of {sizes.side} x "
            f"{sizes.side} {flops_rate[0] / 1e9:,.0f} GFLOPS ({flops_rate[1] / 1e9:,.0f} a CPU second), a copy "
            f"{byte_rate[0] / 1e9:,.1f} GB/s ({byte_rate[1] / 1e9:,.1f})"
        )
        for name, of_model in of_models.items():
            seconds = Repeat(*(value / args.steps for value in found[name]))
            show_bound(of_model, seconds, flops_rate, byte_rate)


def show_bound(args: argparse.Namespace, seconds: Repeat, flops_rate: list[float], byte_rate: list[float]) -> None:
    """Print one step: what it computes and moves, and what part of its time that takes at the rates of wall and of CPU."""
    step = training_step(model_config(args), args.resolution, args.batch)
    moved = step.activations * ITEM_BYTES[args.precision] + step.parameters * 4
    print(f"  Training step, {describe(args)}: {step.flops / 1e9:,.1f} GFLOP, {moved / 1e9:,.2f} GB", flush=True)
    for title, taken, flops, moving in zip(("seconds", "CPU seconds"), seconds, flops_rate, byte_rate):
        computing, copying = step.flops / flops, moved / moving
        bound = "its products" if computing > copying else "what it moves"
        print(
            f"    {taken:.3f} {title}: {step.flops / taken / 1e9:,.0f} GFLOPS, {step.flops / taken / flops:.2f} of the product's; "
            f"products {computing:.3f} and copies {copying:.3f}, together {(computing + copying) / taken:.2f} of it; "
            f"bound by {bound}, at least {max(computing, copying) / taken:.2f}"
        )
