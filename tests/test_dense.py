"""Models of maps, in every engine: the original's outputs and updates in float64, codebook and all; and on several devices."""

import functools
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import train_maps
from engines import Engine, float64, recipe_of
from golden.golden_params import image, param
from jobs import on_several_devices

from common.models import VqVaeConfig, find_model
from common.models.initial import initial_parameters
from common.models.vqvae import FAMILY
from common.recipes import schedules
from common.recipes.task import Dense
from common.weights import write_weights
from common.weights.recognise import fit
from common.weights.source import read_model
from common.weights.spellings import TABLES

GOLDEN = Path(__file__).parent / "golden"
TABLE = next(table for table in TABLES if (table.family, table.spelling) == (VqVaeConfig, "big_vision"))
TARGETS = {"colorization_task": "colorization", "depth_task": "depth"}


def golden(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def as_float64(values: np.ndarray) -> np.ndarray:
    """float32 values in float64, as the cases have them."""
    return values.astype(np.float32).astype(np.float64)


def config_of(case: dict) -> VqVaeConfig:
    """The model of a case of training steps."""
    given = case["config"]["model"]
    target = TARGETS[case["config"]["task"].rpartition(".")[2]]
    return VqVaeConfig(
        tuple(given["patch_size"]), given["width"], given["enc_depth"], given["dec_depth"], given["num_heads"],
        given["mlp_dim"], given["code_len"], given["dict_size"], given["codeword_dim"], tuple(given["input_size"]), target,
        tuple(bins for bins, _ in given["inputs"].values()),
    )  # fmt: skip


@pytest.mark.parametrize("name", ("colorization_3steps", "depth_3steps"))
def test_a_file_of_the_original_tells_which_model_it_holds(name):
    """Names and shapes do, but for the number of codes, which are a quarter of the patches there."""
    case = golden(f"uvim/vqvae_{name}")
    config = config_of(case)
    shapes = {f"params/{key}": tuple(shape) for key, shape in case["params"].items()}
    shapes |= {f"state/{key}": tuple(shape) for key, shape in case["state"].items()}
    assert fit(TABLE, shapes, {}).config == config
    full = find_model("UViM-B/16-panoptic").config()
    assert fit(TABLE, TABLE.published_shapes(full), {}).config == full
    levels = find_model("UViM-B/16-depth-FSQ").config()
    assert fit(TABLE, TABLE.published_shapes(levels), {"levels": levels.levels}).config == levels


@pytest.mark.parametrize("target", ("colorization", "panoptic"))
def test_adafactor_sees_parameters_as_flax_has_them(target):
    """Its means are over the axes that a parameter has there: heads, and bins and pixels of maps, on axes of their own."""
    config = find_model(f"UViM-B/16-{target}").config()
    theirs = TABLE.published_shapes(config)
    assert config.shapes_by_head() == {row.ours[0]: theirs[row.theirs] for row in TABLE.rows(config)}


def arrays_of(case: dict, config: VqVaeConfig) -> dict[str, np.ndarray]:
    """Canonical float64 arrays of a golden case."""
    found = {f"params/{name}": as_float64(param(name, shape)) for name, shape in case["params"].items()}
    found |= states_of(case)
    arrays = TABLE.from_published(found, config)
    assert not found, "parameters that the spelling does not have"
    return arrays


def states_of(case: dict) -> dict[str, np.ndarray]:
    """The codebook of a golden case, by its name there."""
    dictionary, counts = (param(f"state/{name}", case["state"][name]) for name in ("dictionary", "counts"))
    return {"state/dictionary": as_float64(dictionary), "state/counts": as_float64(1 + np.abs(as_float64(counts)))}


def batch_of(seed: int, target: str) -> dict[str, np.ndarray]:
    """The images and maps of a step, as `input` of the cases says."""
    if target == "depth":
        maps = (5 * (image((4, 32, 32, 1), 700 + seed) + 1)).astype(np.float32)
    else:
        maps = as_float64(image((4, 32, 32, 3), 700 + seed))
    return {"images": as_float64(image((4, 32, 32, 3), seed)), "maps": maps, "renewal_seed": np.int32(0)}


def recipe_for(case: dict, target: str, **changes):
    """The recipe of a golden run."""
    given = case["config"]
    factor = np.float32(schedules.cosine(10, 2, 1.0)).astype(float)  # float32, as there
    task = Dense(target, given["w_commitment"], given["freeze_dict"])
    return recipe_of(
        map(float, given["lr"] * factor), batch=4, batch_eval=4, base_lr=given["lr"], weight_decay=given["wd"],
        clip=given["grad_clip_norm"], decay="independent", optimizer="adam", task=task, **changes,
    )  # fmt: skip


NAMES = {"loss": "training_loss", "reconstruction": "loss_rec", "commitment": "loss_commitment"}
USAGE = ("codebook_max_ratio", "codebook_zeros_ratio")


def keep_maps(engine, monkeypatch) -> None:
    """Let images and colours through that are in [-1, 1] already, as golden ones are."""
    engine.keep_images(monkeypatch)
    monkeypatch.setitem(engine.dense.READ, "colorization", lambda maps, config, dtype: maps)


@pytest.mark.parametrize(
    ("name", "batch_split"),
    [
        ("colorization_3steps", 2),
        *(
            pytest.param(name, parts, marks=pytest.mark.slow)
            for name in ("colorization_3steps", "depth_3steps", "colorization_frozen_dict")
            for parts in (1, 2)
            if (name, parts) != ("colorization_3steps", 2)
        ),
    ],
)
def test_float64_updates_equal_the_originals(engine, monkeypatch, name, batch_split):
    """Losses within 1e-8, gradients, parameters and codebook within 1e-9; in parts as at once."""
    case = golden(f"uvim/vqvae_{name}")
    config = config_of(case)
    arrays, recipe = arrays_of(case, config), recipe_for(case, config.target, batch_split=batch_split)
    keep_maps(engine, monkeypatch)
    model = engine.build(config, arrays, "float64")
    optimizer, first, books = engine.optim.create_optimizer(model, recipe), {}, []
    batches = (batch_of(seed, config.target) for seed in case["input"]["image (context)"]["seeds_per_step"])
    for step, batch in enumerate(engine.devices.to_device(batches, model.devices)):
        first = first or engine.slopes({"model": model}, batch, recipe)
        measured = engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)
        assert {*measured} == {*recipe.measures}
        for ours in recipe.measures:
            expected = case["outputs"][NAMES.get(ours, ours)]["data"][step]
            assert float(measured[ours]) == pytest.approx(expected, rel=0, abs=1e-8), (step, ours)
        books.append(engine.weights.dump(model))
        for ours in ("counts", "dictionary"):
            expected = np.array(case["outputs"][f"state/{ours} after each step"]["data"])[step]
            np.testing.assert_allclose(books[-1][f"codebook/{ours}"], expected, rtol=1e-9, atol=1e-9)
    engine.forget_compiled()
    found = books[-1]
    for row in TABLE.rows(config):
        ours, theirs = row.ours[0], row.theirs.removeprefix("params/")
        if theirs.startswith("state/"):
            continue
        expected, slope = case["gradients_first_step"][theirs], row.to_there([first[ours]])
        assert np.linalg.norm(slope) == pytest.approx(expected["l2"], rel=1e-9, abs=1e-12), theirs
        np.testing.assert_allclose(slope.ravel()[:4], expected["first4"], rtol=1e-8, atol=1e-12, err_msg=theirs)
        if theirs.endswith("key/bias"):
            continue  # its gradient is nothing but rounding, and so is what Adam makes of it
        expected, moved = case["final_params"][theirs], found[ours] - arrays[ours]
        assert np.linalg.norm(moved) == pytest.approx(expected["delta_l2"], rel=1e-7, abs=1e-10), theirs
        there = row.to_there([found[ours]]).ravel()[:4]
        np.testing.assert_allclose(there, expected["first4"], rtol=1e-9, atol=1e-11, err_msg=theirs)


