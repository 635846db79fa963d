"""What an evaluator asks of a batch, in TensorFlow: each of OUTPUTS is {column: rows [B, ...]}, in the order of the batch."""

from collections.abc import Callable

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.distances import agree, kl, rank
from bit_tf2.losses import cross_entropy, mixed, noise, per_text, targets, teachers, texts, written
from bit_tf2.maps import attention_map, patch_features, token_features
from bit_tf2.model import Model
from bit_tf2.writing import write
from common.recipes.task import Loss, Task

PROBABILITIES = {"softmax": tf.nn.softmax, "sigmoid": tf.sigmoid}  # of each class


def score(logits: Tensor, batch: dict[str, Tensor], loss: Loss) -> dict[str, Tensor]:
    """Columns [B]: top1 and top5, whether the right class is among so many; loss; mask; predicted, the likeliest class; its probability.

    With several labels for each, an image is right where the prediction is one of its labels, and one without labels is left out.
    """
    labels, mask = batch["labels"], batch["mask"]
    losses = cross_entropy(logits, labels, loss)
    if labels.shape.rank == 2:
        is_own = targets(labels, logits) > 0
        mask = mask & tf.reduce_any(is_own, 1)
        own = tf.where(is_own, logits, float("-inf"))
        labels = tf.argmax(own, 1, tf.int32)  # the likeliest of an image's own
    place = rank(logits, labels)
    probabilities = PROBABILITIES[loss](logits)
    columns = {"top1": place < 1, "top5": place < 5, "loss": tf.cast(losses, tf.float64), "mask": mask}
    probability = tf.cast(tf.reduce_max(probabilities, 1), tf.float64)
    return columns | {"predicted": tf.argmax(logits, 1), "probability": probability}


