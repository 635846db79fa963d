"""Logits, features and parameter counts of every engine against golden numbers of the original code and against timm."""

import dataclasses
import functools
import gc
import json
from pathlib import Path

import numpy as np
import pytest
from format_cases import CASES as FAMILIES
from format_cases import random_arrays
from golden.golden_params import image, param

from common.evaluation.classification import ClassificationEvaluator
from common.models import ARCHITECTURES, ResNetConfig, find_model
from common.weights.spellings import bit

GOLDEN = Path(__file__).parent / "golden"
CASES = ("tiny", "tiny_eps", "R50x1_head10", "R101x1_head10")


def case(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def config_of(golden: dict, **changes) -> ResNetConfig:
    arch = golden["arch"]
    return ResNetConfig(tuple(arch["block_units"]), arch["width_factor"], arch["head_size"], **changes)


@functools.lru_cache(maxsize=4)  # of the float64 and float32 tests of every engine
def golden_arrays(config: ResNetConfig, kernel_scale: float = 1.0) -> dict[str, np.ndarray]:
    """Canonical arrays that hold the golden rule's value of each published name."""
    arrays, shapes = {}, bit.published_shapes(config)
    for ours, theirs in bit.names(config).items():
        scale = kernel_scale if theirs.endswith("standardized_conv2d/kernel") else 1.0
        arrays[ours] = (param(theirs, shapes[theirs]) * scale).astype(np.float32)
    for array in arrays.values():
        array.flags.writeable = False
    return arrays | {"head/kernel": arrays["head/kernel"][0, 0]}


def golden_logits(engine, golden: dict, precision: str, **changes) -> tuple[np.ndarray, np.ndarray]:
    """(found, expected) logits of a golden case, perhaps with a changed config."""
    config = config_of(golden, **changes)
    model = engine.build(config, golden_arrays(config, golden.get("kernel_scale", 1.0)), precision)
    images = image(golden["input"]["shape_nhwc"], golden["input"]["seed"]).astype(np.float32)
    return engine.logits(model, images.astype(precision)), np.array(golden["expected"]["logits"])


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


SLOW = pytest.param(CASES[-1], marks=pytest.mark.slow)  # more of the same blocks as R50x1


@pytest.mark.parametrize("name", (*CASES[:-1], SLOW))
def test_float64_logits_equal_the_original(engine, name):
    assert relative(*golden_logits(engine, case(name), "float64")) < 1e-9


@pytest.mark.parametrize("name", (*CASES[:-1], SLOW))
def test_float32_logits_stay_within_rounding(engine, name):
    """As near to float64 as the original's own float32 run, but for the order of additions: a factor of 3."""
    golden = case(name)
    found, expected = golden_logits(engine, golden, "float32")
    assert np.abs(found - expected).max() < 3 * golden["expected"]["float32_max_abs_diff_of_reference"]


@pytest.mark.parametrize(
    "change", [{"group_norm_epsilon": 1e-6}, {"standardization_epsilon": 1e-8}, {"standardization_epsilon": 1e-5}]
)
def test_a_wrong_epsilon_is_seen(engine, change):
    """The original's logits move by at least 0.18 under each of these: so must ours."""
    assert relative(*golden_logits(engine, case("tiny_eps"), "float64", **change)) > 0.1


@pytest.mark.parametrize("name", ("bit", "resnet_v1", "hybrid"))
def test_kernels_standardised_once_give_the_same_logits(engine, name):
    """As `evaluate` and `predict` compute them; each kind of standardisation, and models without head or beside a ViT."""
    config = FAMILIES[name][0]
    model = engine.build(config, random_arrays(config), "float64")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3))
    expected = engine.logits(model, images)
    engine.inference.standardize_once(model)
    assert relative(engine.logits(model, images), expected) < 1e-14
    kernels = [value for key, value in engine.weights.dump(model).items() if "conv" in key]
    assert kernels and all(abs(kernel.mean((0, 1, 2))).max() < 1e-14 for kernel in kernels)


