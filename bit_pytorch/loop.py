"""Training and evaluation in PyTorch: the mathematics of one step, and the loop around it."""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from bit_pytorch import api, optim, weights
from bit_pytorch.devices import Devices, to_device
from bit_pytorch.model import Model
from common.data.batches import NOISE
from common.evaluation.metrics import Keep, summarize
from common.models.cards import Preprocessing
from common.recipes.recipe import Recipe
from common.runs.run import Run


def scale(images: Tensor, model: Model) -> Tensor:
    """uint8 [B, H, W, 3] to [B, 3, H, W] as `model.preprocessing` says, contiguous: what the norms need."""
    divisor, shift = constants(model.preprocessing, model.dtype, images.device)
    return images.permute(0, 3, 1, 2).contiguous().to(model.dtype) / divisor - shift


@functools.cache
def constants(preprocessing: Preprocessing, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Divisor and shift of the pixels [3, 1, 1], kept on the device."""
    rows = preprocessing.divisor, preprocessing.shift
    return tuple(torch.tensor(row, dtype=dtype, device=device).reshape(3, 1, 1) for row in rows)


def swap_pairs(values: Tensor) -> Tensor:
    """Rows 2i and 2i + 1 change places: the partners of mixup."""
    return values.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def cross_entropy(logits: Tensor, labels: Tensor, loss: str, label_smoothing: float = 0.0) -> Tensor:
    """[B] losses of logits [B, K]; labels are classes int [B], or how much each class is right, float [B, K].

    `softmax`: cross-entropy; `sigmoid`: the sum over the classes of the binary ones. Smoothing spreads a part of the labels
    over all classes, or in `sigmoid` towards a half (`losses/bce_loss.py` of coyo-vit).
    """
    if loss == "softmax":
        labels = labels.to(logits.dtype) if labels.ndim == 2 else labels
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    targets = labels if labels.ndim == 2 else F.one_hot(labels, logits.shape[1])
    targets = (1 - label_smoothing) * targets.to(logits.dtype) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)


def loss_fn(model: Model, batch: dict[str, Tensor], recipe: Recipe, dtype: torch.dtype) -> Tensor:
    """Mean loss of a training batch; with a weight, of mixup (https://arxiv.org/abs/1710.09412)."""
    images, labels = scale(batch["images"], model), batch["labels"]
    noise = {name: batch[name] for name in NOISE if name in batch}
    options = recipe.loss, recipe.label_smoothing
    if "mixup_weight" not in batch:
        return cross_entropy(model(images.to(dtype), **noise), labels, *options).mean()
    weight = batch["mixup_weight"].to(model.dtype)
    images = weight * images + (1 - weight) * swap_pairs(images)
    logits = model(images.to(dtype), **noise)
    partners = cross_entropy(logits, swap_pairs(labels), *options)
    return (weight * cross_entropy(logits, labels, *options) + (1 - weight) * partners).mean()


def train_step(
    model: Model, optimizer: optim.Optimizer, batch: dict[str, Tensor], recipe: Recipe, *, step: int, dtype: torch.dtype
) -> Tensor:
    """The update that follows `step` completed ones, in place; returns the loss before it, still on the device."""
    total = torch.zeros((), dtype=model.dtype, device=batch["images"].device)
    chunks = {name: value.chunk(recipe.batch_split) for name, value in batch.items() if value.ndim}
    for part in range(recipe.batch_split):
        micro_batch = batch | {name: values[part] for name, values in chunks.items()}
        model.devices.average_gradients(model, part == recipe.batch_split - 1)
        loss = loss_fn(model, micro_batch, recipe, dtype) / recipe.batch_split
        loss.backward()
        total += loss.detach()
    optim.update(optimizer, recipe, recipe.update_numbers(step))
    return model.devices.sum(total) / model.devices.num_processes


def score(logits: Tensor, batch: dict[str, Tensor], loss: str) -> Tensor:
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
def eval_step(model: Model, batch: dict[str, Tensor], *, loss: str = "softmax", dtype: torch.dtype) -> Tensor:
    """The `score` of a batch."""
    return score(model(scale(batch["images"], model).to(dtype)), batch, loss)


def evaluate(
    model: Model, batches: Iterator[dict], *, loss: str = "softmax", dtype: torch.dtype, keep: Keep | None = None
) -> dict[str, float]:
    """{top1, top5: fractions, loss: the mean} over every unmasked example of batches {images uint8, labels, mask}.

    `keep` is told the likeliest class of each, int32 [N], and its probability, float32 [N], padding included.
    """
    scores = [eval_step(model, batch, loss=loss, dtype=dtype) for batch in to_device(batches, model.devices)]
    return summarize(model.devices.gather(torch.stack(scores)).flatten(0, 1).cpu().numpy(), keep)


def main(run: Run) -> None:
    """Train as the command says; everything but the mathematics happens in common/runs/run.py."""
    with Devices(run.config.shard_parameters) as devices, run.on(devices):
        recipe, dtype = run.recipe, getattr(torch, run.config.precision)
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
