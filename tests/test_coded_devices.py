"""Codes of a frozen oracle, predicted on several devices, in parts of a batch and in less precision, against one device at once."""

from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED
from jobs import make_images, metrics
from test_captioning_devices import assert_close_weights, train  # noqa: F401  `train` is a fixture
from test_image_text_runs import assert_same

from common.evaluation.shown import read_shown
from common.models import find_model
from common.models.initial import initial_parameters
from common.weights import write_weights

# The oracle sees twice as many pixels as the model that writes; the last batches of the evaluation have padding.
FLAGS = ("--recipe", "uvim_codes", "--model", "VTT-T/8", "--weights", "vtt.npz", "--oracle", "oracle.npz", "--dataset", "images",
         "--resize", 16, "--crop", 16, "--batch", 8, "--steps", 3, "--warmup_steps", 1, "--precision", "float64", "--log_every", 1,
         "--batch_eval", 3, "--maps_of", 5, "--checkpoint_every", 0, "--workers", 1)  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with `images`, and models whose codes, written ones too, differ from one image to the next."""
    make_images(tmp_path)
    for file, name in (("oracle.npz", "UViM-T/8-colorization"), ("vtt.npz", "VTT-T/8")):
        config, rng = find_model(name).config(), np.random.default_rng(0)
        values = initial_parameters(0, config)
        drawn = {key: rng.normal(0, 0.05, value.shape).astype("f4") for key, value in values.items() if "head" in key}
        write_weights(tmp_path / file, values | drawn, config)
    return tmp_path


def assert_equal(folder: Path, name: str, other: str) -> None:
    """The same losses, likelihoods and maps, and parameters within 1e-9."""
    assert_same(metrics(folder, name), metrics(folder, other))
    ours, theirs = (folder / "runs" / one for one in (name, other))
    np.testing.assert_array_equal(read_shown(ours / "maps.png"), read_shown(theirs / "maps.png"))
    assert_close_weights(ours, theirs)


def assert_alike_everywhere(start, folder: Path, name: str, base: tuple, cases: list) -> None:
    """A run on several devices, or in several processes, as each of `cases` says leaves what it leaves on `one`."""
    start(name, "one", base=base)
    for number, (places, flags) in enumerate(cases):
        start(name, f"on{number}", *flags, base=base, **places)
        assert_equal(folder, f"on{number}", "one")


def test_two_processes_predict_codes_as_one(train, folder):
    """The oracle makes codes of the images of each."""
    name = INSTALLED[0]
    train(name, "one", base=FLAGS)
    train(name, "two", "--batch_split", 2, "--remat", base=FLAGS, processes=2)
    assert_equal(folder, "two", "one")
    predicted = read_shown(folder / "runs/one/maps.png")[:, -96:].reshape(5, -1)
    assert len(np.unique(predicted)) > 50 and len({*map(bytes, predicted)}) == 5


CASES = {
    "bit_pytorch": [({"processes": 2}, ("--shard_parameters", "--batch_split", 2)), ({"processes": 4}, ("--shard_parameters",))],
    "bit_jax": [
        ({"devices": 2}, ("--batch_split", 2, "--remat")), ({"devices": 4}, ("--shard_parameters",)),
        ({"processes": 2}, ("--shard_parameters",)),
    ],
    "bit_tf2": [({"devices": 2}, ("--batch_split", 2)), ({"devices": 4}, ("--remat",)), ({"processes": 2}, ())],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_devices_and_processes_predict_codes_as_one(train, folder, name):
    """On two and four devices, in two processes, and with shards of both models."""
    assert_alike_everywhere(train, folder, name, FLAGS, CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_bfloat16_learns_as_float32_does(train, folder, name):
    """The losses of the steps within one part in a hundred."""
    losses = []
    for precision in ("float32", "bfloat16"):
        train(name, precision, "--precision", precision, "--batch_split", 2, "--remat", base=FLAGS)
        losses.append([line["train/loss"] for line in metrics(folder, precision) if "train/loss" in line])
    assert len(losses[0]) == 3 and losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-2)
