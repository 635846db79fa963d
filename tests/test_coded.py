"""Codes of maps, predicted: the original's second stage in float64 in every engine, with the oracle that makes the codes."""

import numpy as np
import pytest
from golden.golden_params import image, param
from test_batches import batch_of, recipe_of
from test_captioning import as_float64, golden, model_of, recipe_for
from test_dense import TABLE, config_of, keep_maps
from test_dense_data import split_of

from common.data.batches import EvalBatches, TrainBatches
from common.models import VqVaeConfig, find_model
from common.models.cards import Card, Preprocessing
from common.recipes.task import Coded
from common.tasks import coded
from common.tasks.start import Start


def oracle_of(case: dict) -> tuple[VqVaeConfig, dict[str, np.ndarray]]:
    """(configuration, canonical float64 arrays) of a case's oracle."""
    own = case["oracle"]
    config = config_of({"config": case["config"]["oracle"]})
    found = {f"params/{name}": param(f"oracle/{name}", shape) for name, shape in own["oracle params"].items()}
    found |= {f"state/{name}": param(f"oracle/state/{name}", shape) for name, shape in own["oracle state"].items()}
    found["state/counts"] = 1 + np.abs(found["state/counts"])
    return config, TABLE.from_published({name: as_float64(array) for name, array in found.items()}, config)


def step_of(seed: int) -> dict[str, np.ndarray]:
    """The images and maps of a step."""
    return {"images": as_float64(image((4, 32, 32, 3), seed)), "maps": as_float64(image((4, 32, 32, 3), 700 + seed))}


def output(engine, models: dict, name: str, batch: dict[str, np.ndarray], task: Coded) -> dict[str, np.ndarray]:
    """One of the engine's OUTPUTS of a batch."""
    (placed,) = engine.devices.to_device(iter([batch | {"mask": np.ones(4, bool)}]), models["model"].devices)
    return {column: engine.array(rows) for column, rows in engine.loop.eval_step(models, placed, name, task).items()}


def test_float64_updates_equal_the_originals(engine, monkeypatch):
    """Codes of the oracle, losses of three updates within 1e-8; what is written before them, and the maps of that."""
    case, task = golden("uvim/lm_3steps"), Coded("an oracle")
    keep_maps(engine, monkeypatch)
    oracle = engine.build(*oracle_of(case), "float64")
    model = engine.build(*model_of(case), "float64")
    models = {"model": model, "oracle": oracle}
    seeds, recipe = case["input"]["image"]["seeds_per_step"], recipe_for(case, task=task)
    asked = step_of(seeds[0]) | {"prompt": np.zeros((4, 4), np.int32), "end": np.full(4, -1, np.int32)}
    written = output(engine, models, "captions", asked, task)
    wanted = [one[0] for one in case["decoding"]["sequences (temperature 1e-7)"]]
    assert written["tokens"].tolist() == wanted
    np.testing.assert_allclose(written["score"], np.ravel(case["decoding"]["log_probs"]), rtol=0, atol=1e-9)
    codes = engine.raw(np.array(wanted, np.int32) - 1)
    maps = engine.array(oracle.decode(codes, engine.tensor(asked["images"])))
    found = output(engine, models, "maps", asked, task)["map"]
    np.testing.assert_allclose(found, maps, rtol=0, atol=1e-12)
    assert np.abs(np.diff(found, axis=0)).max() > 0.01
    frozen, optimizer, losses = engine.weights.dump(oracle), engine.optim.create_optimizer(model, recipe), []
    for step, batch in enumerate(engine.devices.to_device(map(step_of, seeds), model.devices)):
        tokens, counted = engine.losses.texts(models, batch)
        assert engine.array(tokens).tolist() == (np.array(case["oracle_codes_per_step"][step]) + 1).tolist()
        assert engine.array(counted).all()
        losses.append(float(engine.loop.train_step(models, optimizer, batch, recipe, step=step)["loss"]))
    np.testing.assert_allclose(losses, case["outputs"]["training_loss"]["data"], rtol=0, atol=1e-8)
    for name, array in engine.weights.dump(oracle).items():
        np.testing.assert_array_equal(array, frozen[name], name)
    likely = output(engine, models, "likelihoods", step_of(seeds[0]), task)
    assert likely["num_tokens"].tolist() == [4] * 4 and np.isfinite(likely["loss"]).all()
    engine.forget_compiled()


