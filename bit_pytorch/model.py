"""The shared part of the families in PyTorch: features, then a head; blocks that may be computed twice."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bit_pytorch.layers import Dense
from common.models import ModelConfig, with_new_head
from common.models.cards import Card, Preprocessing
from common.models.low_rank import layer_of
from common.recipes.lora import A
from common.recipes.recipe import Recipe


class Model(nn.Module):
    """Images [B, 3, H, W] to logits [B, num_classes], or to features where there are no classes.

    `card` holds facts of its weights (common/models/cards.py), `preprocessing` the scale of images: in [-1, 1],
    but for some weights of other projects. With `remat`, the backward pass computes the activations within a block again
    instead of keeping them.
    """

    def __init__(self, config: ModelConfig, *, remat: bool = False):
        super().__init__()
        self.config, self.remat, self.precision = config, remat, "float32"
        self.card, self.preprocessing = Card(), Preprocessing()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters; activations flow in the type of the images."""
        return next(self.parameters()).dtype

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type in which images are given to the model: bfloat16 if it was built for it, or else that of the parameters."""
        return torch.bfloat16 if self.precision == "bfloat16" else self.dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the logits; None where they are unknown."""
        return self.card.class_names

    @property
    def num_params(self) -> int:
        """Number of parameters, of a replaced head as well."""
        return sum(value.numel() for value in self.parameters())

    def reset_head(self, num_classes: int) -> None:
        """Put a head of zeros for `num_classes` in the place of the model's, or none for 0; names of classes are forgotten.

        An optimizer made before has the old head's parameters. Raises UserError for what is no number of classes.
        """
        wanted = with_new_head(self.config, num_classes)
        shapes = wanted.parameter_shapes()
        for name in ("head", "head_dist") if hasattr(self, "head_dist") else ("head",):
            setattr(self, name, self._zeros(*shapes[f"{name}/kernel"]) if f"{name}/kernel" in shapes else None)
        self.config, self.card = wanted, dataclasses.replace(self.card, class_names=None)

    def _zeros(self, in_width: int, out_width: int) -> Dense:
        """A dense layer of zeros."""
        layer = Dense(in_width, out_width).to(self.device, self.dtype)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def _adapt(self) -> None:
        """Add the matrices of LoRA to the layers that are to have some, also within towers."""
        lora = self.config.lora
        for matrix in self.config.lora_shapes():
            if matrix.endswith(A):
                layer_of(self, matrix).adapt(lora.rank, lora.scale)

    def renewed(self, measured: dict[str, Tensor], batch: dict[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
        """What a training step measured; before that a model may renew what follows the batch and no gradient moves: nothing here."""
        return measured

    def _run(self, block: nn.Module, x: Tensor, *noise: Tensor | None) -> Tensor:
        """The output of a block."""
        if self.remat and torch.is_grad_enabled():
            return checkpoint(block, x, *noise, use_reentrant=False, preserve_rng_state=False)
        return block(x, *noise)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))

    def logits(self, features: Tensor) -> Tensor:
        """The head's output for features; the features themselves where there is no head."""
        return features if self.head is None else self.head(features)
