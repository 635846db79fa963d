"""Contrastive training: every image with one of its texts, among all pairs of a batch."""

import dataclasses
import functools
from itertools import chain
from typing import Any

import numpy as np

from common import weights
from common.data.batches import EvalBatches
from common.data.catalogue import listed
from common.data.checked import open_turned
from common.data.columns import Column, captions, check_captions
from common.data.split import Dataset, Split
from common.data.text import Renderer, Tokenizer, fitting, kept_tokenizer
from common.data.text.prompts import PROMPTS, doubts, prompts_of
from common.data.text.text_batches import form_of, text_batches
from common.evaluation.evaluator import Evaluator
from common.evaluation.retrieval import RetrievalEvaluator
from common.evaluation.zero_shot import ZeroShotEvaluator
from common.models import DecoderConfig, TwoTowersConfig, find_model, with_noise
from common.models.family import Config, within
from common.models.tokens import Text
from common.system.errors import UserError
from common.tasks import third
from common.tasks.seen import image_columns, image_size, of_drawn_patches, seeing
from common.tasks.start import Start, adapted, prepared
from common.weights.adapt import adapt
from common.weights.starting import read_source

ZERO_SHOT_PROMPTS = "clip_best"  # CLIP's seven best, and the bare name


def models(plan: Any) -> dict[str, Start]:
    """The image-text model that is trained, and the third tower, if any; towers may come from files of their own.

    Raises UserError for a model of images alone, and for one whose texts become unknown numbers.
    """
    config, recipe = plan.config, plan.recipe
    row = find_model(config.model)
    if not isinstance(row.config(), TwoTowersConfig):
        raise UserError(
            f"--recipe {recipe.name} trains image-text models and {config.model} takes no texts; choose a --model such as "
            "SigLIP-T/8."
        )
    check_first(config, row.config())
    check_captions(plan.splits["train"])
    for name in zero_shot_sets(config):
        plan.notes.extend(doubts(classes_of(config, name)))
    size = image_size(recipe)
    model, arrays, card = weights.starting_values(
        row, plan.weights_file, None, config.seed, image_size=size, patch_size=config.patch_size, say=plan.notes.append
    )
    if plan.weights_file is None:
        arrays |= first_scales(model, recipe.task)
    for tower, path in (("image", config.image_weights), ("text", config.text_weights)):
        if path:
            arrays |= within(tower, tower_values(path, getattr(model, tower), plan.notes.append))
    model = with_noise(
        seeing(of_drawn_patches(model, recipe), plan), recipe.dropout, recipe.stochastic_depth, recipe.patch_dropout
    )
    card = card.over(row.card)
    tokenizer_of(config, card.text, model)
    start = Start(model, arrays, card, prepared(recipe, card, config.exif, config.tokens))
    if not recipe.task.third_tower:
        return {"model": adapted(start, plan)}
    beside = third.third_tower(plan, recipe.task.third_tower, start.preprocessing)
    return {"model": adapted(third.with_projections(start, beside, config.seed), plan), third.NAME: beside}


def check_first(config: Any, model: TwoTowersConfig) -> None:
    """Raise UserError for t and b of a new model where it is none, and for b where it has none."""
    for flag in ("first_temperature", "first_bias"):
        if getattr(config, flag) is not None and config.weights != "none":
            raise UserError(
                f"--{flag} is for a new model, and --weights {config.weights} gives one with its own; leave it out, or give "
                "--weights none."
            )
    if config.first_bias is not None and not model.bias:
        raise UserError(f"--first_bias is for models that add a bias, and {config.model} adds none; leave it out.")


def first_scales(model: TwoTowersConfig, task: Any) -> dict[str, np.ndarray]:
    """t and b of a new model."""
    values = {"t": np.log(task.first_temperature), "b": task.first_bias}
    return {name: np.full(shape, values[name], np.float32) for name, shape in model.own_shapes().items()}


