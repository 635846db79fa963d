"""Tuning by rewards, in every engine: the gradient is that of the expected reward, of texts that all of them draw alike."""

import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from engines import INSTALLED, Engine, recipe_of
from jobs import Job, make_pairs, metrics
from test_captioning import outputs
from test_image_text_runs import assert_killed_goes_on_elsewhere, assert_same
from tiny_models import IMAGES, WRITERS, random_arrays

from common.data.batches import TrainBatches, prefetch
from common.data.captions import Captions
from common.data.catalogue import open_dataset
from common.evaluation.captioning import in_words, read_written, scorers
from common.evaluation.rewards import Cider
from common.models import find_model
from common.models.cards import Preprocessing
from common.models.initial import initial_parameters
from common.recipes.task import Rewarded
from common.tasks import rewarded
from common.tasks.contrastive import Texts
from common.tasks.start import Start
from common.weights import write_weights

TINY = dataclasses.replace(WRITERS["cappa"], vocabulary=3, length=2, masked=False)
END = 1
TEXTS = np.array([(1, 0), *itertools.product((0, 2), range(3))], np.int32)  # all that the tiny model may write


def arrays_of(config) -> dict[str, np.ndarray]:
    """Random float64 parameters."""
    return {name: value.astype(np.float64) for name, value in random_arrays(config).items()}


def probabilities(engine, arrays) -> np.ndarray:
    """[7]: how likely the tiny model writes each of TEXTS of one image."""
    batch = {"images": IMAGES[:1].astype(np.float64).repeat(len(TEXTS), 0), "tokens": TEXTS}
    batch["counted"] = rewarded.until(TEXTS, END)
    return np.exp(-outputs(engine, engine.build(TINY, arrays, "float64"), "likelihoods", batch)["nll"])


@pytest.mark.parametrize("count", (2, pytest.param(3, marks=pytest.mark.slow)))
def test_the_expected_gradient_is_that_of_the_expected_reward(engine, monkeypatch, count):
    """Over all texts that may be drawn, each as often as the model draws it, against differences of the expected reward."""
    engine.keep_images(monkeypatch)
    arrays, rewards = arrays_of(TINY), np.random.default_rng(5).random(len(TEXTS))
    shares = probabilities(engine, arrays)
    assert shares.sum() == pytest.approx(1, abs=1e-12) and shares.min() > 0.001
    drawn = np.array([*itertools.product(range(len(TEXTS)), repeat=count)])  # [N, K]: every outcome of a step
    often = len(drawn) * shares[drawn].prod(1, keepdims=True)  # the loss is a mean, and linear in rewards
    batch = {"images": IMAGES[:1].astype(np.float64).repeat(len(drawn), 0), "samples": TEXTS[drawn]}
    batch |= {"counted": rewarded.until(batch["samples"], END), "rewards": often * rewards[drawn]}
    model = engine.build(TINY, arrays, "float64")
    (placed,) = engine.devices.to_device(iter([batch]), model.devices)
    slopes = engine.slopes({"model": model}, placed, recipe_of([0.1], batch=len(drawn), task=Rewarded(samples=count)))
    rng = np.random.default_rng(0)
    way = {name: rng.normal(size=value.shape) for name, value in arrays.items()}
    moved = [{name: arrays[name] + by * way[name] for name in arrays} for by in (1e-5, -1e-5)]
    up, down = (probabilities(engine, one) @ rewards for one in moved)
    expected = -(up - down) / 2e-5
    assert sum((slopes[name] * way[name]).sum() for name in way) == pytest.approx(expected, rel=1e-6)
    assert abs(expected) > 1e-3
    engine.forget_compiled()


@pytest.mark.slow  # a step of every engine: below
def test_samples_are_drawn_as_the_model_has_it(engine, monkeypatch):
    """Evenly spread numbers draw each text as often as it is likely, of every image its own."""
    engine.keep_images(monkeypatch)
    arrays, side = arrays_of(TINY), 60
    numbers = (np.arange(side) + 0.5) / side
    draws = np.stack(np.meshgrid(numbers, numbers), -1).reshape(1, -1, 2)
    batch = {"images": IMAGES[[0, 0]].astype(np.float64), "draws": np.repeat(draws, 2, 0), "example": np.array([4, 7])}
    batch |= {"prompt": np.array([[0, 0], [2, 0]], np.int32), "end": np.full(2, END, np.int32)}
    found = outputs(engine, engine.build(TINY, arrays, "float64"), "samples", batch, Rewarded())
    assert found["samples"].shape == (2, side**2, 2) and found["example"].tolist() == [4, 7]
    assert found["prompt"].tolist() == batch["prompt"].tolist() and found["end"].tolist() == [END, END]
    shares = (found["samples"][0][:, None] == TEXTS).all(2).mean(0)
    np.testing.assert_allclose(shares, probabilities(engine, arrays), atol=2 / side)
    assert (found["samples"][1, :, 0] == 2).all(), "the prompt is given"
    engine.forget_compiled()


