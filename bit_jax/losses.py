"""What a training batch costs, by task, in JAX: LOSSES has one function for each task of common/recipes/task.py."""

from collections.abc import Callable

import jax
import optax
from jax import Array, lax
from jax import numpy as jnp

from bit_jax.dense import map_error, read
from bit_jax.distances import DISTANCES
from bit_jax.model import Model
from bit_jax.similarity import SIMILARITIES
from common.data.batches import NOISE
from common.recipes.recipe import Recipe
from common.recipes.task import Loss


def scale(images: Array, model: Model) -> Array:
    """uint8 [B, H, W, 3] to the numbers that `model.preprocessing` says."""
    divisor, shift = (jnp.array(row, model.dtype) for row in (model.preprocessing.divisor, model.preprocessing.shift))
    return images.astype(model.dtype) / divisor - shift


def swap_pairs(values: Array) -> Array:
    """Rows 2i and 2i + 1 change places: the partners of mixup."""
    return jnp.flip(values.reshape(-1, 2, *values.shape[1:]), 1).reshape(values.shape)


def teachers(models: dict[str, Model]) -> list[tuple[str, Model]]:
    """Every frozen model by its name."""
    return [(name, model) for name, model in models.items() if name != "model"]


def seen(batch: dict[str, Array], name: str) -> Array:
    """The images uint8 that a model is shown: its own column of the batch, or the same as the model that is trained."""
    return batch.get(f"{name}_images", batch["images"])


def mixed(batch: dict[str, Array], model: Model, name: str = "model") -> Array:
    """The images [B, H, W, 3] as `model` takes them; with a weight, mixed up (https://arxiv.org/abs/1710.09412)."""
    images = scale(seen(batch, name), model)
    if "mixup_weight" in batch:
        weight = batch["mixup_weight"].astype(model.dtype)
        images = weight * images + (1 - weight) * swap_pairs(images)
    return images.astype(model.compute_dtype)


def written(batch: dict[str, Array], model: Model) -> Array:
    """The texts as `model` takes them: tokens [B, L], or drawn, [B, H, W, 3]."""
    return batch["tokens"] if "tokens" in batch else scale(batch["texts"], model).astype(model.compute_dtype)


def noise(batch: dict[str, Array]) -> dict[str, Array]:
    """What a batch holds for the model beside images: for dropout, stochastic depth and patch dropout, or of patches."""
    return {name: batch[name] for name in NOISE if name in batch}


def targets(labels: Array, logits: Array) -> Array:
    """How much each class is right, [B, K] in the type of the logits [B, K].

    Labels are classes int [B]; or several classes of each example int [B, N], filled up with -1; or float [B, K] as it is.
    """
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return labels.astype(logits.dtype)
    classes = labels if labels.ndim == 2 else labels[:, None]
    return jax.nn.one_hot(classes, logits.shape[1], dtype=logits.dtype).max(1)  # of -1, nothing but zeros


def cross_entropy(logits: Array, labels: Array, loss: Loss, label_smoothing: float = 0.0) -> Array:
    """[B] losses of logits [B, K], with labels as `targets` takes them.

    `softmax`: cross-entropy; `sigmoid`: the sum over the classes of the binary ones. Smoothing spreads a part of the labels
    over all classes, or in `sigmoid` towards a half (`losses/bce_loss.py` of coyo-vit).
    """
    return CROSS_ENTROPIES[loss](logits, labels, label_smoothing)


def softmax_cross_entropy(logits: Array, labels: Array, label_smoothing: float) -> Array:
    """See `cross_entropy`."""
    if labels.ndim == 1 and not label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets(labels, logits), label_smoothing))


def sigmoid_cross_entropy(logits: Array, labels: Array, label_smoothing: float) -> Array:
    """See `cross_entropy`."""
    smoothed = (1 - label_smoothing) * targets(labels, logits) + label_smoothing / 2
    return optax.sigmoid_binary_cross_entropy(logits, smoothed).sum(1)


CROSS_ENTROPIES = {"softmax": softmax_cross_entropy, "sigmoid": sigmoid_cross_entropy}
Measured = tuple[Array, dict[str, Array]]  # the loss, and further numbers to log: the `measures` of the task


def classification(models: dict[str, Model], batch: dict[str, Array], recipe: Recipe) -> Measured:
    """The mean cross-entropy; of a mixed batch, with the labels of both partners."""
    model, labels, task = models["model"], batch["labels"], recipe.task
    logits = model(mixed(batch, model), **noise(batch))
    losses = cross_entropy(logits, labels, task.loss, task.label_smoothing)
    if "mixup_weight" in batch:
        weight = batch["mixup_weight"].astype(model.dtype)
        partners = cross_entropy(logits, swap_pairs(labels), task.loss, task.label_smoothing)
        losses = weight * losses + (1 - weight) * partners
    return losses.mean(), {}


def distillation(models: dict[str, Model], batch: dict[str, Array], recipe: Recipe) -> Measured:
    """The mean distance from the teachers, summed over them; labels take no part, and gradients reach no teacher."""
    model, task = models["model"], recipe.task
    logits = model(mixed(batch, model), **noise(batch))
    taught = [jax.lax.stop_gradient(teacher(mixed(batch, teacher, name))) for name, teacher in teachers(models)]
    losses = sum(DISTANCES[task.distance](logits, target, **task.numbers) for target in taught)
    return losses.mean(), {}


