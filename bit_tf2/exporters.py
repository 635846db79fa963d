"""Graphs that other programs run, made of TensorFlow models: SavedModel and LiteRT."""

import json
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow import Tensor
from tensorflow.lite.python.convert import ConverterError
from tensorflow.lite.tools import flatbuffer_utils
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from bit_tf2.devices import FirstDevice
from bit_tf2.inference import build_once
from bit_tf2.losses import scale
from bit_tf2.model import Model
from common.runs.export import Export
from common.system.errors import UserError


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


def write_litert(job: Export, module: Exported) -> None:
    """A .tflite, which LiteRT's interpreter reads once its input is resized, with the facts as its metadata `card`.

    Raises UserError for what LiteRT cannot compute.
    """
    if job.config.precision != "float32":
        raise UserError(f"--precision is {job.config.precision} and LiteRT computes in float32; leave the flag out.")
    frozen = convert_variables_to_constants_v2(module.serve.get_concrete_function())  # else it has no values
    try:
        data = tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert()
    except ConverterError as error:
        words = str(error).splitlines()[0]
        raise UserError(f"LiteRT cannot hold this model ({words}); export a saved_model.") from error

    def verify(path: Path) -> None:
        job.check(lambda images: run_litert(path.read_bytes(), images))

    job.write_file(with_metadata(data, "card", job.metadata()["card"]), verify)


def with_metadata(data: bytes, name: str, text: str) -> bytes:
    """A .tflite with a text as its metadata called `name`."""
    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    buffer, metadata = flatbuffer_utils.schema_fb.BufferT(), flatbuffer_utils.schema_fb.MetadataT()
    buffer.data, metadata.name, metadata.buffer = np.frombuffer(text.encode(), np.uint8), name, len(graph.buffers)
    graph.buffers.append(buffer)
    graph.metadata = [*(graph.metadata or []), metadata]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(graph))


def run_litert(data: bytes, images: np.ndarray) -> np.ndarray:
    """What the interpreter makes of images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the interpreter moves to a package of its own
        found = tf.lite.Interpreter(model_content=data)
    (given,), (made,) = found.get_input_details(), found.get_output_details()
    found.resize_tensor_input(given["index"], images.shape)
    found.allocate_tensors()
    found.set_tensor(given["index"], images)
    found.invoke()
    return found.get_tensor(made["index"])


WRITERS = {"saved_model": write_saved_model, "litert": write_litert}


def export_main(job: Export) -> None:
    """Write the graph of `job`, verified against the logits of the model that it was made of."""
    with FirstDevice() as devices:
        module = Exported(build_once(job, devices), job)
        job.expect(lambda images: module(tf.constant(images)).numpy())
        WRITERS[job.config.to](job, module)