@pytest.fixture
def quantizers(engine):
    """The module of an engine that makes codes of vectors."""
    return importlib.import_module(f"{engine.name}.quantizers")


def widened(array: np.ndarray, width: int, axis: int) -> np.ndarray:
    """An array with zeros behind what it has along an axis."""
    pads = [(0, 0)] * array.ndim
    pads[axis] = (0, width - array.shape[axis])
    return np.pad(array, pads)


TINY = VqVaeConfig(
    (1, 3), 16, 1, 1, 4, 32, 4, 8, 8, (4, 12), "panoptic", (10, 3), resizes=False, encoder_context=False,
    decoder_context=False,
)  # fmt: skip


def tiny_arrays(case: dict) -> dict[str, np.ndarray]:
    """Canonical arrays of the tiny case, whose inputs have 30 and 5 numbers and whose outputs 5 and 7: zeros fill them up."""
    shapes = {name: np.zeros(shape) for name, shape in TABLE.published_shapes(TINY).items()}
    renamed = {"in1": "semantics", "in2": "instances", "out1": "semantics", "out2": "instances"}
    for name, shape in case["params"].items():
        layer, _, leaf = name.partition("/")
        kind, _, which = layer.partition("_")
        value = as_float64(param(name, shape))
        if kind in ("embedding", "head"):
            name = f"{kind}_{renamed[which]}/{leaf}"
            wanted = shapes[f"params/{name}"]
            if (kind, leaf) == ("embedding", "kernel"):
                value = widened(value.reshape(-1, shape[-1]), wanted.size // shape[-1], 0).reshape(wanted.shape)
            elif kind == "head":
                value = widened(value, int(np.prod(wanted.shape[-2:])), -1).reshape(wanted.shape)
        shapes[f"params/{name}"] = value
    return TABLE.from_published(shapes | states_of(case), TINY)


def test_float64_outputs_equal_the_originals(engine, monkeypatch):
    """Codes, vectors and what is predicted, with learned matrices between patches and codes, and without an image."""
    case = golden("bv_uvim/vqvae_tiny")
    model = engine.build(TINY, tiny_arrays(case), "float64")  # from here on JAX computes in float64
    given = [as_float64(image(one["shape"], one["seed"])) for one in list(case["input"].values())[:2]]
    shown = {
        name: engine.raw(widened(values.reshape(2, 16, -1), bins * 3, 2))
        for name, values, bins in zip(TINY.names, given, TINY.bins)
    }
    monkeypatch.setattr(engine.dense, "shown", lambda found, config, dtype: found)
    logits, z, _, codes = model(shown, engine.tensor(np.zeros((2, 4, 12, 3))))
    expected = {name: np.array(one["data"]).reshape(one["shape"]) for name, one in case["outputs"].items()}
    for name, which in zip(TINY.names, ("logits_out1", "logits_out2")):
        flat = engine.array(logits[name]).reshape(2, 16, -1)
        np.testing.assert_allclose(flat[:, :, : expected[which].shape[2]], expected[which], rtol=0, atol=1e-9)
    np.testing.assert_allclose(engine.array(z), expected["bottleneck"], rtol=0, atol=1e-9)
    assert engine.array(codes).tolist() == expected["code"].tolist()


FSQ = golden("fsq/fsq")["outputs"]


def with_levels(levels: list[int]) -> VqVaeConfig:
    """A model whose vectors are rounded to so many levels."""
    return VqVaeConfig((8, 8), 16, 1, 1, 2, 24, 4, int(np.prod(levels)), len(levels), (32, 32), levels=tuple(levels))


@pytest.mark.parametrize(
    "case", [case if len(json.loads(case)) == 4 else pytest.param(case, marks=pytest.mark.slow) for case in FSQ]
)
def test_levels_are_those_of_the_original(engine, quantizers, case):
    """Rounded numbers, their codes and back exactly, bounded ones and gradients within 1e-12."""
    expected = FSQ[case]
    levels, found = quantizers.Levels(with_levels(json.loads(case))), expected["quantize"]
    z = np.array(found["z"])
    with float64(engine):
        bounded, rounded, codes = map(engine.array, levels.coded(engine.raw(z[:, None])))
        slopes = slopes_of(engine, lambda z: levels.coded(z)[1], z[:, None])
        back = engine.array(
            levels.look_up(engine.raw(np.array(expected["indexes"]["index"], np.int32)[None]), engine.dtype("float64"))
        )
    half = np.array(expected["half_width"])
    np.testing.assert_allclose(bounded[:, 0] * half, shaped(found["bounded"]), rtol=0, atol=1e-12)
    assert rounded[:, 0].tolist() == shaped(found["quantized"]).tolist()
    assert codes[:, 0].tolist() == found["index"]["data"] and codes.dtype == np.int32
    assert back[0].tolist() == expected["indexes"]["code"]
    np.testing.assert_allclose(slopes[:, 0], found["d quantized / d z (diagonal)"], rtol=1e-12, atol=1e-12)


def shaped(output: dict) -> np.ndarray:
    """An output of a golden file."""
    return np.array(output["data"]).reshape(output["shape"])


def slopes_of(engine, function, z: np.ndarray) -> np.ndarray:
    """What the sum of a function's output changes by with its input."""
    if engine.name == "bit_jax":
        return np.asarray(importlib.import_module("jax").grad(lambda z: function(z).sum())(engine.raw(z)))
    if engine.name == "bit_pytorch":
        given = engine.raw(z).requires_grad_()
        function(given).sum().backward()
        return given.grad.numpy()
    tensorflow = importlib.import_module("tensorflow")
    with tensorflow.GradientTape() as tape:
        tape.watch(given := engine.raw(z))
        total = tensorflow.reduce_sum(function(given))
    return tape.gradient(total, given).numpy()


def split_as_there(
    dictionary: np.ndarray, counts: np.ndarray, least: float, drawn
) -> tuple[np.ndarray, np.ndarray, int]:
    """`split_the_most_frequent_embedding` of big_vision's `models/proj/uvim/vit.py`, as long as a word is dead; how often."""
    e, c, number = dictionary.copy(), counts.copy(), 0
    while (c < least).any():
        i_max, i_min = np.argmax(c), np.argmin(c)
        e[i_min] = e[i_max] * (0.999 + 0.002 * drawn(number))
        c[i_min] = c[i_max] / 2
        c[i_max] = c[i_max] / 2
        e[i_min], e[i_max], number = e[i_min] / 2, e[i_max] / 2, number + 1
    return e, c, number


def test_dead_words_are_split_off_the_most_frequent(engine, quantizers):
    """As the original does it, with the same draws in every engine, in [0.999, 1.001), which differ from one to the next."""
    rng = np.random.default_rng(0)
    dictionary, counts = rng.normal(size=(9, 6)), np.array([5, 0.101, 0.02, 0.1, 3, 0.0001, 0.05, 2, 4.9])
    sums, new = rng.normal(size=(9, 6)), np.array([1.0, 0, 0, 0.5, 0, 0, 0, 0, 0])
    later = 0.9 * dictionary + sums, 0.9 * counts + new
    drawn = lambda number: hashed(np.array([7, number], np.int32), 6) / 2**24
    expected = split_as_there(*later, 0.1, drawn)
    assert expected[2] == 4 and len({*np.concatenate([drawn(number) for number in range(4)])}) == 24
    with float64(engine):
        given = map(engine.raw, (dictionary, counts, new, sums, np.array(7, np.int32)))
        found = quantizers.learned(*given, momentum=0.9, least_count=0.1)
    for ours, theirs in zip(map(engine.array, found), expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=1e-14)


def hashed(seeds: np.ndarray, count: int) -> np.ndarray:
    """24 random bits of each place: a 32-bit mix, as the engines' layers have it for dropout."""
    first, second = seeds.astype(np.uint32)
    bits = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) ^ first
    bits = (bits ^ bits >> np.uint32(16)) * np.uint32(0x7FEB352D) + second
    bits = (bits ^ bits >> np.uint32(15)) * np.uint32(0x846CA68B)
    return (bits ^ bits >> np.uint32(16)) >> np.uint32(8)


