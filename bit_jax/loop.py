"""Training and evaluation in JAX: the mathematics of one step, and the loop around it."""

import functools
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax import api, optim, weights
from bit_jax.devices import Devices, to_device
from bit_jax.losses import LOSSES, cross_entropy, scale
from bit_jax.model import Model
from common.evaluation.metrics import Keep, summarize
from common.recipes.recipe import Recipe
from common.recipes.task import Loss
from common.runs.run import Run

Found = tuple[dict[str, Array], optim.Params]  # {"loss": ..., ...} and gradients


def gradients(models: dict[str, Model], batch: dict[str, Array], recipe: Recipe) -> Found:
    """({"loss": mean over the batch, ...}, {path of a trained parameter: gradient}), over `recipe.batch_split` parts.

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
    found = zeros(params, devices, recipe) if recipe.batch_split > 1 else None
    # Not lax.scan: inside of loops XLA's CPU compiler leaves convolutions unoptimised, ten times slower.
    for part in range(recipe.batch_split):
        found = add_gradients(found, params, frozen, batch, part, **options)
    return found


@functools.partial(jax.jit, static_argnames=("devices", "recipe"))
def zeros(params: optim.Params, devices: Devices, recipe: Recipe) -> Found:
    """What is measured and gradients, to which those of the micro-batches are added."""
    slopes = devices.scatter(jax.tree.map(jnp.zeros_like, params))
    nothing = jnp.zeros((), jax.tree.leaves(slopes)[0].dtype)
    return devices.gather(dict.fromkeys(recipe.measures, nothing)), slopes


@functools.partial(jax.jit, static_argnames=("graphs", "devices", "recipe"), donate_argnames="sums")
def add_gradients(
    sums: Found | None, params: optim.Params, frozen: dict[str, optim.Params], batch: dict[str, Array], part: Array, *,
    graphs: tuple[tuple[str, nnx.GraphDef], ...], devices: Devices, recipe: Recipe,
) -> Found:  # fmt: skip
    """`gradients` of one of `recipe.batch_split` parts of the batch; plus `sums`, in their own memory, if any."""
    micro_batch = {
        name: devices.cut(value, recipe.batch_split, part) if value.ndim else value for name, value in batch.items()
    }

    def part_loss(params: optim.Params) -> tuple[Array, dict[str, Array]]:
        values = frozen | {"model": frozen["model"] | params}
        models = {name: nnx.merge(graph, nnx.from_flat_state(devices.gather(values[name]))) for name, graph in graphs}
        loss, further = LOSSES[recipe.task.name](models, micro_batch, recipe)
        measured = {name: value / recipe.batch_split for name, value in ({"loss": loss} | further).items()}
        return measured["loss"], measured

    (_, measured), slopes = jax.value_and_grad(part_loss, has_aux=True)(params)
    found = devices.gather(measured), devices.scatter(slopes)
    return jax.tree.map(jnp.add, sums, found) if sums else found


def train_step(
    models: dict[str, Model], optimizer: optim.Optimizer, batch: dict[str, Array], recipe: Recipe, *, step: int
) -> dict[str, Array]:
    """The update that follows `step` completed ones, in place; returns what `gradients` measured, still on the device."""
    measured, slopes = gradients(models, batch, recipe)
    optim.update(optimizer, recipe, recipe.update_numbers(step), slopes)
    return measured


@functools.partial(jax.jit, static_argnames="loss")
def score(logits: Array, batch: dict[str, Array], loss: Loss) -> Array:
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


@functools.partial(nnx.jit, static_argnames="loss")
def eval_step(model: Model, batch: dict[str, Array], *, loss: Loss = "softmax") -> Array:
    """The `score` of a batch."""
    logits = model(scale(batch["images"], model).astype(model.compute_dtype))
    return model.devices.gather(score(logits, batch, loss))


def evaluate(
    model: Model, batches: Iterator[dict], *, loss: Loss = "softmax", keep: Keep | None = None
) -> dict[str, float]:
    """{top1, top5: fractions, loss: the mean} over every unmasked example of batches {images uint8, labels, mask}.

    `keep` is told the likeliest class of each, int32 [N], and its probability, float32 [N], padding included.
    """
    scores = [eval_step(model, batch, loss=loss) for batch in to_device(batches, model.devices)]
    return summarize(np.concatenate(jax.device_get(scores)), keep)


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
