"""Image-text models in JAX (https://arxiv.org/abs/2303.15343). B images, T texts, E width of an embedding."""

from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax.bert import Bert
from bit_jax.layers import HIGHEST
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
    """Images [B, H, W, 3] and texts [T, L] to the similarity of each pair [B, T]: exp(t) * <embeddings> + b."""

    def __init__(self, config: TwoTowersConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.image = TOWERS[type(config.image)](config.image, remat=remat)
        self.text = TOWERS[type(config.text)](config.text, remat=remat) if config.text else None
        self.t = nnx.Param(jnp.zeros(1))
        self.b = nnx.Param(jnp.zeros(1)) if config.bias else None
        self.head = None

    def __call__(self, images: Array, texts: Array) -> Array:
        return self.similarity(self.encode_image(images), self.encode_text(texts))

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


def normalized(z: Array) -> Array:
    """z [B, E] / (its norm + 1e-8)."""
    return z / (jnp.linalg.norm(z, axis=1, keepdims=True) + 1e-8)