def tower_values(path: str, tower: Config | None, say: Any) -> dict[str, np.ndarray]:
    """The values of a tower without its projection, from a file of such a model in any spelling. Raises UserError."""
    if tower is None:
        raise UserError(f"The model has no tower for texts and --text_weights names {path}; leave it out.")
    bare = tower.with_classes(None)
    source = read_source(path, bare, say)
    return adapt(source.arrays, source.config, bare, say)


def tokenizer_of(config: Any, text: Text | None, model: TwoTowersConfig | DecoderConfig) -> Tokenizer | Renderer:
    """What makes numbers of the model's texts. Raises UserError where nothing states how, or for another model's."""
    if text is None:
        raise UserError(
            f"No card states how the texts of {config.model} become numbers; put the card of its training beside its weights."
        )
    found = kept_tokenizer(text, config.vocabulary, config.bit_pretrained_dir)
    return fitting(found, model, model.image_size and model.image_size[0])


class Texts:
    """What a batch holds of texts: tokens int32 [B, L], or pixels uint8 [B, H, W, 3]."""

    def __init__(self, plan: Any):
        start = plan.models["model"]
        self.tokenizer = tokenizer_of(plan.config, start.card.text, start.config)
        self.encode, self.form = self.tokenizer.encode, form_of(self.tokenizer)

    def column(self, split: Split) -> Column:
        """One of each example's captions."""
        return captions(split, lambda text: self.encode([text])[0], **self.form)

    def batches(self, texts: list[str], batch: int) -> EvalBatches:
        """Every text once."""
        return text_batches(texts, self.encode, batch, **self.form)


def columns(plan: Any, split: Split, train: bool) -> tuple[Column, ...]:
    """Images, and in training one of the captions of each."""
    seen = image_columns(plan, train)
    return (*seen, Texts(plan).column(split), *third.columns(plan)) if train else seen


def evaluators(plan: Any) -> list[Evaluator]:
    """Retrieval for every split but `train`, and zero-shot classification of the held-out images of --zero_shot."""
    found, texts = [], Texts(plan)
    for name, split in plan.splits.items():
        if name != "train" and split.captions is not None:
            written = list(chain.from_iterable(split.captions))
            found.append(
                RetrievalEvaluator(
                    name, image_batches(plan, split), split.captions.images_of, texts.batches(written, plan.recipe.batch_eval),
                    loss=plan.recipe.task.loss, batch=plan.recipe.batch_eval,
                    captions=written if name == plan.held_out else None,
                )
            )  # fmt: skip
    return found + [zero_shot(plan, texts, name) for name in zero_shot_sets(plan.config)]


def image_batches(plan: Any, split: Split) -> EvalBatches:
    """Every image once."""
    return EvalBatches(split, None, plan.recipe.batch_eval, columns=columns(plan, split, train=False))


def zero_shot_sets(config: Any) -> list[str]:
    """The names of the data sets of --zero_shot."""
    return listed(config.zero_shot) if config.zero_shot else []


def zero_shot(plan: Any, texts: Texts, name: str) -> Evaluator:
    """Whether a data set's images are nearest to the prompts of their classes."""
    dataset = classes_of(plan.config, name)
    split = dataset.splits[dataset.held_out]
    prompts, classes = prompts_of(dataset, PROMPTS[ZERO_SHOT_PROMPTS], plan.models["model"].card.text)
    batches = texts.batches(prompts, plan.recipe.batch_eval)
    return ZeroShotEvaluator(name, image_batches(plan, split), split.labels, batches, classes)


@functools.lru_cache(maxsize=8)
def classes_of(config: Any, name: str) -> Dataset:
    """A data set of --zero_shot. Raises UserError for one that has captions only."""
    dataset = open_turned(dataclasses.replace(config, dataset=name))
    dataset.check_labels("--zero_shot")
    return dataset


def card(plan: Any) -> dict[str, Any]:
    """How images and texts are prepared, and the loss."""
    return {
        "text": plan.models["model"].card.text.facts(),
        **plan.preprocessing.facts(),
        "skipped_images": plan.dataset.skipped,
        "loss": plan.recipe.task.loss,
    }
