"""The public API, in the words of the other engines: models that load and save the published files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from bit_tf2 import weights as engine_weights
from bit_tf2.decoder import Decoder
from bit_tf2.devices import Devices, FirstDevice
from bit_tf2.keras_model import PRECISIONS, checked_policy, construct
from bit_tf2.model import Model
from bit_tf2.two_towers import TOWERS, TwoTowers
from bit_tf2.vqvae import VqVae
from common import weights as common_weights
from common import zoo
from common.models import DOWNLOADS, DecoderConfig, ModelConfig, TwoTowersConfig, VqVaeConfig
from common.models.cards import Preprocessing
from common.recipes.groups import Groups

list_models = zoo.list_models
MODELS = {**TOWERS, TwoTowersConfig: TwoTowers, DecoderConfig: Decoder, VqVaeConfig: VqVae}


def build(
    config: ModelConfig,
    arrays: common_weights.Arrays,
    *,
    precision: str = "float32",
    remat: bool = False,
    groups: Groups = (),
    devices: Devices | None = None,
    preprocessing: Preprocessing | None = None,
) -> Model:
    """A model of `config` that holds `arrays`, on `devices` or else on the first GPU or the CPU.

    Its parameters are float64 for the precision float64, else float32. With `remat`, the backward pass computes
    activations again instead of keeping them; `groups` say what is trained (common/recipes/groups.py).
    `preprocessing` says how the model wants its images.
    """
    policy = next(keras.DTypePolicy(name) for name, computing in PRECISIONS.items() if computing == precision)
    devices = devices or FirstDevice()
    with devices.scope():
        model = construct(MODELS[type(config)], config, policy, remat=remat)
    model.preprocessing = preprocessing or Preprocessing()
    model.devices, model.groups = devices, groups
    engine_weights.load(model, arrays)
    return model


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    image_size: zoo.Size | None = None,
    patch_size: int | None = None,
    weights: str | Path | None = None,
    tokens: int | None = None,
) -> Model:
    """A `keras.Model` for images [B, H, W, 3] scaled by `preprocessing`, under its published `name`.

    `weights` is a file or folder in any spelling (common/weights/spellings/), "pretrained" for the published one in
    `weights/`, or None for initial values (seed 0). `num_classes` defaults to the file's, or the published number;
    another number gets a head of zeros, 0 none. `image_size` is a square's side, or height and width, in pixels:
    positions of a ViT are resized for it, and its kernel for patches whose side is `patch_size`. A FlexiViT resizes them
    itself, also for `model(images, patch_size=(8, 8))`. With `tokens`, any ViT becomes a NaFlex, which sees images at their
    own aspect ratio as so many patches: `model(**preprocess(model, images))`. `model.features(images)` gives the pooled
    features [B, D], `model.intermediates(images)` the outputs of stages or blocks. A model that writes is called as
    `model(images, tokenize(model, texts))`, and one of maps by `encode(maps, images)` and `decode(codes, images)`. Raises
    common.system.errors.UserError.
    """
    start = zoo.start(name, num_classes, image_size, patch_size, weights, tokens)
    precision = PRECISIONS[checked_policy(keras.config.dtype_policy()).name]
    model = build(start.config, start.arrays, precision=precision, preprocessing=start.card.preprocessing)
    model.card = start.card
    return model


def load_weights(model: Model, path: str | Path) -> None:
    """Load a file's parameters, in any spelling and with as many classes, and the facts of its card.

    Raises UserError.
    """
    model = unwrapped(model)
    model.config = common_weights.fitted_config(model.config, engine_weights.shapes(model))
    start = common_weights.read_start(path, model.config)
    common_weights.check_shapes(start.arrays, model.config.parameter_shapes(), path)
    engine_weights.load(model, start.arrays)
    model.card = start.card.over(model.card.of_classes(start.config.num_classes))
    model.preprocessing = start.card.applied(model.preprocessing)


def save_weights(model: Model, path: str | Path) -> None:
    """Write parameters and card in the layout that the suffix names: .npz, .h5 or .safetensors. Raises UserError.

    The head may have been replaced by a dense layer for other classes, and the model be wrapped (`unwrapped`).
    """
    model = unwrapped(model)
    model.config = common_weights.fitted_config(model.config, engine_weights.shapes(model))
    common_weights.write_weights(path, engine_weights.dump(model), model.config, model.card)


def preprocess(model: Model | str, images: Any) -> Tensor | dict[str, Tensor]:
    """float32 [B, H, W, 3]: images as `predict` shows them to `model`, or to the published one of that name.

    Of a NaFlex, {"images": float32 [B, L * P, P, 3], "coordinates": int32 [B, L, 2], "patch_mask": bool [B, L]}, for
    `model(**inputs)`; its `preprocessing.tokens` says how many patches, None as many as there are positions.

    `images` is one or a list: paths of files or of folders of them, the bytes of files, images of Pillow, or uint8
    [H, W, 3] (common/zoo.py). Raises UserError for what is no image.
    """
    return zoo.each(zoo.preprocess(*known(model)[:2], images), tf.constant)


def tokenize(model: Model | str, texts: str | Sequence[str], folder: str | Path = DOWNLOADS) -> Tensor:
    """int32 [T, L]: one text or several as `model`, or the published one of that name, takes them; drawn ones float32 [T, H, W, 3].

    The card states everything that decides the numbers (common/models/tokens.py). Its vocabulary is shipped, or lies in
    `folder`. Raises UserError for a model of images alone, and for a missing vocabulary.
    """
    return tf.constant(zoo.tokenize(known(model), texts, folder))


def decode_predictions(model: Model | str, logits: Tensor | np.ndarray, top: int = 5) -> list[list[tuple[str, float]]]:
    """For each row of `logits` [B, K], the `top` likeliest classes of `model`: (name, probability), as `predict` shows.

    Raises UserError where there are other numbers of logits and of names.
    """
    return zoo.decode_predictions(known(model)[2], np.asarray(logits, np.float32), top)


def known(model: Model | str) -> zoo.Known:
    """The card of a model, or of the published one of that name. Raises UserError."""
    if isinstance(model, str):
        return zoo.published_facts(model)
    model = unwrapped(model)
    return model.config, model.preprocessing, model.card


def unwrapped(model: keras.Model) -> Model:
    """The one model of ours in a model that calls it, such as a functional or sequential one.

    Raises UserError where that has weights of its own, or no such model.
    """
    layers = list(model._flatten_layers()) if isinstance(model, keras.layers.Layer) else []
    found = next((layer for layer in layers if isinstance(layer, Model)), None)
    if found is None or {*map(id, model.weights)} != {*map(id, found.weights)}:
        common_weights.refuse_wrapper(type(model).__name__, found)
    return found
