"""Training and evaluation in PyTorch: the mathematics of one step, and the loop around it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bit_pytorch import api, optim, weights
from bit_pytorch.devices import Devices, to_device
from bit_pytorch.losses import LOSSES, cross_entropy, scale
from bit_pytorch.model import Model
from common.evaluation.metrics import Keep, summarize
from common.recipes.recipe import Recipe
from common.recipes.task import Loss
from common.runs.run import Run


def gradients(
    models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """({"loss": mean over the batch, ...}, {name of a trained parameter: gradient}), over `recipe.batch_split` parts.

    Nothing waits for the device. Several processes' gradients lie where they were exchanged, unless they are shards: the
    next call overwrites them.
    """
    model = models["model"]
    measured = {name: torch.zeros((), dtype=model.dtype, device=model.device) for name in recipe.measures}
    chunks = {name: value.chunk(recipe.batch_split) for name, value in batch.items() if value.ndim}
    for part in range(recipe.batch_split):
        micro_batch = batch | {name: values[part] for name, values in chunks.items()}
        model.devices.average_gradients(model, part == recipe.batch_split - 1)
        loss, further = LOSSES[recipe.task.name](models, micro_batch, recipe)
        loss = loss / recipe.batch_split
        loss.backward()
        measured["loss"] += loss.detach()
        for name, value in further.items():
            measured[name] += value.detach() / recipe.batch_split
    trained = {name: value for name, value in optim.parameters(model).items() if value.requires_grad}
    slopes = {name: value.grad for name, value in trained.items()}
    for value in trained.values():
        value.grad = None
    return {name: model.devices.sum(value) / model.devices.num_processes for name, value in measured.items()}, slopes


def train_step(
    models: dict[str, Model], optimizer: optim.Optimizer, batch: dict[str, Tensor], recipe: Recipe, *, step: int
) -> dict[str, Tensor]:
    """The update that follows `step` completed ones, in place; returns what `gradients` measured, still on the device."""
    measured, slopes = gradients(models, batch, recipe)
    optim.update(optimizer, recipe, recipe.update_numbers(step), slopes)
    return measured


def score(logits: Tensor, batch: dict[str, Tensor], loss: Loss) -> Tensor:
    """[B, 6]: right among 1, right among 5, loss and count of each example, 0 where masked; likeliest class; its probability.

    With labels [B, K] an image is right where the prediction is one of its labels, and one without labels is left out.
    """
    labels, mask = batch["labels"], batch["mask"]
    losses = cross_entropy(logits, labels, loss)
    if labels.ndim == 2:
        mask = mask & (labels > 0).any(1)
        labels = torch.where(labels > 0, logits, -torch.inf).argmax(1)  # the likeliest of an image's own
    own = logits.gather(1, labels[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    # How many classes rank before the right one: all but itself, lower ones, and later equals. NaN is not lower.
    behind = (logits < own) | ((logits == own) & (classes >= labels[:, None]))
    rank = logits.shape[1] - behind.sum(1)
    probabilities = logits.softmax(1) if loss == "softmax" else logits.sigmoid()
    right = (rank < 1) & mask, (rank < 5) & mask
    rows = *right, torch.where(mask, losses, 0), mask, logits.argmax(1), probabilities.amax(1)
    return torch.stack([row.double() for row in rows], 1)


@torch.no_grad()  # not inference_mode: what shards gather in evaluation, they use again in training
def eval_step(model: Model, batch: dict[str, Tensor], *, loss: Loss = "softmax") -> Tensor:
    """The `score` of a batch."""
    return score(model(scale(batch["images"], model).to(model.compute_dtype)), batch, loss)


def evaluate(
    model: Model, batches: Iterator[dict], *, loss: Loss = "softmax", keep: Keep | None = None
) -> dict[str, float]:
    """{top1, top5: fractions, loss: the mean} over every unmasked example of batches {images uint8, labels, mask}.

    `keep` is told the likeliest class of each, int32 [N], and its probability, float32 [N], padding included.
    """
    scores = [eval_step(model, batch, loss=loss) for batch in to_device(batches, model.devices)]
    return summarize(model.devices.gather(torch.stack(scores)).flatten(0, 1).cpu().numpy(), keep)


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
