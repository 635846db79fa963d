"""Image-text models in PyTorch (https://arxiv.org/abs/2303.15343). B images, T texts, E width of an embedding."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bit_pytorch.bert import Bert
from bit_pytorch.layers import Dense
from bit_pytorch.mixer import Mixer
from bit_pytorch.model import Model
from bit_pytorch.resnet import ResNet
from bit_pytorch.resnet_v1 import ResNetV1
from bit_pytorch.text import Text
from bit_pytorch.vit import ViT
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
    """Images [B, 3, H, W] and texts [T, L] to embeddings; the similarity of a pair is exp(t) * <embeddings> + b."""

    def __init__(self, config: TwoTowersConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.image = TOWERS[type(config.image)](config.image, remat=remat)
        self.text = TOWERS[type(config.text)](config.text, remat=remat) if config.text else None
        self.t = nn.Parameter(torch.zeros(1))
        self.b = nn.Parameter(torch.zeros(1)) if config.bias else None
        self.third = Projections(config) if config.third else None
        self.head = None
        self._adapt()

    def forward(
        self,
        images: Tensor | None,
        texts: Tensor | None = None,
        features: Tensor | None = None,
        parts: int = 1,
        **noise: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        """(embeddings [B, E] of images, those of texts [T, E], t [1], b [1]: 0 where the model has none). None stays None.

        With several `parts`, each is computed by itself and again in the backward pass: of activations, only one part's live.
        Noise is of the images, drawn texts are whole. With `features` of a third tower, its pairs with the others follow.
        """
        zimg = self.in_parts(self.encode_image, images, parts, **noise)
        ztxt = self.in_parts(self.encode_text, texts, parts)
        pairs = () if features is None else self.third(zimg, ztxt, features)
        # Copies: where parameters are shards, the memory of whole ones is let go when this ends.
        return zimg, ztxt, self.t.clone(), torch.zeros_like(self.t) if self.b is None else self.b.clone(), *pairs

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """[B, T] of embeddings [B, E] and [T, E]."""
        found = self.t.exp() * images @ texts.T
        return found if self.b is None else found + self.b

    def features(self, images: Tensor) -> Tensor:
        """What the image tower's head, if any, is given [B, D]."""
        return self.image.features(images)

    def encode_image(self, images: Tensor, **noise: Tensor) -> Tensor:
        """The embeddings [B, E] of images, in the type of the parameters."""
        return normalized(self.image(images, **noise))

    def encode_text(self, texts: Tensor) -> Tensor:
        """The embeddings [T, E] of tokens int [T, L], or of drawn texts [T, 3, H, W] where there is no tower for texts."""
        return normalized((self.text or self.image)(texts))

    def in_parts(
        self, encode: Callable[..., Tensor], inputs: Tensor | None, parts: int, **noise: Tensor
    ) -> Tensor | None:
        """The embeddings of inputs [B, ...] with their noise, part after part; patches of all have one size."""
        if "patch_size" in noise:
            encode = functools.partial(encode, patch_size=noise.pop("patch_size"))
        if parts == 1 or inputs is None:
            return inputs if inputs is None else encode(inputs, **noise)
        found = []
        for part, *drawn in zip(*(rows.chunk(parts) for rows in (inputs, *noise.values()))):
            found.append(checkpoint(encode, part, use_reentrant=False, **dict(zip(noise, drawn))))
        return torch.cat(found)


class Projections(nn.Module):
    """What brings a third tower together with both others (common/tasks/third.py): linear, without bias."""

    def __init__(self, config: TwoTowersConfig):
        super().__init__()
        self.image = Dense(config.width, config.width, bias=False)
        self.text = Dense(config.width, config.width, bias=False)
        self.for_image = Dense(config.third, config.width, bias=False)
        self.for_text = Dense(config.third, config.width, bias=False)

    def forward(self, zimg: Tensor, ztxt: Tensor, features: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Two pairs of [B, E], of length 1: the image tower and the third, the text tower and the third."""
        image, text = normalized(self.image(zimg)), normalized(self.text(ztxt))
        return (image, normalized(self.for_image(features))), (text, normalized(self.for_text(features)))


def normalized(z: Tensor) -> Tensor:
    """z [B, E] / (its norm + 1e-8)."""
    return z / (torch.linalg.vector_norm(z, dim=1, keepdim=True) + 1e-8)
