"""Codes: a model that writes predicts, of an image, the codes that a frozen oracle makes of the image's map."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from common import weights
from common.data.batches import EvalBatches
from common.data.columns import Column
from common.data.split import Split, evenly
from common.data.targets import Truths, check_maps, eval_maps, eval_shown, train_columns
from common.data.views import resized_recipe
from common.evaluation.captioning import LikelihoodEvaluator
from common.evaluation.dense import MapEvaluator, check_known
from common.evaluation.evaluator import Evaluator
from common.evaluation.shown import MOST_SHOWN
from common.models import DecoderConfig, VqVaeConfig, find_model
from common.models.cards import Preprocessing
from common.models.family import within
from common.recipes.choices import Target
from common.recipes.task import BEST, Coded, Rewarded
from common.system.errors import UserError
from common.tasks.contrastive import tower_values
from common.tasks.frozen import digest, find_frozen
from common.tasks.start import Start, adapted, prepared
from common.weights.source import declared, read_model

MAPS, ORACLE = "maps", "oracle"  # the names of the evaluator, and of the frozen model in a run


def models(plan: Any) -> dict[str, Start]:
    """The model that is trained, for as many codes as the oracle has, and the oracle; images may have a tower from a file.

    Raises UserError for a model that does not write, for an oracle that makes no codes or of maps that the images have not, and for
    weights that write another oracle's codes.
    """
    config, recipe = plan.config, plan.recipe
    row = find_model(config.model)
    if not isinstance(row.config(), DecoderConfig):
        raise UserError(
            f"--recipe {recipe.name} trains models that write and {config.model} is none; choose a --model such as VTT-T/8."
        )
    oracle = read_oracle(recipe.task.oracle, config.bit_pretrained_dir)
    check_target(recipe.task, oracle.config.target)
    for split in plan.splits.values():
        check_maps(split, oracle.config, plan.dataset.name)
    check_codes(plan.weights_file, oracle, recipe.task.oracle)
    row = dataclasses.replace(row, changes={**row.changes, **sizes(oracle.config)})
    model, arrays, card = weights.starting_values(
        row, plan.weights_file, None, config.seed,
        image_size=(recipe.crop, recipe.crop), patch_size=config.patch_size, say=plan.notes.append,
    )  # fmt: skip
    if config.image_weights:
        arrays |= within("image", tower_values(config.image_weights, model.image, plan.notes.append))
    shown = prepared(recipe, card.over(row.card), config.exif)
    oracle = seeing(oracle, shown)
    for name, split in plan.splits.items() if config.maps_of or isinstance(recipe.task, Rewarded) else ():
        if name != "train":
            check_known(Truths(split, oracle.config.target, oracle.preprocessing), name)
    return {"model": adapted(Start(model, arrays, card, shown), plan), ORACLE: oracle}


def read_oracle(given: str, folder: str) -> Start:
    """The frozen model that --oracle names, as it lies in its file. Raises UserError for one that makes no codes of maps."""
    row, path = find_frozen(given, folder, "--oracle")
    source = read_model(path)
    if not isinstance(source.config, VqVaeConfig):
        raise UserError(
            f"The --oracle {given} makes no codes of maps; name the run or file of a first stage, as --recipe uvim_color trains."
        )
    card = source.card.over(row.card) if row else source.card
    return Start(source.config, source.arrays, card, card.preprocessing, frozen=True, digest=digest(path))


def check_target(task: Coded | Rewarded, target: Target) -> None:
    """Raise UserError where a reward is of other maps than an oracle's."""
    if isinstance(task, Rewarded) and task.target != target:
        own = BEST[target].rpartition("/")[2]
        raise UserError(
            f"--reward {task.reward} is of maps of {task.target}, and the --oracle {task.oracle} makes maps of {target}; give --reward "
            f"{own}, or another oracle."
        )


