"""Logits and features of ViT, hybrids, Mixer and ResNet V1 in every engine against the original code."""

import dataclasses

import golden_cases
import numpy as np
import pytest

from common.models import find_architecture
from common.models.positions import resize_positions
from common.system.errors import UserError

RESIZED = "vit_jax_vit/posemb_resize_Ti16_224_to_160"
LARGE = {name for name in golden_cases.names() if "/full_" in name or "R50x1" in name or name == RESIZED}
CASES = [
    pytest.param(name, marks=pytest.mark.slow if name in LARGE else ())
    for name in golden_cases.names()
    if name != RESIZED
]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def logits_of(case: golden_cases.Case) -> str:
    """The name of the output that our logits must equal.

    TensorFlow rounds a coefficient of GELU to float32, and a case of coyo holds the logits without that as well.
    """
    outputs = ("logits_exact_gelu_coefficient", "logits", "logits_first50", "model_output")
    return next(name for name in outputs if name in case.golden["outputs"])


def shown(case: golden_cases.Case, logits: np.ndarray) -> np.ndarray:
    """The logits that the case holds."""
    return logits[:, :50] if logits_of(case) == "logits_first50" else logits


def found_logits(engine, case: golden_cases.Case, precision: str, **changes) -> np.ndarray:
    model = engine.build(dataclasses.replace(case.config, **changes), case.arrays(), precision)
    return shown(case, engine.logits(model, case.images().astype(precision)))


@pytest.mark.parametrize("name", CASES)
def test_float64_equals_the_original(engine, name):
    case = golden_cases.case(name)
    model = engine.build(case.config, case.arrays(), "float64")
    images = case.images().astype(np.float64)
    assert relative(engine.features(model, images), case.expected("pre_logits")) < 1e-9
    assert relative(shown(case, engine.logits(model, images)), case.expected(logits_of(case))) < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_within_rounding(engine, name):
    """As near to float64 as the original's own float32 run, but for the order of additions: a factor of 3."""
    case = golden_cases.case(name)
    error = np.abs(found_logits(engine, case, "float32") - case.expected(logits_of(case))).max()
    own = case.golden["reference_float32_run"]
    assert error < 3 * own.get(logits_of(case), own.get("logits"))["max_abs_diff"]


@pytest.mark.parametrize(
    "name", ("bv_bit/bit_paper_tiny2", pytest.param("bv_bit/bit_paper_R50x1_64", marks=pytest.mark.slow))
)
def test_bit_paper_with_the_border_of_the_published_models(engine, name):
    """big_vision pads the maximum with -infinity, the published weights need zeros: both are golden."""
    case = golden_cases.case(name)
    assert case.config.max_pool_padding == "lowest"
    zero_padded = found_logits(engine, case, "float64", max_pool_padding="zero")
    assert relative(zero_padded, case.expected("logits_zero_padded_max_pool")) < 1e-9


WRONG = [  # a setting that is another one in a framework or in another code base
    ("vit_jax_vit/tiny_token", {"gelu": "erf"}),
    ("vit_jax_vit/tiny_token", {"layer_norm_epsilon": 1e-5}),
    ("vit_jax_vit/tiny_hybrid_stages", {"backbone": {"standardization": "variance"}}),
    ("vit_jax_vit/tiny_hybrid_stages", {"backbone": {"group_norm_epsilon": 1e-5}}),
    ("bv_bit/bit_tiny2", {"standardization": "variance"}),
    ("bv_bit/bit_tiny2", {"group_norm_epsilon": 1e-5}),
    ("bv_mixer/tiny", {"gelu": "erf"}),
    ("bv_mixer/tiny", {"layer_norm_epsilon": 1e-5}),
]


@pytest.mark.parametrize(("name", "change"), WRONG)
def test_a_wrong_setting_is_seen(engine, name, change):
    """Each moves the logits by more than ten times what the tests above allow."""
    case = golden_cases.case(name)
    if "backbone" in change:
        change = {"backbone": dataclasses.replace(case.config.backbone, **change["backbone"])}
    assert relative(found_logits(engine, case, "float64", **change), case.expected("logits")) > 1e-8


