"""Image-text models in JAX (https://arxiv.org/abs/2303.15343). B images, T texts, E width of an embedding."""

import functools
from collections.abc import Callable

import jax
from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax.bert import Bert
from bit_jax.layers import HIGHEST, Dense
from bit_jax.mixer import Mixer
from bit_jax.model import Model
from bit_jax.resnet import ResNet
from bit_jax.resnet_v1 import ResNetV1
from bit_jax.text import Text
from bit_jax.vit import ViT
from common.models import (
    BertConfig,
    MixerConfig,
    ResNetConfig,
    ResNetV1Config,
    TextConfig,
    TwoTowersConfig,
    ViTConfig,
)

TOWERS = {  # every family of one model
    ResNetConfig: ResNet,
    ResNetV1Config: ResNetV1,
    ViTConfig: ViT,
    MixerConfig: Mixer,
    TextConfig: Text,
    BertConfig: Bert,
}


class TwoTowers(Model):
    """Images [B, H, W, 3] and texts [T, L] to embeddings; the similarity of a pair is exp(t) * <embeddings> + b."""

    def __init__(self, config: TwoTowersConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.image = TOWERS[type(config.image)](config.image, remat=remat)
        self.text = TOWERS[type(config.text)](config.text, remat=remat) if config.text else None
        self.t = nnx.Param(jnp.zeros(1))
        self.b = nnx.Param(jnp.zeros(1)) if config.bias else None
        self.third = Projections(config) if config.third else None
        self.head = None
        self._adapt()

    def __call__(
        self,
        images: Array | None,
        texts: Array | None = None,
        features: Array | None = None,
        parts: int = 1,
        **noise: Array,
    ) -> tuple[Array | None, Array | None, Array, Array]:
        """(embeddings [B, E] of images, those of texts [T, E], t [1], b [1]: 0 where the model has none). None stays None.

        With several `parts`, each is computed by itself and again in the backward pass: of activations, only one part's live.
        Noise is of the images, drawn texts are whole. With `features` of a third tower, its pairs with the others follow.
        """
        zimg = self.in_parts(self.encode_image, images, parts, **noise)
        ztxt = self.in_parts(self.encode_text, texts, parts)
        pairs = () if features is None else self.third(zimg, ztxt, features)
        return zimg, ztxt, self.t[...], jnp.zeros_like(self.t[...]) if self.b is None else self.b[...], *pairs

    def similarity(self, images: Array, texts: Array) -> Array:
        """[B, T] of embeddings [B, E] and [T, E]."""
        found = jnp.exp(self.t[...]) * jnp.matmul(images, texts.T, precision=HIGHEST)
        return found if self.b is None else found + self.b[...]

    def features(self, images: Array) -> Array:
        """What the image tower's head, if any, is given [B, D]."""
        return self.image.features(images)

    def encode_image(self, images: Array, **noise: Array) -> Array:
        """The embeddings [B, E] of images, in the type of the parameters."""
        return normalized(self.image(images, **noise))

    def encode_text(self, texts: Array) -> Array:
        """The embeddings [T, E] of tokens int [T, L], or of drawn texts [T, H, W, 3] where there is no tower for texts."""
        return normalized((self.text or self.image)(texts))

    def in_parts(self, encode: Callable[..., Array], inputs: Array | None, parts: int, **noise: Array) -> Array | None:
        """The embeddings of inputs [B, ...] with their noise, part after part; patches of all have one size."""
        if "patch_size" in noise:
            encode = functools.partial(encode, patch_size=noise.pop("patch_size"))
        if parts == 1 or inputs is None:
            return inputs if inputs is None else encode(inputs, **noise)
        found = []
        for part in range(parts):
            own, drawn = jax.tree.map(lambda rows, part=part: self.devices.cut(rows, parts, part), (inputs, noise))
            found.append(jax.checkpoint(encode)(own, **drawn))
        return jnp.concatenate(found)


class Projections(nnx.Module):
    """What brings a third tower together with both others (common/tasks/third.py): linear, without bias."""

    def __init__(self, config: TwoTowersConfig):
        self.image = Dense(config.width, config.width, bias=False)
        self.text = Dense(config.width, config.width, bias=False)
        self.for_image = Dense(config.third, config.width, bias=False)
        self.for_text = Dense(config.third, config.width, bias=False)

    def __call__(self, zimg: Array, ztxt: Array, features: Array) -> tuple[tuple[Array, Array], ...]:
        """Two pairs of [B, E], of length 1: the image tower and the third, the text tower and the third."""
        image, text = normalized(self.image(zimg)), normalized(self.text(ztxt))
        return (image, normalized(self.for_image(features))), (text, normalized(self.for_text(features)))


def normalized(z: Array) -> Array:
    """z [B, E] / (its norm + 1e-8)."""
    return z / (jnp.linalg.norm(z, axis=1, keepdims=True) + 1e-8)
