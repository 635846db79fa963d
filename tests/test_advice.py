"""What `evaluate` and `predict` of models that write, or predict every pixel, advise where files and flags do not belong together."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from jobs import make_images, make_pairs
from test_coded_runs import make_maps

from common import zoo
from common.config import EvaluateConfig, PredictConfig, TrainConfig
from common.models import find_model
from common.models.cards import Card
from common.models.initial import initial_parameters
from common.runs.command import parse
from common.runs.jobs import evaluation, prediction
from common.runs.plan import Plan
from common.system.errors import UserError
from common.tasks.coded import sizes
from common.tasks.frozen import digest
from common.weights import write_weights

WEIGHTS = {
    "captioner": "CapPa-T/8",
    "colours": "UViM-T/8-colorization",
    "levels": "UViM-T/8-colorization-FSQ",
    "depths": "UViM-T/8-depth",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images with classes, with captions and with maps, and weights that were not trained."""
    folder = tmp_path_factory.mktemp("advice")
    make_images(folder)
    make_pairs(folder)
    make_maps(folder, "depth")
    for file, name in WEIGHTS.items():
        row = find_model(name)
        write_weights(folder / f"{file}.npz", initial_parameters(0, row.config()), row.config(), Card(text=row.text))
    for oracle in ("colours", "levels"):  # what writes their codes
        row = find_model("VTT-T/8")
        config = dataclasses.replace(row, changes=sizes(find_model(WEIGHTS[oracle]).config())).config()
        card = Card(oracle=digest(folder / f"{oracle}.npz"), resolution=32)
        write_weights(folder / f"codes_of_{oracle}.npz", initial_parameters(0, config), config, card)
    return folder


@pytest.fixture(autouse=True)
def there(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)


def sentence(config_class: type, job: Callable, *flags: str) -> str:
    """What a command ends with."""
    with pytest.raises(UserError) as found:
        job(parse(config_class, flags, "a command", ""))
    assert "\n" not in str(found.value)
    return str(found.value)


def named(weights: str, model: str | None = None) -> tuple[str, ...]:
    """The flags of a model."""
    return "--model", model or WEIGHTS.get(weights, "VTT-T/8"), "--weights", f"{weights}.npz"


def evaluated(weights: str, dataset: str, *flags: str) -> str:
    """The sentence that an `evaluate` ends with."""
    return sentence(EvaluateConfig, evaluation, *named(weights), "--dataset", dataset, *flags)


@pytest.mark.parametrize(
    ("weights", "flags", "need"),
    [
        ("captioner", ("--features", "pooled", "--output", "x"), "--features pooled"),
        ("captioner", ("--evaluator", "scoring"), "--evaluator scoring"),
    ],
)
def test_what_needs_labels_says_so_of_images_with_maps_or_captions(weights, flags, need):
    said = evaluated(weights, "maps:depth", *flags)
    assert f"have maps of depth and no labels, which {need} needs" in said and "UViM-T/8-depth" in said
    assert f"have captions and no labels, which {need} needs" in evaluated(weights, "pairs", *flags)


@pytest.mark.parametrize("flags", ((), ("--evaluator", "captions")))
def test_images_without_captions_are_scored_where_they_have_classes_alone(flags):
    said = [evaluated("captioner", name, *flags) for name in ("maps:depth", "images")]
    assert all("have no captions, which texts are compared with" in one for one in said)
    assert ["--evaluator scoring" in one for one in said] == [False, True]


def test_the_usual_evaluator_is_called_by_its_name():
    said = evaluated("captioner", "pairs", "--output", "x")
    assert said == "--output has nothing to hold of --evaluator likelihood; leave it out."


STEPS = ("--batch", "4", "--steps", "2", "--warmup_steps", "1")


def of_each_command(weights: str, oracle: str, dataset: str = "images") -> list[str]:
    """The sentences of the commands that take an --oracle."""
    own = (*named(weights, "VTT-T/8" if weights.startswith("codes") else None), "--oracle", f"{oracle}.npz")
    return [
        sentence(EvaluateConfig, evaluation, *own, "--dataset", dataset),
        sentence(PredictConfig, prediction, *own, "--output", "drawn", "images/test"),
        sentence(TrainConfig, Plan, *own, "--dataset", dataset, "--recipe", "uvim_codes", *STEPS),
    ]


def test_weights_that_write_texts_are_not_advised_by_their_sizes():
    for said in of_each_command("captioner", "colours"):
        assert said.startswith(
            "captioner.npz writes texts and no codes of the --oracle colours.npz; name weights that "
        )


