"""Training and evaluation in JAX: the mathematics of one step, and the loop around it."""

import functools
from collections.abc import Iterator

import jax
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax import api, optim, weights
from bit_jax.devices import Devices, to_device
from bit_jax.model import Model
from common.data.batches import NOISE
from common.evaluation.metrics import Keep, summarize
from common.recipes.recipe import Recipe
from common.runs.run import Run


def scale(images: Array, model: Model) -> Array:
    """uint8 [B, H, W, 3] to the numbers that `model.preprocessing` says."""
    divisor, shift = (jnp.array(row, model.dtype) for row in (model.preprocessing.divisor, model.preprocessing.shift))
    return images.astype(model.dtype) / divisor - shift


def swap_pairs(values: Array) -> Array:
    """Rows 2i and 2i + 1 change places: the partners of mixup."""
    return jnp.flip(values.reshape(-1, 2, *values.shape[1:]), 1).reshape(values.shape)


def cross_entropy(logits: Array, labels: Array, loss: str, label_smoothing: float = 0.0) -> Array:
    """[B] losses of logits [B, K]; labels are classes int [B], or how much each class is right, float [B, K].

    `softmax`: cross-entropy; `sigmoid`: the sum over the classes of the binary ones. Smoothing spreads a part of the labels
    over all classes, or in `sigmoid` towards a half (`losses/bce_loss.py` of coyo-vit).
    """
    if loss == "softmax" and labels.ndim == 1 and not label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, logits.shape[1])
    targets = targets.astype(logits.dtype)
    if loss == "softmax":
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))
    targets = (1 - label_smoothing) * targets + label_smoothing / 2
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(1)


def loss_fn(model: Model, batch: dict[str, Array], recipe: Recipe, dtype: jnp.dtype) -> Array:
    """Mean loss of a training batch; with a weight, of mixup (https://arxiv.org/abs/1710.09412)."""
    images, labels = scale(batch["images"], model), batch["labels"]
    noise = {name: batch[name] for name in NOISE if name in batch}
    options = recipe.loss, recipe.label_smoothing
    if "mixup_weight" not in batch:
        return cross_entropy(model(images.astype(dtype), **noise), labels, *options).mean()
    weight = batch["mixup_weight"].astype(model.dtype)
    images = weight * images + (1 - weight) * swap_pairs(images)
    logits = model(images.astype(dtype), **noise)
    partners = cross_entropy(logits, swap_pairs(labels), *options)
    return (weight * cross_entropy(logits, labels, *options) + (1 - weight) * partners).mean()


def train_step(
    model: Model, optimizer: optim.Optimizer, batch: dict[str, Array], recipe: Recipe, *, step: int, dtype: jnp.dtype
) -> Array:
    """The update that follows `step` completed ones, in place; returns the loss before it, still on the device."""
    params, frozen = optimizer.params, optimizer.frozen
    sums = zeros(params, model.devices) if recipe.batch_split > 1 else None
    # Not lax.scan: inside of loops XLA's CPU compiler leaves convolutions unoptimised, ten times slower.
    for part in range(recipe.batch_split):
        sums = add_gradients(sums, params, frozen, batch, part, graphdef=optimizer.graphdef, recipe=recipe, dtype=dtype)
    loss, gradients = sums
    optim.update(optimizer, recipe, recipe.update_numbers(step), gradients)
    return loss


@functools.partial(jax.jit, static_argnames="devices")
def zeros(params: optim.Params, devices: Devices) -> tuple[Array, optim.Params]:
    """A loss and gradients to which those of the micro-batches are added."""
    gradients = devices.scatter(jax.tree.map(jnp.zeros_like, params))
    return devices.gather(jnp.zeros((), jax.tree.leaves(gradients)[0].dtype)), gradients


@functools.partial(jax.jit, static_argnames=("graphdef", "recipe", "dtype"), donate_argnames="sums")
def add_gradients(
    sums: tuple[Array, optim.Params] | None, params: optim.Params, frozen: optim.Params, batch: dict[str, Array],
    part: Array, *, graphdef: nnx.GraphDef, recipe: Recipe, dtype: jnp.dtype,
) -> tuple[Array, optim.Params]:  # fmt: skip
    """Loss and gradients of one of `recipe.batch_split` parts of the batch; plus `sums`, in their own memory, if any."""
    devices = nnx.merge(graphdef, nnx.from_flat_state(params | frozen)).devices
    micro_batch = {
        name: devices.cut(value, recipe.batch_split, part) if value.ndim else value for name, value in batch.items()
    }

    def part_loss(params: optim.Params) -> Array:
        model = nnx.merge(graphdef, nnx.from_flat_state(devices.gather(params | frozen)))
        return loss_fn(model, micro_batch, recipe, dtype) / recipe.batch_split

    loss, gradients = jax.value_and_grad(part_loss)(params)
    found = devices.gather(loss), devices.scatter(gradients)
    return jax.tree.map(jnp.add, sums, found) if sums else found


