"""The published spellings of ViT and hybrids whose arrays differ from the canonical ones in names and shape only.

    vision_transformer        the numbering of the published `.npz` files
    vision_transformer_linen  ... after `convert_pre_linen`, as its own code saves them today
    big_vision                ... with `pos_embedding` at the top

Sources: `vit_jax/checkpoint.py` of google-research/vision_transformer; `models/vit.py` of google-research/big_vision.
"""

# canonical <-> published, and the published shape where it is another: D width, N heads, K width of a head.
STEM = (("stem/kernel", "embedding/kernel"), ("stem/bias", "embedding/bias"), ("cls", "cls"))
ATTENTION = (
    ("query/kernel", "query/kernel", "DNK"),
    ("query/bias", "query/bias", "NK"),
    ("key/kernel", "key/kernel", "DNK"),
    ("key/bias", "key/bias", "NK"),
    ("value/kernel", "value/kernel", "DNK"),
    ("value/bias", "value/bias", "NK"),
    ("out/kernel", "out/kernel", "NKD"),
    ("out/bias", "out/bias"),
)
NORM = (("scale", "scale"), ("bias", "bias"))
MLP = (
    ("fc1/kernel", "Dense_0/kernel"),
    ("fc1/bias", "Dense_0/bias"),
    ("fc2/kernel", "Dense_1/kernel"),
    ("fc2/bias", "Dense_1/bias"),
)
LINEN_BLOCK = (
    ("norm1", "LayerNorm_0", NORM),
    ("attn", "MultiHeadDotProductAttention_0", ATTENTION),
    ("norm2", "LayerNorm_1", NORM),
    ("mlp", "MlpBlock_0", MLP),
)
BLOCKS = {
    "vision_transformer": (
        ("norm1", "LayerNorm_0", NORM),
        ("attn", "MultiHeadDotProductAttention_1", ATTENTION),
        ("norm2", "LayerNorm_2", NORM),
        ("mlp", "MlpBlock_3", MLP),
    ),
    "vision_transformer_linen": LINEN_BLOCK,
    "big_vision": LINEN_BLOCK,
}
POSITIONS = {
    "vision_transformer": "Transformer/posembed_input/pos_embedding",
    "vision_transformer_linen": "Transformer/posembed_input/pos_embedding",
    "big_vision": "pos_embedding",
}
POOL = (
    ("attn", "MultiHeadDotProductAttention_0", ATTENTION),
    ("norm", "LayerNorm_0", NORM),
    ("mlp", "MlpBlock_0", MLP),
)
TAIL = (
    ("norm/scale", "Transformer/encoder_norm/scale"),
    ("norm/bias", "Transformer/encoder_norm/bias"),
    ("pre_logits/kernel", "pre_logits/kernel"),
    ("pre_logits/bias", "pre_logits/bias"),
    ("head/kernel", "head/kernel"),
    ("head/bias", "head/bias"),
)
