"""What an evaluator asks of a batch, in JAX: each of OUTPUTS is {column: rows [B, ...]}, in the order of the batch."""

import functools
from collections.abc import Callable

import jax
from jax import Array, lax
from jax import numpy as jnp

from bit_jax.distances import agree, kl, rank
from bit_jax.losses import cross_entropy, mixed, noise, per_text, targets, teachers, texts, written
from bit_jax.maps import attention_map, patch_features, token_features
from bit_jax.model import Model
from bit_jax.writing import write
from common.recipes.task import Loss, Task

PROBABILITIES = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}  # of each class


@functools.partial(jax.jit, static_argnames="loss")
def score(logits: Array, batch: dict[str, Array], loss: Loss) -> dict[str, Array]:
    """Columns [B]: top1 and top5, whether the right class is among so many; loss; mask; predicted, the likeliest class; its probability.

    With several labels for each, an image is right where the prediction is one of its labels, and one without labels is left out.
    """
    labels, mask = batch["labels"], batch["mask"]
    losses = cross_entropy(logits, labels, loss)
    if labels.ndim == 2:
        is_own = targets(labels, logits) > 0
        mask = mask & is_own.any(1)
        labels = jnp.where(is_own, logits, -jnp.inf).argmax(1)  # the likeliest of an image's own
    place = rank(logits, labels)
    probabilities = PROBABILITIES[loss](logits)
    wide = lambda values: values.astype(jnp.promote_types(logits.dtype, jnp.float32))
    columns = {"top1": place < 1, "top5": place < 5, "loss": wide(losses), "mask": mask}
    return columns | {"predicted": logits.argmax(1), "probability": wide(probabilities.max(1))}