def contrastive(models: dict[str, Model], batch: dict[str, Array], recipe: Recipe) -> Measured:
    """How alike the embeddings of pairs are, and of others are not, among all of the batch; `batch_split` cuts the towers' work.

    With a third tower, the mean of three such losses (common/tasks/third.py).
    """
    model, task, parts = models["model"], recipe.task, recipe.batch_split
    features = [model.in_parts(third, mixed(batch, third, name), parts) for name, third in teachers(models)]
    features = [jax.lax.stop_gradient(one) for one in features]
    images, texts = mixed(batch, model), written(batch, model)
    zimg, ztxt, t, b, *others = model(images, texts, *features, parts=parts, **noise(batch))
    pairs = [(zimg, ztxt), *others]
    losses = [SIMILARITIES[task.loss](*pair, t, b, model.devices, task.chunk) for pair in pairs]
    return sum(losses) / len(losses), {"temperature": jnp.exp(t)[0], "bias": b[0]}


def captioning(models: dict[str, Model], batch: dict[str, Array], recipe: Recipe) -> Measured:
    """The mean over texts of the mean cross-entropy of their tokens that are `counted`."""
    model, (tokens, counted) = models["model"], texts(models, batch)
    logits = model(mixed(batch, model), tokens, batch.get("parallel"), batch.get("masked"))
    return per_text(logits, tokens, counted, recipe.task.label_smoothing)[0].mean(), {}


def texts(models: dict[str, Model], batch: dict[str, Array]) -> tuple[Array, Array]:
    """(tokens int [B, L], which of them count, bool [B, L]); where an oracle makes codes of maps, code k is token k + 1."""
    if "oracle" not in models:
        return batch["tokens"], batch["counted"]
    oracle = models["oracle"]
    tokens = lax.stop_gradient(oracle.encode(batch["maps"], mixed(batch, oracle, "oracle"))) + 1
    return tokens, jnp.ones_like(tokens, bool)


def coded(models: dict[str, Model], batch: dict[str, Array], recipe: Recipe) -> Measured:
    """The mean over maps of the mean cross-entropy of their codes. Source: `trainers/proj/uvim/train.py` of google-research/big_vision."""
    return captioning(models, batch, recipe)


def rewarded(models: dict[str, Model], batch: dict[str, Array], recipe: Recipe) -> Measured:
    """Minus the mean over images and their K samples of (r_k - b_k) log p(y_k), whose gradient is that of the mean reward.

    y_k are texts that the model itself drew, r_k their rewards, b_k the mean reward of the image's other samples, and log p the
    sum over the tokens that are `counted`. REINFORCE: the gradient of E[r(y)] is E[r(y) * gradient of log p(y)], also where r is
    less by a b that does not depend on y. Source: "Tuning computer vision models with task rewards"
    (https://arxiv.org/abs/2302.08242), whose baseline is the reward of another sample.
    """
    model, (_, count, length) = models["model"], batch["samples"].shape
    samples, counted = (batch[name].reshape(-1, length) for name in ("samples", "counted"))
    _, costs = per_text(model(mixed(batch, model), samples), samples, counted)
    rewards = batch["rewards"].astype(costs.dtype)
    # Differences, so that equal rewards leave exactly nothing: of rounding Adafactor would make whole steps.
    better = (rewards[:, :, None] - rewards[:, None]).sum(2) / (count - 1)
    return (better.ravel() * costs).mean(), {"reward": rewards.mean()}


def per_text(logits: Array, tokens: Array, counted: Array, label_smoothing: float = 0.0) -> tuple[Array, Array]:
    """(mean, sum) [B] of the cross-entropies of tokens [B, L] that are `counted`, bool [B, L]; of none, 0.

    Smoothing spreads a part of a token over the others. Source: `weighted_softmax_xent` of big_vision's `utils.py`.
    """
    logs = jax.nn.log_softmax(logits)
    right = jnp.take_along_axis(logs, tokens[:, :, None], 2)[:, :, 0]
    losses = -(1 - label_smoothing) * right
    if label_smoothing:
        losses = losses - label_smoothing / (logs.shape[2] - 1) * (logs.sum(2) - right)
    weights = counted.astype(losses.dtype)
    total = (losses * weights).sum(1)
    return total / jnp.maximum(weights.sum(1), 2e-38), total


def dense(models: dict[str, Model], batch: dict[str, Array], recipe: Recipe) -> Measured:
    """The error of the maps that codes become (`map_error`), and how far vectors are from what they become: the mean square.

    Source: `trainers/proj/uvim/vqvae.py` of google-research/big_vision.
    """
    model, maps = models["model"], read(batch["maps"], models["model"].config, models["model"].dtype)
    logits, z, near, codes = model(maps, mixed(batch, model), batch.get("kept_codes"))
    reconstruction, commitment = map_error(logits, maps, model.config), jnp.square(z - lax.stop_gradient(near)).mean()
    found = {"reconstruction": reconstruction, "commitment": commitment} | model.codebook.statistics(
        lax.stop_gradient(z), codes
    )
    return reconstruction + recipe.task.commitment_weight * commitment, found


LOSSES: dict[str, Callable[[dict[str, Model], dict[str, Array], Recipe], Measured]] = {
    "classification": classification,
    "distillation": distillation,
    "contrastive": contrastive,
    "captioning": captioning,
    "dense": dense,
    "rewarded": rewarded,
    "coded": coded,
}
