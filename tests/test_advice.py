"""What `evaluate` and `predict` of models that write, or predict every pixel, advise where files and flags do not belong together."""

from pathlib import Path

import pytest
from jobs import make_images, make_pairs
from test_coded_runs import make_maps

from common.config import EvaluateConfig
from common.models import find_model
from common.models.cards import Card
from common.models.initial import initial_parameters
from common.runs.command import parse
from common.runs.jobs import evaluation
from common.system.errors import UserError
from common.weights import write_weights

WEIGHTS = {"captioner": "CapPa-T/8", "colours": "UViM-T/8-colorization", "depths": "UViM-T/8-depth", "codes": "VTT-T/8"}


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
    return folder


@pytest.fixture(autouse=True)
def there(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)


def evaluated(weights: str, dataset: str, *flags: str) -> str:
    """The sentence that an `evaluate` ends with."""
    own = ("--model", WEIGHTS[weights], "--weights", f"{weights}.npz", "--dataset", dataset, *flags)
    with pytest.raises(UserError) as found:
        evaluation(parse(EvaluateConfig, own, "evaluate", ""))
    assert "\n" not in str(found.value)
    return str(found.value)


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
