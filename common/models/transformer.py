"""Shapes of the parts of a pre-norm transformer, which images and texts share. D width, M mlp_dim."""

from typing import ClassVar

from common.models.family import Config, Shapes, dense, norm

ATTENTION = ("query", "key", "value", "out")


class BlocksConfig(Config):
    """Base of the configurations of transformers: what blocks are like that have attention and an MLP, and nothing more."""

    causal: ClassVar[bool] = False  # whether a token sees those before it only
    dropout: ClassVar[float] = 0.0
    attn_biases: ClassVar[tuple[str, ...]] = ATTENTION
    qk_norm: ClassVar[bool] = False
    layer_scale: ClassVar[bool] = False
    swiglu: ClassVar[bool] = False
    parallel: ClassVar[bool] = False

    @property
    def has_head(self) -> bool:
        """Whether a head follows the features."""
        return self.num_classes is not None


def attention(
    name: str, width: int, biases: tuple[str, ...] = ATTENTION, seen_width: int | None = None
) -> Shapes:  # fmt: skip
    """Four dense layers; the columns of query, key and value are ordered by head and then within it, like the rows of out.

    Keys and values are of tokens of `seen_width`, by default the same width.
    """
    widths = {"key": seen_width or width, "value": seen_width or width}
    layers = [dense(f"{name}/{part}", widths.get(part, width), width) for part in ATTENTION]
    shapes = {key: shape for layer in layers for key, shape in layer.items()}
    absent = {f"{name}/{part}/bias" for part in ATTENTION if part not in biases}
    return {key: shape for key, shape in shapes.items() if key not in absent}


def mlp(name: str, width: int, mlp_dim: int) -> Shapes:
    """Two dense layers."""
    return dense(f"{name}/fc1", width, mlp_dim) | dense(f"{name}/fc2", mlp_dim, width)


def block(name: str, config: BlocksConfig) -> Shapes:
    """norm1/{scale,bias} [D], attn/{query,key,value,out}/{kernel [D, D], bias [D] (attn_biases)},
    attn/{query_norm,key_norm}/{scale,bias} [D / heads] (qk_norm), layer_scale1/scale [D] (layer_scale),
    norm2/{scale,bias} [D] (unless parallel), mlp/gate/{kernel [D, M], bias [M]} (swiglu),
    mlp/fc1/{kernel [D, M], bias [M]}, mlp/fc2/{kernel [M, D], bias [D]}, layer_scale2/scale [D] (layer_scale)."""
    width, shapes = config.width, norm(f"{name}/norm1", config.width)
    shapes |= attention(f"{name}/attn", width, config.attn_biases)
    for part in ("query_norm", "key_norm") if config.qk_norm else ():
        shapes |= norm(f"{name}/attn/{part}", width // config.num_heads)
    shapes |= {f"{name}/layer_scale1/scale": (width,)} if config.layer_scale else {}
    shapes |= {} if config.parallel else norm(f"{name}/norm2", width)
    shapes |= dense(f"{name}/mlp/gate", width, config.mlp_dim) if config.swiglu else {}
    shapes |= mlp(f"{name}/mlp", width, config.mlp_dim)
    return shapes | ({f"{name}/layer_scale2/scale": (width,)} if config.layer_scale else {})


def blocks(config: BlocksConfig) -> Shapes:
    """blocks/i/..., each with the shapes of `block`."""
    shapes = {}
    for i in range(config.depth):
        shapes |= block(f"blocks/{i}", config)
    return shapes


def attention_pool(width: int, mlp_dim: int) -> Shapes:
    """pool/{probe [1, 1, D], attn/..., norm/..., mlp/...}, with the shapes of a plain block."""
    shapes = {"pool/probe": (1, 1, width)} | attention("pool/attn", width)
    return shapes | norm("pool/norm", width) | mlp("pool/mlp", width, mlp_dim)


def head(width: int, num_classes: int | None, bias: bool, name: str = "head") -> Shapes:
    """head/{kernel [D, K], bias [K]}; nothing without classes, and no bias where there is none."""
    if num_classes is None:
        return {}
    return dense(name, width, num_classes) if bias else {f"{name}/kernel": (width, num_classes)}
