"""Image-text models in training, in every engine: the original's trajectories in float64, locked towers, parts of a batch."""

import dataclasses
import importlib
import json
import math
import time
import types
from pathlib import Path

import numpy as np
import pytest
import train_pairs
from engines import recipe_of
from golden.golden_params import image, param
from jobs import on_several_devices
from test_two_towers import TABLE
from tiny_models import TEXTS, random_arrays

from common.models import ViTConfig
from common.recipes import schedules
from common.recipes.groups import Group, create_groups, temperature_group
from common.recipes.schedules import Schedule
from common.recipes.task import Contrastive
from common.weights.recognise import fit

GOLDEN = Path(__file__).parent / "golden" / "siglip"
LOCKED = (*create_groups(), Group("image/.*", trained=False))
CASES = {  # what the cases state, as a Recipe
    "siglip_both_trained": {},
    "siglip_both_trained_real_init": {},
    "siglip_lit_locked_image": {"groups": LOCKED},
    "siglip_two_schedules": {"groups": (*create_groups(), Group("image/.*", schedule=Schedule("linear", 4)))},
    "siglip_adafactor": {"optimizer": "adafactor"},
    "contrastive_softmax_lit_1dev": {"groups": LOCKED, "task": Contrastive("softmax")},
    "contrastive_softmax_lit_2dev": {"groups": LOCKED, "task": Contrastive("softmax", chunk=2)},
    "contrastive_sigmoid_both_1dev": {"task": Contrastive(chunk=2)},
    "contrastive_sigmoid_both_2dev": {},
}


class Case:
    """One golden file: model, batches, recipe."""

    def __init__(self, name: str, **changes):
        self.golden = json.loads((GOLDEN / f"{name}.json").read_text())
        given, shapes = self.golden["config"], {key: tuple(shape) for key, shape in self.golden["params"].items()}
        pooling = {"tok": "token"}.get(given["model"]["image"]["pool_type"], given["model"]["image"]["pool_type"])
        sizes = {"image": ViTConfig((8, 8), 32, 2, 4, 64, None, (32, 32), pooling=pooling)}
        self.config = fit(TABLE, shapes, sizes).config
        self.config = dataclasses.replace(
            self.config, image=dataclasses.replace(self.config.image, pooling=pooling, cls_position=False)
        )
        drawn = {key: param(key, shape).astype(np.float32).astype(float) for key, shape in shapes.items()}
        drawn |= {
            key: np.full(1, value, np.float32).astype(float) for key, value in self.golden["param_overrides"].items()
        }
        self.arrays = TABLE.from_published(drawn, self.config)
        self.names = {row.ours[0]: row.theirs for row in TABLE.rows(self.config)}
        factor = np.float32(schedules.cosine(10, 2, 1.0)).astype(float)  # float32, as there
        numbers = {"optimizer": "adam", "task": Contrastive()} | CASES[name] | changes
        self.recipe = recipe_of(
            map(float, given["lr"] * factor), batch=4, batch_eval=4, base_lr=given["lr"], weight_decay=given["wd"],
            clip=given["grad_clip_norm"], decay="independent", **numbers,
        )  # fmt: skip

    def batches(self) -> list[dict[str, np.ndarray]]:
        """Five steps."""
        given = self.golden["input"]
        return [
            {
                "images": image(given["shape"], seed).astype(np.float32).astype(float),
                "tokens": np.random.RandomState(2000 + seed).randint(1, 32, (4, 8)).astype(np.int32),
            }
            for seed in given["seeds_per_step"]
        ]

    def expected(self, output: str) -> np.ndarray:
        return np.array(self.golden["outputs"][output]["data"])


def keep_momentum_in_float32(engine, model, optimizer, decay: float = 0.9) -> None:
    """Round Adafactor's first moment, and its product with its decay in the next update, as the original does."""
    state = engine.weights.dump_optimizer(model, optimizer)
    for name, value in state.items():
        if name.startswith("first/"):
            state[name] = (np.float32(decay) * value.astype(np.float32)).astype(float) / decay
    engine.weights.load_optimizer(model, optimizer, state)


