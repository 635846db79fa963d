"""MLP-Mixer in TensorFlow (https://arxiv.org/abs/2105.01601). B batch, L tokens, D width."""

from collections.abc import Sequence

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.keras_model import takes_images, takes_inputs
from bit_tf2.layers import Dense, Layer, LayerNorm, Mlp, PatchEmbedding, drop_branch, on_grid, registered
from bit_tf2.model import Model
from common.models import MixerConfig
from common.models.intermediates import Intermediate, block_labels, chosen


class Block(Layer):
    """An MLP over the tokens of each channel, then one over the channels of each token, each added to its input."""

    def __init__(self, config: MixerConfig):
        super().__init__()
        num_tokens = config.grid[0] * config.grid[1]
        self.norm1 = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.token_mixing = Mlp(num_tokens, config.tokens_mlp_dim, gelu=config.gelu)
        self.norm2 = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.channel_mixing = Mlp(config.width, config.channels_mlp_dim, gelu=config.gelu)

    def call(self, x: Tensor, kept: Tensor | None = None) -> Tensor:  # [B, L, D], [B, 2]
        kept = (None, None) if kept is None else tf.unstack(kept, axis=1)
        out = tf.transpose(self.token_mixing(tf.transpose(self.norm1(x), (0, 2, 1))), (0, 2, 1))
        x = x + drop_branch(out, kept[0])
        return x + drop_branch(self.channel_mixing(self.norm2(x)), kept[1])


@registered
class Mixer(Model):
    """Images [B, H, W, 3] in [-1, 1] to logits [B, num_classes]."""

    def __init__(self, config: MixerConfig, *, remat: bool = False, **kwargs):
        super().__init__(config, remat=remat, **kwargs)
        self.stem = PatchEmbedding(3, config.width, config.patch_size)
        self.blocks = [Block(config) for _ in range(config.depth)]
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.head = Dense(config.width, config.num_classes) if config.num_classes else None
        self._adapt()

    @takes_images
    def features(self, images: Tensor, kept_branches: Tensor | None = None) -> Tensor:
        """Pooled features [B, width], in the type of the parameters; training may give bool [B, 2 * depth]."""
        self.config.check_image(*images.shape[1:3])
        x = self.stem(images)  # [B, L, D]
        for i, block in enumerate(self.blocks):
            x = self._run(block, x, None if kept_branches is None else kept_branches[:, 2 * i : 2 * i + 2])
        return tf.reduce_mean(tf.cast(self.norm(x), self.dtype), 1)

    @takes_inputs
    def intermediates(
        self, images: Tensor, *, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Intermediate]:
        """Outputs of the blocks, which `indices` choose (common/models/intermediates.py); with `norm`, behind the last norm."""
        self.config.check_image(*images.shape[1:3])
        x, found = self.stem(images), []
        for block in self.blocks:
            x = self._run(block, x, None)
            found.append(self.norm(x) if norm else x)
        labels = block_labels(self.config)
        return [
            Intermediate(*labels[i], on_grid(found[i], self.config.grid), found[i]) for i in chosen(len(found), indices)
        ]
