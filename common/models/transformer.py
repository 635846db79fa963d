"""Shapes of the parts of a pre-norm transformer, which images and texts share. D width, M mlp_dim."""

from common.models.family import Shapes, dense, norm


def attention(name: str, width: int) -> Shapes:
    """Four dense layers; the columns of query, key and value are ordered by head and then within it, like the rows of out."""
    layers = [dense(f"{name}/{part}", width, width) for part in ("query", "key", "value", "out")]
    return {key: shape for layer in layers for key, shape in layer.items()}


def mlp(name: str, width: int, mlp_dim: int) -> Shapes:
    """Two dense layers."""
    return dense(f"{name}/fc1", width, mlp_dim) | dense(f"{name}/fc2", mlp_dim, width)


def blocks(depth: int, width: int, mlp_dim: int) -> Shapes:
    """blocks/i/norm1/{scale,bias} [D], blocks/i/attn/{query,key,value,out}/{kernel [D, D], bias [D]},
    blocks/i/norm2/{scale,bias} [D], blocks/i/mlp/fc1/{kernel [D, M], bias [M]}, .../fc2/{kernel [M, D], bias [D]}."""
    shapes = {}
    for i in range(depth):
        shapes |= norm(f"blocks/{i}/norm1", width) | attention(f"blocks/{i}/attn", width)
        shapes |= norm(f"blocks/{i}/norm2", width) | mlp(f"blocks/{i}/mlp", width, mlp_dim)
    return shapes


def attention_pool(width: int, mlp_dim: int) -> Shapes:
    """pool/{probe [1, 1, D], attn/..., norm/..., mlp/...}, with the shapes of a block."""
    shapes = {"pool/probe": (1, 1, width)} | attention("pool/attn", width)
    return shapes | norm("pool/norm", width) | mlp("pool/mlp", width, mlp_dim)


def head(width: int, num_classes: int | None, bias: bool) -> Shapes:
    """head/{kernel [D, K], bias [K]}; nothing without classes, and no bias where there is none."""
    if num_classes is None:
        return {}
    return dense("head", width, num_classes) if bias else {"head/kernel": (width, num_classes)}
