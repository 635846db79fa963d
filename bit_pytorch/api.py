"""The public API, in the words of the other engines: models that load and save the published files."""

from pathlib import Path

import torch
from torch import nn

from bit_pytorch import weights as engine_weights
from bit_pytorch.devices import Devices, FirstDevice
from bit_pytorch.mixer import Mixer
from bit_pytorch.model import Model
from bit_pytorch.resnet import ResNet
from bit_pytorch.resnet_v1 import ResNetV1
from bit_pytorch.vit import ViT
from common import weights as common_weights
from common.cards import Preprocessing
from common.models import (
    MixerConfig,
    ModelConfig,
    ResNetConfig,
    ResNetV1Config,
    ViTConfig,
    find_model,
    trained_parameters,
)

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
    """A model of `config` that holds `arrays`, on `devices`, or else on the first GPU or the CPU.

    Its parameters are float64 for the precision float64, else float32; float32 means float32: TF32 is off. With
    `remat`, the backward pass computes activations again instead of keeping them; `train_only` says
    what is trained (common/models/): the rest is frozen. `preprocessing` says how the model wants its images.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    dtype = torch.float64 if precision == "float64" else torch.float32
    with torch.device("meta"):
        model = MODELS[type(config)](config, remat=remat)
    model.preprocessing, model.devices = preprocessing or Preprocessing(), devices or FirstDevice()
    model = model.to(dtype)
    trained = trained_parameters(config, train_only)
    for name, value in model.named_parameters():
        value.requires_grad_(engine_weights.canonical_name(name, value) in trained)
    model.devices.shard(model)
    model.to_empty(device=model.devices.device)
    engine_weights.load(model, arrays)
    return model.devices.replicate(model)


def create_model(name: str, *, num_classes: int | None = None, weights: str | Path | None = None) -> Model:
    """A `torch.nn.Module` on the CPU for images [B, 3, H, W] as its `preprocessing` says, called by its published `name`.

    `weights` is a file or folder in any spelling (common/formats/), "pretrained" for the published one in
    `weights/`, or None for initial values (seed 0). `num_classes` defaults to the file's, or the published number;
    another number gets a head of zeros.
    `model.features(images)` gives the pooled features [B, D]. Raises common.errors.UserError.
    """
    model = find_model(name)
    path = common_weights.choose_file(model, weights)
    start = common_weights.starting_values(model, path, num_classes, pretrained=weights == "pretrained")
    return build(start.config, start.arrays, preprocessing=start.card.preprocessing).cpu()


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


def unwrapped(model: nn.Module) -> Model:
    """The one model of ours in a module that compiles, replicates, averages or calls it, as torch.compile and DDP do.

    Raises UserError where the module has parameters of its own, or no such model.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    found = next((module for module in modules if isinstance(module, Model)), None)
    if found is None or {*map(id, model.parameters())} != {*map(id, found.parameters())}:
        common_weights.refuse_wrapper(type(model).__name__, found)
    return found
