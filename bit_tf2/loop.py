"""Training and evaluation in TensorFlow: the mathematics of one step, and the loop around it."""

from collections.abc import Iterator

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2 import api, optim, weights
from bit_tf2.devices import Devices, to_device
from bit_tf2.model import Model
from common.batches import NOISE
from common.run import Run

cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits  # labels [B], logits [B, K] -> losses [B]


def scale(images: Tensor, dtype: tf.DType) -> Tensor:
    """uint8 [B, H, W, 3] to [-1, 1]."""
    return tf.cast(images, dtype) / 127.5 - 1


def swap_pairs(values: Tensor) -> Tensor:
    """Rows 2i and 2i + 1 change places: the partners of mixup."""
    return tf.reshape(tf.reverse(tf.reshape(values, (-1, 2, *values.shape[1:])), (1,)), values.shape)


def loss_fn(model: Model, batch: dict[str, Tensor], dtype: tf.DType) -> Tensor:
    """Mean softmax cross-entropy of a training batch; with a weight, of mixup (https://arxiv.org/abs/1710.09412)."""
    images, labels = scale(batch["images"], model.dtype), batch["labels"]
    noise = {name: batch[name] for name in NOISE if name in batch}
    if "mixup_weight" not in batch:
        return tf.reduce_mean(cross_entropy(labels, model(tf.cast(images, dtype), **noise)))
    weight = tf.cast(batch["mixup_weight"], model.dtype)
    images = weight * images + (1 - weight) * swap_pairs(images)
    logits = model(tf.cast(images, dtype), **noise)
    losses = weight * cross_entropy(labels, logits) + (1 - weight) * cross_entropy(swap_pairs(labels), logits)
    return tf.reduce_mean(losses)


def train_step(
    model: Model, optimizer: optim.SGD, batch: dict[str, Tensor], *, lr: float, batch_split: int, dtype: tf.DType
) -> Tensor:
    """One update in place; returns the loss before it, still on the device."""
    lr = tf.constant(lr, model.dtype)  # a tensor: for every new Python number, the step would be compiled again
    return compiled_step(model, optimizer, batch, lr, batch_split=batch_split, dtype=dtype)


@tf.function(autograph=False)
def compiled_step(
    model: Model, optimizer: optim.SGD, batch: dict[str, Tensor], lr: Tensor, *, batch_split: int, dtype: tf.DType
) -> Tensor:
    """`train_step` as one graph, made at the first call with a model and its optimizer."""
    variables = list(optimizer.parameters.values())

    def loss_and_gradients(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        chunks = {
            name: tf.reshape(value, (batch_split, -1, *value.shape[1:]))
            for name, value in batch.items()
            if value.shape.rank
        }

        def part_gradients(part: Tensor | int) -> tuple[Tensor, ...]:
            with tf.GradientTape() as tape:
                micro_batch = batch | {name: value[part] for name, value in chunks.items()}
                loss = loss_fn(model, micro_batch, dtype) / batch_split
            return loss, *tape.gradient(loss, variables)

        def add_gradients(part: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
            return part + 1, *(total + value for total, value in zip(sums, part_gradients(part)))

        if batch_split == 1:
            return part_gradients(0)
        # One after the other: only one micro-batch's activations live.
        start = (tf.constant(0), tf.zeros_like(lr), *(tf.zeros_like(value) for value in variables))
        return tf.while_loop(lambda part, *_: part < batch_split, add_gradients, start, parallel_iterations=1)[1:]

    def update(optimizer: optim.SGD, gradients: dict[optim.Path, Tensor]) -> None:
        optim.update(optimizer, lr, gradients)

    loss, *gradients = model.devices.mean(loss_and_gradients, batch)
    model.devices.on_each(update, optimizer, dict(zip(optimizer.parameters, gradients)))
    return model.devices.local(loss)


@tf.function(autograph=False)
def eval_step(model: Model, batch: dict[str, Tensor], *, dtype: tf.DType) -> Tensor:
    """[correct among 1, correct among 5, sum of losses, count] of the unmasked examples, float64."""
    (sums,) = model.devices.sum(lambda batch: (eval_sums(model, batch, dtype),), batch)
    return model.devices.local(sums)


def eval_sums(model: Model, batch: dict[str, Tensor], dtype: tf.DType) -> Tensor:
    """`eval_step` on one device."""
    labels, mask = batch["labels"], batch["mask"]
    logits = model(tf.cast(scale(batch["images"], model.dtype), dtype))
    own = tf.gather(logits, labels[:, None], batch_dims=1)
    classes = tf.range(logits.shape[1])
    # How many classes rank before the right one: all but itself, lower ones, and later equals. NaN is not lower.
    behind = (logits < own) | ((logits == own) & (classes >= labels[:, None]))
    rank = logits.shape[1] - tf.reduce_sum(tf.cast(behind, tf.int32), 1)
    losses = tf.where(mask, cross_entropy(labels, logits), 0)
    sums = (tf.cast((rank < 1) & mask, tf.int32), tf.cast((rank < 5) & mask, tf.int32), losses, tf.cast(mask, tf.int32))
    return tf.stack([tf.cast(tf.reduce_sum(value), tf.float64) for value in sums])


def evaluate(model: Model, batches: Iterator[dict], *, dtype: tf.DType) -> dict[str, float]:
    """top1, top5 and loss over every example of a split."""
    sums = sum(eval_step(model, batch, dtype=dtype) for batch in to_device(batches, model.devices))
    top1, top5, loss, count = sums.numpy().tolist()
    return {"top1": top1 / count, "top5": top5 / count, "loss": loss / count}


def main(run: Run) -> None:
    """Train as the command says; everything but the mathematics happens in common/run.py."""
    with Devices(run.config.shard_parameters) as devices, run.on(devices):
        recipe, dtype = run.recipe, getattr(tf, run.config.precision)
        options = {"precision": run.config.precision, "remat": run.config.remat, "devices": devices}
        model = api.build(run.model_config, run.initial, **options)
        optimizer = optim.create_optimizer(model, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        if run.restored:
            weights.load_optimizer(model, optimizer, run.restored)
        losses = run.losses
        for step, batch in enumerate(to_device(run.train_batches(), devices), start=run.step + 1):
            lr, split = recipe.lrs[step - 1], recipe.batch_split
            losses.append(train_step(model, optimizer, batch, lr=lr, batch_split=split, dtype=dtype))
            if run.wants_log(step):
                run.log_training(step, [float(loss) for loss in losses])
                losses = []
            if run.wants_evaluation(step):
                result = evaluate(model, run.eval_batches("val"), dtype=dtype)
                if run.log_evaluation(step, "val", result):
                    run.write_best(weights.dump(model))
            if run.wants_checkpoint(step):
                state = weights.dump(model), weights.dump_optimizer(model, optimizer)
                run.save(step, *state, [float(loss) for loss in losses])
        if run.best is not None:
            weights.load(model, run.read_best())
        for split in run.final_splits:
            run.log_evaluation(recipe.num_steps, split, evaluate(model, run.eval_batches(split), dtype=dtype))
        run.finish(weights.dump(model))
