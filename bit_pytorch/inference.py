"""Evaluation and prediction with trained weights in PyTorch."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bit_pytorch import api
from bit_pytorch.devices import FirstDevice, to_device
from bit_pytorch.layers import standardize_once
from bit_pytorch.loop import evaluate
from bit_pytorch.losses import noise, scale
from bit_pytorch.model import Model
from bit_pytorch.outputs import score
from common.evaluation.evaluator import Rows
from common.recipes.task import Loss
from common.runs.export import Export
from common.runs.inference import Evaluation, Inference
from common.runs.prediction import Prediction


@torch.inference_mode()
def features_and_logits(model: Model, images: Tensor, **places: Tensor) -> tuple[Tensor, Tensor]:
    """(features [B, D], logits [B, K]) of uint8 images; of patches, with their `coordinates` and `patch_mask`."""
    features = model.features(scale(images, model).to(model.compute_dtype), **places)
    return features, model.logits(features)


def predict(model: Model, batches: Iterator[dict]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(features [B, D], logits [B, K]) as numpy arrays of every batch {images uint8 [B, H, W, 3], ...}, padding included."""
    for batch in to_device(batches, model.devices):
        features, logits = features_and_logits(model, batch["images"], **noise(batch))
        yield features.cpu().numpy(), logits.cpu().numpy()


@torch.inference_mode()
def predict_and_score(
    model: Model, batches: Iterator[dict], *, loss: Loss
) -> Iterator[tuple[np.ndarray, np.ndarray, Rows]]:
    """(features [B, D], logits [B, K], their `score`) of every batch, in one pass."""
    for batch in to_device(batches, model.devices):
        features, logits = features_and_logits(model, batch["images"], **noise(batch))
        yield (
            features.cpu().numpy(),
            logits.cpu().numpy(),
            {name: rows.cpu().numpy() for name, rows in score(logits, batch, loss).items()},
        )


def build_all(job: Inference, devices: FirstDevice) -> dict[str, Model]:
    """The models of a command that does not train, by their names in a run."""
    options = {"precision": job.config.precision, "devices": devices}
    beside = {
        name: api.build(start.config, start.arrays, preprocessing=start.preprocessing, **options)
        for name, start in job.frozen.items()
    }
    return {"model": build_once(job, devices)} | beside


def build_once(job: Inference | Export, devices: FirstDevice) -> Model:
    """The model of a command that does not train: its kernels are standardised once."""
    options = {"precision": job.config.precision, "preprocessing": job.preprocessing, "devices": devices}
    model = api.build(job.model_config, job.arrays, **options)
    standardize_once(model)
    return model


def evaluate_main(job: Evaluation) -> None:
    """Print accuracy and loss on every split of every dataset, and write features and logits on request."""
    with FirstDevice() as devices:
        models = build_all(job, devices)
        for own, split in ((own, split) for own in job.sets for split in own.split_names):
            if own.config.output and own.computes_scores:
                own.write(split, predict_and_score(models["model"], own.batches(split), loss=own.task.loss))
            else:
                own.show(split, evaluate(models, own.evaluator(split), own.task))


def predict_main(job: Prediction) -> None:
    """Print the top classes, or texts, of images, and write logits and features on request."""
    with FirstDevice() as devices:
        models = build_all(job, devices)
        if job.computes_scores:
            job.show(predict(models["model"], job.batches()))
        else:
            evaluate(models, job.evaluator(), job.task)
            job.show(job.outputs())
