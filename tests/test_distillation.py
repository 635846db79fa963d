"""Distillation in every engine: the original's trajectories in float64, several teachers, other resolutions, frozen teachers."""

import json
from pathlib import Path

import golden_cases
import numpy as np
import pytest
from engines import recipe_of
from golden.golden_params import image, param

from common.recipes import schedules
from common.recipes.groups import FROZEN
from common.recipes.task import Distillation

GOLDEN = Path(__file__).parent / "golden" / "distill"
READERS = {"vit": golden_cases.big_vision_vit, "bit": golden_cases.big_vision_bit, "bit_paper": golden_cases.bit_paper}
ADAM = {"optimizer": "adam"}
CASES = {  # what the cases state, as a Recipe and a task
    "bit_from_vit_euclidean_nomixup": ({}, {"distance": "euclidean"}),
    "vit_from_vit_kl_t2_mixup": (ADAM, {"temperature": 2.0}),
    "bit_paper_from_bit_paper_kl_t1_mixup": (ADAM, {}),
}


def in_bit_paper(name: str) -> str:
    """What `models/bit_paper.py` of big_vision calls a parameter of a published BiT."""
    name = (
        name.removeprefix("resnet/")
        .replace("/gamma", "/scale")
        .replace("/beta", "/bias")
        .replace("head/conv2d", "head")
    )
    for number, letter in enumerate("abc", 1):
        name = name.replace(f"/{letter}/group_norm", f"/gn{number}")
        name = name.replace(f"/{letter}/standardized_conv2d", f"/conv{number}")
    name = name.replace("/a/proj/standardized_conv2d", "/conv_proj").replace("group_norm", "norm-pre-head")
    return name.replace("root_block/standardized_conv2d", "root_block/conv_root")


class Case:
    """One golden file: student and teacher, batches, recipe."""

    def __init__(self, name: str, **changes):
        self.golden = json.loads((GOLDEN / f"{name}.json").read_text())
        given, (numbers, task) = self.golden["config"], CASES[name]
        (teacher,) = given["teachers"]
        self.config, self.names, self.arrays = self.model(given["student_name"], given["student"], "student")
        self.teacher, _, self.teacher_arrays = self.model(given[f"{teacher}_name"], given[teacher], teacher)
        factor = np.float32(schedules.cosine(10, 2, 1.0)).astype(float)  # float32, as there
        self.recipe = recipe_of(
            map(float, given["lr"] * factor), batch=4, batch_eval=4, base_lr=given["lr"], weight_decay=given["wd"],
            clip=given["grad_clip_norm"], decay="independent", task=Distillation(teacher="golden", **task), **numbers | changes,
        )  # fmt: skip

    def model(self, kind: str, given: dict, prefix: str) -> tuple:
        """(config, {canonical: published name}, arrays)."""
        config, spelling = READERS[kind]({"num_classes": 10} | given, (32, 32))
        names = golden_cases.published_names(config, spelling)
        if kind == "bit_paper":
            names = {ours: in_bit_paper(theirs) for ours, theirs in names.items()}
        published, shapes = self.golden["params"][f"{prefix}/"], config.parameter_shapes()
        value = lambda theirs: param(f"{prefix}/{theirs}", published[theirs]).astype(np.float32)
        assert {*names.values()} == {*published}
        return config, names, {ours: value(theirs).reshape(shapes[ours]) for ours, theirs in names.items()}

    def batches(self) -> list[dict[str, np.ndarray]]:
        """Five steps; mixed with the previous row, as there."""
        weights = self.golden["outputs"].get("mixup_a", {"data": [1.0] * 5})["data"]
        found = []
        for seed, a in zip(self.golden["input"]["seeds_per_step"], weights):
            images = image(self.golden["input"]["shape"], seed).astype(np.float32).astype(float)
            found.append({"images": a * images + (1 - a) * np.roll(images, 1, 0), "labels": np.zeros(4, np.int32)})
        return found

    def expected(self, output: str) -> np.ndarray:
        return np.array(self.golden["outputs"][output]["data"])


