"""Image-text models: a training step, and the memory of the losses."""

import argparse
import dataclasses
import itertools
import os
from collections.abc import Callable

import numpy as np

from common.models import find_model
from common.recipes.task import Contrastive
from scripts.benchmarks.measure import (
    EXACT_MALLOC,
    Work,
    import_engine,
    in_fresh_process,
    measure,
    peak_growth_bytes,
    show,
)
from scripts.benchmarks.steps import RECIPE, stepping, stepping_of_peer


def image_text_section(args: argparse.Namespace) -> None:
    """A training step of SigLIP B/16 against open_clip and transformers, and the memory of the contrastive losses."""
    rows = {name: (peer_training, args, name) for name in PEER_MODELS}
    rows |= {engine: (our_training, args, engine) for engine in args.engines}
    what = f"SigLIP B/16, {args.pairs} pairs, 224 px, {args.precision}, AdamW"
    show(f"Training step, {what}", measure(rows, args.repeats), "ms", 1000 / args.steps)
    memory_of_losses(args)


def pairs(count: int) -> dict[str, np.ndarray]:
    """Random bytes with random tokens."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 224, 224, 3), np.uint8)
    return {"images": images, "tokens": rng.integers(2, 32_000, (count, 64), np.int32)}


def our_training(args: argparse.Namespace, engine: str) -> Work:
    """Training steps of one engine."""
    numbers = {"optimizer": "adam", "decay": "decoupled", "momentum": 0.9, "weight_decay": 1e-4, "lrs": (1e-4,)}
    recipe = dataclasses.replace(RECIPE, batch=args.pairs, task=Contrastive(), **numbers)
    return stepping(args, engine, find_model("SigLIP-B/16-224").config(), pairs(args.pairs), recipe)


def peer_training(args: argparse.Namespace, name: str) -> Work:
    """Training steps of a peer, with PyTorch's AdamW and, for bfloat16, its automatic mixed precision."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, loss_of = PEER_MODELS[name](device)
    batch = pairs(args.pairs)
    images = torch.from_numpy(batch["images"]).permute(0, 3, 1, 2).to(device).contiguous() / 127.5 - 1
    tokens = torch.from_numpy(batch["tokens"]).long().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    return stepping_of_peer(args, optimizer, lambda: loss_of(images, tokens))


def open_clip_model(device: str) -> tuple:
    """(model, its loss of images and tokens), without published values."""
    import open_clip

    model = open_clip.create_model("ViT-B-16-SigLIP", device=device).train()
    loss = open_clip.loss.SigLipLoss()
    return model, lambda images, tokens: loss(*model(images, tokens))


def transformers_model(device: str) -> tuple:
    """(model, its loss of images and tokens), without published values; the default sizes are those of B/16."""
    from transformers import SiglipConfig, SiglipModel

    model = SiglipModel(SiglipConfig()).to(device).train()
    return model, lambda images, tokens: model(input_ids=tokens, pixel_values=images, return_loss=True).loss


PEER_MODELS = {"open_clip": open_clip_model, "transformers": transformers_model}


def memory_of_losses(args: argparse.Namespace) -> None:
    """Memory of the contrastive losses and their gradients, at once and in chunks."""
    os.environ |= EXACT_MALLOC
    rows, width, chunk = 4096, 768, 128
    for loss, engine in itertools.product(("sigmoid", "softmax"), args.engines):
        ways = {"dense": 0, f"chunks of {chunk}": chunk}
        works = {f"{engine}, {way}": (memory_of_pairs, engine, loss, rows, width, size) for way, size in ways.items()}
        title = f"Memory of {loss} and its gradients, {rows} pairs of {width}, beside memory of the gradients' size"
        show(title, measure(works, 1), "MiB")


def memory_of_pairs(engine: str, loss: str, rows: int, width: int, chunk: int) -> Work:
    """MiB of a loss and its gradients in a fresh process."""
    return lambda: in_fresh_process(growth_of_pairs, engine, loss, rows, width, chunk) / 2**20


def growth_of_pairs(engine: str, loss: str, rows: int, width: int, chunk: int) -> float:
    """Bytes by which memory grows for a loss and its gradients, beyond what these take."""
    drawn = np.random.default_rng(0).normal(size=(2, rows, width)).astype(np.float32)
    embeddings = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    few = chunk or rows // 32 if engine == "bit_tf2" else rows  # TensorFlow keeps the memory of its tensors
    PAIRS[engine](loss, chunk, embeddings[:, :few])()
    return peak_growth_bytes(engine, PAIRS[engine](loss, chunk, embeddings)) - embeddings.nbytes


def pairs_in_pytorch(loss: str, chunk: int, embeddings: np.ndarray) -> Callable[[], None]:
    """What computes the loss of embeddings and its gradients."""
    import torch

    from bit_pytorch.devices import FirstDevice
    from bit_pytorch.similarity import SIMILARITIES

    devices = FirstDevice()
    given = [torch.as_tensor(value).to(devices.device).requires_grad_() for value in (*embeddings, *T_AND_B)]
    return lambda: SIMILARITIES[loss](*given, devices, chunk).backward()


def pairs_in_jax(loss: str, chunk: int, embeddings: np.ndarray) -> Callable[[], None]:
    """What computes the loss of embeddings and its gradients."""
    import jax

    from bit_jax.devices import FirstDevice
    from bit_jax.similarity import SIMILARITIES

    given = [jax.device_put(value) for value in (*embeddings, *T_AND_B)]
    slopes = jax.jit(jax.grad(lambda *given: SIMILARITIES[loss](*given, FirstDevice(), chunk), (0, 1, 2, 3)))
    compiled = slopes.lower(*given).compile()
    return lambda: jax.block_until_ready(compiled(*given))


def pairs_in_tensorflow(loss: str, chunk: int, embeddings: np.ndarray) -> Callable[[], None]:
    """What computes the loss of embeddings and its gradients."""
    import_engine("bit_tf2")
    import tensorflow as tf

    from bit_tf2.devices import FirstDevice
    from bit_tf2.similarity import SIMILARITIES

    @tf.function(autograph=False)
    def slopes(given: list[tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(given)
            found = SIMILARITIES[loss](*given, FirstDevice(), chunk)
        return tape.gradient(found, given, unconnected_gradients="zero")

    given = [tf.convert_to_tensor(value) for value in (*embeddings, *T_AND_B)]
    compiled = slopes.get_concrete_function(given)
    return lambda: compiled(given)


T_AND_B = np.log([10.0]).astype(np.float32), np.float32([-10])


PAIRS = {"bit_pytorch": pairs_in_pytorch, "bit_jax": pairs_in_jax, "bit_tf2": pairs_in_tensorflow}