def scores(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """The `score` of what the trained model makes of a batch."""
    model = models["model"]
    return score(model(mixed(batch, model), **noise(batch)), batch, task.loss)


def matches(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """The `score` of the student, and means over its teachers: agreement and kl with each, and the teacher's top1."""
    logits = models["model"](mixed(batch, models["model"]))
    taught = [teacher(mixed(batch, teacher, name)) for name, teacher in teachers(models)]
    found = {
        "agreement": [agree(logits, target) for target in taught],
        "kl": [kl(logits, target) for target in taught],
        "teacher_top1": [score(target, batch, task.loss)["top1"] for target in taught],
    }
    return score(logits, batch, task.loss) | {
        name: tf.reduce_mean(tf.cast(tf.stack(values), tf.float64), 0) for name, values in found.items()
    }


def image_embeddings(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Columns: embedding [B, E] of images, of length 1; scale and bias [B], which make logits of similarities; mask."""
    model = models["model"]
    embedding, _, t, b = model(mixed(batch, model), None, **noise(batch))
    numbers = {"scale": tf.exp(t), "bias": b}
    columns = {name: tf.broadcast_to(number, tf.shape(batch["mask"])) for name, number in numbers.items()}
    return columns | {"embedding": tf.cast(embedding, model.dtype), "mask": batch["mask"]}


def text_embeddings(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Columns: embedding [B, E] of texts, of length 1; mask."""
    model = models["model"]
    _, embedding, *_ = model(None, written(batch, model))
    return {"embedding": tf.cast(embedding, model.dtype), "mask": batch["mask"]}


def attention_maps(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Columns: map [B, P], the `attention_map` of images; mask."""
    model = models["model"]
    found = attention_map(model, mixed(batch, model), **noise(batch))
    return {"map": tf.cast(found, model.dtype), "mask": batch["mask"]}


def patch_maps(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Columns: map [B, P, D], the `patch_features` of images; mask."""
    model = models["model"]
    return {"map": patch_features(model, mixed(batch, model), **noise(batch)), "mask": batch["mask"]}


def pooled(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Columns: features [B, D], what a model, or the tower for images, gives its head; mask."""
    model = models["model"]
    tower = getattr(model, "image", model)
    return {"features": tower.features(mixed(batch, model), **noise(batch)), "mask": batch["mask"]}


def tokens(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Columns: features [B, (class tokens + 1) * D], the `token_features` of images; mask."""
    model = models["model"]
    return {"features": token_features(model, mixed(batch, model), **noise(batch)), "mask": batch["mask"]}


def likelihoods(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Columns [B]: loss, a text's mean cross-entropy; nll, the sum; num_tokens, which of its tokens count; mask."""
    model, (tokens, counted) = models["model"], texts(models, batch)
    loss, nll = per_text(model(mixed(batch, model), tokens), tokens, counted)
    columns = {"loss": tf.cast(loss, tf.float64), "nll": tf.cast(nll, tf.float64)}
    return columns | {"num_tokens": tf.reduce_sum(tf.cast(counted, tf.int32), 1), "mask": batch["mask"]}


def text_scores(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Columns: scores [B, T], the log-likelihoods of T texts, tokens [B, T, L], for an image; mask."""
    model = models["model"]
    image = model.look_at(model.encode(mixed(batch, model)))

    def rated(text: tuple[Tensor, Tensor]) -> Tensor:
        tokens, counted = text
        return -per_text(model.decode(image, tokens), tokens, counted)[1]

    choices = [tf.transpose(batch[name], (1, 0, 2)) for name in ("texts", "texts_counted")]  # one after the other
    found = tf.map_fn(rated, choices, parallel_iterations=1, fn_output_signature=model.dtype)
    return {"scores": tf.transpose(found), "mask": batch["mask"]}


def captions(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Columns: tokens [B, L] of the text that the model writes after the `prompt`; score, its log-likelihood; mask."""
    model = models["model"]
    encoded = model.encode(mixed(batch, model))
    tokens, scores = write(model, encoded, batch["prompt"], batch["end"], task.writing, batch.get("draws"))
    return {"tokens": tokens, "score": tf.cast(scores, tf.float64), "mask": batch["mask"]}


def maps(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Columns: map [B, H, W, n], what codes become (`predicted`), of a map or where there is an oracle written; mask."""
    if "oracle" in models:
        found = oracle_maps(models, batch, captions(models, batch, task)["tokens"])
        return {"map": found, "mask": batch["mask"]}
    model = models["model"]
    images = mixed(batch, model)
    return {"map": model.decode(model.encode(batch["maps"], images), images), "mask": batch["mask"]}


def oracle_maps(models: dict[str, Model], batch: dict[str, Tensor], tokens: Tensor, count: int = 1) -> Tensor:
    """[B * count, H, W, n]: what the oracle makes of so many texts of each image, tokens int [B * count, L]."""
    oracle = models["oracle"]
    images = tf.repeat(mixed(batch, oracle, "oracle"), count, 0)
    codes = tf.maximum(tokens - 1, 0)  # token 0, which is no code, is never learned
    return oracle.decode(codes, images)


def samples(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Columns: samples [B, K, L], texts that the model draws by the numbers `draws` [B, K, L]; and what they were asked for with.

    Where there is an oracle, also map [B, K, H, W, n], what it makes of drawn codes, and the `truths` of the batch.
    """
    model, (_, count, length) = models["model"], batch["draws"].shape
    asked = [tf.repeat(batch[name], count, 0) for name in ("prompt", "end")]
    encoded = model.encode(mixed(batch, model))
    tokens, _ = write(model, encoded, *asked, task.sampling, tf.reshape(batch["draws"], (-1, length)))
    found = {name: batch[name] for name in ("example", "prompt", "end")}
    if "oracle" in models:
        maps = oracle_maps(models, batch, tokens, count)
        found |= {"map": tf.reshape(maps, (-1, count, *maps.shape[1:])), "truths": batch["truths"]}
    return {"samples": tf.reshape(tokens, batch["draws"].shape)} | found


OUTPUTS: dict[str, Callable[[dict[str, Model], dict[str, Tensor], Task], dict[str, Tensor]]] = {
    "scores": scores,
    "matches": matches,
    "image_embeddings": image_embeddings,
    "text_embeddings": text_embeddings,
    "attention_maps": attention_maps,
    "patch_maps": patch_maps,
    "pooled": pooled,
    "tokens": tokens,
    "likelihoods": likelihoods,
    "text_scores": text_scores,
    "captions": captions,
    "maps": maps,
    "samples": samples,
}
