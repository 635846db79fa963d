"""The published spelling of ResNet V1, alone and as the backbone of hybrid ViTs.

Sources: `models/bit.py` of google-research/big_vision; `vit_jax/models_resnet.py` of
google-research/vision_transformer, whose files may store the norms' parameters as [1, 1, 1, C].
"""

from common.models import ResNetV1Config

# canonical <-> published; every array has the same shape in both.
STEM = (
    ("stem/conv/kernel", "conv_root/kernel"),
    ("stem/norm/scale", "gn_root/scale"),
    ("stem/norm/bias", "gn_root/bias"),
)
UNIT = (
    ("proj/kernel", "conv_proj/kernel"),
    ("proj_norm/scale", "gn_proj/scale"),
    ("proj_norm/bias", "gn_proj/bias"),
    ("conv1/kernel", "conv1/kernel"),
    ("norm1/scale", "gn1/scale"),
    ("norm1/bias", "gn1/bias"),
    ("conv2/kernel", "conv2/kernel"),
    ("norm2/scale", "gn2/scale"),
    ("norm2/bias", "gn2/bias"),
    ("conv3/kernel", "conv3/kernel"),
    ("norm3/scale", "gn3/scale"),
    ("norm3/bias", "gn3/bias"),
)
HEAD = (("head/kernel", "head/kernel"), ("head/bias", "head/bias"))


def names(config: ResNetV1Config) -> dict[str, str]:
    """{canonical name: published name} of every parameter."""
    table, block, shapes = dict(STEM), 0, config.parameter_shapes()
    for stage, count in enumerate(config.num_units, start=1):
        for unit in range(1, count + 1):
            table |= {f"blocks/{block}/{ours}": f"block{stage}/unit{unit}/{theirs}" for ours, theirs in UNIT}
            block += 1
    return {ours: theirs for ours, theirs in (table | dict(HEAD)).items() if ours in shapes}


def published_shapes(config: ResNetV1Config) -> dict[str, tuple[int, ...]]:
    """{published name: shape}."""
    shapes = config.parameter_shapes()
    return {theirs: shapes[ours] for ours, theirs in names(config).items()}