@pytest.mark.parametrize("name", ("tiny", "tiny_eps"))
def test_pooled_features_equal_the_original(engine, name):
    golden = case(name)
    config = config_of(golden)
    model = engine.build(config, golden_arrays(config, golden.get("kernel_scale", 1.0)), "float64")
    images = image(golden["input"]["shape_nhwc"], golden["input"]["seed"]).astype(np.float32).astype(np.float64)
    expected = golden["expected"]["intermediates"]["global_avg_pool"]
    found = engine.features(model, images)
    np.testing.assert_allclose(found.ravel()[:8], expected["first8"], rtol=1e-9)
    assert np.sqrt((found**2).sum()) == pytest.approx(expected["l2"], rel=1e-9)


def test_dump_returns_what_was_loaded(engine):
    config = config_of(case("tiny"))
    arrays = golden_arrays(config)
    dumped = engine.weights.dump(engine.build(config, arrays))
    assert dumped.keys() == arrays.keys()
    for name, array in arrays.items():
        assert dumped[name].flags["C_CONTIGUOUS"] and dumped[name].flags["WRITEABLE"], name
        np.testing.assert_array_equal(dumped[name], array, err_msg=name)


def test_public_functions_round_trip_bit_exact(engine, tmp_path):
    """.npz -> engine -> .h5 -> engine -> .npz, through the public API."""
    import importlib

    package = importlib.import_module(engine.name)
    model = package.create_model("BiT-T-R26x0.5", num_classes=7)
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(a.shape).astype(np.float32) for n, a in engine.weights.dump(model).items()}
    engine.weights.load(model, arrays)
    package.save_weights(model, tmp_path / "a.npz")
    second = package.create_model("BiT-T-R26x0.5", weights=tmp_path / "a.npz")
    package.save_weights(second, tmp_path / "b.h5")
    third = package.create_model("BiT-T-R26x0.5", num_classes=7)
    package.load_weights(third, tmp_path / "b.h5")
    package.save_weights(third, tmp_path / "c.npz")
    first, last = np.load(tmp_path / "a.npz"), np.load(tmp_path / "c.npz")
    assert first.files == last.files
    assert all(first[name].tobytes() == last[name].tobytes() for name in first.files)


def test_initial_values_are_the_same_numbers(engine):
    import importlib

    from common.models import initial as initializers

    model = importlib.import_module(engine.name).create_model("BiT-T-R26x0.5")
    expected = initializers.initial_parameters(0, find_model("BiT-T-R26x0.5").config())
    dumped = engine.weights.dump(model)
    assert dumped.keys() == expected.keys()
    assert all((dumped[name] == expected[name]).all() for name in expected)


def test_evaluation_counts_ties_as_argmax_does_and_nan_as_wrong(engine):
    """Five examples and one of padding: zeros (a tie that class 0 wins), and a head that is not a number."""
    config = ResNetConfig((1, 1), 0.5, 7)
    arrays = golden_arrays(config)
    labels = np.array([0, 0, 1, 4, 5, 0], np.int32)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    batch = {"images": images, "labels": labels, "mask": np.arange(6) < 5}
    for value, top1, top5 in ((0, 2 / 5, 4 / 5), (np.nan, 0, 0)):
        head = {name: np.full_like(arrays[name], value) for name in ("head/kernel", "head/bias")}
        model = engine.build(config, arrays | head)
        evaluator = ClassificationEvaluator("test", [batch, batch], labels=np.concatenate([labels, labels]))
        result = engine.evaluate(model, evaluator)
        assert (result["top1"], result["top5"]) == pytest.approx((top1, top5))
        if value == 0:
            kept = evaluator.predictions
            assert kept.predicted.tolist() == [0] * 12 and kept.probability == pytest.approx([1 / 7] * 12, rel=1e-6)
        assert np.isnan(value) or result["loss"] == pytest.approx(np.log(7), rel=1e-6)


