"""Runs, weights and prepared sets in an object store, for which fsspec's memory file system stands."""

import dataclasses
import fcntl
import json
import os
import re
import shutil

import numpy as np
import pytest
from conftest import ROOT
from numpy_engine import load_main
from test_sources import png
from test_tar import write_tar

from common import config, models
from common.data.sources.tfds_folder import data_folder
from common.data.text import find_vocabulary
from common.datasets import open_dataset
from common.evaluation.captioning import FILE as CAPTIONS
from common.evaluation.pairs import PAIRS
from common.models import PACKAGED_WEIGHTS, ResNetConfig, ViTConfig, find_model
from common.models.tokens import SIGLIP, SIGLIP2
from common.reports import curves
from common.runs import run
from common.runs.checkpoint import CURRENT
from common.runs.command import parse
from common.runs.mirror import POINTER, RESULTS, STATE
from common.system import remote
from common.system.errors import UserError
from common.system.files import digest
from common.weights import adapter, choose_file, read_weights

fsspec = pytest.importorskip("fsspec")
RUN = ("--weights", "none", "--logdir", "memory://bucket/runs", "--batch", "4", "--resize", "36", "--crop", "32",
       "--steps", "4", "--warmup_steps", "1", "--examples_per_class", "1", "--log_every", "3", "--checkpoint_every", "1",
       "--val_fraction", "0.01", "--eval_every", "2", "--keep_best", "--workers", "1")  # fmt: skip


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An empty object store, and an empty cache on this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture
def train(bucket, monkeypatch):
    """Train a model of some thousand parameters with the numpy engine, in this process."""
    monkeypatch.setattr(type(find_model(models.DEFAULT_MODEL)), "config", lambda *_: ResNetConfig((1,), 0.5, 10))
    monkeypatch.setattr(curves, "write_png", lambda records, path: path.write_bytes(b"curves"))

    def run_command(name: str, *flags: str) -> None:
        load_main()(run.Run(parse(config.TrainConfig, ("--name", name, *RUN, *flags), "train", ""), "numpy"))

    return run_command


def objects(bucket, name: str) -> dict[str, bytes]:
    """{name below the run: contents}."""
    root = f"/bucket/runs/{name}/"
    return {path.removeprefix(root): bucket.cat_file(path) for path in bucket.find(root)}


def assert_same(bucket, name: str, reference: str) -> None:
    """Weights bit for bit, and metrics apart from how fast they came."""
    ours, theirs = objects(bucket, name), objects(bucket, reference)
    assert ours["weights.npz"] == theirs["weights.npz"] and ours["best.npz"] == theirs["best.npz"]
    lines = [[json.loads(line) for line in files["metrics.jsonl"].splitlines()] for files in (ours, theirs)]
    for line in (*lines[0], *lines[1]):
        line.pop("images_per_second", None)
    assert lines[0] == lines[1]
    assert {POINTER, *json.loads(ours[POINTER]).values()} <= ours.keys()


def test_a_run_in_an_object_store(train, bucket, tmp_path, capfd):
    train("whole", "--tensorboard")
    found = objects(bucket, "whole")
    pointer = json.loads(found[POINTER])
    others = {
        PAIRS,
        CAPTIONS,
        adapter.FILE,
        adapter.CONFIG,
    }  # of contrastive runs, of captioning, and of those with LoRA
    assert found.keys() == {*STATE, *RESULTS, POINTER, *pointer.values()} - others
    assert pointer[CURRENT].startswith("checkpoint-4-") and len(pointer) == 2
    assert "Folder memory://bucket/runs/whole; to resume: python -m numpy.train" in capfd.readouterr().out
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    with pytest.raises(UserError, match="memory://bucket/runs/whole holds a finished run"):
        train("whole")