def test_where_no_word_is_frequent_enough_none_is_split(engine, quantizers):
    """The original would split for ever."""
    dictionary, counts, zeros = np.ones((3, 2)), np.array([0.15, 0.05, 0.12]), np.zeros(3)
    with float64(engine):
        given = map(engine.raw, (dictionary, counts, zeros, np.zeros((3, 2)), np.array(7, np.int32)))
        found = quantizers.learned(*given, momentum=0.9, least_count=0.1)
    np.testing.assert_allclose(engine.array(found[1]), 0.9 * counts, rtol=1e-15)


def close(found: dict, expected: dict, bound: float) -> None:
    """All arrays are the same but for rounding; the gradient of keys' biases is nothing else."""
    assert {*found} == {*expected}
    for name, value in expected.items():
        if "key/bias" not in name:
            atol = bound * np.abs(value).max()
            np.testing.assert_allclose(found[name], value, rtol=bound, atol=atol, err_msg=name)


@pytest.mark.slow  # the original's updates, and dead words, are quick
@pytest.mark.parametrize("kind", ("vqvae", "fsq"))
def test_engines_train_alike(engine, kind):
    """In two parts, with hidden codes and words that die, as PyTorch does at once: 1e-9, codebook and all."""
    with float64(engine):
        found = train_maps.train(engine, engine.devices.FirstDevice(), kind, batch_split=2)
    close(found, reference(kind), 1e-9)
    if kind == "vqvae":
        counts = found["codebook/counts"]
        assert counts.min() > 0.1 and np.isclose(counts[:, None], counts).sum() > len(counts), "no word was split"


