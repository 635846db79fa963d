"""Tuning by the metric of maps, in every engine: codes are drawn alike, and each map of them is judged alone."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from engines import recipe_of
from test_rewards import Planned, arrays_of, assert_steps_are_alike
from tiny_models import MAP_MODELS, WRITERS

from common.data.batches import TrainBatches, prefetch
from common.data.label_maps import Category, Maps
from common.data.split import MultiLabels, Split
from common.data.targets import TARGETS, Truths
from common.evaluation.dense import MapEvaluator
from common.evaluation.metrics import row
from common.evaluation.rewards import of_maps
from common.models.cards import Card, Preprocessing
from common.recipes.task import TARGET_OF, Rewarded
from common.tasks import coded, rewarded
from common.tasks.start import Start

CATEGORIES = (Category(1, "cat", True), Category(2, "grass", False))
BINS = {"colorization": (3,), "depth": (32,), "panoptic": (3, 2)}


def known(target: str, number: int) -> np.ndarray:
    """A map of 32 px: depths, of which some are not known, or four segments, one of which is a crowd."""
    rng = np.random.default_rng([9, number])
    if target == "depth":
        return np.where(rng.random((32, 32, 1)) < 0.9, rng.uniform(0.5, 9, (32, 32, 1)), 0).astype(np.float32)
    found = np.zeros((32, 32, 3), np.int32)
    found[:, :, :2] = 1 + number % 2, 1
    found[20:, : 10 + number] = 1, 2, 1  # a crowd
    found[:3] = 0  # nothing is known
    return found


def split_of(target: str, count: int = 6) -> Split:
    """Noise, and maps of it."""
    pixels = [np.random.default_rng([8, i]).integers(0, 256, (32, 32, 3), np.uint8) for i in range(count)]
    maps = Maps(target, lambda i: known(target, i), CATEGORIES) if TARGETS[target].needs_maps else None
    return Split(lambda i: pixels[i], MultiLabels.none(count), str, maps=maps)


def deciding(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An oracle's parameters by which its codes make more of a difference to maps."""
    numbers = {"codebook/dictionary": 4, "decoder/stem/kernel": 4}
    numbers |= {name: 0 for name in arrays if name.startswith("decoder/head/") and name.endswith("/bias")}
    return {name: numbers.get(name, 1) * array for name, array in arrays.items()}


def plan_of(reward: str, crop: int = 32, **changes) -> Planned:
    """What the task reads of a run's plan: a tiny model that writes codes of a tiny oracle of 32 px."""
    target = TARGET_OF[reward]
    oracle = dataclasses.replace(MAP_MODELS["vqvae"], target=target, bins=BINS[target])
    writer = dataclasses.replace(WRITERS["cappa"], masked=False, **coded.sizes(oracle))
    seen, task = Preprocessing(crop, 0), Rewarded(reward=reward, samples=3, oracle="an oracle")
    frozen = coded.seeing(Start(oracle, deciding(arrays_of(oracle)), Card(), Preprocessing(32), frozen=True), seen)
    return Planned(
        splits={"train": split_of(target), "test": split_of(target, 2)}, preprocessing=seen, held_out="test",
        models={"model": Start(writer, arrays_of(writer), Card(), seen), "oracle": frozen},
        config=SimpleNamespace(prompt=None, vocabulary=None),
        recipe=recipe_of([0.1] * 3, batch=4, batch_eval=3, crop=crop, task=task, **changes),
    )  # fmt: skip


def metric_of(plan: Planned, number: int, predicted: np.ndarray) -> float:
    """What the evaluator says of a map that is predicted of one training image."""
    oracle = plan.models["oracle"]
    truths = Truths(plan.splits["train"].take(np.array([number])), oracle.config.target, oracle.preprocessing)
    judge = MapEvaluator("one", None, truths)
    judge.add("maps", {"map": predicted[None], "mask": np.ones(1, bool)})
    return judge.result()[plan.recipe.task.reward]


@pytest.mark.parametrize("reward", ("pq", *(pytest.param(name, marks=pytest.mark.slow) for name in ("psnr", "rmse"))))
def test_a_step_is_the_same_in_every_engine(reward):
    """The same codes are drawn, their maps made and judged, as the evaluator judges each of them alone."""
    plan = plan_of(reward)
    found = assert_steps_are_alike(plan, rounded=("map", "rewards"))
    assert found["rewards"].shape == (4, 3) and found["counted"].all() and found["map"].shape[:3] == (4, 3, 32)
    sign = -1 if row(reward).better == "lower" else 1
    expected = [[sign * metric_of(plan, *one) for one in zip([number] * 3, maps)]
                for number, maps in zip(found["example"].tolist(), found["map"])]  # fmt: skip
    np.testing.assert_allclose(found["rewards"], expected, rtol=1e-12)
    assert (np.ptp(found["rewards"], 1) > 1e-3).any(), "some sample is better than another"


def test_a_crowd_and_an_image_of_which_nothing_is_known():
    """What is predicted of a crowd is not false, which a map without its third channel would not tell; of nothing, all are alike."""
    truth = known("panoptic", 0)
    truth[..., 0] = np.where(truth[..., 2] > 0, 2, truth[..., 0])
    crowd = np.stack([truth[..., 0], truth[..., 1]], -1)
    crowd[crowd[..., 0] == 2, 0] = [2, 0] * 60  # half of the crowd
    truths, judged = SimpleNamespace(categories=CATEGORIES), np.stack([truth, truth])
    judged[1, ..., 2] = 0
    found = of_maps("pq", truths)({"map": np.stack([crowd[None]] * 2), "truths": judged})
    np.testing.assert_allclose(found, [[1], [0.5]])
    nothing = {"map": np.stack([crowd[None]] * 2), "truths": np.zeros_like(judged)}
    assert of_maps("pq", truths)(nothing).tolist() == [[0], [0]]
    rows = {"map": np.ones((1, 2, 4, 4, 1)), "truths": np.full((1, 4, 4, 1), 0, np.float32)}
    assert of_maps("rmse", truths)(rows).tolist() == [[0, 0]]
    rows["truths"][0, 0] = 3.0
    assert of_maps("rmse", truths)(rows).tolist() == [[-2, -2]]


@pytest.mark.parametrize("reward", ("rmse", "psnr"))
def test_what_is_judged_has_the_box_and_the_flip_of_what_is_shown(reward):
    """At the size of the oracle, which sees other pixels than the model."""
    plan = plan_of(reward, 16, resize=24, flip=0.5)
    columns = rewarded.columns(plan, plan.splits["train"], True)
    batch = next(prefetch(TrainBatches(plan.splits["train"], plan.recipe, 1, columns=columns), range(1), 1))
    assert {"images": 16, "oracle_images": 32, "truths": 32}.items() <= {
        name: batch[name].shape[1] for name in batch if batch[name].ndim > 3
    }.items()
    assert "maps" not in batch and batch["draws"].shape == (4, 3, 4) and not batch["prompt"].any()
    seen = coded.columns(plan, plan.splits["train"], True)
    other = next(prefetch(TrainBatches(plan.splits["train"], plan.recipe, 1, columns=seen), range(1), 1))
    for name, own in (("images", "images"), ("oracle_images", "oracle_images"), ("maps", "truths")):
        np.testing.assert_array_equal(other[name], batch[own])
    shown = [one.name for one in rewarded.columns(plan, plan.splits["test"], False)]
    assert shown[:2] == ["images", "oracle_images"] and "truths" not in shown