def trained(engine, monkeypatch, case: Case) -> tuple[list[float], dict, dict]:
    """(losses, first gradients, trained arrays) of five float64 updates."""
    engine.keep_images(monkeypatch)
    model = engine.build(case.config, case.arrays, "float64", groups=case.recipe.groups)
    optimizer, losses, first = engine.optim.create_optimizer(model, case.recipe), [], {}
    for step, batch in enumerate(engine.devices.to_device(iter(case.batches()), model.devices)):
        first = first or engine.slopes({"model": model}, batch, case.recipe)
        losses.append(float(engine.loop.train_step({"model": model}, optimizer, batch, case.recipe, step=step)["loss"]))
        if case.recipe.optimizer == "adafactor":
            keep_momentum_in_float32(engine, model, optimizer)
    engine.forget_compiled()
    return losses, first, engine.weights.dump(model)


@pytest.mark.parametrize(
    ("name", "batch_split"),
    [
        ("siglip_two_schedules", 2),
        pytest.param("siglip_lit_locked_image", 2, marks=pytest.mark.slow),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in CASES),
    ],
)
def test_float64_updates_equal_the_originals(engine, monkeypatch, name, batch_split):
    """Losses within 1e-8, gradients and every parameter within 1e-9; in parts as at once."""
    case = Case(name, batch_split=batch_split)
    losses, first, found = trained(engine, monkeypatch, case)
    np.testing.assert_allclose(losses, case.expected("training_loss"), rtol=0, atol=1e-8)
    for ours, theirs in case.names.items():
        if ours not in first:
            assert ours.startswith("image/") and case.recipe.groups == LOCKED
            assert np.array_equal(found[ours], case.arrays[ours])
            continue
        expected, slope = case.golden["gradients_first_step"][theirs], first[ours]
        assert np.linalg.norm(slope) == pytest.approx(expected["l2"], rel=1e-9, abs=1e-12), theirs
        np.testing.assert_allclose(slope.ravel()[:4], expected["first4"], rtol=1e-8, atol=1e-12, err_msg=theirs)
        if theirs.endswith("key/bias"):
            continue  # its gradient is nothing but rounding, and so is what Adam makes of it
        expected, moved = case.golden["final_params"][theirs], found[ours] - case.arrays[ours]
        assert np.linalg.norm(found[ours]) == pytest.approx(expected["l2"], rel=1e-9), theirs
        assert np.linalg.norm(moved) == pytest.approx(expected["delta_l2"], rel=1e-7, abs=1e-10), theirs
        np.testing.assert_allclose(found[ours].ravel()[:4], expected["first4"], rtol=1e-9, atol=1e-11, err_msg=theirs)


KINDS = {  # of training on several devices
    "chunks, parts": {"chunk": 2, "batch_split": 2},
    "locked, parts": {"locked": "image/(?!pool/).*", "batch_split": 2},
    "softmax": {"loss": "softmax", "chunk": 4, "locked": "b"},
    "adafactor": {"optimizer": "adafactor"},
    "shards": {"shards": True, "chunk": 2, "batch_split": 2},
    "shards, adafactor": {"shards": True, "optimizer": "adafactor"},
}


@pytest.mark.slow  # tests/test_similarity.py is quick
@pytest.mark.parametrize(("kind", "count"), [("chunks, parts", 4), *((kind, 2) for kind in KINDS)])
def test_several_devices_train_as_one(engine, server, tmp_path, kind, count):
    """Losses, averaged parameters and the optimizer's state within 1e-9 of those of one device."""
    found, expected = on_several_devices(engine, server, tmp_path, train_pairs, count, KINDS[kind])
    assert {*found.files} == {*expected}
    for name, value in expected.items():
        if "key/bias" not in name:
            np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9 * np.abs(value).max(), err_msg=name)