def test_what_lora_has_learned_is_an_object_too(train, bucket, monkeypatch):
    vit = ViTConfig((16, 16), 8, 1, 2, 16, 10, image_size=(32, 32))
    monkeypatch.setattr(type(find_model(models.DEFAULT_MODEL)), "config", lambda *_: vit)
    flags = ("--name", "lora", *(flag for flag in RUN if flag != "--keep_best"), "--lora_rank", "2")
    load_main()(run.Run(parse(config.TrainConfig, flags, "train", ""), "numpy"))
    found = objects(bucket, "lora")
    assert json.loads(found[adapter.CONFIG])["r"] == 2 and len(found[adapter.FILE]) > 100 and "weights.npz" in found


class Cut(BaseException):
    """Nobody catches it: as if the process were killed, or the network lost for good."""


@pytest.mark.parametrize("every", (7, pytest.param(3, marks=pytest.mark.slow)))
@pytest.mark.parametrize("error", (Cut, OSError("the network is gone")), ids=("kill", "network"))
def test_an_interruption_at_every_few_operations_on_objects(error, every, train, bucket, monkeypatch):
    """The next start, on a machine without any copy, continues from what the pointer names."""
    train("whole")
    for fatal in range(1 + os.urandom(1)[0] % every, 1000, every):
        name, calls = f"cut{fatal}", []

        def count(original, calls=calls, fatal=fatal):
            def counted(*arguments, **options):
                calls.append(arguments)
                if len(calls) >= fatal:
                    raise error
                return original(*arguments, **options)

            return counted

        with monkeypatch.context() as patch:
            for operation in ("put_file", "get_file", "find", "rm_file", "info"):
                patch.setattr(bucket, operation, count(getattr(bucket, operation)))
            try:
                train(name)
            except Cut:
                pass
            except UserError as refusal:
                assert error is not Cut and "the network is gone" in str(refusal), refusal
                assert "memory://bucket/runs/cut" in str(refusal)
        shutil.rmtree(remote.staging_folder("memory://bucket").parent, ignore_errors=True)
        finished = "weights.npz" in objects(bucket, name)
        if not finished:
            train(name)
        assert_same(bucket, name, "whole")
        if len(calls) < fatal:
            break
    assert fatal > 40


def test_a_damaged_object_gives_way_to_the_previous_one(train, bucket, monkeypatch, capfd):
    train("whole")
    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "finish", lambda *_: None)
        train("damaged")
    pointer = json.loads(objects(bucket, "damaged")[POINTER])
    path = f"/bucket/runs/damaged/{pointer[CURRENT]}"
    bucket.pipe_file(path, bucket.cat_file(path)[:-1] + b"?")
    capfd.readouterr()
    train("damaged")
    output = capfd.readouterr().out
    assert "is damaged" in output and re.search("Continuing after step [123],", output)
    assert_same(bucket, "damaged", "whole")


def test_another_run_on_this_machine_is_refused(train, bucket):
    folder = remote.staging_folder("memory://bucket/runs/a")
    folder.parent.mkdir(parents=True)
    with open(folder.with_suffix(".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another process is at work"):
            train("a")
    train("a")


def test_weights_from_an_object_store(bucket):
    model = find_model("BiT-T-R26x0.5")
    with pytest.raises(UserError, match="no object memory://bucket/a.npz"):
        choose_file(model, "memory://bucket/a.npz")
    for name in (f"{model.name}.npz", f"{model.name}.json"):
        bucket.pipe_file(f"/bucket/{name}", (PACKAGED_WEIGHTS / name).read_bytes())
    url = f"memory://bucket/{model.name}.npz"
    for path in (choose_file(model, url), choose_file(model, "pretrained", "memory://bucket")):
        assert path.read_bytes() == (PACKAGED_WEIGHTS / path.name).read_bytes()
        assert path.with_suffix(".json").is_file()
    found, expected = (read_weights(source, model.config()) for source in (url, PACKAGED_WEIGHTS / model.file))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    bucket.rm_file(f"/bucket/{model.name}.json")
    assert not choose_file(model, url).with_suffix(".json").exists()  # no card of yesterday


def test_prepared_sets_from_an_object_store(bucket, monkeypatch):
    for name in ("cifar10/3.0.2/dataset_info.json", "cifar10/3.0.2/x.array_record-00000-of-00001", "other/1.0.0/big"):
        bucket.pipe_file(f"/bucket/sets/{name}", name.encode())
    folder = data_folder("memory://bucket/sets", "cifar10")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "cifar10/3.0.2/dataset_info.json", "cifar10/3.0.2/x.array_record-00000-of-00001",
    }  # fmt: skip
    monkeypatch.setattr(bucket, "get_file", None)  # what is there already is not fetched again
    monkeypatch.setenv("TFDS_DATA_DIR", "memory://bucket/sets")
    assert data_folder(None, "cifar10") == folder
    bucket.pipe_file("/bucket/sets/cifar10/../../out", b"")
    with pytest.raises(UserError, match="leads out of a folder"):
        data_folder("memory://bucket/sets", "cifar10")