@functools.partial(jax.jit, static_argnames="loss")
def score(logits: Array, batch: dict[str, Array], loss: str) -> Array:
    """[B, 6]: right among 1, right among 5, loss and count of each example, 0 where masked; likeliest class; its probability.

    With labels [B, K] an image is right where the prediction is one of its labels, and one without labels is left out.
    """
    labels, mask = batch["labels"], batch["mask"]
    losses = cross_entropy(logits, labels, loss)
    if labels.ndim == 2:
        mask = mask & (labels > 0).any(1)
        labels = jnp.where(labels > 0, logits, -jnp.inf).argmax(1)  # the likeliest of an image's own
    own = jnp.take_along_axis(logits, labels[:, None], 1)
    classes = jnp.arange(logits.shape[1])
    # How many classes rank before the right one: all but itself, lower ones, and later equals. NaN is not lower.
    behind = (logits < own) | ((logits == own) & (classes >= labels[:, None]))
    rank = logits.shape[1] - behind.sum(1)
    probabilities = jax.nn.softmax(logits) if loss == "softmax" else jax.nn.sigmoid(logits)
    right = (rank < 1) & mask, (rank < 5) & mask
    rows = *right, jnp.where(mask, losses, 0), mask, logits.argmax(1), probabilities.max(1)
    return jnp.stack([row.astype(jnp.promote_types(logits.dtype, jnp.float32)) for row in rows], 1)


@functools.partial(nnx.jit, static_argnames=("loss", "dtype"))
def eval_step(model: Model, batch: dict[str, Array], *, loss: str = "softmax", dtype: jnp.dtype) -> Array:
    """The `score` of a batch."""
    logits = model(scale(batch["images"], model).astype(dtype))
    return model.devices.gather(score(logits, batch, loss))


def evaluate(
    model: Model, batches: Iterator[dict], *, loss: str = "softmax", dtype: jnp.dtype, keep: Keep | None = None
) -> dict[str, float]:
    """{top1, top5: fractions, loss: the mean} over every unmasked example of batches {images uint8, labels, mask}.

    `keep` is told the likeliest class of each, int32 [N], and its probability, float32 [N], padding included.
    """
    scores = [eval_step(model, batch, loss=loss, dtype=dtype) for batch in to_device(batches, model.devices)]
    return summarize(np.concatenate(jax.device_get(scores)), keep)


def main(run: Run) -> None:
    """Train as the command says; everything but the mathematics happens in common/runs/run.py."""
    with Devices(run.config.shard_parameters) as devices, run.on(devices):
        recipe, dtype = run.recipe, getattr(jnp, run.config.precision)
        options = {"precision": run.config.precision, "remat": run.config.remat, "train_only": recipe.train_only}
        model = api.build(run.model_config, run.initial, **options, devices=devices, preprocessing=run.preprocessing)
        optimizer = optim.create_optimizer(model, recipe)
        if run.restored:
            weights.load_optimizer(model, optimizer, run.restored)
        losses = run.losses
        for step, batch in enumerate(to_device(run.train_batches(), devices), start=run.step + 1):
            losses.append(train_step(model, optimizer, batch, recipe, step=step - 1, dtype=dtype))
            run.show_step(step, losses[-1])
            if run.wants_log(step):
                run.log_training(step, [float(loss) for loss in losses])
                losses = []
            for split in run.splits_due(step):
                optim.swap_average(optimizer)
                result = evaluate(model, run.eval_batches(split), loss=recipe.loss, dtype=dtype)
                if run.log_evaluation(step, split, result):
                    run.write_best(weights.dump(model))
                optim.swap_average(optimizer)
            if run.wants_checkpoint(step):
                state = weights.dump(model), weights.dump_optimizer(model, optimizer)
                run.save(step, *state, [float(loss) for loss in losses])
        optim.swap_average(optimizer)
        if run.best is not None:
            weights.load(model, run.read_best())
        for split in run.final_splits:
            batches, keep = run.eval_batches(split), run.keeper(split)
            result = evaluate(model, batches, loss=recipe.loss, dtype=dtype, keep=keep)
            run.log_evaluation(recipe.num_steps, split, result)
        run.finish(weights.dump(model))
