"""Training and evaluation in JAX: the mathematics of one step, and the loop around it."""

import functools
from collections.abc import Iterable

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax import api, optim, weights
from bit_jax.devices import Devices, to_device
from bit_jax.losses import LOSSES
from bit_jax.model import Model
from bit_jax.outputs import OUTPUTS
from common.evaluation.evaluator import Evaluator
from common.recipes.recipe import Recipe, UpdateNumbers
from common.recipes.task import Task
from common.runs.run import Run

Found = tuple[dict[str, Array], optim.Params]  # {"loss": ..., ...} and gradients


def gradients(models: dict[str, Model], batch: dict[str, Array], recipe: Recipe) -> Found:
    """({"loss": mean over the batch, ...}, {path of a trained parameter: gradient}), over `recipe.num_parts` parts.

    Nothing waits for the device.
    """
    parts = {name: optim.split(model) for name, model in models.items()}
    params, devices = optim.values(parts["model"].trained), models["model"].devices
    frozen = {name: optim.values(part.frozen) for name, part in parts.items()}
    frozen |= {name: optim.values(part.parameters) for name, part in parts.items() if name != "model"}
    options = {
        "graphs": tuple((name, part.graph) for name, part in parts.items()),
        "devices": devices,
        "recipe": recipe,
    }
    shapes = tuple(models["model"].config.measured(recipe.measures).items())
    found = zeros(params, devices, shapes) if recipe.num_parts > 1 else None
    # Not lax.scan: inside of loops XLA's CPU compiler leaves convolutions unoptimised, ten times slower.
    for part in range(recipe.num_parts):
        found = add_gradients(found, params, frozen, batch, part, **options)
    return found


@functools.partial(jax.jit, static_argnames=("devices", "shapes"))
def zeros(params: optim.Params, devices: Devices, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Found:
    """What is measured and gradients, to which those of the micro-batches are added."""
    slopes = devices.scatter(jax.tree.map(jnp.zeros_like, params))
    dtype = jax.tree.leaves(slopes)[0].dtype
    return devices.gather({name: jnp.zeros(shape, dtype) for name, shape in shapes}), slopes


@functools.partial(jax.jit, static_argnames=("graphs", "devices", "recipe"), donate_argnames="sums")
def add_gradients(
    sums: Found | None, params: optim.Params, frozen: dict[str, optim.Params], batch: dict[str, Array], part: Array, *,
    graphs: tuple[tuple[str, nnx.GraphDef], ...], devices: Devices, recipe: Recipe,
) -> Found:  # fmt: skip
    """`gradients` of one of `recipe.num_parts` parts of the batch; plus `sums`, in their own memory, if any."""
    micro_batch = {
        name: devices.cut(value, recipe.num_parts, part) if value.ndim else value for name, value in batch.items()
    }

    def part_loss(params: optim.Params) -> tuple[Array, dict[str, Array]]:
        values = frozen | {"model": frozen["model"] | params}
        models = {name: nnx.merge(graph, nnx.from_flat_state(devices.gather(values[name]))) for name, graph in graphs}
        loss, further = LOSSES[recipe.task.name](models, micro_batch, recipe)
        measured = {name: value / recipe.num_parts for name, value in ({"loss": loss} | further).items()}
        return measured["loss"], measured

    (_, measured), slopes = jax.value_and_grad(part_loss, has_aux=True)(params)
    found = devices.gather(measured), devices.scatter(slopes)
    return jax.tree.map(jnp.add, sums, found) if sums else found


def sharp_gradients(
    models: dict[str, Model],
    optimizer: optim.Optimizer,
    batch: dict[str, Array],
    recipe: Recipe,
    numbers: UpdateNumbers,
) -> Found:
    """`gradients` of SAM or GSAM: for each `recipe.sam_group` images those where they lead uphill; the mean of all groups.

    What is measured is of the parameters themselves, which have their bits again in the end.
    """
    devices, total = models["model"].devices, None
    for number in range(recipe.num_ascents):
        group = cut(batch, number, num_groups=recipe.num_ascents, devices=devices) if recipe.num_ascents > 1 else batch
        measured, clean = gradients(models, group, recipe.ascent)
        with optim.ascended(optimizer, clean, numbers):
            _, sharp = gradients(models, group, recipe.ascent)
        found = measured, optim.sharpness_aware(clean, sharp, recipe)
        total = add(total, found, num_groups=recipe.num_ascents) if recipe.num_ascents > 1 else found
    return total


@functools.partial(jax.jit, static_argnames=("num_groups", "devices"))
def cut(batch: dict[str, Array], number: Array, *, num_groups: int, devices: Devices) -> dict[str, Array]:
    """One of the groups of a batch, of which every device has its share."""
    return {name: devices.cut(value, num_groups, number) if value.ndim else value for name, value in batch.items()}


@functools.partial(jax.jit, static_argnames="num_groups", donate_argnames="found")
def add(total: Found | None, found: Found, *, num_groups: int) -> Found:
    """`total`, if any, plus one group's share of the mean."""
    shares = jax.tree.map(lambda value: value / num_groups, found)
    return jax.tree.map(jnp.add, shares, total) if total else shares


def train_step(
    models: dict[str, Model], optimizer: optim.Optimizer, batch: dict[str, Array], recipe: Recipe, *, step: int
) -> dict[str, Array]:
    """The update that follows `step` completed ones, in place; returns what `gradients` measured, still on the device."""
    numbers = recipe.update_numbers(step)
    if recipe.rho:
        measured, slopes = sharp_gradients(models, optimizer, batch, recipe, numbers)
    else:
        measured, slopes = gradients(models, batch, recipe)
    optim.update(optimizer, recipe, numbers, slopes)
    return models["model"].renewed(measured, batch, recipe)


def eval_step(models: dict[str, Model], batch: dict[str, Array], output: str, task: Task) -> dict[str, Array]:
    """One of OUTPUTS for a batch, still on the device."""
    devices, found = models["model"].devices, _outputs(models, batch, output, task)
    return _gathered(found, devices) if devices.num_devices > 1 else found


@functools.partial(nnx.jit, static_argnames=("output", "task"))
def _outputs(models: dict[str, Model], batch: dict[str, Array], output: str, task: Task) -> dict[str, Array]:
    """Of each device its own rows."""
    return OUTPUTS[output](models, batch, task)


@functools.partial(jax.jit, static_argnames="devices")
def _gathered(found: dict[str, Array], devices: Devices) -> dict[str, Array]:
    """All rows, once all are there: devices that exchanged some while others were computed could wait for one another for ever."""
    return devices.gather(found)


def answers(
    models: dict[str, Model], batches: Iterable[dict[str, Array]], output: str, task: Task
) -> dict[str, np.ndarray]:
    """One of OUTPUTS for batches, in every process of all their rows; the device is waited for once."""
    columns = jax.device_get([eval_step(models, batch, output, task) for batch in batches])
    return {name: np.concatenate([rows[name] for rows in columns]) for name in columns[0]}


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