@pytest.mark.parametrize("name", ("{000..001}.tar", "*.tar", "train-{000,001}.tar", "", "train-000.tar"))
def test_archives_are_copied_and_read(bucket, tmp_path, name):
    """Those that a name means, with the list of classes in their folder or above it, once."""
    for number in range(2):
        members = [(f"{number}{i}.png", png(np.full((4, 4, 3), i, np.uint8))) for i in range(3)]
        members = [member for i, one in enumerate(members) for member in (one, (f"{number}{i}.cls", b"1"))]
        write_tar(tmp_path / "a.tar", members)
        for place in (f"train-{number:03d}.tar", f"{number:03d}.tar", "other.txt"):
            bucket.put_file(str(tmp_path / "a.tar"), f"/bucket/set/{place}")
    bucket.pipe_file("/bucket/classnames.txt", b"cat\ndog\n")
    (tmp_path / "a.tar").unlink()
    for _ in range(2):
        dataset = open_dataset(f"wds:memory://bucket/set/{name}".rstrip("/"))
        assert dataset.class_names == ("cat", "dog") and [*dataset.splits] == ["train"]
        count = {"": 12, "*.tar": 12, "train-000.tar": 3}.get(name, 6)
        assert len(dataset.splits["train"]) == count and dataset.splits["train"].decode(2)[0, 0, 0] == 2
        assert not [*tmp_path.rglob("other.txt")]


def test_archives_that_no_store_has(bucket):
    with pytest.raises(
        UserError, match=r"wds:memory://bucket/{0..1}\.tar names nothing: there is no file .*0\.tar; give"
    ):
        open_dataset("wds:memory://bucket/{0..1}.tar")


@pytest.mark.parametrize("url", ("gs://b/a.npz", "s3://b/a.npz"))
def test_a_store_without_its_package_is_one_sentence(url, bucket, monkeypatch):
    def missing(*_):
        raise ImportError("Please install gcsfs or s3fs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(UserError, match=r"Cannot open .*://b .*pip install '.\[cloud\]'"):
        remote.local_file(url)


def test_an_unknown_store_is_one_sentence(bucket):
    with pytest.raises(UserError, match="Cannot open nowhere://b"):
        remote.local_file("nowhere://b/a.npz")


def test_a_vocabulary_in_an_object_store(bucket):
    """It is copied here; the sentence on one that is not there names a place on this machine."""
    pieces = ROOT / "tests" / "golden" / "text" / "tiny_sentencepiece.model"
    bucket.pipe_file("/bucket/weights/c4_en.model", pieces.read_bytes())
    text = dataclasses.replace(SIGLIP, sha256=digest(pieces))
    found = find_vocabulary(text, "memory://bucket/weights")
    assert found.is_relative_to(remote.staging_folder("memory://bucket/weights")) and digest(found) == text.sha256
    with pytest.raises(
        UserError, match="The vocabulary weights/gemma.model is not there .* --dir weights gemma.model`"
    ):
        find_vocabulary(SIGLIP2, "memory://bucket/weights")
