"""Training and evaluation in TensorFlow: the mathematics of one step, and the loop around it."""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from bit_tf2 import api, optim, weights
from bit_tf2.devices import Devices, to_device
from bit_tf2.losses import LOSSES
from bit_tf2.model import Model
from bit_tf2.outputs import OUTPUTS
from common.evaluation.evaluator import Evaluator
from common.recipes.recipe import Recipe, UpdateNumbers
from common.recipes.task import Task
from common.runs.run import Run

Found = tuple[dict[str, Tensor], dict[optim.Path, Tensor]]  # {"loss": ..., ...} and gradients


def gradients(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Found:
    """({"loss": mean over the batch, ...}, {path of a trained parameter: gradient}), over `recipe.num_parts` parts."""
    devices, trained = models["model"].devices, optim.trained(models["model"])
    variables, dtype = list(trained.values()), models["model"].dtype
    shapes = models["model"].config.measured(recipe.measures)

    def found(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        chunks = {
            name: tf.reshape(value, (recipe.num_parts, -1, *value.shape[1:]))
            for name, value in batch.items()
            if not isinstance(value, tuple) and value.shape.rank
        }

        def of_part(part: Tensor | int) -> tuple[Tensor, ...]:
            with tf.GradientTape() as tape:
                micro_batch = batch | {name: value[part] for name, value in chunks.items()}
                loss, further = LOSSES[recipe.task.name](models, micro_batch, recipe)
                measured = {name: value / recipe.num_parts for name, value in ({"loss": loss} | further).items()}
            return *(measured[name] for name in shapes), *map(dense, tape.gradient(measured["loss"], variables))

        def add(part: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
            return part + 1, *(total + value for total, value in zip(sums, of_part(part)))

        if recipe.num_parts == 1:
            return of_part(0)
        # One after the other: only one micro-batch's activations live.
        nothing = [tf.zeros(shape, dtype) for shape in shapes.values()], [tf.zeros_like(value) for value in variables]
        start = tf.constant(0), *nothing[0], *nothing[1]
        is_left = lambda part, *_: part < recipe.num_parts
        return tf.while_loop(is_left, add, start, parallel_iterations=1)[1:]

    results = list(devices.mean(found, batch))
    measured = {name: devices.local(results.pop(0)) for name in shapes}
    return measured, dict(zip(trained, results, strict=True))


def dense(gradient: Tensor | tf.IndexedSlices) -> Tensor:
    """The gradient of a table of which some rows are looked up is given as these rows."""
    return tf.convert_to_tensor(gradient)


def sharp_gradients(
    models: dict[str, Model], optimizer: optim.Optimizer, batch: dict[str, Tensor], recipe: Recipe, numbers: Tensor
) -> Found:
    """`gradients` of SAM or GSAM: for each `recipe.sam_group` images those where they lead uphill; the mean of all groups.

    What is measured is of the parameters themselves, which have their bits again in the end.
    """
    total = None
    for number in range(recipe.num_ascents):
        total = add_sharp(total, models, optimizer, batch, tf.constant(number), recipe, numbers)
    return total


@tf.function(autograph=False)
def add_sharp(
    total: Found | None, models: dict[str, Model], optimizer: optim.Optimizer, batch: dict[str, Tensor], number: Tensor,
    recipe: Recipe, numbers: Tensor,
) -> Found:  # fmt: skip
    """`total`, if any, plus one group's share of the mean, as one graph."""
    devices, count = models["model"].devices, recipe.num_ascents

    def cut(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        arrays = {name: value for name, value in batch.items() if not isinstance(value, tuple)}
        groups = {name: tf.reshape(v, (count, -1, *v.shape[1:])) for name, v in arrays.items() if v.shape.rank}
        return batch | {name: values[number] for name, values in groups.items()}

    def add(clean: dict[optim.Path, Tensor], sharp: dict[optim.Path, Tensor], sums: dict[optim.Path, Tensor]) -> dict:
        slopes = optim.sharpness_aware(clean, sharp, recipe)
        return {path: sums.get(path, 0) + value / count for path, value in slopes.items()} if count > 1 else slopes

    group = devices.each(cut, batch) if count > 1 else batch
    measured, clean = gradients(models, group, recipe.ascent)
    with optim.ascended(optimizer, clean, unpacked(recipe, numbers)):
        _, sharp = gradients(models, group, recipe.ascent)
    before, slopes = total or ({}, {})
    measured = {name: before.get(name, 0) + value / count for name, value in measured.items()}
    return measured, devices.each(add, clean, sharp, slopes)


def train_step(
    models: dict[str, Model], optimizer: optim.Optimizer, batch: dict[str, Tensor], recipe: Recipe, *, step: int
) -> dict[str, Tensor]:
    """The update that follows `step` completed ones, in place; returns what `gradients` measured, still on the device."""
    # A tensor: for every new Python number, the step would be compiled again.
    numbers = tf.constant(tf.nest.flatten(recipe.update_numbers(step)), models["model"].dtype)
    if not recipe.rho:
        return compiled_step(models, optimizer, batch, recipe, numbers)
    measured, slopes = sharp_gradients(models, optimizer, batch, recipe, numbers)
    compiled_update(optimizer, recipe, numbers, slopes)
    return models["model"].renewed(measured, batch, recipe)


def unpacked(recipe: Recipe, numbers: Tensor) -> UpdateNumbers:
    """Within a graph: the numbers of an update, of one tensor."""
    return tf.nest.pack_sequence_as(recipe.update_numbers(0), tf.unstack(numbers))


@tf.function(autograph=False)
def compiled_step(
    models: dict[str, Model], optimizer: optim.Optimizer, batch: dict[str, Tensor], recipe: Recipe, numbers: Tensor
) -> dict[str, Tensor]:
    """`train_step` without SAM as one graph, made at the first call with some models and an optimizer."""
    measured, slopes = gradients(models, batch, recipe)
    optim.update(optimizer, recipe, unpacked(recipe, numbers), slopes)
    return models["model"].renewed(measured, batch, recipe)


@tf.function(autograph=False)
def compiled_update(
    optimizer: optim.Optimizer, recipe: Recipe, numbers: Tensor, gradients: dict[optim.Path, Tensor]
) -> None:
    """The update of `train_step` with SAM as a graph of its own."""
    optim.update(optimizer, recipe, unpacked(recipe, numbers), gradients)


@tf.function(autograph=False)
def eval_step(models: dict[str, Model], batch: dict[str, Tensor], output: str, task: Task) -> dict[str, Tensor]:
    """One of OUTPUTS for a batch, still on the device."""
    return models["model"].devices.gather(lambda batch: OUTPUTS[output](models, batch, task), batch)


def answers(
    models: dict[str, Model], batches: Iterable[dict[str, Tensor]], output: str, task: Task
) -> dict[str, np.ndarray]:
    """One of OUTPUTS for batches, in every process of all their rows; the device is waited for once."""
    found = [eval_step(models, batch, output, task) for batch in batches]
    return {name: np.concatenate([rows[name].numpy() for rows in found]) for name in found[0]}


def evaluate(models: dict[str, Model], evaluator: Evaluator, task: Task) -> dict[str, float]:
    """The evaluator's metrics, of all batches of its passes; the device is waited for once a pass."""
    devices = models["model"].devices
    for output, batches in evaluator.passes():
        evaluator.add(output, answers(models, to_device(batches, devices), output, task))
    return evaluator.result()


def main(run: Run) -> None:
    """Train as the command says; everything but the mathematics happens in common/runs/."""
    with Devices(run.config.shard_parameters) as devices, run.on(devices):
        recipe = run.recipe
        models = {name: api.build(*start, **options, devices=devices) for name, (start, options) in run.models.items()}
        model = models["model"]
        optimizer = optim.create_optimizer(model, recipe)
        if run.restored:
            weights.load_optimizer(model, optimizer, run.restored)
        for step, batch in enumerate(to_device(run.train_batches(), devices), start=run.step + 1):
            if recipe.task.asks:
                found = answers(models, [batch], recipe.task.asks, recipe.task)
                batch |= next(to_device([run.judged(found)], devices))
            run.count(step, train_step(models, optimizer, batch, recipe, step=step - 1))
            if run.wants_log(step):
                run.log_training(step)
            for evaluator in run.evaluators_due(step):
                optim.swap_average(optimizer)
                if run.log_evaluation(step, evaluator, evaluate(models, evaluator, recipe.task)):
                    run.write_best(weights.dump(model))
                optim.swap_average(optimizer)
            if run.wants_checkpoint(step):
                run.save(step, weights.dump(model), weights.dump_optimizer(model, optimizer))
        optim.swap_average(optimizer)
        if run.best is not None:
            weights.load(model, run.read_best())
        for evaluator in run.final_evaluators():
            run.log_result(evaluator, evaluate(models, evaluator, recipe.task))
        run.finish(weights.dump(model))
