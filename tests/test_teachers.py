"""Distillation by the command: several teachers, other families, several processes, every engine alike; what is refused."""

import functools

import numpy as np
import pytest
from engines import INSTALLED
from jobs import Job, assert_close, make_images, metrics
from test_distilled_runs import damaged, write_teacher

STUDENT = ("--recipe", "distill", "--steps", 4, "--eval_every", 2)


@pytest.fixture
def job(server, tmp_path):
    """job("bit_jax", "name", *flags): a run on two classes of images."""
    make_images(tmp_path)
    return lambda engine, *flags, **options: Job(server(engine), tmp_path, *flags, **options)


def teacher(job, name: str, *flags) -> str:
    """The folder of a run that may teach."""
    job(name, "--steps", 4, "--eval_every", 2, *flags).finish()
    return f"runs/{name}"


@pytest.mark.slow
def test_two_processes_distil_as_one(engine, job, tmp_path):
    """Micro-batches, mixup and an uneven evaluation; with copies, and with shards of student and teacher where there are any."""
    job = functools.partial(job, engine.name)
    flags = (*STUDENT, "--teacher", teacher(job, "teacher"), "--teacher_view", "own")
    job("alone", *flags).finish()
    for flag in ((), ("--shard_parameters",)) if engine.name != "bit_tf2" else ((),):
        job(f"two{len(flag)}", *flags, *flag, num_processes=2).finish()
        assert_close(tmp_path, f"two{len(flag)}", "alone", 1e-9)


@pytest.mark.slow
def test_a_resnet_and_a_vit_teach_a_resnet(engine, job, tmp_path):
    """The loss of both is the sum of their losses before the first update; what evaluation measures is their mean."""
    job = functools.partial(job, engine.name)
    teachers = [teacher(job, "resnet"), teacher(job, "vit", "--model", "ViT-mu/16", "--seed", 1)]
    for name, named in zip("abc", ([teachers[0]], [teachers[1]], teachers)):
        job(name, *STUDENT, *(word for each in named for word in ("--teacher", each))).finish()
    first, second, both = (metrics(tmp_path, name) for name in "abc")
    assert both[0]["train/loss"] == pytest.approx(first[0]["train/loss"] + second[0]["train/loss"], rel=1e-9)
    assert first[0]["train/loss"] != pytest.approx(second[0]["train/loss"], rel=1e-3)
    told = [
        [line["test/teacher_top1"] for line in lines if "test/teacher_top1" in line] for lines in (first, second, both)
    ]
    np.testing.assert_allclose(np.mean(told[:2], axis=0), told[2], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--distance", "hard", "--label_smoothing", 0.1, "--teacher_view", "fixed"),
        ("--temperature", 3, "--teacher_view", "own"),
    ],
    ids=("hard", "kl"),
)
def test_engines_distil_alike(job, tmp_path, flags):
    """To the end: losses, metrics, predictions and weights."""
    named = ("--teacher", teacher(functools.partial(job, INSTALLED[0]), "teacher"))
    for name in INSTALLED:
        job(name, name, *STUDENT, *named, *flags).finish()
        assert_close(tmp_path, name, INSTALLED[0], 1e-7)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--teacher", "seven"), "tells 7 classes apart and cifar10-sample has 10"),
        (("--teacher", "nowhere/weights.npz"), "The --teacher nowhere/weights.npz is missing"),
        (("--teacher", "damaged"), "damaged/weights.npz"),
        ((), "needs a teacher"),
        (("--teacher", "seven", "--temperature", 0), "--temperature is 0"),
        (("--teacher", "seven", "--rho", -0.1), "--rho is -0.1, expected at least 0"),
        (("--teacher", "seven", "--rho", 0.1, "--sam_group", 7), "--sam_group 7 does not divide the batch"),
        (("--recipe", "bit_pretrain", "--teacher", "seven"), "--teacher belongs to the task distillation"),
        (("--recipe", "bit_pretrain", "--temperature", 2), "--temperature belongs to the task distillation"),
        (("--recipe", "bit_pretrain", "--distance", "hard"), "--distance belongs to the task distillation"),
        (("--recipe", "bit_pretrain", "--sam_group", 8), "--sam_group 8 belongs to SAM, which is off"),
    ],
)
def test_the_command_refuses_in_one_sentence(run, tmp_path, flags, words):
    """Status 2, and nothing is written."""
    write_teacher(tmp_path / "seven", num_classes=7)
    damaged(tmp_path / "damaged")
    before = sorted(tmp_path.rglob("*"))
    start = ("--recipe", "distill", "--weights", "none", "--batch", 8, "--steps", 4, "--crop", 32)
    assert words in run(f"{INSTALLED[0]}.train", *start, *flags, status=2).stderr
    assert sorted(tmp_path.rglob("*")) == before
