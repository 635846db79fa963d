"""The BiT-HyperRule against every number that the original `bit_hyperrule.py` gave."""

import json
from pathlib import Path

import pytest

from common.data.catalogue import NAMED
from common.recipes import hyperrule

GOLDEN = json.loads((Path(__file__).parent / "golden" / "hyperrule.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["get_resolution"], ids=lambda case: "x".join(map(str, case["size"])))
def test_resolution(case):
    assert hyperrule.resolution(tuple(case["size"])) == tuple(case["out"])


@pytest.mark.parametrize("name", GOLDEN["known_dataset_sizes"])
def test_named_datasets(name):
    assert NAMED[name].image_size == tuple(GOLDEN["known_dataset_sizes"][name])
    assert hyperrule.resolution(NAMED[name].image_size) == tuple(GOLDEN["get_resolution_from_dataset"][name])


@pytest.mark.parametrize("num_examples", GOLDEN["get_mixup"])
def test_mixup(num_examples):
    assert hyperrule.mixup(int(num_examples)) == GOLDEN["get_mixup"][num_examples]


@pytest.mark.parametrize("num_examples", GOLDEN["get_schedule"])
def test_schedule(num_examples):
    assert list(hyperrule.schedule(int(num_examples))) == GOLDEN["get_schedule"][num_examples]


@pytest.mark.parametrize("case", GOLDEN["get_lr"], ids=lambda case: f"{case['dataset_size']}-{case['base_lr']}")
def test_learning_rate(case):
    schedule = hyperrule.schedule(case["dataset_size"])
    assert list(schedule) == case["schedule"]
    found = [[step, hyperrule.learning_rate(step, schedule, case["base_lr"])] for step, _ in case["values"]]
    assert found == case["values"]  # to the last bit: the divisions happen in the original's order
