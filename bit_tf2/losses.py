"""What a training batch costs, by task, in TensorFlow: LOSSES has one function for each task of common/recipes/task.py."""

from collections.abc import Callable

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.dense import map_error, read
from bit_tf2.distances import DISTANCES
from bit_tf2.model import Model
from bit_tf2.similarity import SIMILARITIES
from common.data.batches import NOISE
from common.recipes.recipe import Recipe
from common.recipes.task import Loss


def scale(images: Tensor, model: Model) -> Tensor:
    """uint8 [B, H, W, 3] to the numbers that `model.preprocessing` says."""
    divisor, shift = (tf.constant(row, model.dtype) for row in (model.preprocessing.divisor, model.preprocessing.shift))
    return tf.cast(images, model.dtype) / divisor - shift


def swap_pairs(values: Tensor) -> Tensor:
    """Rows 2i and 2i + 1 change places: the partners of mixup."""
    return tf.reshape(tf.reverse(tf.reshape(values, (-1, 2, *values.shape[1:])), (1,)), values.shape)


def teachers(models: dict[str, Model]) -> list[tuple[str, Model]]:
    """Every frozen model by its name."""
    return [(name, model) for name, model in models.items() if name != "model"]


def seen(batch: dict[str, Tensor], name: str) -> Tensor:
    """The images uint8 that a model is shown: its own column of the batch, or the same as the model that is trained."""
    return batch.get(f"{name}_images", batch["images"])


def mixed(batch: dict[str, Tensor], model: Model, name: str = "model") -> Tensor:
    """The images [B, H, W, 3] as `model` takes them; with a weight, mixed up (https://arxiv.org/abs/1710.09412)."""
    images = scale(seen(batch, name), model)
    if "mixup_weight" in batch:
        weight = tf.cast(batch["mixup_weight"], model.dtype)
        images = weight * images + (1 - weight) * swap_pairs(images)
    return tf.cast(images, model.compute_dtype)


def written(batch: dict[str, Tensor], model: Model) -> Tensor:
    """The texts as `model` takes them: tokens [B, L], or drawn, [B, H, W, 3]."""
    return batch["tokens"] if "tokens" in batch else tf.cast(scale(batch["texts"], model), model.compute_dtype)