LARGE = dataclasses.replace(
    TEXTS["siglip"], image=ViTConfig((8, 8), 128, 4, 2, 512, None, (64, 64), pooling="map"),
    text=dataclasses.replace(TEXTS["siglip"].text, width=128, num_classes=128, depth=1),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("parts", (1, 4))
def test_a_locked_tower_has_no_backward_pass_and_no_moments(engine, parts):
    """Beside a small text tower, a step takes less than half of the processors' time. Measured with four parts: a third."""
    free, moments = seconds_of_a_step(engine, parts, "")
    locked, fewer = seconds_of_a_step(engine, parts, "image/.*")
    assert {name for name in moments - fewer if "/image/" in name} == moments - fewer != set()
    assert not any("/image/" in name for name in fewer)
    assert locked < free / 2, (locked, free)


def seconds_of_a_step(engine, parts: int, locked: str) -> tuple[float, set[str]]:
    """(of all processors, the least of six steps; what the optimizer keeps)."""
    numbers = {"optimizer": "adam", "batch": 16, "batch_split": parts, "groups": create_groups(locked=locked)}
    recipe, rng, found = recipe_of((1e-3,) * 8, task=Contrastive(), **numbers), np.random.default_rng(0), []
    model = engine.build(LARGE, random_arrays(LARGE), groups=recipe.groups)
    optimizer = engine.optim.create_optimizer(model, recipe)
    batch = {
        "images": rng.integers(0, 256, (16, 64, 64, 3), np.uint8),
        "tokens": rng.integers(1, 11, (16, 7), np.int32),
    }
    for step, placed in enumerate(engine.devices.to_device(iter([batch] * 8), model.devices)):
        start = time.process_time()
        float(engine.loop.train_step({"model": model}, optimizer, placed, recipe, step=step)["loss"])
        found.append(time.process_time() - start)
    return min(found[2:]), {*engine.weights.dump_optimizer(model, optimizer)}


@pytest.mark.slow  # test_updates.py is quick
@pytest.mark.parametrize("start", (6.0, -1.0))
def test_the_temperature_is_that_of_a_run_of_open_clip(engine, start):
    """Of t alone, from beyond either bound: equal after each update to 1e-12."""
    config, rate, found = TEXTS["clip"], 0.1, []
    groups = (*create_groups(locked="(?!t$).*"), temperature_group(100))
    recipe = recipe_of((rate,) * 3, optimizer="adam", decay="decoupled", task=Contrastive("softmax"), groups=groups)
    arrays = random_arrays(config) | {"t": np.full(1, start)}
    model = engine.build(config, arrays, "float64", groups=groups)
    optimizer, batches = engine.optim.create_optimizer(model, recipe), train_pairs.batches(8, 0, 8)
    seen = train_pairs.Seen([batch | {"mask": np.ones(8, bool)} for batch in batches])
    engine.loop.evaluate({"model": model}, seen, recipe.task)
    for step, batch in enumerate(engine.devices.to_device(iter(batches), model.devices)):
        engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)
        found.append(engine.weights.dump(model)["t"][0])
    embeddings = [seen.found[f"{kind}_embeddings embedding"].reshape(3, 8, -1) for kind in ("image", "text")]
    np.testing.assert_allclose(found, by_open_clip(*embeddings, start, rate), rtol=1e-12)
    assert found[0] == pytest.approx(math.log(100) if start > 0 else 0)


def by_open_clip(images: np.ndarray, texts: np.ndarray, t: float, rate: float) -> list[float]:
    """t after each update of open_clip's own loop, with embeddings [steps, B, E] that stay."""
    torch, training = pytest.importorskip("torch"), pytest.importorskip("open_clip_train.train")
    loss = importlib.import_module("open_clip").ClipLoss()

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logit_scale = torch.nn.Parameter(torch.tensor(t, dtype=torch.float64))

        def forward(self, images, texts):
            return {"image_features": images, "text_features": texts, "logit_scale": self.logit_scale.exp()}

    class Loader(list):
        num_batches, num_samples = 1, 8

    model, found = Model(), []
    optimizer = torch.optim.AdamW(model.parameters(), rate, (0.9, 0.999), 1e-8, weight_decay=0)
    args = types.SimpleNamespace(
        device="cpu", precision="fp64", accum_freq=1, distill=False, skip_scheduler=True, grad_clip_norm=None, rank=0,
        log_every_n_steps=1, batch_size=8, world_size=1, distributed=False, wandb=False, save_logs=False, horovod=False,
    )  # fmt: skip
    for pair in zip(torch.from_numpy(images), torch.from_numpy(texts)):
        data = types.SimpleNamespace(dataloader=Loader([pair]), set_epoch=lambda epoch: None)
        training.train_one_epoch(model, {"train": data}, loss, 0, optimizer, None, None, None, args)
        found.append(model.logit_scale.item())
    return found
