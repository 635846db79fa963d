"""Losses of image-text models in float64, in every engine: the original's, in chunks, on several devices; their memory."""

import importlib
import itertools

import numpy as np
import pytest
from jobs import places_of
from pairs import CHUNKS, LOSSES, SLOPES, golden, golden_values, on_first

IN_GOLDEN = {"loss": "loss", "t": "grad_t_parameter", "b": "grad_b"} | {
    name: f"grad_{name} (divided by the number of devices)" for name in ("zimg", "ztxt")
}
CASES = [("losses_1_devices", "softmax", "softmax"), ("losses_1_devices", "sigmoid", "chunked_sigmoid")]
CASES += [
    ("losses_2_devices", loss.removeprefix("chunked_"), loss) for loss in ("softmax", "sigmoid", "chunked_sigmoid")
]


@pytest.fixture(autouse=True)
def float64(engine):
    """JAX computes in float64 only where it is asked to."""
    if engine.name != "bit_jax":
        yield
        return
    with importlib.import_module("jax").enable_x64(True):
        yield


def assert_golden(found: dict[str, np.ndarray], file: str, title: str) -> None:
    """Loss and gradients are those of a golden file within 1e-12."""
    expected = golden(file)
    for name, theirs in IN_GOLDEN.items():
        value = expected.get(f"{title}/{theirs}", np.zeros(1))  # softmax has no b
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12, err_msg=f"{title} {name}")


@pytest.mark.parametrize("chunk", CHUNKS)
def test_losses_and_gradients_equal_the_original(engine, chunk):
    for file, loss, title in CASES:
        assert_golden(on_first(engine.name, loss, chunk, golden_values()), file, title)


def test_gradients_added_in_blocks_equal_the_original(engine, monkeypatch):
    """JAX and TensorFlow add a gradient block by block, of which the other tests have one."""
    module = importlib.import_module(f"{engine.name}.similarity")
    blocks = {"HEIGHT": 3, "WIDTH": 4}.keys() & vars(module).keys()
    if not blocks:
        pytest.skip("PyTorch adds a product to a tensor in its place.")
    for name in blocks:
        monkeypatch.setattr(module, name, {"HEIGHT": 3, "WIDTH": 4}[name])
    for file, loss, title in CASES:
        assert_golden(on_first(engine.name, loss, CHUNKS[1], golden_values()), file, title)


def test_a_pair_that_is_left_out_is_a_masked_pair(engine):
    """`bidirectional_contrastive_loss` masks rows and columns; its mean has 1e-8 below, beside the number of pairs."""
    expected, values = golden("bidirectional_contrastive_loss"), golden_values()
    kept = np.array([1, 1, 1, 0, 1, 1, 0, 1], bool)
    found = on_first(engine.name, "softmax", 0, values)["loss"]
    np.testing.assert_allclose(found, expected["no_mask/reduction/loss"], rtol=1e-12)
    np.testing.assert_allclose(found, expected["no_mask/loss"].mean(), rtol=1e-12)
    found = on_first(engine.name, "softmax", 0, values | {name: values[name][kept] for name in ("zimg", "ztxt")})[
        "loss"
    ]
    np.testing.assert_allclose(found, expected["mask/loss"].sum() / 6, rtol=1e-12)
    np.testing.assert_allclose(found * 6 / (6 + 1e-8), expected["mask/reduction/loss"], rtol=1e-12)


def test_sure_logits_stay_finite_and_exact(engine):
    """Logits of +-60, where exp(60) - 1 = exp(60): the loss of right pairs is 0, that of wrong ones their logit."""
    eye, sure = np.eye(8, 16), {"t": np.log([120.0]), "b": np.array([-60.0])}
    for loss, wrong in (("sigmoid", 120.0), ("softmax", 120.0)):
        right = on_first(engine.name, loss, 4, {"zimg": eye, "ztxt": eye} | sure)
        assert 0 <= right["loss"] < 1e-13
        swapped = on_first(engine.name, loss, 4, {"zimg": eye, "ztxt": np.roll(eye, 1, 0)} | sure)
        np.testing.assert_allclose(swapped["loss"], wrong, rtol=1e-12)
        assert all(np.isfinite(swapped[name]).all() for name in SLOPES)


@pytest.mark.parametrize(
    ("count", "chunks"), [(2, CHUNKS[1:]), *(pytest.param(n, CHUNKS, marks=pytest.mark.slow) for n in (2, 4))]
)
def test_several_devices_give_the_same(engine, server, tmp_path, count, chunks):
    """Values and gradients of dense and chunked losses: of the original, as with one device."""
    places = places_of(count) if engine.name == "bit_pytorch" else [{}]
    arguments, hidden = (engine.name, count, tmp_path / "found.npz", *chunks), {"CUDA_VISIBLE_DEVICES": ""}
    started = [server(engine.name).start("pairs", arguments, tmp_path, hidden | place) for place in places]
    assert [process.wait() for process in started] == [0] * len(started), started[0].output
    everything = np.load(tmp_path / "found.npz")
    for loss, chunk in itertools.product(LOSSES, chunks):
        found = {name: everything[f"{loss} {chunk} {name}"] for name in ("loss", *SLOPES)}
        assert_golden(found, "losses_2_devices", loss)