@functools.cache
def reference(kind: str) -> dict[str, np.ndarray]:
    """What PyTorch makes of whole batches."""
    first = Engine("bit_pytorch")
    return train_maps.train(first, first.devices.FirstDevice(), kind)


@pytest.mark.slow
def test_bfloat16_is_near_float32(engine):
    """Codes are found in float32: losses differ by a hundredth, and the codebook stays in float32."""
    one, other = (
        train_maps.train(engine, engine.devices.FirstDevice(), precision=name) for name in ("float32", "bfloat16")
    )
    np.testing.assert_allclose(other["loss"], one["loss"], rtol=0.02)
    assert not np.array_equal(other["loss"], one["loss"]) and other["codebook/dictionary"].dtype == np.float32


KINDS = {
    "parts": {"batch_split": 2},
    "adafactor": {"optimizer": "adafactor"},
    "shards": {"shards": True, "batch_split": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("parts", 4), *((kind, 2) for kind in KINDS)])
def test_several_devices_train_as_one(engine, server, tmp_path, kind, count):
    """What was measured, parameters, codebook and the optimizer's state within 1e-9 of those of one device."""
    close(*on_several_devices(engine, server, tmp_path, train_maps, count, KINDS[kind]), 1e-9)


@pytest.mark.parametrize("name", [name for name in FAMILY.variants if "/16" not in name])
def test_a_file_without_its_card_is_the_variant_of_its_sizes(name, tmp_path):
    """Nothing in it tells how many codes there are where they are resized, and how many levels."""
    config = FAMILY.variants[name]
    write_weights(tmp_path / "a.npz", initial_parameters(0, config), config)
    (tmp_path / "a.json").unlink()
    assert read_model(tmp_path / "a.npz").config == config
