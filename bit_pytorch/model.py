"""What the families have in common in PyTorch: features, then a head; and blocks that may be computed twice."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.cards import Preprocessing
from common.models import ModelConfig


class Model(nn.Module):
    """Images [B, 3, H, W] to logits [B, num_classes], or to features where there are no classes.

    `preprocessing` says how it wants its images: in [-1, 1], but for some weights of other projects. With `remat`,
    the backward pass computes the activations within a block again instead of keeping them.
    """

    def __init__(self, config: ModelConfig, *, remat: bool = False):
        super().__init__()
        self.config, self.remat, self.preprocessing = config, remat, Preprocessing()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters; activations flow in the type of the images."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    def run(self, block: nn.Module, x: Tensor, *noise: Tensor | None) -> Tensor:
        """The output of a block."""
        if self.remat and torch.is_grad_enabled():
            return checkpoint(block, x, *noise, use_reentrant=False, preserve_rng_state=False)
        return block(x, *noise)

    def forward(self, images: Tensor, **noise: Tensor) -> Tensor:
        features = self.features(images, **noise)
        return self.head(features) if self.head else features
