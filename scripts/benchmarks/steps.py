"""Steps of training and inference of the engines, against timm; what they cost in memory."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from common.data.batches import Static
from common.models import ModelConfig, ViTConfig, find_model
from common.models.initial import initial_parameters
from common.recipes.groups import FROZEN
from common.recipes.recipe import Recipe
from scripts.benchmarks.measure import (
    Work,
    import_engine,
    measure,
    show,
)

PEERS = {  # our model -> timm's, and the resolution at which they are compared
    "BiT-S-R50x1": ("resnetv2_50x1_bit", 128),
    "BiT-S-R101x1": ("resnetv2_101x1_bit", 128),
    "ViT-Ti/16": ("vit_tiny_patch16_224", 224),
    "ViT-S/16": ("vit_small_patch16_224", 224),
    "ViT-B/16": ("vit_base_patch16_224", 224),
    "DINOv2-S/14": ("vit_small_patch14_dinov2", 224),
    "FlexiViT-S": ("flexivit_small", 240),  # whose kernel has the size of its patches: ours is resized in every step
    "Mixer-S/32": ("mixer_s32_224", 224),
    "Mixer-B/16": ("mixer_b16_224", 224),
}


CLASSES = 10


RECIPE = Recipe(  # the BiT-HyperRule's pixels for small images, at any batch
    name="benchmark", batch=128, batch_split=1, batch_eval=128, lrs=(0.0,), resize=160, crop=128, crop_min_area=1.0,
    mixup=0.0, momentum=0.9, weight_decay=0.0,
)  # fmt: skip


def training_batch(args: argparse.Namespace, batch: int) -> dict[str, np.ndarray]:
    """Random bytes with labels; of a FlexiViT, with the size of a step's patches."""
    images = np.random.default_rng(0).integers(0, 256, (batch, args.resolution, args.resolution, 3), np.uint8)
    found = {"images": images, "labels": np.arange(batch, dtype=np.int32) % CLASSES}
    config = model_config(args)
    flexible = isinstance(config, ViTConfig) and config.kernel_size
    return found | ({"patch_size": Static(config.patch_size)} if flexible else {})


def model_config(args: argparse.Namespace) -> ModelConfig:
    """Our model for a few classes, and for the resolution where its parameters depend on it."""
    config = find_model(args.model).config(CLASSES)
    fixed = bool(config.image_size)
    return dataclasses.replace(config, image_size=(args.resolution, args.resolution)) if fixed else config


def engine_training(args: argparse.Namespace, engine: str, batch: int, batch_split: int = 1, **numbers) -> Work:
    """Training steps of one engine, each read back, perhaps with other `numbers` of the recipe."""
    recipe = dataclasses.replace(RECIPE, batch_split=batch_split, lrs=(1e-4,), weight_decay=1e-4, **numbers)
    return stepping(args, engine, model_config(args), training_batch(args, batch), recipe)


def stepping(
    args: argparse.Namespace, engine: str, config: ModelConfig, batch: dict, recipe: Recipe,
    frozen: dict[str, ModelConfig] | None = None,
) -> Work:  # fmt: skip
    """Training steps of one engine on one batch, perhaps with teachers."""
    api, _, loop, optim = import_engine(engine)
    models = {"model": api.build(config, initial_parameters(0, config), precision=args.precision, groups=recipe.groups)}
    for name, kept in (frozen or {}).items():
        models[name] = api.build(kept, initial_parameters(1, kept), precision=args.precision, groups=FROZEN)
    optimizer = optim.create_optimizer(models["model"], recipe)
    on_device = next(iter(loop.to_device(iter([batch]), models["model"].devices)))

    def work() -> None:
        for _ in range(args.steps):
            loss = loop.train_step(models, optimizer, on_device, recipe, step=0)["loss"]
        float(loss)
        str(next(iter(optimizer.parameters.values())))  # waits for the update: the loss of SAM comes half a step before

    return work


def engine_inference(args: argparse.Namespace, engine: str) -> Work:
    """Logits of one engine."""
    return inferring(args, engine, model_config(args), training_batch(args, args.batch))


