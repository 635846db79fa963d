"""Training and evaluation in PyTorch: the mathematics of one step, and the loop around it."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from bit_pytorch import api, optim, weights
from bit_pytorch.devices import Devices, to_device
from bit_pytorch.losses import LOSSES
from bit_pytorch.model import Model
from bit_pytorch.outputs import OUTPUTS
from common.evaluation.evaluator import Evaluator
from common.recipes.recipe import Recipe, UpdateNumbers
from common.recipes.task import Task
from common.runs.run import Run


def gradients(
    models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """({"loss": mean over the batch, ...}, {name of a trained parameter: gradient}), over `recipe.num_parts` parts.

    Nothing waits for the device. Several processes' gradients lie where they were exchanged, unless they are shards: the
    next call overwrites them.
    """
    model = models["model"]
    shapes = model.config.measured(recipe.measures)
    measured = {name: torch.zeros(shape, dtype=model.dtype, device=model.device) for name, shape in shapes.items()}
    chunks = {name: value.chunk(recipe.num_parts) for name, value in batch.items() if value.ndim}
    for part in range(recipe.num_parts):
        micro_batch = batch | {name: values[part] for name, values in chunks.items()}
        model.devices.average_gradients(model, part == recipe.num_parts - 1)
        loss, further = LOSSES[recipe.task.name](models, micro_batch, recipe)
        loss = loss / recipe.num_parts
        loss.backward()
        measured["loss"] += loss.detach()
        for name, value in further.items():
            measured[name] += value.detach() / recipe.num_parts
    trained = optim.trained(model)
    slopes = {name: value.grad for name, value in trained.items()}
    for value in trained.values():
        value.grad = None
    return {name: model.devices.sum(value) / model.devices.num_processes for name, value in measured.items()}, slopes


def sharp_gradients(
    models: dict[str, Model],
    optimizer: optim.Optimizer,
    batch: dict[str, Tensor],
    recipe: Recipe,
    numbers: UpdateNumbers,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`gradients` of SAM or GSAM: for each `recipe.sam_group` images those where they lead uphill; the mean of all groups.

    What is measured is of the parameters themselves, which have their bits again in the end.
    """
    groups = {name: value.chunk(recipe.num_ascents) for name, value in batch.items() if value.ndim}
    total = None
    for number in range(recipe.num_ascents):
        group = batch | {name: values[number] for name, values in groups.items()}
        measured, clean = gradients(models, group, recipe.ascent)
        if recipe.gsam_alpha and models["model"].devices.num_processes > 1:  # the next ones may overwrite them
            clean = {name: value.clone() for name, value in clean.items()}
        with optim.ascended(optimizer, clean, numbers):
            clean = clean if recipe.gsam_alpha else {}  # SAM leaves their memory to the sharp ones
            _, sharp = gradients(models, group, recipe.ascent)
        found = measured, optim.sharpness_aware(clean, sharp, recipe)
        total = add(total, found, num_groups=recipe.num_ascents) if recipe.num_ascents > 1 else found
    return total


def add(total: tuple[dict, dict] | None, found: tuple[dict, dict], *, num_groups: int) -> tuple[dict, dict]:
    """`total`, if any, plus one group's share of the mean, in memory of its own."""
    shares = [{name: value / num_groups for name, value in values.items()} for values in found]
    if total:
        shares = [{name: value + sums[name] for name, value in values.items()} for values, sums in zip(shares, total)]
    return tuple(shares)


def train_step(
    models: dict[str, Model], optimizer: optim.Optimizer, batch: dict[str, Tensor], recipe: Recipe, *, step: int
) -> dict[str, Tensor]:
    """The update that follows `step` completed ones, in place; returns what `gradients` measured, still on the device."""
    numbers = recipe.update_numbers(step)
    if recipe.rho:
        measured, slopes = sharp_gradients(models, optimizer, batch, recipe, numbers)
    else:
        measured, slopes = gradients(models, batch, recipe)
    optim.update(optimizer, recipe, numbers, slopes)
    return models["model"].renewed(measured, batch, recipe)


@torch.no_grad()  # not inference_mode: what shards gather in evaluation, they use again in training
def eval_step(models: dict[str, Model], batch: dict[str, Tensor], output: str, task: Task) -> dict[str, Tensor]:
    """One of OUTPUTS for a batch, still on the device."""
    return OUTPUTS[output](models, batch, task)


def answers(
    models: dict[str, Model], batches: Iterable[dict[str, Tensor]], output: str, task: Task
) -> dict[str, np.ndarray]:
    """One of OUTPUTS for batches, in every process of all their rows; the device is waited for once."""
    found = [eval_step(models, batch, output, task) for batch in batches]
    columns = {name: models["model"].devices.gather(torch.stack([rows[name] for rows in found])) for name in found[0]}
    return {name: rows.flatten(0, 1).cpu().numpy() for name, rows in columns.items()}


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