def test_equal_rewards_teach_nothing_at_all(engine):
    """Not even what rounding leaves, of which Adafactor would make whole steps."""
    samples = TEXTS[np.array([[0, 1, 2], [3, 4, 5]])]
    batch = {"images": np.zeros((2, 32, 32, 3), np.uint8), "samples": samples, "counted": rewarded.until(samples, END)}
    batch |= {"rewards": np.repeat([[0.1], [0.7]], 3, 1)}
    model = engine.build(TINY, random_arrays(TINY))
    (placed,) = engine.devices.to_device(iter([batch]), model.devices)
    slopes = engine.slopes({"model": model}, placed, recipe_of([0.1], batch=2, task=Rewarded(samples=3)))
    assert not any(value.any() for value in slopes.values())


def test_counted_tokens_end_with_the_first_end():
    found = rewarded.until(np.array([[[3, 1, 1, 0], [0, 0, 2, 3]], [[1, 0, 0, 0], [2, 2, 2, 1]]]), 1)
    assert found.astype(int).tolist() == [[[1, 1, 0, 0], [1, 1, 1, 1]], [[1, 0, 0, 0], [1, 1, 1, 1]]]


REFERENCES = (
    ("A dog runs on the grass.", "a brown dog"),
    ("Two cats sleep",),
    ("A dog and two cats", "animals on grass"),
)


def test_a_reward_is_the_package_s_metric():
    """Of a text for each image, weighed by these; of a part of them, the same as of all."""
    captions, texts = Captions.pack(REFERENCES), ("a dog on the grass", "two cats", "a cat sleeps")
    wanted = {number: [in_words(text) for text in own] for number, own in enumerate(REFERENCES)}
    _, expected = scorers()[0].compute_score(wanted, {number: [text] for number, text in enumerate(texts)})
    judged = Cider(captions)
    found = judged(zip(texts, REFERENCES))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len({*found.round(6)}) == 3
    np.testing.assert_array_equal(judged([(texts[1], REFERENCES[1]), (texts[0], REFERENCES[0])]), found[[1, 0]])


class Planned(SimpleNamespace):
    """What a task reads of a run's plan."""

    __hash__ = object.__hash__


@pytest.fixture
def plan(tmp_path) -> SimpleNamespace:
    """What the task reads of a run's plan, with a tiny model for the texts of CapPa-T/8."""
    make_pairs(tmp_path)
    card = find_model("CapPa-T/8").card
    config = dataclasses.replace(WRITERS["cappa"], vocabulary=1000, length=16)
    start = Start(config, arrays_of(config), card, Preprocessing(32))
    made = Planned(
        splits=open_dataset(str(tmp_path / "pairs"), tmp_path).splits, models={"model": start}, preprocessing=Preprocessing(32),
        config=SimpleNamespace(vocabulary=None, bit_pretrained_dir=".", prompt="a picture", class_prompt=None), held_out="test",
        recipe=recipe_of([0.1] * 3, batch=4, batch_eval=3, task=Rewarded(samples=3)),
    )  # fmt: skip
    cats, plural, end = Texts(made).encode(["cats"])[0, :3]  # a word that people used of some images
    for token, more in ((cats, 9), (plural, 7), (end, 7)):
        start.arrays["head/bias"][token] += more
    return made


def step_of(engine, plan, batch_split: int) -> tuple[dict, float, dict]:
    """(what is judged in the second step, its loss, its gradients)."""
    recipe = dataclasses.replace(plan.recipe, batch_split=batch_split)
    batches = TrainBatches(plan.splits["train"], recipe, 3, columns=rewarded.columns(plan, plan.splits["train"], True))
    models = {name: engine.build(*start[:2], "float64") for name, start in plan.models.items()}
    devices = models["model"].devices
    batch = next(engine.devices.to_device(prefetch(batches, range(1, 2), 1), devices))
    asked = engine.loop.answers(models, [batch], recipe.task.asks, recipe.task)
    found = rewarded.judge(plan)(asked)
    batch |= next(engine.devices.to_device([found], devices))
    measured, _ = engine.loop.gradients(models, batch, recipe)
    assert float(measured["reward"]) == pytest.approx(found["rewards"].mean(), rel=1e-12)
    return found | asked, float(measured["loss"]), engine.slopes(models, batch, recipe)