def scores(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """The `score` of what the trained model makes of a batch."""
    model = models["model"]
    return score(model(mixed(batch, model), **noise(batch)), batch, task.loss)


def matches(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """The `score` of the student, and means over its teachers: agreement and kl with each, and the teacher's top1."""
    logits = models["model"](mixed(batch, models["model"]))
    taught = [teacher(mixed(batch, teacher, name)) for name, teacher in teachers(models)]
    found = {
        "agreement": [agree(logits, target) for target in taught],
        "kl": [kl(logits, target) for target in taught],
        "teacher_top1": [score(target, batch, task.loss)["top1"] for target in taught],
    }
    return score(logits, batch, task.loss) | {
        name: jnp.stack(values).astype(jnp.promote_types(logits.dtype, jnp.float32)).mean(0)
        for name, values in found.items()
    }


def image_embeddings(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """Columns: embedding [B, E] of images, of length 1; scale and bias [B], which make logits of similarities; mask."""
    model = models["model"]
    embedding, _, t, b = model(mixed(batch, model), None, **noise(batch))
    numbers = {"scale": jnp.exp(t), "bias": b}
    columns = {name: jnp.broadcast_to(number, batch["mask"].shape) for name, number in numbers.items()}
    return columns | {"embedding": embedding.astype(model.dtype), "mask": batch["mask"]}


def text_embeddings(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """Columns: embedding [B, E] of texts, of length 1; mask."""
    model = models["model"]
    _, embedding, *_ = model(None, written(batch, model))
    return {"embedding": embedding.astype(model.dtype), "mask": batch["mask"]}


def attention_maps(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """Columns: map [B, P], the `attention_map` of images; mask."""
    model = models["model"]
    found = attention_map(model, mixed(batch, model), **noise(batch))
    return {"map": found.astype(model.dtype), "mask": batch["mask"]}


def patch_maps(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """Columns: map [B, P, D], the `patch_features` of images; mask."""
    model = models["model"]
    return {"map": patch_features(model, mixed(batch, model), **noise(batch)), "mask": batch["mask"]}


def pooled(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """Columns: features [B, D], what a model, or the tower for images, gives its head; mask."""
    model = models["model"]
    tower = getattr(model, "image", model)
    return {"features": tower.features(mixed(batch, model), **noise(batch)), "mask": batch["mask"]}


def tokens(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """Columns: features [B, (class tokens + 1) * D], the `token_features` of images; mask."""
    model = models["model"]
    return {"features": token_features(model, mixed(batch, model), **noise(batch)), "mask": batch["mask"]}


def likelihoods(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """Columns [B]: loss, a text's mean cross-entropy; nll, the sum; num_tokens, which of its tokens count; mask."""
    model, (tokens, counted) = models["model"], texts(models, batch)
    loss, nll = per_text(model(mixed(batch, model), tokens), tokens, counted)
    wide = jnp.promote_types(loss.dtype, jnp.float32)
    columns = {"loss": loss.astype(wide), "nll": nll.astype(wide), "num_tokens": counted.sum(1)}
    return columns | {"mask": batch["mask"]}


def text_scores(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """Columns: scores [B, T], the log-likelihoods of T texts, tokens [B, T, L], for an image; mask."""
    model = models["model"].devices.whole(models["model"])
    image = model.look_at(model.encode(mixed(batch, model)))

    def rated(text: tuple[Array, Array]) -> Array:
        tokens, counted = text
        return -per_text(model.decode(image, tokens), tokens, counted)[1]

    choices = batch["texts"].swapaxes(0, 1), batch["texts_counted"].swapaxes(0, 1)  # one after the other
    return {"scores": lax.map(rated, choices).T, "mask": batch["mask"]}


def captions(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """Columns: tokens [B, L] of the text that the model writes after the `prompt`; score, its log-likelihood; mask."""
    model = models["model"].devices.whole(models["model"])
    encoded = model.encode(mixed(batch, model))
    tokens, scores = write(model, encoded, batch["prompt"], batch["end"], task.writing, batch.get("draws"))
    return {"tokens": tokens, "score": scores, "mask": batch["mask"]}


def maps(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """Columns: map [B, H, W, n], what codes become (`predicted`), of a map or where there is an oracle written; mask."""
    if "oracle" in models:
        found = oracle_maps(models, batch, captions(models, batch, task)["tokens"])
        return {"map": found, "mask": batch["mask"]}
    model = models["model"]
    images = mixed(batch, model)
    return {"map": model.decode(model.encode(batch["maps"], images), images), "mask": batch["mask"]}


def oracle_maps(models: dict[str, Model], batch: dict[str, Array], tokens: Array, count: int = 1) -> Array:
    """[B * count, H, W, n]: what the oracle makes of so many texts of each image, tokens int [B * count, L]."""
    oracle = models["oracle"]
    images = mixed(batch, oracle, "oracle").repeat(count, 0)
    codes = jnp.maximum(tokens - 1, 0)  # token 0, which is no code, is never learned
    return oracle.decode(codes, images)


def samples(models: dict[str, Model], batch: dict[str, Array], task: Task) -> dict[str, Array]:
    """Columns: samples [B, K, L], texts that the model draws by the numbers `draws` [B, K, L]; and what they were asked for with.

    Where there is an oracle, also map [B, K, H, W, n], what it makes of drawn codes, and the `truths` of the batch.
    """
    model, (_, count, length) = models["model"], batch["draws"].shape
    model = model.devices.whole(model)
    asked = [batch[name].repeat(count, 0) for name in ("prompt", "end")]
    encoded = model.encode(mixed(batch, model))
    tokens, _ = write(model, encoded, *asked, task.sampling, batch["draws"].reshape(-1, length))
    found = {name: batch[name] for name in ("example", "prompt", "end")}
    if "oracle" in models:
        maps = oracle_maps(models, batch, tokens, count)
        found |= {"map": maps.reshape(-1, count, *maps.shape[1:]), "truths": batch["truths"]}
    return {"samples": tokens.reshape(batch["draws"].shape)} | found


OUTPUTS: dict[str, Callable[[dict[str, Model], dict[str, Array], Task], dict[str, Array]]] = {
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
