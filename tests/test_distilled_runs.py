"""Runs with teachers: what each sees, what stays on disk, and which teachers are refused."""

import json

import numpy as np
import numpy_engine
import pytest

from common import weights
from common.config import TrainConfig
from common.models import PACKAGED_WEIGHTS, ResNetConfig
from common.models.cards import Card
from common.models.initial import initial_parameters
from common.runs.checkpoint import Checkpoints
from common.runs.run import Run
from common.system.errors import UserError

MODEL = "BiT-T-R26x0.5"


def write_teacher(folder, num_classes=10, seed=1, **facts):
    """A teacher as a run leaves it; returns its folder."""
    folder.mkdir(exist_ok=True)
    config = ResNetConfig((1, 1), 0.5, num_classes)
    weights.write_weights(folder / "weights.npz", initial_parameters(seed, config), config, Card(**facts))
    return folder


def run_of(tmp_path, teacher, **flags) -> Run:
    flags = {"recipe": "distill", "weights": "none", "batch": 4, "steps": 4, "crop": 32, "batch_eval": 100} | flags
    flags = {"logdir": str(tmp_path / "runs"), "name": "student", "teacher": str(teacher), "workers": 1} | flags
    return Run(TrainConfig(**flags), engine="numpy")


def first_batch(run: Run) -> dict[str, np.ndarray]:
    split = run.plan.splits["train"]
    from common.data.batches import TrainBatches, prefetch

    columns = run.plan.task.columns(run.plan, split, train=True)
    return next(prefetch(TrainBatches(split, run.recipe, 0, columns=columns), range(1), 1))


@pytest.mark.slow
def test_teachers_see_the_student_s_pixels_or_their_own(tmp_path):
    """At one resolution the same array; at another the same box; with a view of their own another one; or a fixed one."""
    small, large = (write_teacher(tmp_path / f"{px}", resolution=px) for px in (32, 48))
    assert first_batch(run_of(tmp_path, small)).keys() == {"images", "labels", "mixup_weight"}
    batch = first_batch(run_of(tmp_path, f"{small},{large}"))
    assert batch.keys() == {"images", "labels", "mixup_weight", "teacher2_images"}
    assert batch["teacher2_images"].shape == (4, 48, 48, 3)
    means = [images.mean((1, 2)) for images in (batch["images"].astype(float), batch["teacher2_images"])]
    assert np.abs(means[0] - means[1]).max() < 3  # the same boxes, at another number of pixels
    own = first_batch(run_of(tmp_path, small, teacher_view="own"))
    assert own["teacher_images"].shape == own["images"].shape
    assert np.abs(own["teacher_images"].astype(float) - own["images"]).mean() > 5
    assert np.array_equal(own["images"], batch["images"])  # the student sees what it would see
    fixed = [
        first_batch(run_of(tmp_path, small, teacher_view="fixed", flip=flip))["teacher_images"] for flip in (0.0, 1.0)
    ]
    assert np.array_equal(*fixed)


def test_the_log_states_what_each_sees(tmp_path):
    teacher = write_teacher(
        tmp_path / "teacher", resolution=48, eval_resize=56, resize_kind="area", mean=(0.1, 0.2, 0.3)
    )
    notes = run_of(tmp_path, teacher).plan.notes
    assert notes[-1] == (
        f"The teacher {teacher} sees the student's boxes at 48 px, scaled its own way; in evaluation the middle of the smaller "
        "side's 56 px at 48 px (area), and the student the middle of the smaller side's 40 px at 32 px (area)."
    )


def test_evaluation_shows_each_its_own_image(tmp_path):
    teacher = write_teacher(tmp_path / "teacher", resolution=48)
    run = run_of(tmp_path, teacher)
    columns = run.plan.task.columns(run.plan, run.plan.splits["test"], train=False)
    assert [(column.name, column.shape) for column in columns] == [
        ("images", (32, 32, 3)), ("labels", ()), ("teacher_images", (48, 48, 3)),
    ]  # fmt: skip


def test_a_teacher_is_frozen_and_in_no_checkpoint(tmp_path):
    run = run_of(tmp_path, write_teacher(tmp_path / "teacher"), keep_best=False)
    (_, options) = run.models["teacher"]
    assert [group.trained for group in options["groups"]] == [False] and "remat" not in options
    shapes = run.plan.state_shapes
    assert shapes["model"] == run.plan.model_config.parameter_shapes()
    assert {name.partition("/")[0] for name in shapes["optimizer"]} == {"first", "second"}


def stopped(tmp_path, teacher):
    """A run of two of its steps, with a checkpoint after each."""
    run = run_of(tmp_path, teacher, checkpoint_every=1)
    with run.on(numpy_engine.Devices()):
        arrays = {name: array.astype(np.float32) for name, array in run.plan.models["model"].arrays.items()}
        kinds = {f"{kind}/{name}": array for kind in ("first", "second") for name, array in arrays.items()}
        run.count(1, {"loss": 1.0})
        run.save(1, arrays, kinds)
        run.folder.checkpoints.wait()
    return tmp_path / "runs" / "student"


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_teacher(tmp_path):
    teacher = write_teacher(tmp_path / "teacher")
    folder = stopped(tmp_path, teacher)
    files = json.loads((folder / "config.json").read_text())["files"]
    assert files == run_of(tmp_path, teacher).plan.files and files["teacher"].startswith("SHA-256 ")
    assert not any("teacher" in name for name in Checkpoints(folder).restore().arrays)
    write_teacher(tmp_path / "teacher", seed=2)
    with pytest.raises(UserError, match="holds a run whose teacher was another file"):
        run_of(tmp_path, teacher)
    other = write_teacher(tmp_path / "other")
    with pytest.raises(UserError, match="holds a run with --teacher .*, not .*other"):
        run_of(tmp_path, other)
    config = json.loads((folder / "config.json").read_text())  # the checkpoint states it, too
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name != "files"}))
    with (
        pytest.raises(UserError, match="as file of teacher, not SHA-256"),
        run_of(tmp_path, teacher).on(numpy_engine.Devices()),
    ):
        pass


def damaged(folder):
    """A teacher whose file is cut off."""
    path = write_teacher(folder) / "weights.npz"
    path.write_bytes(path.read_bytes()[:-5000])
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: write_teacher(path, num_classes=7), "tells 7 classes apart and cifar10-sample has 10"),
        (lambda path: PACKAGED_WEIGHTS / f"{MODEL}.npz", "tells 200 classes apart and cifar10-sample has 10"),
        (lambda path: write_teacher(path, class_names=("dog", *"abcdefghi")), "Class 0 of the teacher .* is 'dog' and"),
        (lambda path: path / "weights.npz", "The --teacher .*weights.npz is missing; name a weights file"),
        (lambda path: "R152x2_T_pet128", "is missing; fetch it with `python -m common.download R152x2_T_pet128`, or name a file with --teacher"),
        (lambda path: "R152x2_T_pets", "The --teacher is no file and no folder of a run: No model is called 'R152x2_T_pets'"),
        (damaged, "weights.npz"),
    ],
)  # fmt: skip
def test_other_teachers_are_refused_in_one_sentence(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        run_of(tmp_path, make(tmp_path / "teacher"))
    assert not (tmp_path / "runs").exists()