def resized() -> golden_cases.Case:
    """The case whose parameters are of 224 pixels, with positions for its own 160."""
    case, large = golden_cases.case(RESIZED), golden_cases.case("vit_jax_vit/full_Ti16_224")
    return dataclasses.replace(case, names=large.names, published_shapes=large.published_shapes, config=large.config)


def test_positions_are_resized_as_the_originals_do():
    case = resized()
    positions = case.arrays()["pos_embedding"].astype(np.float64)
    found = resize_positions(positions, (14, 14), (10, 10))
    assert found.shape == tuple(case.golden["posemb"]["new_shape"])
    np.testing.assert_allclose(found[0, :, 0], case.expected("pos_embedding_resized_channel0").ravel(), rtol=1e-12)
    rows = case.expected("pos_embedding_resized_rows_0_1_2_last")
    np.testing.assert_allclose(found[0, [0, 1, 2, -1], : rows.shape[-1]], rows.reshape(4, -1), rtol=1e-9, atol=1e-12)


def test_positions_are_resized_between_rectangles_as_by_scipy():
    scipy = pytest.importorskip("scipy.ndimage")
    positions = np.random.default_rng(0).standard_normal((1, 15, 8))
    found = resize_positions(positions, (3, 5), (7, 4))
    expected = scipy.zoom(positions.reshape(3, 5, 8), (7 / 3, 4 / 5, 1), order=1).reshape(1, 28, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    assert resize_positions(positions.astype(np.float32), (3, 5), (1, 1)).dtype == np.float32


@pytest.mark.slow
def test_a_model_at_another_resolution_equals_the_original(engine):
    case = resized()
    arrays = {name: array.astype(np.float64) for name, array in case.arrays().items()}
    arrays["pos_embedding"] = resize_positions(arrays["pos_embedding"], (14, 14), (10, 10))
    model = engine.build(dataclasses.replace(case.config, image_size=(160, 160)), arrays, "float64")
    assert relative(engine.logits(model, case.images().astype(np.float64)), case.expected("logits")) < 1e-9


@pytest.mark.parametrize(
    "name", ("vit_jax_vit/tiny_hybrid_stages", "bv_vit/tiny_map_learn_rep24", "bv_mixer/tiny", "bv_bit/bit_tiny2")
)
def test_dump_returns_what_was_loaded(engine, name):
    case = golden_cases.case(name)
    arrays = case.arrays()
    dumped = engine.weights.dump(engine.build(case.config, arrays))
    assert dumped.keys() == arrays.keys()
    for parameter, array in arrays.items():
        assert dumped[parameter].flags["C_CONTIGUOUS"] and dumped[parameter].flags["WRITEABLE"], parameter
        np.testing.assert_array_equal(dumped[parameter], array, err_msg=parameter)


@pytest.mark.parametrize("name", ("ViT-mu/16", "Mixer-S/32"))
def test_images_of_another_size_are_refused(engine, name):
    config = find_architecture(name, num_classes=2, image_size=(64, 64))
    arrays = {parameter: np.zeros(shape, np.float32) for parameter, shape in config.parameter_shapes().items()}
    with pytest.raises(UserError, match="takes 64 x 64 pixels and the images have 96 x 64"):
        engine.logits(engine.build(config, arrays), np.zeros((1, 96, 64, 3), np.float32))


def test_activations_flow_in_the_type_of_the_images(engine):
    """bfloat16 images give float32 features, near those of float32 images."""
    case = golden_cases.case("vit_jax_vit/tiny_hybrid_stages")
    model = engine.build(case.config, case.arrays())
    images = engine.tensor(case.images())
    half = engine.cast(images, "bfloat16")
    found = engine.array(model.features(half))
    assert found.dtype == np.float32
    assert 1e-5 < relative(found, case.expected("pre_logits")) < 0.05
