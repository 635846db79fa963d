"""Graphs that other programs run, made of TensorFlow models: SavedModel."""

import json
from pathlib import Path

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.devices import FirstDevice
from bit_tf2.inference import build_once
from bit_tf2.loop import scale
from bit_tf2.model import Model
from common.export import Export


class Exported(tf.Module):
    """Images [B, H, W, 3] to logits [B, K]: uint8 ones with `preprocess`, else scaled ones."""

    def __init__(self, model: Model, job: Export):
        super().__init__()
        images = job.images(1)
        shape = tf.TensorSpec((None, *images.shape[1:]), images.dtype, "images")
        to_logits = lambda images: {"logits": model(scale(images, model) if job.config.preprocess else images)}
        self.model, self.serve = model, tf.function(to_logits, [shape], autograph=False)

    def __call__(self, images: Tensor) -> Tensor:
        return self.serve(images)["logits"]


def write_saved_model(job: Export, module: Exported) -> None:
    """A folder that `tf.saved_model.load` and TensorFlow Serving read, with the card in `assets.extra`."""

    def write(folder: Path) -> None:
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve.get_concrete_function()})
        (folder / "assets.extra").mkdir()
        (folder / "assets.extra" / "card.json").write_text(json.dumps(job.facts, indent=1) + "\n")

    def verify(folder: Path) -> None:
        found = tf.saved_model.load(str(folder)).signatures["serving_default"]
        job.check(lambda images: found(images=tf.constant(images))["logits"].numpy())

    job.write_folder(write, verify)


WRITERS = {"saved_model": write_saved_model}


def export_main(job: Export) -> None:
    """Write the graph of `job`, verified against the logits of the model that it was made of."""
    with FirstDevice() as devices:
        module = Exported(build_once(job, devices), job)
        job.expect(lambda images: module(tf.constant(images)).numpy())
        WRITERS[job.config.to](job, module)
