"""The public API, in the words of the other engines: models that load and save the published files."""

from pathlib import Path

import keras
import tensorflow as tf

from bit_tf2 import weights as engine_weights
from bit_tf2.devices import Devices, FirstDevice
from bit_tf2.mixer import Mixer
from bit_tf2.model import PRECISIONS, Model, checked_policy, construct
from bit_tf2.resnet import ResNet
from bit_tf2.resnet_v1 import ResNetV1
from bit_tf2.vit import ViT
from common import weights as common_weights
from common.cards import Preprocessing
from common.models import MixerConfig, ModelConfig, ResNetConfig, ResNetV1Config, ViTConfig, find_model

MODELS = {ResNetConfig: ResNet, ResNetV1Config: ResNetV1, ViTConfig: ViT, MixerConfig: Mixer}


def build(
    config: ModelConfig,
    arrays: common_weights.Arrays,
    *,
    precision: str = "float32",
    remat: bool = False,
    train_only: str = "all",
    devices: Devices | None = None,
    preprocessing: Preprocessing | None = None,
) -> Model:
    """A model of `config` that holds `arrays`, on `devices` or else on the first GPU or the CPU.

    Its parameters are float64 for the precision float64, else float32; float32 means float32: TF32 is off. With
    `remat`, the backward pass computes activations again instead of keeping them; `train_only` says
    what is trained (common/models/): the rest is frozen. `preprocessing` says how the model wants its images.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    policy = next(keras.DTypePolicy(name) for name, computing in PRECISIONS.items() if computing == precision)
    devices = devices or FirstDevice()
    with devices.scope():
        model = construct(MODELS[type(config)], config, policy, remat=remat)
    model.preprocessing = preprocessing or Preprocessing()
    model.devices, model.train_only = devices, train_only
    engine_weights.load(model, arrays)
    return model


def create_model(name: str, *, num_classes: int | None = None, weights: str | Path | None = None) -> Model:
    """A `keras.Model` for images [B, H, W, 3] as its `preprocessing` says, called by its published `name`.

    `weights` is a file or folder in any spelling (common/formats/), "pretrained" for the published one in
    `weights/`, or None for initial values (seed 0). `num_classes` defaults to the file's, or the published number;
    another number gets a head of zeros.
    `model.features(images)` gives the pooled features [B, D]. Raises common.errors.UserError.
    """
    model = find_model(name)
    path = common_weights.choose_file(model, weights)
    start = common_weights.starting_values(model, path, num_classes, pretrained=weights == "pretrained")
    precision = PRECISIONS[checked_policy(keras.config.dtype_policy()).name]
    return build(start.config, start.arrays, precision=precision, preprocessing=start.card.preprocessing)


def load_weights(model: Model, path: str | Path) -> None:
    """Replace every parameter by the file's, in any spelling; its head must have as many classes. Raises UserError."""
    model = unwrapped(model)
    model.config = common_weights.fitted_config(model.config, engine_weights.shapes(model))
    arrays = common_weights.read_weights(path, model.config)
    common_weights.check_shapes(arrays, model.config.parameter_shapes(), path)
    engine_weights.load(model, arrays)


def save_weights(model: Model, path: str | Path) -> None:
    """Write the parameters in the layout that the suffix names: .npz, .h5 or .safetensors. Raises UserError.

    The head may have been replaced by a dense layer for other classes, and the model be wrapped (`unwrapped`).
    """
    model = unwrapped(model)
    model.config = common_weights.fitted_config(model.config, engine_weights.shapes(model))
    common_weights.write_weights(path, engine_weights.dump(model), model.config)


def unwrapped(model: keras.Model) -> Model:
    """The one model of ours in a model that calls it, such as a functional or sequential one.

    Raises UserError where that has weights of its own, or no such model.
    """
    layers = list(model._flatten_layers()) if isinstance(model, keras.layers.Layer) else []
    found = next((layer for layer in layers if isinstance(layer, Model)), None)
    if found is None or {*map(id, model.weights)} != {*map(id, found.weights)}:
        common_weights.refuse_wrapper(type(model).__name__, found)
    return found