def noise(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a batch holds for the model beside images: for dropout, stochastic depth and patch dropout, or of patches."""
    return {name: batch[name] for name in NOISE if name in batch}


def targets(labels: Tensor, logits: Tensor) -> Tensor:
    """How much each class is right, [B, K] in the type of the logits [B, K].

    Labels are classes int [B]; or several classes of each example int [B, N], filled up with -1; or float [B, K] as it is.
    """
    if labels.dtype.is_floating:
        return tf.cast(labels, logits.dtype)
    classes = labels if labels.shape.rank == 2 else labels[:, None]
    rows = tf.broadcast_to(tf.range(tf.shape(classes)[0])[:, None], tf.shape(classes))
    places, is_class = tf.stack([rows, tf.maximum(classes, 0)], 2), tf.cast(classes >= 0, logits.dtype)
    return tf.minimum(tf.scatter_nd(places, is_class, tf.shape(logits)), 1)


def cross_entropy(logits: Tensor, labels: Tensor, loss: Loss, label_smoothing: float = 0.0) -> Tensor:
    """[B] losses of logits [B, K], with labels as `targets` takes them.

    `softmax`: cross-entropy; `sigmoid`: the sum over the classes of the binary ones. Smoothing spreads a part of the labels
    over all classes, or in `sigmoid` towards a half (`losses/bce_loss.py` of coyo-vit).
    """
    return CROSS_ENTROPIES[loss](logits, labels, label_smoothing)


def softmax_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """See `cross_entropy`."""
    if labels.shape.rank == 1 and not label_smoothing:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    smoothed = (1 - label_smoothing) * targets(labels, logits) + label_smoothing / logits.shape[1]
    return -tf.reduce_sum(smoothed * tf.nn.log_softmax(logits), 1)


def sigmoid_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """See `cross_entropy`."""
    smoothed = (1 - label_smoothing) * targets(labels, logits) + label_smoothing / 2
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(smoothed, logits), 1)


CROSS_ENTROPIES = {"softmax": softmax_cross_entropy, "sigmoid": sigmoid_cross_entropy}
Measured = tuple[Tensor, dict[str, Tensor]]  # the loss, and further numbers to log: the `measures` of the task


def classification(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Measured:
    """The mean cross-entropy; of a mixed batch, with the labels of both partners."""
    model, labels, task = models["model"], batch["labels"], recipe.task
    logits = model(mixed(batch, model), **noise(batch))
    losses = cross_entropy(logits, labels, task.loss, task.label_smoothing)
    if "mixup_weight" in batch:
        weight = tf.cast(batch["mixup_weight"], model.dtype)
        partners = cross_entropy(logits, swap_pairs(labels), task.loss, task.label_smoothing)
        losses = weight * losses + (1 - weight) * partners
    return tf.reduce_mean(losses), {}


def distillation(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Measured:
    """The mean distance from the teachers, summed over them; labels take no part, and gradients reach no teacher."""
    model, task = models["model"], recipe.task
    logits = model(mixed(batch, model), **noise(batch))
    taught = [tf.stop_gradient(teacher(mixed(batch, teacher, name))) for name, teacher in teachers(models)]
    losses = sum(DISTANCES[task.distance](logits, target, **task.numbers) for target in taught)
    return tf.reduce_mean(losses), {}


def contrastive(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Measured:
    """How alike the embeddings of pairs are, and of others are not, among all of the batch; `batch_split` cuts the towers' work.

    With a third tower, the mean of three such losses (common/tasks/third.py).
    """
    model, task, parts = models["model"], recipe.task, recipe.batch_split
    features = [model.in_parts(third, mixed(batch, third, name), parts) for name, third in teachers(models)]
    features = [tf.stop_gradient(one) for one in features]
    images, texts = mixed(batch, model), written(batch, model)
    zimg, ztxt, t, b, *others = model(images, texts, *features, parts=parts, **noise(batch))
    pairs = [(zimg, ztxt), *others]
    losses = [SIMILARITIES[task.loss](*pair, t, b, model.devices, task.chunk) for pair in pairs]
    return sum(losses) / len(losses), {"temperature": tf.exp(t)[0], "bias": b[0]}


def captioning(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Measured:
    """The mean over texts of the mean cross-entropy of their tokens that are `counted`."""
    model, (tokens, counted) = models["model"], texts(models, batch)
    logits = model(mixed(batch, model), tokens, batch.get("parallel"), batch.get("masked"))
    return tf.reduce_mean(per_text(logits, tokens, counted, recipe.task.label_smoothing)[0]), {}


def texts(models: dict[str, Model], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(tokens int [B, L], which of them count, bool [B, L]); where an oracle makes codes of maps, code k is token k + 1."""
    if "oracle" not in models:
        return batch["tokens"], batch["counted"]
    oracle = models["oracle"]
    tokens = tf.stop_gradient(oracle.encode(batch["maps"], mixed(batch, oracle, "oracle"))) + 1
    return tokens, tf.ones_like(tokens, tf.bool)


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
    model, (_, count, length) = models["model"], batch["samples"].shape
    samples, counted = (tf.reshape(batch[name], (-1, length)) for name in ("samples", "counted"))
    _, costs = per_text(model(mixed(batch, model), samples), samples, counted)
    rewards = tf.cast(batch["rewards"], costs.dtype)
    # Differences, so that equal rewards leave exactly nothing: of rounding Adafactor would make whole steps.
    better = tf.reduce_sum(rewards[:, :, None] - rewards[:, None], 2) / (count - 1)
    loss = tf.reduce_mean(tf.reshape(better, (-1,)) * costs)
    return loss, {"reward": tf.reduce_mean(rewards)}


def per_text(logits: Tensor, tokens: Tensor, counted: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """(mean, sum) [B] of the cross-entropies of tokens [B, L] that are `counted`, bool [B, L]; of none, 0.

    Smoothing spreads a part of a token over the others. Source: `weighted_softmax_xent` of big_vision's `utils.py`.
    """
    logs = tf.nn.log_softmax(logits)
    right = tf.gather(logs, tokens, axis=2, batch_dims=2)
    losses = -(1 - label_smoothing) * right
    if label_smoothing:
        losses = losses - label_smoothing / (logs.shape[2] - 1) * (tf.reduce_sum(logs, 2) - right)
    weights = tf.cast(counted, losses.dtype)
    total = tf.reduce_sum(losses * weights, 1)
    return total / tf.maximum(tf.reduce_sum(weights, 1), 2e-38), total


def dense(models: dict[str, Model], batch: dict[str, Tensor], recipe: Recipe) -> Measured:
    """The error of the maps that codes become (`map_error`), and how far vectors are from what they become: the mean square.

    Source: `trainers/proj/uvim/vqvae.py` of google-research/big_vision.
    """
    model, maps = models["model"], read(batch["maps"], models["model"].config, models["model"].dtype)
    logits, z, near, codes = model(maps, mixed(batch, model), batch.get("kept_codes"))
    reconstruction, commitment = (
        map_error(logits, maps, model.config),
        tf.reduce_mean(tf.square(z - tf.stop_gradient(near))),
    )
    found = {"reconstruction": reconstruction, "commitment": commitment} | model.codebook.statistics(
        tf.stop_gradient(z), codes
    )
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
