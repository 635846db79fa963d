"""Training and evaluation in TensorFlow: the mathematics of one step, and the loop around it."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from bit_tf2 import api, optim, weights
from bit_tf2.devices import Devices, to_device
from bit_tf2.losses import LOSSES, cross_entropy, scale
from bit_tf2.model import Model
from common.evaluation.metrics import Keep, summarize
from common.recipes.recipe import Recipe, UpdateNumbers
from common.recipes.task import Loss
from common.runs.run import Run


def gradients(
    models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe
) -> tuple[dict[str, Tensor], dict[optim.Path, Tensor]]:
    """({"loss": mean over the batch, ...}, {path of a trained parameter: gradient}), over `recipe.batch_split` parts."""
    devices, trained = models["model"].devices, optim.trained(models["model"])
    variables, dtype = list(trained.values()), models["model"].dtype

    def found(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        chunks = {
            name: tf.reshape(value, (recipe.batch_split, -1, *value.shape[1:]))
            for name, value in batch.items()
            if value.shape.rank
        }

        def of_part(part: Tensor | int) -> tuple[Tensor, ...]:
            with tf.GradientTape() as tape:
                micro_batch = batch | {name: value[part] for name, value in chunks.items()}
                loss, further = LOSSES[recipe.task.name](models, micro_batch, recipe)
                measured = {name: value / recipe.batch_split for name, value in ({"loss": loss} | further).items()}
            return *(measured[name] for name in recipe.measures), *tape.gradient(measured["loss"], variables)

        def add(part: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
            return part + 1, *(total + value for total, value in zip(sums, of_part(part)))

        if recipe.batch_split == 1:
            return of_part(0)
        # One after the other: only one micro-batch's activations live.
        nothing = [tf.zeros((), dtype) for _ in recipe.measures], [tf.zeros_like(value) for value in variables]
        start = tf.constant(0), *nothing[0], *nothing[1]
        is_left = lambda part, *_: part < recipe.batch_split
        return tf.while_loop(is_left, add, start, parallel_iterations=1)[1:]

    results = list(devices.mean(found, batch))
    measured = {name: devices.local(results.pop(0)) for name in recipe.measures}
    return measured, dict(zip(trained, results, strict=True))


def train_step(
    models: dict[str, Model], optimizer: optim.Optimizer, batch: dict[str, Tensor], recipe: Recipe, *, step: int
) -> dict[str, Tensor]:
    """The update that follows `step` completed ones, in place; returns what `gradients` measured, still on the device."""
    # A tensor: for every new Python number, the step would be compiled again.
    numbers = tf.constant(recipe.update_numbers(step), models["model"].dtype)
    return compiled_step(models, optimizer, batch, recipe, numbers)


@tf.function(autograph=False)
def compiled_step(
    models: dict[str, Model], optimizer: optim.Optimizer, batch: dict[str, Tensor], recipe: Recipe, numbers: Tensor
) -> dict[str, Tensor]:
    """`train_step` as one graph, made at the first call with some models and an optimizer."""
    measured, slopes = gradients(models, batch, recipe)
    optim.update(optimizer, recipe, UpdateNumbers(*tf.unstack(numbers)), slopes)
    return measured


def score(logits: Tensor, batch: dict[str, Tensor], loss: Loss) -> Tensor:
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
def eval_step(model: Model, batch: dict[str, Tensor], *, loss: Loss = "softmax") -> Tensor:
    """The `score` of a batch."""

    def scores(batch: dict[str, Tensor]) -> Tensor:
        logits = model(tf.cast(scale(batch["images"], model), model.compute_dtype))
        return score(logits, batch, loss)

    return model.devices.gather(scores, batch)


def evaluate(
    model: Model, batches: Iterator[dict], *, loss: Loss = "softmax", keep: Keep | None = None
) -> dict[str, float]:
    """{top1, top5: fractions, loss: the mean} over every unmasked example of batches {images uint8, labels, mask}.

    `keep` is told the likeliest class of each, int32 [N], and its probability, float32 [N], padding included.
    """
    scores = [eval_step(model, batch, loss=loss) for batch in to_device(batches, model.devices)]
    return summarize(np.concatenate([score.numpy() for score in scores]), keep)


def main(run: Run) -> None:
    """Train as the command says; everything but the mathematics happens in common/runs/run.py."""
    with Devices(run.config.shard_parameters) as devices, run.on(devices):
        recipe = run.recipe
        options = {"precision": run.config.precision, "remat": run.config.remat, "groups": recipe.groups}
        model = api.build(run.model_config, run.initial, **options, devices=devices, preprocessing=run.preprocessing)
        optimizer = optim.create_optimizer(model, recipe)
        if run.restored:
            weights.load_optimizer(model, optimizer, run.restored)
        losses = run.losses
        for step, batch in enumerate(to_device(run.train_batches(), devices), start=run.step + 1):
            losses.append(train_step({"model": model}, optimizer, batch, recipe, step=step - 1)["loss"])
            run.show_step(step, losses[-1])
            if run.wants_log(step):
                run.log_training(step, [float(loss) for loss in losses])
                losses = []
            for split in run.splits_due(step):
                optim.swap_average(optimizer)
                result = evaluate(model, run.eval_batches(split), loss=recipe.task.loss)
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
            result = evaluate(model, batches, loss=recipe.task.loss, keep=keep)
            run.log_evaluation(recipe.num_steps, split, result)
        run.finish(weights.dump(model))
