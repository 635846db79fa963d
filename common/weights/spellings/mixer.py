"""The published spelling of MLP-Mixer, the same in both of its code bases.

Sources: `vit_jax/models_mixer.py` of google-research/vision_transformer; `models/mlp_mixer.py` of
google-research/big_vision.
"""

# canonical <-> published; every array has the same shape in both.
STEM = (("stem/kernel", "stem/kernel"), ("stem/bias", "stem/bias"))
BLOCK = (
    ("norm1/scale", "LayerNorm_0/scale"),
    ("norm1/bias", "LayerNorm_0/bias"),
    ("token_mixing/fc1/kernel", "token_mixing/Dense_0/kernel"),
    ("token_mixing/fc1/bias", "token_mixing/Dense_0/bias"),
    ("token_mixing/fc2/kernel", "token_mixing/Dense_1/kernel"),
    ("token_mixing/fc2/bias", "token_mixing/Dense_1/bias"),
    ("norm2/scale", "LayerNorm_1/scale"),
    ("norm2/bias", "LayerNorm_1/bias"),
    ("channel_mixing/fc1/kernel", "channel_mixing/Dense_0/kernel"),
    ("channel_mixing/fc1/bias", "channel_mixing/Dense_0/bias"),
    ("channel_mixing/fc2/kernel", "channel_mixing/Dense_1/kernel"),
    ("channel_mixing/fc2/bias", "channel_mixing/Dense_1/bias"),
)
TAIL = (
    ("norm/scale", "pre_head_layer_norm/scale"),
    ("norm/bias", "pre_head_layer_norm/bias"),
    ("head/kernel", "head/kernel"),
    ("head/bias", "head/bias"),
)