def test_evaluation_with_several_labels(engine):
    """Right where the prediction is one of an image's labels; images without labels or of padding do not count."""
    config = ResNetConfig((1, 1), 0.5, 7)
    arrays = golden_arrays(config)
    logits = np.array([3, 1, 2, 0, -1, -2, -3], np.float32)  # of every image
    head = {"head/kernel": np.zeros_like(arrays["head/kernel"]), "head/bias": logits}
    labels = np.zeros((6, 7), np.float32)
    for row, classes in zip(labels, ((0, 3), (2,), (5, 6), (), (3, 4, 6), (0,)), strict=True):
        row[list(classes)] = 1
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    batch = {"images": images, "labels": labels, "mask": np.arange(6) < 5}
    model = engine.build(config, arrays | head)
    evaluator = ClassificationEvaluator("test", [batch], labels=labels)
    result = engine.evaluate(model, evaluator, loss="sigmoid")
    kept = evaluator.predictions
    assert kept.predicted.tolist() == [0] * 6
    assert kept.probability == pytest.approx([1 / (1 + np.exp(-3))] * 6, rel=1e-5)
    assert (result["top1"], result["top5"]) == pytest.approx((1 / 4, 3 / 4))
    losses = np.log1p(np.exp(logits)).sum() - labels @ logits
    assert result["loss"] == pytest.approx(losses[[0, 1, 2, 4]].mean(), rel=1e-5)


def test_original_h5_gives_the_original_logits(engine):
    """Files and logits written by the original TF2 code; names inside depend on how its model was built."""
    from common.weights import read_weights

    golden = case("h5_logits")["files"]
    for file, expected in golden.items():
        config = ResNetConfig(tuple(expected["num_units"]), expected["filters_factor"] / 4, expected["num_outputs"])
        model = engine.build(config, read_weights(GOLDEN / file, config), "float64")
        images = image(expected["input"]["shape_nhwc"], expected["input"]["seed"]).astype(np.float32)
        found = engine.logits(model, images.astype(np.float64))
        assert relative(found, np.array(expected["logits_float64_after_load_weights"])) < 1e-9


def test_timm_reads_our_files_and_agrees(engine, tmp_path):
    """timm is the peer: it loads our .npz with its own loader. It standardises with an epsilon of 1e-8."""
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    from common.weights import write_weights

    config = dataclasses.replace(find_model("BiT-M-R50x1").config(10), standardization_epsilon=1e-8)
    arrays = golden_arrays(config)
    write_weights(tmp_path / "weights.npz", arrays, config)
    peer = timm.create_model("resnetv2_50x1_bit", num_classes=10).eval()
    peer.load_pretrained(str(tmp_path / "weights.npz"))
    images = image((2, 64, 64, 3), 3).astype(np.float32).astype(np.float64)
    with torch.no_grad():
        expected = peer.double()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert relative(engine.logits(engine.build(config, arrays, "float64"), images), expected) < 1e-9


TIMM_NAMES = {arch: f"resnetv2_{arch[1:]}_bit" for arch in ARCHITECTURES if arch != "R26x0.5"}


@pytest.mark.parametrize("architecture", TIMM_NAMES)
def test_parameter_counts_equal_timm(architecture):
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        peer = timm.create_model(TIMM_NAMES[architecture], num_classes=21843)
    shapes = find_model(f"BiT-M-{architecture}").config().parameter_shapes()
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == sum(p.numel() for p in peer.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ("R50x3", "R101x3", "R152x2", "R152x4"))
def test_larger_architectures_agree_across_engines(architecture):
    from engines import INSTALLED, Engine

    config = find_model(f"BiT-M-{architecture}").config(10)
    arrays = golden_arrays.__wrapped__(config)
    images = image((1, 64, 64, 3), 0).astype(np.float64)
    outputs = []
    for name in INSTALLED:
        engine = Engine(name)
        outputs.append(engine.logits(engine.build(config, arrays, "float64"), images))
        gc.collect()  # R152x4 takes 7.5 GB: one engine's at a time
    assert all(relative(found, outputs[0]) < 1e-9 for found in outputs)
