"""The layers in which frameworks differ: weight-standardised convolution, group norm and the stem's max-pool.

Activations flow in the type of the images; parameters, norms and standardisation keep the type of the parameters.
"""

from flax import nnx
from jax import Array, lax
from jax import numpy as jnp


class StdConv(nnx.Module):
    """Convolution without bias whose kernel is standardised over H, W and input channels, with symmetric padding.

    Source: Weight Standardization (https://arxiv.org/abs/1903.10520); epsilon is added to the biased variance.
    """

    def __init__(self, in_width: int, out_width: int, kernel_size: int, *, stride: int = 1, epsilon: float):
        self.kernel = nnx.Param(jnp.zeros((kernel_size, kernel_size, in_width, out_width)))
        self.stride, self.padding = stride, (kernel_size - 1) // 2  # "SAME" would pad asymmetrically where it strides
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:  # [B, H, W, C]
        kernel = self.kernel[...]
        variance, mean = jnp.var(kernel, (0, 1, 2), correction=0), jnp.mean(kernel, (0, 1, 2))
        kernel = (kernel - mean) / jnp.sqrt(variance + self.epsilon)
        return lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (self.stride, self.stride),
            [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,  # the default rounds float32 to TF32 on GPUs, to bfloat16 on TPUs
        )


class GroupNorm(nnx.GroupNorm):
    """Group norm in the type of its parameters (https://arxiv.org/abs/1803.08494)."""

    def __init__(self, width: int, *, num_groups: int, epsilon: float):
        # The fast variance, flax's default, is E[x^2] - E[x]^2: it cancels.
        super().__init__(width, num_groups, epsilon=epsilon, use_fast_variance=False, rngs=nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:  # [B, H, W, C]
        return super().__call__(x.astype(self.scale.dtype)).astype(x.dtype)


def max_pool(x: Array) -> Array:
    """3x3 maximum with stride 2. The border is padded with zeros, as in the original, not with -infinity."""
    return nnx.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2), "VALID")