def inferring(args: argparse.Namespace, engine: str, config: ModelConfig, batch: dict) -> Work:
    """Logits of one engine for one batch, as `predict` computes them."""
    api, inference, _, _ = import_engine(engine)
    model = api.build(config, initial_parameters(0, config), precision=args.precision)
    inference.standardize_once(model)
    batch = batch | {"mask": np.ones(args.batch, bool)}

    def work() -> None:
        for _ in inference.predict(model, iter([batch] * args.steps)):
            pass

    return work


def timm_model(args: argparse.Namespace, memory_format: str, compiled: bool):
    """(model, images on the device) of timm, in the layout of memory that is named, with the GELU of our model."""
    import timm
    import torch
    from timm.layers import get_act_layer

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = getattr(torch, memory_format)
    gelu = {None: None, "tanh": "gelu_tanh", "erf": "gelu"}[gelu_of(args)]
    options = {"act_layer": get_act_layer(gelu), "img_size": args.resolution} if gelu else {}
    model = timm.create_model(PEERS[args.model][0], num_classes=CLASSES, **options).to(device, memory_format=layout)
    images = torch.from_numpy(training_batch(args, args.batch)["images"]).permute(0, 3, 1, 2).to(device)
    images = (images / 127.5 - 1).contiguous(memory_format=layout)
    return (torch.compile(model) if compiled else model), images


def gelu_of(args: argparse.Namespace) -> str | None:
    """The kind of GELU of the model, `tanh` in Google's weights; None for ResNets."""
    return getattr(model_config(args), "gelu", None)


def timm_training(args: argparse.Namespace, memory_format: str, compiled: bool = False) -> Work:
    """Training steps of the peer, with PyTorch's SGD and, for bfloat16, its automatic mixed precision."""
    import torch

    model, images = timm_model(args, memory_format, compiled)
    labels = torch.arange(args.batch, device=images.device) % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    return stepping_of_peer(args, optimizer, lambda: torch.nn.functional.cross_entropy(model(images), labels))


def stepping_of_peer(args: argparse.Namespace, optimizer: Any, loss_of_batch: Callable[[], Any]) -> Work:
    """Training steps of a peer in PyTorch on one batch; for bfloat16, with automatic mixed precision."""
    import torch

    device = optimizer.param_groups[0]["params"][0].device.type

    def work() -> None:
        for _ in range(args.steps):
            with torch.autocast(device, torch.bfloat16, enabled=args.precision == "bfloat16"):
                loss = loss_of_batch()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        float(loss.detach())

    return work


def timm_inference(args: argparse.Namespace, memory_format: str, compiled: bool = False) -> Work:
    """Logits of the peer."""
    import torch

    model, images = timm_model(args, memory_format, compiled)
    model.eval()

    def work() -> None:
        with (
            torch.inference_mode(),
            torch.autocast(images.device.type, torch.bfloat16, enabled=args.precision == "bfloat16"),
        ):
            for _ in range(args.steps):
                model(images).cpu()

    return work


def train_section(args: argparse.Namespace) -> None:
    """A training step of the three engines against timm."""
    rows = {f"timm {layout}": (timm_training, args, layout) for layout in ("contiguous_format", "channels_last")}
    rows |= {"timm channels_last, compiled": (timm_training, args, "channels_last", True)} if args.compile else {}
    rows |= {engine: (engine_training, args, engine, args.batch) for engine in args.engines}
    show(f"Training step, {describe(args)}", measure(rows, args.repeats), "ms", 1000 / args.steps)


def inference_section(args: argparse.Namespace) -> None:
    """Inference of the three engines against timm."""
    rows = {f"timm {layout}": (timm_inference, args, layout) for layout in ("contiguous_format", "channels_last")}
    rows |= {"timm channels_last, compiled": (timm_inference, args, "channels_last", True)} if args.compile else {}
    rows |= {engine: (engine_inference, args, engine) for engine in args.engines}
    show(f"Inference, {describe(args)}", measure(rows, args.repeats), "ms", 1000 / args.steps)


def describe(args: argparse.Namespace) -> str:
    gelu = f", GELU {gelu_of(args)} in all" if gelu_of(args) else ""
    return f"{args.model}, batch {args.batch}, {args.resolution} px, {args.precision}{gelu}"
