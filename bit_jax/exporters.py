"""Graphs that other programs run, made of JAX models: StableHLO."""

from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax import Array

from bit_jax.devices import FirstDevice
from bit_jax.inference import build_once
from bit_jax.losses import scale
from common.runs.export import Export

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # that the graph is written for


def write_stablehlo(job: Export, function: jax.stages.Wrapped) -> None:
    """What `jax.export.deserialize` reads: a portable artifact of StableHLO with the parameters in it."""
    images = jax.export.symbolic_args_specs(job.images(2), "batch, ...")
    data = jax.export.export(function, platforms=PLATFORMS)(images).serialize()

    def verify(path: Path) -> None:
        found = jax.export.deserialize(bytearray(path.read_bytes()))
        job.check(lambda images: np.asarray(found.call(images)))

    job.write_file(bytes(data), verify)


WRITERS = {"stablehlo": write_stablehlo}


def export_main(job: Export) -> None:
    """Write the graph of `job`, verified against the logits of the model that it was made of."""
    with FirstDevice() as devices:
        model = build_once(job, devices)
        graphdef, state = nnx.split(model)

        @jax.jit
        def function(images: Array) -> Array:  # of values, not of a module: an artifact has arrays alone
            model = nnx.merge(graphdef, state)
            return model(scale(images, model) if job.config.preprocess else images)

        job.expect(lambda images: np.asarray(function(images)))
        WRITERS[job.config.to](job, function)
