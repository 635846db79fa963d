"""The published spelling of ResNet V1, alone and as the backbone of hybrid ViTs.

Sources: `models/bit.py` of google-research/big_vision; `vit_jax/models_resnet.py` of
google-research/vision_transformer, whose files may store the norms' parameters as [1, 1, 1, C].
"""

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
