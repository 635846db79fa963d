"""Distances of distillation in float64, in every engine: values and gradients of the original, its edge cases, FunMatch."""

import importlib
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from golden.golden_params import image

from common.recipes.choices import Distance

GOLDEN = Path(__file__).parent / "golden" / "distill"
DISTANCES = json.loads((GOLDEN / "distances.json").read_text())
FUNMATCH = json.loads((GOLDEN / "funmatch_tf_loss.json").read_text())
STUDENT, TEACHER = ((3 * image((6, 10), seed)).astype(np.float32).astype(float) for seed in (11, 12))
SURE = (np.float32(10) * TEACHER.astype(np.float32)).astype(float)
OPTIONS = {"t": "temperature", "ls": "label_smoothing", "k": "k"}
PARTS = {"teacher == student: ": STUDENT, "teacher logits x 10: ": SURE, "d mean/d student: ": TEACHER}


def cases(kind: str) -> list[str]:
    return sorted(DISTANCES[kind])


def call(engine, title: str):
    """(distance of two tensors, teacher's logits) of a golden title such as `teacher == student: kind=kl,t=2.0`."""
    part = next((part for part in PARTS if title.startswith(part)), "")
    name, *options = title.removeprefix(part).removeprefix("kind=").split(",")
    given = {OPTIONS[key]: json.loads(value) for key, _, value in (option.partition("=") for option in options)}
    function = getattr(importlib.import_module(f"{engine.name}.distances"), name)
    return lambda student, teacher: function(student, teacher, **given), PARTS.get(part, TEACHER)


def slopes(engine, distance, student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """The gradient of the mean distance for the student's logits."""
    if engine.name == "bit_jax":
        gradient = importlib.import_module("jax").grad(lambda logits: distance(logits, engine.raw(teacher)).mean())
        return np.asarray(gradient(engine.raw(student)))
    logits = engine.raw(student.copy())
    if engine.name == "bit_pytorch":
        distance(logits.requires_grad_(), engine.raw(teacher)).mean().backward()
        return logits.grad.numpy()
    tf = importlib.import_module("tensorflow")
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = tf.reduce_mean(distance(logits, engine.raw(teacher)))
    return tape.gradient(loss, logits).numpy()


@pytest.fixture(autouse=True)
def float64(engine):
    """JAX computes in float64 only where it is asked to."""
    if engine.name != "bit_jax":
        yield
        return
    with importlib.import_module("jax").enable_x64(True):
        yield


def test_values_equal_the_original(engine):
    """Every distance, temperature and smoothing; equal logits; a teacher that is very sure.

    The original sums the entropy of a smoothed label in float32: one number, off by at most two of its last bits.
    """
    for title in cases("outputs"):
        distance, teacher = call(engine, title)
        found = engine.array(distance(engine.raw(STUDENT), engine.raw(teacher)))
        expected = np.array(DISTANCES["outputs"][title]["data"])
        assert found.shape == (6,), title
        if "ls=" in title:
            off = (found - expected).mean()
            assert abs(off) < 1.2e-7, title
            expected = expected + off
        np.testing.assert_allclose(found.astype(float), expected, rtol=1e-11, atol=1e-12, err_msg=title)


def test_gradients_equal_the_original(engine):
    for title in cases("gradients"):
        distance, teacher = call(engine, title)
        expected = np.array(DISTANCES["gradients"][title]["data"])
        found = slopes(engine, distance, STUDENT, teacher)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=title)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda right: lambda student, teacher, temperature=1.0: right(student, teacher, temperature) / temperature**2,
        lambda right: lambda student, teacher, temperature=1.0: right(student, teacher, 1.001 * temperature),
    ],
    ids=("without the square", "at another temperature"),
)
def test_an_engine_that_is_wrong_alone_is_found(engine, monkeypatch, wrong):
    distances = importlib.import_module(f"{engine.name}.distances")
    monkeypatch.setattr(distances, "kl", wrong(distances.kl))
    for compare in (test_values_equal_the_original, test_gradients_equal_the_original):
        with pytest.raises(AssertionError, match="kind=kl"):
            compare(engine)


@pytest.mark.parametrize("name", ["kl", "euclidean", "l2", "logsoftmax_euclidean"])
def test_equal_logits_pull_nowhere(engine, name):
    """The root of 0 has no gradient; what is added below it makes it 0."""
    distance, _ = call(engine, name)
    assert np.abs(slopes(engine, distance, STUDENT, STUDENT)).max() < 1e-15


def test_funmatch_has_no_square_of_the_temperature(engine):
    """The TensorFlow notebook's loss is `kl` divided by temperature^2; so is its gradient."""
    for title, golden in FUNMATCH["outputs"].items():
        if not title.startswith("kl_divergence"):
            continue
        temperature = float(title.rpartition(" ")[2])
        distance, _ = call(engine, f"kl,t={temperature}")
        found = engine.array(distance(engine.raw(STUDENT), engine.raw(TEACHER))) / temperature**2
        np.testing.assert_allclose(found, golden["data"], rtol=1e-11, err_msg=title)
        average = FUNMATCH["outputs"][f"average loss, temperature {temperature}"]["data"]
        assert found.mean() == pytest.approx(average[0], rel=1e-11)
        expected = np.array(FUNMATCH["gradients"][f"d average / d student, temperature {temperature}"]["data"])
        gradient = slopes(engine, distance, STUDENT, TEACHER) / temperature**2
        np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12, err_msg=title)


def test_the_first_of_equal_classes_ranks_first(engine):
    """And a student that has blown up agrees with nobody."""
    distances = importlib.import_module(f"{engine.name}.distances")
    student = engine.raw(np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [np.nan] * 3]))
    teacher = engine.raw(np.array([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [9.0, 0.0, 0.0]]))
    assert engine.array(distances.agree(student, teacher)).astype(int).tolist() == [1, 0, 0]
    assert engine.array(distances.agree(student, teacher, k=2)).astype(int).tolist() == [1, 1, 0]
    assert engine.array(distances.rank(student, engine.raw(np.array([2, 1, 0], np.int32)))).tolist() == [2, 1, 3]


def test_every_distance_that_a_flag_names_is_there(engine):
    assert tuple(importlib.import_module(f"{engine.name}.distances").DISTANCES) == get_args(Distance)