def assert_steps_are_alike(plan, rounded: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """What every engine draws and judges in a step, whose loss and gradients are within rounding, of a batch in parts as at once."""
    expected, loss, slopes = step_of(Engine(INSTALLED[0]), plan, 1)
    assert len({*map(bytes, expected["samples"].reshape(12, -1))}) > 6 and abs(loss) > 1e-3
    for key in INSTALLED:
        found, own_loss, own = step_of(Engine(key), plan, 2)
        for name, values in expected.items():
            np.testing.assert_allclose(
                found[name], values, rtol=1e-9 if name in rounded else 0, err_msg=f"{name} of {key}"
            )
        assert own_loss == pytest.approx(loss, rel=1e-9), key
        for name, values in slopes.items():
            np.testing.assert_allclose(own[name], values, rtol=1e-8, atol=1e-11, err_msg=f"{name} of {key}")
    return expected


def test_a_step_is_the_same_in_every_engine(plan):
    """The same texts are drawn and rewarded."""
    assert_steps_are_alike(plan)


MODEL = ("--model", "CapPa-T/8", "--workers", 1)
TUNED = ("--recipe", "task_rewards", *MODEL, "--weights", "w.npz", "--dataset", "pairs", "--batch", 4, "--steps", 4,
         "--warmup_steps", 1, "--precision", "float64", "--log_every", 1, "--val_fraction", 0.25, "--samples", 3)  # fmt: skip


def of_cats():
    """(parameters, configuration) of a model that writes of cats."""
    config = find_model("CapPa-T/8").config()
    values = initial_parameters(0, config)
    values["head/bias"][[236, 10, 1]] += (9, 7, 7)  # two tokens of "cats", and the end
    return values, config


@pytest.fixture
def folder(tmp_path):
    """A folder with `pairs` and weights `w.npz` of a model that writes of cats."""
    make_pairs(tmp_path)
    write_weights(tmp_path / "w.npz", *of_cats())
    return tmp_path


def test_a_run_is_tuned_and_judged_by_its_reward(run, folder):
    """Rewards are logged and held-out images judged; the best step is chosen by the reward; what was written is kept."""
    run(f"{INSTALLED[0]}.train", *TUNED, "--name", "tuned", "--steps", 2, "--keep_best", "--eval_every", 1)
    lines = metrics(folder, "tuned")
    assert [line["step"] for line in lines if "train/reward" in line] == [1, 2]
    assert {*lines[1]} >= {"val/reward", "val/cider", "val/bleu4"} and "test/reward" in {**lines[-1], **lines[-2]}
    assert any(line.get("train/reward", 0) > 0 for line in lines)
    assert len(read_written(folder / "runs" / "tuned" / "captions.json").captions) == 4
    assert json.loads((folder / "runs" / "tuned" / "recipe.json").read_text())["task"]["reward"] == "cider"


@pytest.mark.slow
def test_runs_are_alike_in_every_engine(run, folder):
    """Every logged number, and what is written at the end."""
    written = {}
    for name in INSTALLED:
        run(f"{name}.train", *TUNED, "--name", name, "--eval_every", 2, "--batch_split", 2)
        assert_same(metrics(folder, INSTALLED[0]), metrics(folder, name))
        written[name] = read_written(folder / "runs" / name / "captions.json")
        assert written[name] == written[INSTALLED[0]]


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_a_killed_run_goes_on_in_another_engine(name, server, folder):
    """It draws the texts that it would have drawn."""
    flags = (*TUNED, "--eval_every", 0, "--checkpoint_every", 1, "--resize", 32, "--crop", 32)
    assert_killed_goes_on_elsewhere(name, server, folder, *flags, steps=30)


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_two_processes_draw_and_learn_what_one_does(name, server, folder):
    """Each judges the texts of its own images."""
    flags = (*TUNED, "--mixup", 0, "--resize", 32, "--keep_best", "--batch_split", 2, "--eval_every", 2)
    Job(server(name), folder, "alone", *flags).finish()
    Job(server(name), folder, "two", *flags, num_processes=2).finish()
    assert_same(metrics(folder, "alone"), metrics(folder, "two"))
    assert any(line.get("train/reward", 0) > 0 for line in metrics(folder, "two"))


@pytest.mark.parametrize(
    ("flags", "said"),
    (
        (("--samples", 1), "--samples is 1, expected"),
        (("--rho", 0.1), "--rho 0.1 is of no use to the task rewarded"),
        (("--dropout", 0.1), "--dropout 0.1 is of no use to the task rewarded"),
        (("--parallel", 0.1), "--parallel belongs to the task captioning"),
        (("--recipe", "cappa"), "--samples belongs to the task rewarded"),
        (("--model", "SigLIP-T/8"), "trains models that write and SigLIP-T/8 is none"),
        (("--dataset", "cifar10-sample"), "have no captions"),
        (("--reward", "beauty"), "invalid choice: 'beauty' (choose from 'cider', 'psnr', 'rmse', 'pq')"),
    ),
)
def test_a_mistake_is_one_sentence(run, folder, flags, said):
    assert said in run(f"{INSTALLED[0]}.train", *TUNED, *flags, status=2).stderr