def trained(engine, monkeypatch, case: Case) -> tuple[list[float], list[float], dict, dict]:
    """(losses, gradient norms, first gradients, trained arrays) of five float64 updates."""
    engine.keep_images(monkeypatch)
    models = {
        "model": engine.build(case.config, case.arrays, "float64"),
        "teacher": engine.build(case.teacher, case.teacher_arrays, "float64", groups=FROZEN),
    }
    optimizer = engine.optim.create_optimizer(models["model"], case.recipe)
    losses, norms, first = [], [], {}
    for step, batch in enumerate(engine.devices.to_device(iter(case.batches()), models["model"].devices)):
        slopes = engine.slopes(models, batch, case.recipe)
        norms.append(float(np.sqrt(sum((value.astype(float) ** 2).sum() for value in slopes.values()))))
        first = first or slopes
        losses.append(float(engine.loop.train_step(models, optimizer, batch, case.recipe, step=step)["loss"]))
    engine.forget_compiled()
    unchanged = engine.weights.dump(models["teacher"])
    assert all(np.array_equal(unchanged[name], array) for name, array in case.teacher_arrays.items())
    return losses, norms, first, engine.weights.dump(models["model"])


@pytest.mark.parametrize(
    ("name", "batch_split"),
    [
        ("vit_from_vit_kl_t2_mixup", 1),
        pytest.param("vit_from_vit_kl_t2_mixup", 2, marks=pytest.mark.slow),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in CASES if name.startswith("bit")),
    ],
)
def test_float64_updates_equal_the_originals(engine, monkeypatch, name, batch_split):
    """Losses within 1e-8, gradients and every parameter within 1e-9; in parts as at once."""
    assert_original(engine, monkeypatch, Case(name, batch_split=batch_split))


def assert_original(engine, monkeypatch, case: Case, noise: float = 0.0) -> None:
    """`noise` is that of the original itself, which differs from one processor to another."""
    losses, norms, first, found = trained(engine, monkeypatch, case)
    np.testing.assert_allclose(losses, case.expected("distill_loss"), rtol=0, atol=1e-8 + noise)
    np.testing.assert_allclose(norms, case.expected("grad_global_norm"), rtol=1e-9, atol=noise)
    for ours, theirs in case.names.items():
        expected, slope = case.golden["gradients_first_step"][theirs], first[ours]
        assert np.linalg.norm(slope) == pytest.approx(expected["l2"], rel=1e-9, abs=1e-12 + noise), theirs
        np.testing.assert_allclose(slope.ravel()[:4], expected["first4"], rtol=1e-8, atol=1e-12 + noise, err_msg=theirs)
        if theirs.endswith("key/bias"):
            continue  # its gradient is nothing but rounding, and so is what Adam makes of it
        expected, moved = case.golden["final_params"][theirs], found[ours] - case.arrays[ours].astype(float)
        assert np.linalg.norm(found[ours]) == pytest.approx(expected["l2"], rel=1e-9, abs=1e-12 + noise), theirs
        assert np.linalg.norm(moved) == pytest.approx(expected["delta_l2"], rel=1e-7, abs=1e-10 + noise), theirs
        np.testing.assert_allclose(
            found[ours].ravel()[:4], expected["first4"], rtol=1e-9, atol=1e-11 + noise, err_msg=theirs
        )


@pytest.mark.slow
def test_training_that_is_wrong_in_one_engine_is_found(engine, monkeypatch):
    """Without the factor T^2, the losses, and at another temperature the gradients, are not the original's."""
    right = engine.losses.DISTANCES["kl"]
    name = "vit_from_vit_kl_t2_mixup"
    for wrong, words in (
        (lambda student, teacher, temperature: right(student, teacher, temperature) / temperature**2, "atol=1e-08"),
        (lambda student, teacher, temperature: right(student, teacher, temperature + 1e-5), "atol=1e-08"),
    ):
        monkeypatch.setitem(engine.losses.DISTANCES, "kl", wrong)
        with pytest.raises(AssertionError, match=words):
            test_float64_updates_equal_the_originals(engine, monkeypatch, name, 1)
    engine.forget_compiled()