def check_codes(path: Path | None, oracle: Start, given: str) -> None:
    """Raise UserError for weights that were trained to write texts, or the codes of another oracle than `given`.

    Before the file is read, whose sizes would tell less.
    """
    source = path and declared(path)
    if not source or not isinstance(source.config, DecoderConfig):
        return
    if source.card.oracle not in (None, oracle.digest):
        raise UserError(
            f"The --oracle {given} is not the file whose codes the weights were trained to write; name that one."
        )
    if source.card.text:
        raise UserError(
            f"{path} writes texts and no codes of the --oracle {given}; name weights that were trained with it, or leave it out."
        )
    wanted, found = sizes(oracle.config), {name: getattr(source.config, name) for name in sizes(oracle.config)}
    if found != wanted:
        raise UserError(
            f"{path} writes {found['length']} tokens of {found['vocabulary']} and the --oracle {given} has {wanted['length']} codes "
            f"of {wanted['vocabulary'] - 1}; name the oracle that the weights were trained with."
        )


def seeing(oracle: Start, shown: Preprocessing) -> Start:
    """The oracle that sees the same part of an image as the other model, at its own size and in its own scale."""
    own = oracle.preprocessing
    side = oracle.config.image_size[0]
    return oracle._replace(preprocessing=dataclasses.replace(shown.at(side), mean=own.mean, std=own.std))


def sizes(oracle: VqVaeConfig) -> dict[str, int]:
    """What a model that writes has to have for an oracle's codes: token 0 is none, and k + 1 code k."""
    return {"vocabulary": oracle.vocabulary + 1, "length": oracle.num_codes}


def columns(plan: Any, split: Split, train: bool) -> tuple[Column, ...]:
    """Images, those of the oracle where it sees other pixels, and maps."""
    oracle = plan.models[ORACLE]
    if not train:
        return *shown(plan.preprocessing, oracle), eval_maps(oracle.config.target, oracle.preprocessing)
    target, side = oracle.config.target, oracle.config.image_size[0]
    if side == plan.recipe.crop:
        return train_columns(target, plan.recipe)
    images, _ = train_columns(target, plan.recipe)
    return images, *train_columns(target, resized_recipe(plan.recipe, side), f"{ORACLE}_images")


def shown(seen: Preprocessing, oracle: Start) -> tuple[Column, ...]:
    """What both models are shown of an image in evaluation."""
    target = oracle.config.target
    own = eval_shown(target, oracle.preprocessing, f"{ORACLE}_images")
    return eval_shown(target, seen), *([] if seen.resolution == oracle.preprocessing.resolution else [own])


def codes(oracle: VqVaeConfig, seed: int | None = None) -> tuple[Column, ...]:
    """What is written: `prompt` int32 [N] of zeros; `end` int32 [], which never comes; with a seed `draws` [N] in [0, 1)."""
    shape = (oracle.num_codes,)
    found = (
        Column("prompt", shape, np.int32, lambda example: np.zeros(shape, np.int32)),
        Column("end", (), np.int32, lambda example: np.int32(-1)),
    )
    draw = lambda example: np.random.default_rng([seed, 11, example.number]).random(shape)
    return found if seed is None else (*found, Column("draws", shape, np.float64, draw))


def evaluators(plan: Any) -> list[Evaluator]:
    """How likely the codes of every split but `train` are; and maps of held-out images, with --maps_of."""
    found = []
    for name, split in plan.splits.items():
        if name != "train":
            batches = EvalBatches(split, None, plan.recipe.batch_eval, columns=columns(plan, split, train=False))
            found.append(LikelihoodEvaluator(name, batches))
    if count := plan.config.maps_of:
        whole = plan.splits[plan.held_out]
        found.append(predicting(plan, MAPS, whole.take(evenly(len(whole), count)), shows=MOST_SHOWN))
    return found


def predicting(plan: Any, name: str, split: Split, *, shows: int) -> MapEvaluator:
    """What judges the maps that are predicted of a split, and leaves pictures of `shows` images."""
    oracle = plan.models[ORACLE]
    asked = *shown(plan.preprocessing, oracle), *codes(oracle.config)
    batches = EvalBatches(split, None, min(plan.recipe.batch_eval, len(split)), columns=asked)
    return MapEvaluator(name, batches, Truths(split, oracle.config.target, oracle.preprocessing), shows=shows)


def card(plan: Any) -> dict[str, Any]:
    """How images are prepared, and whose codes are written."""
    facts = {"skipped_images": plan.dataset.skipped, "oracle": plan.models[ORACLE].digest}
    return plan.preprocessing.facts() | facts
