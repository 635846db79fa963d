"""The published spelling of ResNetV2-BiT, as `.npz` names and as the order of arrays in Keras `.h5` files.

Source: `bit_pytorch/models.py` (npz names) and `bit_tf2/models.py` (h5 order) of google-research/big_transfer.
"""

from common.models import ResNetConfig

# canonical <-> published, within one bottleneck block, in the order of the original TF2 code.
UNIT = (
    ("norm1/scale", "a/group_norm/gamma"),
    ("norm1/bias", "a/group_norm/beta"),
    ("conv1/kernel", "a/standardized_conv2d/kernel"),
    ("norm2/scale", "b/group_norm/gamma"),
    ("norm2/bias", "b/group_norm/beta"),
    ("conv2/kernel", "b/standardized_conv2d/kernel"),
    ("norm3/scale", "c/group_norm/gamma"),
    ("norm3/bias", "c/group_norm/beta"),
    ("conv3/kernel", "c/standardized_conv2d/kernel"),
    ("proj/kernel", "a/proj/standardized_conv2d/kernel"),
)
STEM = (("stem/kernel", "resnet/root_block/standardized_conv2d/kernel"),)
TAIL = (
    ("norm/scale", "resnet/group_norm/gamma"),
    ("norm/bias", "resnet/group_norm/beta"),
    ("head/kernel", "resnet/head/conv2d/kernel"),  # [1, 1, in, out] in the .npz, [in, out] in the .h5
    ("head/bias", "resnet/head/conv2d/bias"),
)


def names(config: ResNetConfig) -> dict[str, str]:
    """{canonical name: published name} of every parameter, in the order of the `.h5` files."""
    table, block, shapes = dict(STEM), 0, config.parameter_shapes()
    for stage, count in enumerate(config.num_units, start=1):
        for unit in range(1, count + 1):
            for ours, theirs in UNIT:
                if f"blocks/{block}/{ours}" in shapes:  # only some blocks project
                    table[f"blocks/{block}/{ours}"] = f"resnet/block{stage}/unit{unit:02d}/{theirs}"
            block += 1
    return table | {ours: theirs for ours, theirs in TAIL if ours in shapes}


def published_shapes(config: ResNetConfig) -> dict[str, tuple[int, ...]]:
    """{published name: shape in the .npz}."""
    shapes = config.parameter_shapes()
    return {
        theirs: (1, 1, *shapes[ours]) if ours == "head/kernel" else shapes[ours]
        for ours, theirs in names(config).items()
    }


def layers(config: ResNetConfig) -> dict[str, list[str]]:
    """{layer of the original TF2 model: its canonical names}, both in the order of `layer_names` and `weight_names`."""
    table = {"root_block": ["stem/kernel"]} | {f"block{stage + 1}": [] for stage in range(len(config.num_units))}
    for ours, theirs in names(config).items():
        layer = theirs.split("/")[1]
        if layer in table and ours != "stem/kernel":
            table[layer].append(ours)
    table["group_norm"] = ["norm/scale", "norm/bias"]
    table[f"re_lu_{3 * sum(config.num_units)}"] = []  # Keras numbers it after those inside the blocks
    table["global_average_pooling2d"] = []
    if config.num_classes:
        table["head/dense"] = ["head/kernel", "head/bias"]
    return table
