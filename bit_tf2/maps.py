"""What a ViT looks at, and what becomes of its patches, in TensorFlow. B batch, P patches, D width."""

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.layers import mean, seen
from bit_tf2.model import Model
from common.models.intermediates import attending


def attention_map(
    model: Model, images: Tensor, coordinates: Tensor | None = None, patch_mask: Tensor | None = None
) -> Tensor:
    """[B, P]: the part of its attention that an image's ViT, or image tower, gives to each patch, the mean over heads.

    That of the pooling's probe where there is one, or else in the last block, before the values are taken, the mean over the
    tokens that make the output (`attending`). The rest of 1 belongs to tokens that are no patch. Arguments are those of `ViT.features`.
    """
    tower, x, rotation, visible = embedded(model, images, coordinates, patch_mask)
    *before, last = tower.blocks
    for block in before:
        x = block(x, None, None, rotation, visible)
    patches = slice(tower.config.num_prefix, None)
    if tower.pool:
        x = tower.normed(last(x, None, None, rotation, visible))[:, patches]
        return tf.reduce_mean(tower.pool.shares(x, None if visible is None else visible[:, patches])[:, :, 0], 1)
    asked, normed = attending(tower.config), last.norm1(x)
    shares = tf.reduce_mean(last.attn.shares(normed, normed, visible, rotation, asked), 1)  # [B, asked, L]
    return mean(shares, None if visible is None else visible[:, asked])[:, patches]


def patch_features(
    model: Model, images: Tensor, coordinates: Tensor | None = None, patch_mask: Tensor | None = None
) -> Tensor:
    """[B, P, D]: the patches behind the last block and its norm. Arguments are those of `ViT.features`."""
    tower, x, _ = encoded(model, images, coordinates, patch_mask)
    return x[:, tower.config.num_prefix :]


def token_features(
    model: Model, images: Tensor, coordinates: Tensor | None = None, patch_mask: Tensor | None = None
) -> Tensor:
    """[B, (class tokens + 1) * D]: the class tokens behind the last norm, if any, and then the mean of the patches.

    What DINOv2's linear probe is given of the last block (`create_linear_input` of its `eval/linear.py`).
    """
    tower, x, visible = encoded(model, images, coordinates, patch_mask)
    config = tower.config
    patches = slice(config.num_prefix, None)
    patches = mean(x[:, patches], None if visible is None else visible[:, patches])
    return tf.concat([tf.reshape(x[:, : config.num_cls], (tf.shape(x)[0], config.num_cls * config.width)), patches], 1)


def encoded(
    model: Model, images: Tensor, coordinates: Tensor | None, patch_mask: Tensor | None
) -> tuple[Model, Tensor, Tensor | None]:
    """(the ViT, its tokens [B, L, D] behind the last norm, in the type of the parameters, which are seen bool [B, L])."""
    tower, x, rotation, visible = embedded(model, images, coordinates, patch_mask)
    for block in tower.blocks:
        x = block(x, None, None, rotation, visible)
    return tower, tf.cast(tower.normed(x), tower.dtype), visible


def embedded(
    model: Model, images: Tensor, coordinates: Tensor | None, patch_mask: Tensor | None
) -> tuple[Model, Tensor, Tensor | None, Tensor | None]:
    """(the ViT, its tokens before the first block [B, L, D], how positions turn them, which are seen bool [B, L])."""
    tower = getattr(model, "image", model)
    x = tower.embed(tower.patches(images), coordinates=coordinates)
    visible = None if patch_mask is None else seen(patch_mask, tower.config.num_prefix)
    return tower, x, tower.rotation(x), visible
