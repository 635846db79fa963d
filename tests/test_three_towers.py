"""A third tower in training (https://arxiv.org/abs/2305.16999): its loss, the same in every engine, and what is left of a run."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from engines import INSTALLED, Engine, recipe_of
from jobs import metrics, places_of
from test_image_text_runs import FLAGS, assert_same
from tiny_models import CONFIGS, TEXTS, random_arrays

from common import weights
from common.config import TrainConfig
from common.models import PACKAGED_WEIGHTS
from common.models.cards import Preprocessing
from common.models.family import within
from common.recipes.create import create_recipe
from common.recipes.groups import FROZEN, Group, create_groups, trained
from common.recipes.task import Contrastive
from common.runs.run import Run
from common.system.errors import UserError
from common.tasks.third import projections

THIRD = {name: CONFIGS[name].with_classes(None) for name in ("bit", "vit_token")}
BIT = PACKAGED_WEIGHTS / "BiT-T-R26x0.5.npz"


def towers(third: str):
    return dataclasses.replace(TEXTS["siglip"], third=THIRD[third].feature_width)


def batches(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "images": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
            "tokens": rng.integers(1, 11, (8, 7), np.int32),
            "third_images": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
        }
        for _ in range(count)
    ]


def built(engine, third: str, groups=()):
    """The model and the frozen tower of a run, which has a scale of its own."""
    model = engine.build(towers(third), random_arrays(towers(third)), "float64", groups=groups)
    seen = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    beside = engine.build(THIRD[third], random_arrays(THIRD[third]), "float64", groups=FROZEN, preprocessing=seen)
    return {"model": model, "third": beside}


def train(engine, third: str, count: int = 2, **changes):
    """(losses, the model's arrays, the third tower's) of float64 updates."""
    groups = (*create_groups(), Group("b", trained=changes["task"].loss == "sigmoid"))
    recipe = recipe_of((0.01,) * count, optimizer="adam", base_lr=0.01, groups=groups, **changes)
    models, losses = built(engine, third, groups), []
    optimizer = engine.optim.create_optimizer(models["model"], recipe)
    for step, batch in enumerate(engine.devices.to_device(iter(batches(count)), models["model"].devices)):
        losses.append(float(engine.loop.train_step(models, optimizer, batch, recipe, step=step)["loss"]))
    return losses, *(engine.weights.dump(model) for model in models.values())


def length_one(z: np.ndarray) -> np.ndarray:
    return z / (np.linalg.norm(z, axis=1, keepdims=True) + 1e-8)


def sigmoid(u, v, t, b) -> float:
    logits = np.exp(t) * u @ v.T + b
    return np.logaddexp(0, -(2 * np.eye(len(u)) - 1) * logits).sum(1).mean()


def softmax(u, v, t, b) -> float:
    logits = np.exp(t) * u @ v.T
    one_way = [np.log(np.exp(part).sum(1)).mean() for part in (logits, logits.T)]
    return sum(one_way) / 2 - np.diag(logits).mean()


def expected(engine, third: str, loss) -> float:
    """The mean of the three losses of the first batch, in numpy, of what the towers make of it by themselves."""
    batch, arrays = batches(1)[0], random_arrays(towers(third))
    arrays = {name: value.astype(float) for name, value in arrays.items()}
    plain = engine.build(
        TEXTS["siglip"], {name: arrays[name] for name in TEXTS["siglip"].parameter_shapes()}, "float64"
    )
    alone = engine.build(THIRD[third], random_arrays(THIRD[third]), "float64")
    scaled = (batch["third_images"] / 255 - (0.4, 0.5, 0.6)) / (0.2, 0.3, 0.4)
    features = engine.features(alone, scaled)
    zimg = engine.array(plain.encode_image(engine.tensor(batch["images"] / 127.5 - 1)))
    ztxt = engine.array(plain.encode_text(engine.raw(batch["tokens"])))
    projected = {
        name: length_one(value @ arrays[f"third/{name}/kernel"])
        for name, value in {"image": zimg, "text": ztxt, "for_image": features, "for_text": features}.items()
    }
    pairs = (zimg, ztxt), (projected["image"], projected["for_image"]), (projected["text"], projected["for_text"])
    return np.mean([loss(*pair, arrays["t"], arrays["b"]) for pair in pairs])


LOSSES = {"sigmoid": sigmoid, "softmax": softmax}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_the_mean_of_three(engine, loss):
    recipe = recipe_of((0.01,), task=Contrastive(loss, third_tower="third"))
    models = built(engine, "vit_token")
    batch = next(engine.devices.to_device(iter(batches(1)), models["model"].devices))
    found, _ = engine.losses.contrastive(models, batch, recipe)
    np.testing.assert_allclose(engine.array(found), expected(engine, "vit_token", LOSSES[loss]), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("third", "loss", "chunk", "parts"),
    [("bit", "softmax", 0, 1), ("vit_token", "sigmoid", 0, 2), ("bit", "sigmoid", 4, 1)],
)
def test_training_is_the_same_in_every_engine(third, loss, chunk, parts):
    """The third tower keeps its bits, and the projections learn."""
    task = Contrastive(loss, chunk, third_tower="third")
    found, started = [train(Engine(name), third, task=task, batch_split=parts) for name in INSTALLED], towers(third)
    for losses, arrays, frozen in found:
        np.testing.assert_allclose(losses, found[0][0], rtol=1e-9)
        for name, value in random_arrays(THIRD[third]).items():
            np.testing.assert_array_equal(frozen[name], value.astype(float))
        for name, value in found[0][1].items():
            if not name.endswith("key/bias"):  # its gradient is nothing but rounding, and so is what Adam makes of it
                np.testing.assert_allclose(arrays[name], value, rtol=1e-7, atol=1e-9, err_msg=name)
    moved = {name for name, value in random_arrays(started).items() if np.abs(value - found[0][1][name]).max() > 1e-4}
    assert {name for name in started.own_shapes() if name.startswith("third/")} <= moved


@pytest.mark.slow
def test_parts_and_chunks_are_the_whole(engine):
    runs = [
        train(engine, "bit", batch_split=parts, task=Contrastive("softmax", chunk, third_tower="third"))
        for parts, chunk in ((1, 0), (4, 2))
    ]
    np.testing.assert_allclose(runs[1][0], runs[0][0], rtol=1e-10)
    for name, value in runs[0][1].items():
        if not name.endswith("key/bias"):
            np.testing.assert_allclose(runs[1][1][name], value, rtol=1e-8, atol=1e-10, err_msg=name)


# --- runs


def run_of(tmp_path, third, **flags) -> Run:
    given = {
        "recipe": "three_towers", "model": "SigLIP-T/8", "weights": "none", "dataset": "captions-sample", "batch": 8,
        "steps": 4, "warmup_steps": 1, "third_tower": str(third), "logdir": str(tmp_path / "runs"), "name": "a", "workers": 1,
    }  # fmt: skip
    return Run(TrainConfig(**given | flags), engine="numpy")


def test_a_run_holds_a_frozen_tower_and_projections(tmp_path):
    plan = run_of(tmp_path, "BiT-T-R26x0.5").plan
    (_, options), third = plan.models["third"].to_build(plan.config, plan.recipe), plan.models["third"]
    assert (
        options["groups"] == FROZEN and "head/kernel" not in third.arrays and plan.files["third"].startswith("SHA-256 ")
    )
    config = plan.model_config
    assert config.third == third.config.feature_width and config.after_training == dataclasses.replace(
        config, third=None
    )
    shapes = plan.state_shapes
    assert (
        shapes["model"]["third/for_image/kernel"] == (config.third, 128)
        and "first/third/text/kernel" in shapes["optimizer"]
    )
    assert not any(name.startswith("stem") for name in shapes["model"]) and "b" not in {*plan.card("numpy")["config"]}
    assert plan.card("numpy")["config"]["third"] is None
    assert plan.notes[-1] == "The third tower BiT-T-R26x0.5 sees the boxes of the model at 48 px."
    columns = plan.task.columns(plan, plan.splits["train"], train=True)
    assert [(column.name, column.shape[0]) for column in columns] == [
        ("images", 32),
        ("tokens", 16),
        ("third_images", 48),
    ]
    assert columns[0].streams == columns[2].streams
    same = run_of(tmp_path, "SigLIP-T/8").plan  # whose tower for images it is, of the same number of pixels
    assert "stem/kernel" in same.models["third"].arrays and same.models["third"].config.num_classes is None
    assert [column.name for column in same.task.columns(same, same.splits["train"], train=True)] == ["images", "tokens"]


def test_projections_are_those_of_a_whole_model():
    config = towers("bit")
    found = projections(config, 3)
    assert {*found} == {*within("third", {f"{name}/kernel": 0 for name in ("image", "text", "for_image", "for_text")})}
    assert all(0.5 / np.sqrt(len(value)) < value.std() < 1.5 / np.sqrt(len(value)) for value in found.values())
    assert not np.array_equal(found["third/image/kernel"], found["third/text/kernel"])
    assert np.array_equal(projections(config, 3)["third/image/kernel"], found["third/image/kernel"])


def damaged(tmp_path):
    (tmp_path / "bad.npz").write_bytes(BIT.read_bytes()[:5000])
    return tmp_path / "bad.npz"


def bert(tmp_path):
    weights.write_weights(tmp_path / "bert.npz", random_arrays(TEXTS["bert"]), TEXTS["bert"])
    return tmp_path / "bert.npz"


def unpooled(tmp_path):
    config = dataclasses.replace(CONFIGS["vit_gap"], pooling="none")
    weights.write_weights(tmp_path / "none.npz", random_arrays(config), config)
    return tmp_path / "none.npz"


@pytest.mark.parametrize(
    ("third", "sentence"),
    [
        (
            lambda folder: folder / "missing.npz",
            "The --third_tower .*missing.npz is missing; name a weights file, the folder",
        ),
        (lambda folder: "BiT-T-R26x5", "The --third_tower is no file and no folder of a run: .*"),
        (lambda folder: "ViT-B/16", "is missing; fetch it with .* or name a file with --third_tower"),
        (damaged, "bad.npz"),
        (bert, "The --third_tower .* is a BERT that gives no features of a whole image; name a model that does."),
        (unpooled, "The --third_tower .* is a ViT that gives no features of a whole image; name a model that does."),
    ],
)
def test_what_is_no_third_tower_is_one_sentence(tmp_path, third, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        run_of(tmp_path, third(tmp_path))
    assert "\n" not in str(raised.value) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("train_only", ("all", "norm", "head"))
def test_projections_are_trained_whatever_else_is(train_only):
    names, flags = ("third/text/kernel", "image/head/kernel", "image/stem/kernel"), {"train_only": train_only}
    recipe = create_recipe(TrainConfig(recipe="three_towers", third_tower="x", **flags), 50_000, (32, 32), {})
    assert trained(recipe.groups, names) == {*names} - ({"image/stem/kernel"} if train_only != "all" else set())
    without = create_recipe(TrainConfig(recipe="siglip", **flags), 50_000, (32, 32), {})
    assert not any(group.pattern.startswith("third") for group in without.groups)


def test_three_towers_need_a_third_one():
    with pytest.raises(
        UserError, match="Three towers need a third one; name a published model, a file .* --third_tower"
    ):
        create_recipe(TrainConfig(recipe="three_towers"), 50_000, (32, 32), {})
    with pytest.raises(UserError, match="--third_tower belongs to the task contrastive"):
        create_recipe(TrainConfig(third_tower="x"), 50_000, (32, 32), {})
    assert create_recipe(TrainConfig(recipe="siglip", third_tower="x"), 50_000, (32, 32), {}).task.third_tower == "x"


@pytest.mark.slow
def test_runs_are_the_same_and_leave_two_towers(run, tmp_path):
    """By the command, with the best kept; what is left is a plain model, which `evaluate` finds to be what the run says."""
    shutil.copy(BIT, tmp_path / "third.npz")
    flags = (*FLAGS, "--recipe", "three_towers", "--third_tower", "third.npz", "--checkpoint_every", 2, "--keep_best")
    for name in INSTALLED:
        run(f"{name}.train", *flags, "--name", name)
        assert_same(metrics(tmp_path, INSTALLED[0]), metrics(tmp_path, name))
    folder = tmp_path / "runs" / INSTALLED[0]
    assert not any("third" in name for name in np.load(folder / "weights.npz").files)
    assert json.loads((folder / "card.json").read_text())["config"]["third"] is None
    told = {name: value for line in metrics(tmp_path, INSTALLED[0]) for name, value in line.items()}
    given = ("--weights", folder, "--dataset", "captions-sample", "--evaluator", "retrieval", "--precision", "float64")
    assert f"recall@1 {told['test/img2txt_recall@1']:.2%}, " in run(f"{INSTALLED[-1]}.evaluate", *given).stdout


@pytest.mark.slow
def test_a_run_is_resumed_with_the_same_third_tower_only(run, tmp_path):
    """Stopped after two of four steps in one engine and resumed in the next: the metrics of a run without a stop."""
    shutil.copy(BIT, tmp_path / "third.npz")
    flags = (
        *FLAGS,
        "--recipe",
        "three_towers",
        "--third_tower",
        "third.npz",
        "--checkpoint_every",
        2,
        "--zero_shot",
        "",
    )
    flags = (*flags, "--eval_every", 0)
    first, second = INSTALLED[0], INSTALLED[-1]
    run(f"{first}.train", *flags, "--name", "whole")
    run(f"{first}.train", *flags, "--name", "half")
    folder = tmp_path / "runs" / "half"
    for name in ("weights.npz", "card.json"):
        (folder / name).unlink()
    changed = bytearray(BIT.read_bytes())
    (tmp_path / "third.npz").write_bytes(changed + b" ")
    said = run(f"{second}.train", *flags, "--name", "half", status=2).stderr
    assert "whose third was another file" in said and "restore that file" in said
    shutil.copy(BIT, tmp_path / "third.npz")
    run(f"{second}.train", *flags, "--name", "half")
    assert_same(metrics(tmp_path, "whole"), metrics(tmp_path, "half"))


@pytest.mark.slow
@pytest.mark.parametrize("flag", ((), ("--shard_parameters",)), ids=("copies", "shards"))
@pytest.mark.parametrize("name", INSTALLED)
def test_two_processes_train_as_one(name, server, run, tmp_path, flag):
    """The loss is over the global batch, and the third tower may be cut in shards, too."""
    if flag and name == "bit_tf2":
        pytest.skip("TensorFlow keeps all parameters on every device")
    flags = (
        *FLAGS,
        "--recipe",
        "three_towers",
        "--third_tower",
        BIT,
        "--zero_shot",
        "",
        "--eval_every",
        0,
        "--batch_split",
        2,
    )
    run(f"{name}.train", *flags, "--name", "one")
    variables = {"CUDA_VISIBLE_DEVICES": ""}
    started = [
        server(name).start(f"{name}.train", (*flags, "--name", "two", *flag), tmp_path, variables | place)
        for place in places_of(2)
    ]
    assert [process.wait(300) for process in started] == [0, 0], started[0].output
    assert_same(metrics(tmp_path, "one"), metrics(tmp_path, "two"))
