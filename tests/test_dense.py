"""Models of maps, in every engine: the original's outputs and updates in float64, codebook and all."""

import json
from pathlib import Path

import numpy as np
import pytest
from engines import recipe_of
from golden.golden_params import image, param

from common.models import VqVaeConfig
from common.recipes import schedules
from common.recipes.task import Dense
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


def arrays_of(case: dict, config: VqVaeConfig) -> dict[str, np.ndarray]:
    """Canonical float64 arrays of a golden case."""
    found = {f"params/{name}": as_float64(param(name, shape)) for name, shape in case["params"].items()}
    for name, shape in case["state"].items():
        found[f"state/{name}"] = as_float64(param(f"state/{name}", shape))
    found["state/counts"] = as_float64(1 + np.abs(param("state/counts", case["state"]["counts"])))
    return TABLE.from_published(found, config)


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