class Plan:
    """What the columns of a run depend on: a model of 16 px, and an oracle of 32."""

    def __init__(self, target: str, **recipe):
        self.recipe = recipe_of(batch=4, resize=24, crop=16, flip=0.5, **recipe)
        self.preprocessing = Preprocessing(16, 0)
        config = find_model(f"UViM-T/8-{target}").config()
        oracle = Start(config, {}, Card(), Preprocessing(32, mean=(0.4,) * 3), frozen=True)
        self.models = {"oracle": coded.seeing(oracle, self.preprocessing)}


@pytest.mark.parametrize("box", (0.2, 1.0))
def test_an_oracle_of_another_size_sees_the_same_part(box):
    """Its images and maps have the box and flip of the model's images, at its own size."""
    plan, split = Plan("depth", crop_min_area=box), split_of("depth", 4)
    for train in (True, False):
        columns = coded.columns(plan, split, train)
        batches = (
            TrainBatches(split, plan.recipe, 1, columns=columns)
            if train
            else EvalBatches(split, None, 4, columns=columns)
        )
        found = batch_of(batches, 0)
        assert [found[name].shape[1] for name in ("images", "oracle_images", "maps")] == [16, 32, 32]
        halved = found["oracle_images"].reshape(4, 16, 2, 16, 2, 3).mean((2, 4))
        assert np.abs(halved - found["images"])[:, 1:-1, 1:-1].max() <= 8
        rows = np.floor(found["maps"][..., 0]) - found["oracle_images"][..., 0]
        assert np.abs(rows)[:, 2:-2, 2:-2].max() <= 6
    assert plan.models["oracle"].preprocessing == Preprocessing(32, 0, mean=(0.4,) * 3)


def test_an_oracle_of_the_same_size_sees_the_same_pixels():
    plan = Plan("colorization")
    plan.models["oracle"] = plan.models["oracle"]._replace(
        config=find_model("UViM-T/8-colorization").config().at((16, 16))
    )
    plan.models["oracle"] = coded.seeing(plan.models["oracle"], plan.preprocessing)
    for train in (True, False):
        assert [one.name for one in coded.columns(plan, split_of("colorization"), train)] == ["images", "maps"]


def test_what_is_written_never_ends():
    config = find_model("UViM-T/8-colorization").config()
    found = batch_of(EvalBatches(split_of("colorization", 3), None, 3, columns=coded.codes(config, seed=7)), 0)
    assert not found["prompt"].any() and found["prompt"].shape == (3, 16) and found["end"].tolist() == [-1] * 3
    assert found["draws"].shape == (3, 16) and len(np.unique(found["draws"])) == 48
    assert [one.name for one in coded.codes(config)] == ["prompt", "end"]
    assert coded.sizes(config) == {"vocabulary": config.vocabulary + 1, "length": config.num_codes}


def test_what_is_drawn_does_not_depend_on_the_parts_that_fit_into_memory():
    config = find_model("UViM-T/8-colorization").config()
    whole = EvalBatches(split_of("colorization", 5), None, 2, columns=coded.codes(config, seed=7))
    parts = whole.parts(2)
    assert [len(part) for part in parts] == [2, 1]
    found = [batch_of(part, step) for part in parts for step in range(len(part))]
    expected = [batch_of(whole, step) for step in range(3)]
    for name in ("draws", "mask"):
        np.testing.assert_array_equal(*(np.concatenate([batch[name] for batch in one]) for one in (found, expected)))
