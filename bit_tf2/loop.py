"""Training and evaluation in TensorFlow: the mathematics of one step, and the loop around it."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from bit_tf2 import api, optim, weights
from bit_tf2.devices import Devices, to_device
from bit_tf2.model import Model
from common.data.batches import NOISE
from common.evaluation.metrics import Keep, summarize
from common.recipes.recipe import Recipe, UpdateNumbers
from common.runs.run import Run


def scale(images: Tensor, model: Model) -> Tensor:
    """uint8 [B, H, W, 3] to the numbers that `model.preprocessing` says."""
    divisor, shift = (tf.constant(row, model.dtype) for row in (model.preprocessing.divisor, model.preprocessing.shift))
    return tf.cast(images, model.dtype) / divisor - shift


def swap_pairs(values: Tensor) -> Tensor:
    """Rows 2i and 2i + 1 change places: the partners of mixup."""
    return tf.reshape(tf.reverse(tf.reshape(values, (-1, 2, *values.shape[1:])), (1,)), values.shape)


def cross_entropy(logits: Tensor, labels: Tensor, loss: str, label_smoothing: float = 0.0) -> Tensor:
    """[B] losses of logits [B, K]; labels are classes int [B], or how much each class is right, float [B, K].

    `softmax`: cross-entropy; `sigmoid`: the sum over the classes of the binary ones. Smoothing spreads a part of the labels
    over all classes, or in `sigmoid` towards a half (`losses/bce_loss.py` of coyo-vit).
    """
    if loss == "softmax" and labels.shape.rank == 1 and not label_smoothing:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    targets = labels if labels.shape.rank == 2 else tf.one_hot(labels, logits.shape[1])
    targets = tf.cast(targets, logits.dtype)
    if loss == "softmax":
        targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[1]
        return -tf.reduce_sum(targets * tf.nn.log_softmax(logits), 1)
    targets = (1 - label_smoothing) * targets + label_smoothing / 2
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), 1)


def loss_fn(model: Model, batch: dict[str, Tensor], recipe: Recipe, dtype: tf.DType) -> Tensor:
    """Mean loss of a training batch; with a weight, of mixup (https://arxiv.org/abs/1710.09412)."""
    images, labels = scale(batch["images"], model), batch["labels"]
    noise = {name: batch[name] for name in NOISE if name in batch}
    options = recipe.loss, recipe.label_smoothing
    if "mixup_weight" not in batch:
        return tf.reduce_mean(cross_entropy(model(tf.cast(images, dtype), **noise), labels, *options))
    weight = tf.cast(batch["mixup_weight"], model.dtype)
    images = weight * images + (1 - weight) * swap_pairs(images)
    logits = model(tf.cast(images, dtype), **noise)
    partners = cross_entropy(logits, swap_pairs(labels), *options)
    return tf.reduce_mean(weight * cross_entropy(logits, labels, *options) + (1 - weight) * partners)


def train_step(
    model: Model, optimizer: optim.Optimizer, batch: dict[str, Tensor], recipe: Recipe, *, step: int, dtype: tf.DType
) -> Tensor:
    """The update that follows `step` completed ones, in place; returns the loss before it, still on the device."""
    # A tensor: for every new Python number, the step would be compiled again.
    numbers = tf.constant(recipe.update_numbers(step), model.dtype)
    return compiled_step(model, optimizer, batch, recipe, numbers, dtype=dtype)


@tf.function(autograph=False)
def compiled_step(
    model: Model, optimizer: optim.Optimizer, batch: dict[str, Tensor], recipe: Recipe, numbers: Tensor, *,
    dtype: tf.DType,
) -> Tensor:  # fmt: skip
    """`train_step` as one graph, made at the first call with a model and its optimizer."""
    variables = list(optimizer.parameters.values())

    def loss_and_gradients(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        chunks = {
            name: tf.reshape(value, (recipe.batch_split, -1, *value.shape[1:]))
            for name, value in batch.items()
            if value.shape.rank
        }

        def part_gradients(part: Tensor | int) -> tuple[Tensor, ...]:
            with tf.GradientTape() as tape:
                micro_batch = batch | {name: value[part] for name, value in chunks.items()}
                loss = loss_fn(model, micro_batch, recipe, dtype) / recipe.batch_split
            return loss, *tape.gradient(loss, variables)

        def add_gradients(part: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
            return part + 1, *(total + value for total, value in zip(sums, part_gradients(part)))

        if recipe.batch_split == 1:
            return part_gradients(0)
        # One after the other: only one micro-batch's activations live.
        start = (tf.constant(0), tf.zeros((), model.dtype), *(tf.zeros_like(value) for value in variables))
        is_left = lambda part, *_: part < recipe.batch_split
        return tf.while_loop(is_left, add_gradients, start, parallel_iterations=1)[1:]

    def update(optimizer: optim.Optimizer, gradients: dict[optim.Path, Tensor]) -> None:
        optim.update(optimizer, recipe, UpdateNumbers(*tf.unstack(numbers)), gradients)

    loss, *gradients = model.devices.mean(loss_and_gradients, batch)
    model.devices.on_each(update, optimizer, dict(zip(optimizer.parameters, gradients)))
    return model.devices.local(loss)


def score(logits: Tensor, batch: dict[str, Tensor], loss: str) -> Tensor:
    """[B, 6]: right among 1, right among 5, loss and count of each example, 0 where masked; likeliest class; its probability.

    With labels [B, K] an image is right where the prediction is one of its labels, and one without labels is left out.
    """
    labels, mask = batch["labels"], batch["mask"]
    losses = cross_entropy(logits, labels, loss)
    if labels.shape.rank == 2:
        mask = mask & tf.reduce_any(labels > 0, 1)
        own = tf.where(labels > 0, logits, float("-inf"))
        labels = tf.argmax(own, 1, tf.int32)  # the likeliest of an image's own
    own = tf.gather(logits, labels[:, None], batch_dims=1)
    classes = tf.range(logits.shape[1])
    # How many classes rank before the right one: all but itself, lower ones, and later equals. NaN is not lower.
    behind = (logits < own) | ((logits == own) & (classes >= labels[:, None]))
    rank = logits.shape[1] - tf.reduce_sum(tf.cast(behind, tf.int32), 1)
    probabilities = tf.nn.softmax(logits) if loss == "softmax" else tf.sigmoid(logits)
    right = (rank < 1) & mask, (rank < 5) & mask
    rows = *right, tf.where(mask, losses, 0), mask, tf.argmax(logits, 1), tf.reduce_max(probabilities, 1)
    return tf.stack([tf.cast(row, tf.float64) for row in rows], 1)


@tf.function(autograph=False)
def eval_step(model: Model, batch: dict[str, Tensor], *, loss: str = "softmax", dtype: tf.DType) -> Tensor:
    """The `score` of a batch."""

    def scores(batch: dict[str, Tensor]) -> Tensor:
        logits = model(tf.cast(scale(batch["images"], model), dtype))
        return score(logits, batch, loss)

    return model.devices.gather(scores, batch)


def evaluate(
    model: Model, batches: Iterator[dict], *, loss: str = "softmax", dtype: tf.DType, keep: Keep | None = None
) -> dict[str, float]:
    """{top1, top5: fractions, loss: the mean} over every unmasked example of batches {images uint8, labels, mask}.

    `keep` is told the likeliest class of each, int32 [N], and its probability, float32 [N], padding included.
    """
    scores = [eval_step(model, batch, loss=loss, dtype=dtype) for batch in to_device(batches, model.devices)]
    return summarize(np.concatenate([score.numpy() for score in scores]), keep)


def main(run: Run) -> None:
    """Train as the command says; everything but the mathematics happens in common/runs/run.py."""
    with Devices(run.config.shard_parameters) as devices, run.on(devices):
        recipe, dtype = run.recipe, getattr(tf, run.config.precision)
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
