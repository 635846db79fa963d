"""Recipes and teachers of "Knowledge distillation: A good teacher is patient and consistent", as their configurations state them."""

import json
from pathlib import Path

from common.models import find_model

CONFIGS = json.loads((Path(__file__).parent / "golden" / "distill" / "facts.json").read_text())["configs"]


def test_every_teacher_is_in_the_manifest():
    for name, config in CONFIGS.items():
        facts = config["values"]
        (teacher,) = facts["teachers"]
        address = facts[f"{teacher}_init"].replace("gs://", "https://storage.googleapis.com/")
        row = find_model(Path(address).stem)
        assert (row.url, row.num_classes) == (address, facts["num_classes"]), name
        depth, width = facts[teacher]["depth"], facts[teacher]["width"]
        assert row.architecture == f"R{depth}x{width}", name
        # `resize_small(256)|central_crop(224)` and `resize_small(160)|central_crop(128)` of the evaluations
        size = {1000: (256, 224)}.get(facts["num_classes"], (160, 128))
        assert (row.eval_resize, row.resolution) == size and row.resize_kind == "area", name
