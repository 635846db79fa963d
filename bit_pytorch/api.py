"""The public API, in the words of the other engines: models that load and save the published files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bit_pytorch import optim
from bit_pytorch import weights as engine_weights
from bit_pytorch.decoder import Decoder
from bit_pytorch.devices import Devices, FirstDevice
from bit_pytorch.model import Model
from bit_pytorch.two_towers import TOWERS, TwoTowers
from bit_pytorch.vqvae import VqVae
from common import weights as common_weights
from common import zoo
from common.models import DOWNLOADS, DecoderConfig, ModelConfig, TwoTowersConfig, VqVaeConfig
from common.models.cards import Preprocessing
from common.recipes.groups import Groups, trained

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
    """A model of `config` that holds `arrays`, on `devices`, or else on the first GPU or the CPU.

    Its parameters are float64 for the precision float64, else float32. With `remat`, the backward pass computes
    activations again instead of keeping them; `groups` say what is trained (common/recipes/groups.py).
    `preprocessing` says how the model wants its images.
    """
    dtype = torch.float64 if precision == "float64" else torch.float32
    with torch.device("meta"):
        model = MODELS[type(config)](config, remat=remat)
    model.preprocessing, model.devices = preprocessing or Preprocessing(), devices or FirstDevice()
    for part in model.modules():
        if isinstance(part, Model):
            part.precision = precision
    model = model.to(dtype)
    names = trained(groups, config.parameter_shapes())
    for name, value in optim.parameters(model).items():
        value.requires_grad_(optim.canonical_name(name, value) in names)
    fixed = dict(model.named_buffers())
    model.devices.shard(model)
    # Not to_empty, which asks for each parameter's order in memory and imports sympy for that.
    plain = {"device": model.devices.device, "memory_format": torch.contiguous_format}
    model._apply(lambda value: torch.empty_like(value, **plain))
    for name, value in model.named_buffers():
        value.copy_(fixed[name])
    engine_weights.load(model, arrays)
    return model.devices.replicate(model) if names else model


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    image_size: zoo.Size | None = None,
    patch_size: int | None = None,
    weights: str | Path | None = None,
    tokens: int | None = None,
) -> Model:
    """A `torch.nn.Module` on the CPU for images [B, 3, H, W] as its `preprocessing` says, called by its published `name`.

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
    model = build(start.config, start.arrays, preprocessing=start.card.preprocessing).cpu()
    model.card = start.card
    return model


def load_weights(model: Model, path: str | Path) -> None:
    """Replace every parameter by the file's, in any spelling, and of the card what it tells; its head must have as many classes.

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
    """float32 [B, 3, H, W]: images as `predict` shows them to `model`, or to the published one of that name.

    Of a NaFlex, {"images": float32 [B, 3, L * P, P], "coordinates": int32 [B, L, 2], "patch_mask": bool [B, L]}, for
    `model(**inputs)`; its `preprocessing.tokens` says how many patches, None as many as there are positions.

    `images` is one or a list: paths of files or of folders of them, the bytes of files, images of Pillow, or uint8
    [H, W, 3] (common/zoo.py). Raises UserError for what is no image.
    """
    device = "cpu" if isinstance(model, str) else unwrapped(model).device

    def tensor(array: np.ndarray) -> Tensor:
        found = torch.from_numpy(array)
        return (found.permute(0, 3, 1, 2).contiguous() if found.ndim == 4 else found).to(device)

    return zoo.each(zoo.preprocess(*known(model)[:2], images), tensor)


def tokenize(model: Model | str, texts: str | Sequence[str], folder: str | Path = DOWNLOADS) -> Tensor:
    """int32 [T, L]: one text or several as `model`, or the published one of that name, takes them; drawn ones float32 [T, 3, H, W].

    The card states everything that decides the numbers (common/models/tokens.py). Its vocabulary is shipped, or lies in
    `folder`. Raises UserError for a model of images alone, and for a missing vocabulary.
    """
    found = torch.from_numpy(zoo.tokenize(known(model), texts, folder))
    found = found.permute(0, 3, 1, 2).contiguous() if found.ndim == 4 else found
    return found if isinstance(model, str) else found.to(unwrapped(model).device)


def decode_predictions(model: Model | str, logits: Tensor | np.ndarray, top: int = 5) -> list[list[tuple[str, float]]]:
    """For each row of `logits` [B, K], the `top` likeliest classes of `model`: (name, probability), as `predict` shows.

    Raises UserError where there are other numbers of logits and of names.
    """
    return zoo.decode_predictions(known(model)[2], torch.as_tensor(logits).detach().float().cpu().numpy(), top)


def known(model: Model | str) -> zoo.Known:
    """What is known of a model, or of the published one of that name. Raises UserError."""
    if isinstance(model, str):
        return zoo.published_facts(model)
    model = unwrapped(model)
    return model.config, model.preprocessing, model.card


def unwrapped(model: nn.Module) -> Model:
    """The one model of ours in a module that compiles, replicates, averages or calls it, as torch.compile and DDP do.

    Raises UserError where the module has parameters of its own, or no such model.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    found = next((module for module in modules if isinstance(module, Model)), None)
    if found is None or {*map(id, model.parameters())} != {*map(id, found.parameters())}:
        common_weights.refuse_wrapper(type(model).__name__, found)
    return found
