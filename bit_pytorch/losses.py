"""What a training batch costs, by task, in PyTorch: LOSSES has one function for each task of common/recipes/task.py."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bit_pytorch.dense import map_error, read
from bit_pytorch.distances import DISTANCES
from bit_pytorch.model import Model
from bit_pytorch.similarity import SIMILARITIES
from common.data.batches import NOISE
from common.models.cards import Preprocessing
from common.recipes.recipe import Recipe
from common.recipes.task import Loss


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


def teachers(models: dict[str, Model]) -> list[tuple[str, Model]]:
    """Every frozen model by its name."""
    return [(name, model) for name, model in models.items() if name != "model"]


def seen(batch: dict[str, Tensor], name: str) -> Tensor:
    """The images uint8 that a model is shown: its own column of the batch, or the same as the model that is trained."""
    return batch.get(f"{name}_images", batch["images"])


def mixed(batch: dict[str, Tensor], model: Model, name: str = "model") -> Tensor:
    """The images [B, 3, H, W] as `model` takes them; with a weight, mixed up (https://arxiv.org/abs/1710.09412)."""
    images = scale(seen(batch, name), model)
    if "mixup_weight" in batch:
        weight = batch["mixup_weight"].to(model.dtype)
        images = weight * images + (1 - weight) * swap_pairs(images)
    return images.to(model.compute_dtype)


def written(batch: dict[str, Tensor], model: Model) -> Tensor:
    """The texts as `model` takes them: tokens [B, L], or drawn, [B, 3, H, W]."""
    return batch["tokens"] if "tokens" in batch else scale(batch["texts"], model).to(model.compute_dtype)


def noise(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a batch holds for the model beside images: for dropout, stochastic depth and patch dropout, or of patches."""
    return {name: batch[name] for name in NOISE if name in batch}


def targets(labels: Tensor, logits: Tensor) -> Tensor:
    """How much each class is right, [B, K] in the type of the logits [B, K].

    Labels are classes int [B]; or several classes of each example int [B, N], filled up with -1; or float [B, K] as it is.
    """
    if labels.is_floating_point():
        return labels.to(logits.dtype)
    classes = labels if labels.ndim == 2 else labels[:, None]
    zeros, is_class = torch.zeros_like(logits, requires_grad=False), (classes >= 0).to(logits.dtype)
    return zeros.scatter_reduce(1, classes.clamp(min=0), is_class, "amax")


def cross_entropy(logits: Tensor, labels: Tensor, loss: Loss, label_smoothing: float = 0.0) -> Tensor:
    """[B] losses of logits [B, K], with labels as `targets` takes them.

    `softmax`: cross-entropy; `sigmoid`: the sum over the classes of the binary ones. Smoothing spreads a part of the labels
    over all classes, or in `sigmoid` towards a half (`losses/bce_loss.py` of coyo-vit).
    """
    return CROSS_ENTROPIES[loss](logits, labels, label_smoothing)


def softmax_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """See `cross_entropy`."""
    labels = targets(labels, logits) if labels.ndim == 2 else labels
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def sigmoid_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """See `cross_entropy`."""
    smoothed = (1 - label_smoothing) * targets(labels, logits) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none").sum(1)


CROSS_ENTROPIES = {"softmax": softmax_cross_entropy, "sigmoid": sigmoid_cross_entropy}
Measured = tuple[Tensor, dict[str, Tensor]]  # the loss, and further numbers to log: the `measures` of the task


def classification(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Measured:
    """The mean cross-entropy; of a mixed batch, with the labels of both partners."""
    model, labels, task = models["model"], batch["labels"], recipe.task
    logits = model(mixed(batch, model), **noise(batch))
    losses = cross_entropy(logits, labels, task.loss, task.label_smoothing)
    if "mixup_weight" in batch:
        weight = batch["mixup_weight"].to(model.dtype)
        partners = cross_entropy(logits, swap_pairs(labels), task.loss, task.label_smoothing)
        losses = weight * losses + (1 - weight) * partners
    return losses.mean(), {}


def distillation(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Measured:
    """The mean distance from the teachers, summed over them; labels take no part, and gradients reach no teacher."""
    model, task = models["model"], recipe.task
    logits = model(mixed(batch, model), **noise(batch))
    with torch.no_grad():
        taught = [teacher(mixed(batch, teacher, name)) for name, teacher in teachers(models)]
    losses = sum(DISTANCES[task.distance](logits, target, **task.numbers) for target in taught)
    return losses.mean(), {}


def contrastive(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Measured:
    """How alike the embeddings of pairs are, and of others are not, among all of the batch; `batch_split` cuts the towers' work.

    With a third tower, the mean of three such losses (common/tasks/third.py).
    """
    model, task, parts = models["model"], recipe.task, recipe.batch_split
    with torch.no_grad():
        features = [model.in_parts(third, mixed(batch, third, name), parts) for name, third in teachers(models)]
    images, texts = mixed(batch, model), written(batch, model)
    zimg, ztxt, t, b, *others = model(images, texts, *features, parts=parts, **noise(batch))
    pairs = [(zimg, ztxt), *others]
    losses = [SIMILARITIES[task.loss](*pair, t, b, model.devices, task.chunk) for pair in pairs]
    return sum(losses) / len(losses), {"temperature": t.exp()[0], "bias": b[0]}


def captioning(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Measured:
    """The mean over texts of the mean cross-entropy of their tokens that are `counted`."""
    model, (tokens, counted) = models["model"], texts(models, batch)
    logits = model(mixed(batch, model), tokens, batch.get("parallel"), batch.get("masked"))
    return per_text(logits, tokens, counted, recipe.task.label_smoothing)[0].mean(), {}


def texts(models: dict[str, Model], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(tokens int [B, L], which of them count, bool [B, L]); where an oracle makes codes of maps, code k is token k + 1."""
    if "oracle" not in models:
        return batch["tokens"], batch["counted"]
    oracle = models["oracle"]
    with torch.no_grad(), oracle.devices.whole(oracle):
        tokens = oracle.encode(batch["maps"], mixed(batch, oracle, "oracle")) + 1
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


def coded(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Measured:
    """The mean over maps of the mean cross-entropy of their codes. Source: `trainers/proj/uvim/train.py` of google-research/big_vision."""
    return captioning(models, batch, recipe)


def rewarded(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Measured:
    """Minus the mean over images and their K samples of (r_k - b_k) log p(y_k), whose gradient is that of the mean reward.

    y_k are texts that the model itself drew, r_k their rewards, b_k the mean reward of the image's other samples, and log p the
    sum over the tokens that are `counted`. REINFORCE: the gradient of E[r(y)] is E[r(y) * gradient of log p(y)], also where r is
    less by a b that does not depend on y. Source: "Tuning computer vision models with task rewards"
    (https://arxiv.org/abs/2302.08242), whose baseline is the reward of another sample.
    """
    model, count = models["model"], batch["samples"].shape[1]
    samples, counted = (batch[name].flatten(0, 1) for name in ("samples", "counted"))
    _, costs = per_text(model(mixed(batch, model), samples), samples, counted)
    rewards = batch["rewards"].to(costs.dtype)
    # Differences, so that equal rewards leave exactly nothing: of rounding Adafactor would make whole steps.
    better = (rewards[:, :, None] - rewards[:, None]).sum(2) / (count - 1)
    return (better.flatten() * costs).mean(), {"reward": rewards.mean()}


def per_text(logits: Tensor, tokens: Tensor, counted: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """(mean, sum) [B] of the cross-entropies of tokens [B, L] that are `counted`, bool [B, L]; of none, 0.

    Smoothing spreads a part of a token over the others. Source: `weighted_softmax_xent` of big_vision's `utils.py`.
    """
    logs = logits.log_softmax(2)
    right = logs.gather(2, tokens[:, :, None].long())[:, :, 0]
    losses = -(1 - label_smoothing) * right
    if label_smoothing:
        losses = losses - label_smoothing / (logs.shape[2] - 1) * (logs.sum(2) - right)
    weights = counted.to(losses.dtype)
    total = (losses * weights).sum(1)
    return total / weights.sum(1).clamp(min=2e-38), total


def dense(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Measured:
    """The error of the maps that codes become (`map_error`), and how far vectors are from what they become: the mean square.

    Source: `trainers/proj/uvim/vqvae.py` of google-research/big_vision.
    """
    model, maps = models["model"], read(batch["maps"], models["model"].config, models["model"].dtype)
    logits, z, near, codes = model(maps, mixed(batch, model), batch.get("kept_codes"))
    reconstruction, commitment = map_error(logits, maps, model.config), (z - near.detach()).square().mean()
    found = {"reconstruction": reconstruction, "commitment": commitment} | model.codebook.statistics(z.detach(), codes)
    return reconstruction + recipe.task.commitment_weight * commitment, found


LOSSES: dict[str, Callable[[dict[str, Model], dict[str, Tensor], Recipe], Measured]] = {
    "classification": classification,
    "distillation": distillation,
    "contrastive": contrastive,
    "captioning": captioning,
    "dense": dense,
    "rewarded": rewarded,
    "coded": coded,
}