@pytest.mark.parametrize("oracle", ("levels", "depths", "colours"))
def test_an_oracle_whose_codes_weights_do_not_write_is_named(oracle, folder):
    """Of other sizes, too; and where no card tells whose codes they are."""
    dataset = "maps:depth" if oracle == "depths" else "images"
    other = "codes_of_levels" if oracle == "colours" else "codes_of_colours"
    for said in of_each_command(other, oracle, dataset):
        assert said.startswith(
            f"The --oracle {oracle}.npz is not the file whose codes the weights were trained to write"
        )
    if oracle == "levels":
        (folder / "bare.npz").write_bytes((folder / "codes_of_colours.npz").read_bytes())
        own = named("bare", "VTT-T/8")
        said = sentence(EvaluateConfig, evaluation, *own, "--oracle", "levels.npz", "--dataset", dataset)
        assert "bare.npz writes 16 tokens of 257 and the --oracle levels.npz has 16 codes of 240" in said


def test_what_writes_as_many_codes_as_its_oracle_has_is_read_under_its_name(folder):
    """Also where nobody names the oracle: in Python, and for features."""
    start = zoo.start("VTT-T/8", None, None, None, folder / "codes_of_levels.npz")
    assert (start.config.vocabulary, start.config.length) == (241, 16)
    evaluation(
        parse(EvaluateConfig, (*named("codes_of_levels"), "--features", "pooled", "--output", "x"), "evaluate", "")
    )
    with pytest.raises(UserError, match="depth 4 instead of 2"):
        zoo.start("CapPa-T/8", None, None, None, folder / "codes_of_levels.npz")


@pytest.mark.parametrize("value", (0.0, -1.0, 1e38))
def test_a_codebook_without_words_is_refused(value, folder):
    """NaN would be all that it looks up."""
    with np.load(folder / "colours.npz") as file:
        arrays = {name: file[name].copy() for name in file.files}
    arrays["state/counts"][3] = value
    np.savez(folder / "broken.npz", **arrays)
    own = named("broken", WEIGHTS["colours"])
    said = sentence(EvaluateConfig, evaluation, *own, "--dataset", "images")
    assert said.startswith("broken.npz holds a codebook with 1 word of which no vectors are known; ")


def test_periods_of_what_was_not_asked_for_name_its_flag():
    own = ("--weights", "none", *STEPS)
    coded = ("--model", "VTT-T/8", "--recipe", "uvim_codes", "--oracle", "colours.npz", "--dataset", "images")
    cappa = ("--model", "CapPa-T/8", "--recipe", "cappa", "--dataset", "pairs")
    for flags, name, flag in ((coded, "maps", "maps_of"), (cappa, "captions", "captions_of")):
        said = sentence(TrainConfig, Plan, *flags, *own, "--eval_every", f"{name}:2")
        assert said == f"--eval_every names {name}, for which --{flag} says of how many images; give that, too."


def test_texts_and_maps_are_written_at_the_end_unless_their_period_is_given():
    """They take long, and are of images that are held out."""
    coded = (
        "--model",
        "VTT-T/8",
        "--recipe",
        "uvim_codes",
        "--oracle",
        "colours.npz",
        "--dataset",
        "images",
        "--maps_of",
        "3",
    )
    cappa = ("--model", "CapPa-T/8", "--recipe", "cappa", "--dataset", "pairs", "--captions_of", "3")
    for flags, name in ((coded, "maps"), (cappa, "captions")):
        for given, expected in ((), (1, 0)), (("--eval_every", "2"), (2, 0)), (("--eval_every", f"{name}:2"), (1, 2)):
            plan = Plan(parse(TrainConfig, (*flags, "--weights", "none", *STEPS, *given), "train", ""))
            assert (plan.periods["val"], plan.periods[name]) == expected


def test_a_missing_package_is_told_before_a_run(monkeypatch):
    """Not when texts are first compared."""
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    flags = ("--model", "CapPa-T/8", "--weights", "none", "--recipe", "cappa", "--dataset", "pairs", *STEPS)
    assert not Plan(parse(TrainConfig, flags, "train", "")).config.captions_of
    assert "pycocoevalcap is not installed" in sentence(TrainConfig, Plan, *flags, "--captions_of", "2")


def test_a_model_of_codes_is_trained_by_no_texts():
    flags = (
        "--model",
        "VTT-T/8",
        "--weights",
        "none",
        "--recipe",
        "cappa",
        "--parallel",
        "0",
        "--dataset",
        "pairs",
        *STEPS,
    )
    assert "VTT-T/8 is made for codes" in sentence(TrainConfig, Plan, *flags)


