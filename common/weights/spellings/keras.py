"""Keras 3's own `.weights.h5` of a model of `bit_tf2`, under canonical names (common/models/).

A layer lies at the path of its attributes and its arrays are numbered: `blocks/block_3/attn/query/vars/0`. But lists name
their members by class, and so does `layers`, where Keras puts whatever of a model sorts after that word. Beside the
arrays a zoo's model keeps the record of its configuration, as text; a compiled one its optimizer, which is no weights.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.models.families import parse_config
from common.models.family import Shapes
from common.system.errors import UserError

RECORD = "vars/bit_zoo"
ATTRIBUTES = {  # class of a layer in `layers` -> the attribute that holds it
    "attention_pool": "pool", "dense": "pre_logits", "group_norm": "norm", "layer_norm": "norm", "patch_embedding": "stem",
    "std_conv": "stem", "stem": "stem",
}  # fmt: skip
OWN = ("cls", "dist", "registers", "pos_embedding")
MEMBER = re.compile(r"(?<=blocks/)[a-z]+(?:_([0-9]+))?(?=/)")
LISTED = re.compile(r"(?:(?<=^)|(?<=/))layers/([a-z_]+?)(?:_([0-9]+))?(?=/)")
MOST = 2**20  # bytes of a record
OTHERS = re.compile(r"(^|/)(optimizer|_[a-z_]+)/|(^|/)vars/bit_zoo$")  # training's own, and records


def is_keras(names: Iterable[str]) -> bool:
    """Whether data sets of these names are a file of Keras 3."""
    return any(re.search(r"(^|/)vars/[0-9]+$", name) for name in names)


def renamed(datasets: dict[str, Any], path: Path) -> dict[str, Any]:
    """{canonical name: data set} of the arrays of a model; what is unknown keeps its name.

    UserError where two are one.
    """
    found = {}
    for name, data in datasets.items():
        if OTHERS.search(name):
            continue
        ours = canonical_name(name, datasets)
        if ours in found:
            raise UserError(
                f"{path} holds both {found[ours].name} and {data.name}, which are one parameter; save it again."
            )
        found[ours] = data
    return found


def attribute(found: re.Match, datasets: dict[str, Any]) -> str:
    """The attribute that holds a layer in `layers`; of two norms, `pre_norm` is made first."""
    norms = {int(other[2] or 0) for name in datasets if (other := LISTED.match(name)) and other[1] == "layer_norm"}
    if found[1] == "layer_norm" and int(found[2] or 0) != max(norms, default=0):
        return "pre_norm"
    if found[1] == "layer_norm" and "pool_norm/scale" in own_shapes(datasets):
        return "pool_norm"
    return ATTRIBUTES.get(found[1], found[0])


def own_shapes(datasets: dict[str, Any]) -> Shapes:
    """The shapes of the model that the record states; none without a record."""
    if RECORD not in datasets or datasets[RECORD].nbytes > MOST:
        return {}
    return parse_config(json.loads(bytes(datasets[RECORD][()]))["config"], RECORD).own_shapes()


def own_names(datasets: dict[str, Any]) -> tuple[str, ...]:
    """The names of the arrays that the model itself has, in the order in which it makes them."""
    if shapes := own_shapes(datasets):
        return tuple(name for name in OWN if name in shapes)
    has_token = datasets["vars/0"].shape[1:2] == (1,)  # a class token is one position long, and comes first
    return ("cls", "pos_embedding") if has_token else ("pos_embedding",)


def canonical_name(name: str, datasets: dict[str, Any]) -> str:
    """The canonical name of one of the arrays of a file."""
    layer, _, number = name.rpartition("vars/")
    layer = MEMBER.sub(lambda found: found[1] or "0", layer.rstrip("/"))
    layer = LISTED.sub(lambda found: attribute(found, datasets), f"{layer}/").rstrip("/")
    if not layer:
        leaves = own_names(datasets)
    else:
        last = layer.rpartition("/")[2]
        leaves = (
            ("probe",)
            if last == "pool"
            else ("scale" if "norm" in last or last.startswith("layer_scale") else "kernel", "bias")
        )
    known = number.isdecimal() and int(number) < len(leaves)
    return f"{layer}/{leaves[int(number)]}".lstrip("/") if known else name
