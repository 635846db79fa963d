"""The embedded model and sample: what the project promises of its default."""

import hashlib
import json
import re

import numpy as np
import pytest
from conftest import ROOT
from engines import INSTALLED

from common.config import EvaluateConfig
from common.models import DEFAULT_MODEL, PACKAGED_WEIGHTS, find_model
from common.runs.command import parse
from common.runs.jobs import evaluation
from common.weights import read_weights

NPZ = PACKAGED_WEIGHTS / f"{DEFAULT_MODEL}.npz"


def test_the_model_fits_its_row_and_its_card():
    model = find_model(DEFAULT_MODEL)
    card = json.loads(NPZ.with_suffix(".json").read_text())
    assert NPZ.stat().st_size == model.bytes < 16e6
    assert len(card["class_names"]) == model.num_classes == read_weights(NPZ, model.config())["head/bias"].size
    assert card["model"] == DEFAULT_MODEL and "bit_pretrain" in card["command"]


def test_the_digest_of_the_manifest_is_the_files():
    assert hashlib.sha256(NPZ.read_bytes()).hexdigest() == find_model(DEFAULT_MODEL).sha256


def test_the_small_image_text_model_is_what_its_record_says(engine, capsys):
    """By names alone it finds far more than the tenth of CIFAR-10's test images that chance would: as recorded in each engine."""
    file, model = PACKAGED_WEIGHTS / "SigLIP-T_8.npz", find_model("SigLIP-T/8")
    record = json.loads(file.with_suffix(".json").read_text())
    assert (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()) == (model.bytes, model.sha256)
    given = ("--model", "SigLIP-T/8", "--dataset", "cifar10-sample", "--prompts", "clip_best", "--batch_eval", "100")
    engine.inference.evaluate_main(evaluation(parse(EvaluateConfig, given, "evaluate", "")))
    top1 = float(re.search(r"top-1 ([\d.]+)%", capsys.readouterr().out)[1]) / 100
    assert top1 == pytest.approx(record["accuracy"]["cifar10-sample"], abs=0.0021) and top1 > 0.4  # one of 500 images


def test_the_sample_is_small():
    assert (ROOT / "common" / "cifar10-sample.zip").stat().st_size < 2e6


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_fine_tuning_beats_training_from_scratch(name, run, tmp_path):
    """At equal steps, the lowest of five seeds is above the highest from scratch."""
    top1 = {"pretrained": [], "scratch": []}
    for seed in range(5):
        for start, flags in (("pretrained", ()), ("scratch", ("--weights", "none"))):
            run(f"{name}.train", "--seed", seed, "--name", f"{start}{seed}", *flags)
            lines = (tmp_path / "runs" / f"{start}{seed}" / "metrics.jsonl").read_text().splitlines()
            top1[start].append(json.loads(lines[-1])["test/top1"])
    assert np.min(top1["pretrained"]) > np.max(top1["scratch"]), top1