@pytest.mark.parametrize("oracle", ("colours", "levels"))
@pytest.mark.parametrize("model", ("VTT-T/8", "CapPa-T/8"))
def test_weights_that_write_codes_want_their_oracle_and_no_captions(oracle, model):
    own = named(f"codes_of_{oracle}", model)
    said = sentence(EvaluateConfig, evaluation, *own, "--dataset", "pairs")
    assert said == f"codes_of_{oracle}.npz writes codes of maps; name with --oracle what makes maps of them."
    assert said == sentence(PredictConfig, prediction, *own, "images/test")
    cappa = ("--dataset", "pairs", "--recipe", "cappa", "--parallel", "0", *STEPS)
    assert "writes codes of maps; train it by --recipe uvim_codes and" in sentence(TrainConfig, Plan, *own, *cappa)


def predicted(weights: str, *flags: str) -> str:
    """The sentence that a `predict` ends with."""
    return sentence(PredictConfig, prediction, *named(weights), *flags, "images/test")


def test_flags_without_effect_are_refused():
    assert predicted("captioner", "--top", "3").startswith("--top is for classes and texts")
    features = ("--features", "pooled", "--output", "x")
    assert evaluated("captioner", "images", *features, "--beams", "2").startswith(
        "--beams is for texts that a model writes"
    )
    said = evaluated("captioner", "images", *features, "--oracle", "colours.npz")
    assert said.startswith("--oracle makes maps of codes for --evaluator maps, not --features")
    assert evaluated("colours", "images", "--vocabulary", "x").startswith("--vocabulary is for texts")
    coded = ("--oracle", "colours.npz", "--vocabulary", "x")
    assert evaluated("codes_of_colours", "images", *coded).startswith("--vocabulary is for texts")


def test_another_evaluator_is_advised_that_the_model_has():
    classes = ("--evaluator", "classification")
    assert evaluated("captioner", "images", *classes).endswith("give --evaluator scoring, by which texts tell classes.")
    assert evaluated("colours", "images", *classes).endswith("give --evaluator maps.")
    assert "captioner.npz writes texts and no codes of maps; give --evaluator " in evaluated(
        "captioner", "images", "--evaluator", "maps"
    )


def test_an_output_of_pictures_is_no_name_of_arrays():
    said = predicted("codes_of_colours", "--oracle", "colours.npz", "--output", "drawn.npz")
    assert (
        said == "--output drawn.npz is the name of a file and VTT-T/8 draws pictures into a folder; give another name."
    )


def test_a_vocabulary_that_was_named_is_not_to_be_moved(folder):
    (folder / "other.model").write_bytes(b"another one")
    said = predicted("captioner", "--vocabulary", "other.model")
    assert said.endswith("name the file that the model was trained with, or leave --vocabulary out.")


def test_a_prompt_without_room_for_a_text_is_refused():
    """Before a framework is imported."""
    prompt = ("--prompt", "a cat " * 40)
    for said in (predicted("captioner", *prompt), evaluated("captioner", "pairs", *prompt)):
        assert "leaves no room for a text in the 16 tokens that the model writes; give a shorter one" in said
    flags = ("--model", "CapPa-T/8", "--weights", "none", "--recipe", "cappa", "--parallel", "0", *STEPS)
    for dataset, flag in (("pairs", "--prompt"), ("images", "--class_prompt")):
        said = sentence(TrainConfig, Plan, *flags, "--dataset", dataset, flag, "a cat " * 40)
        assert "leaves no room for a text in the 16 tokens" in said


@pytest.mark.parametrize(
    ("job", "flags", "place"),
    (
        (evaluation, ("--model", "CapPa-T/8", "--weights", "captioner.npz", "--dataset", "pairs"), "file"),
        (
            evaluation,
            ("--model", "UViM-T/8-colorization", "--weights", "colours.npz", "--dataset", "images"),
            "file/in",
        ),
        (
            prediction,
            ("--model", "CapPa-T/8", "--weights", "captioner.npz", "--captions", "pairs/test"),
            "file/texts.npz",
        ),
        (prediction, ("--model", "CapPa-T/8", "--weights", "captioner.npz", "--captions", "pairs/test"), "folder.npz"),
        (prediction, ("--model", "SigLIP-T/8", "--map", "attention", "pairs/test"), "file"),
    ),
)
def test_a_place_that_cannot_be_written_is_found_before_anything_is_computed(folder, job, flags, place):
    (folder / "file").write_text("a list of mine")
    (folder / "folder.npz").mkdir(exist_ok=True)
    flags = (*flags, "--bit_pretrained_dir", str(ROOT / "weights"), "--output", place)
    said = sentence(EvaluateConfig if job is evaluation else PredictConfig, job, *flags)
    kind = "file is a file" if place.startswith("file") else "folder.npz is a folder"
    assert said == f"--output {place} cannot be written, since {kind}; give another place."
    assert (folder / "file").read_text() == "a list of mine"
