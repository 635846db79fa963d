"""The layers in which frameworks differ: convolutions, norms, dense layers, GELU, attention, dropout and max-pools.

Activations flow in the type of the images; parameters, norms and standardisation keep the type of the parameters.
Products state their precision: JAX's default rounds float32 to TF32 on GPUs, to bfloat16 on TPUs.
"""

import functools
import math

import jax
from flax import nnx
from jax import Array, lax
from jax import numpy as jnp

from common.models import resizing
from common.models.positions import rotary, sincos2d
from common.models.transformer import ATTENTION

HIGHEST = lax.Precision.HIGHEST


class StdConv(nnx.Module):
    """Convolution without bias whose kernel is standardised over H, W and input channels.

    Source: Weight Standardization (https://arxiv.org/abs/1903.10520); epsilon is added to the biased variance, or to
    the deviation. Padding is symmetric, or that which makes the output the input's size / stride ("same").
    """

    def __init__(
        self, in_width: int, out_width: int, kernel_size: int, *, stride: int = 1, epsilon: float,
        standardization: str = "variance", same: bool = False,
    ):  # fmt: skip
        self.kernel = nnx.Param(jnp.zeros((kernel_size, kernel_size, in_width, out_width)))
        self.stride = (stride, stride)
        self.padding = "SAME" if same else (((kernel_size - 1) // 2,) * 2,) * 2  # of H, of W; to be hashed
        self.epsilon, self.standardization = epsilon, standardization

    def __call__(self, x: Array) -> Array:  # [B, H, W, C]
        return convolve(x, self.standardized_kernel(), self.stride, self.padding)

    def standardized_kernel(self) -> Array:  # [H, W, I, O]
        kernel = self.kernel[...]
        if self.standardization == "done":
            return kernel
        if self.standardization == "variance":
            return standardize(kernel, (0, 1, 2), self.epsilon)
        deviation = jnp.sqrt(jnp.var(kernel, (0, 1, 2), correction=0))
        return (kernel - jnp.mean(kernel, (0, 1, 2))) / (deviation + self.epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def standardize(values: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """(values - mean) / sqrt(variance + epsilon) over `axes`.

    With the gradient that JAX finds by itself, a training step on a CPU takes a fifth longer, of R50x1 and of ViT-S/16:
    XLA computes the sum of what came back from all later layers again in every layer norm.
    """
    return standardize_forward(values, axes, epsilon)[0]


def standardize_forward(values: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, tuple[Array, Array]]:
    """The result, and what its gradient needs."""
    centered = values - jnp.mean(values, axes, keepdims=True)
    scale = 1 / jnp.sqrt(jnp.mean(jnp.square(centered), axes, keepdims=True) + epsilon)
    return centered * scale, (centered * scale, scale)


def standardize_backward(
    axes: tuple[int, ...], epsilon: float, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array]:
    """Of the gradient, what changes neither mean nor variance."""
    result, scale = saved
    along = result * jnp.mean(gradient * result, axes, keepdims=True)
    return (scale * (gradient - jnp.mean(gradient, axes, keepdims=True) - along),)


standardize.defvjp(standardize_forward, standardize_backward)


def standardize_once(model: nnx.Module) -> None:
    """Put the standardised kernels in the place of the kernels: the same outputs, sooner, of a model that stays as it is.

    It must not be trained or saved afterwards.
    """
    replace_kernels(model)
    for _, conv in nnx.iter_modules(model):
        if isinstance(conv, StdConv):
            conv.standardization = "done"


@nnx.jit  # one by one, their operations would be compiled for every shape
def replace_kernels(model: nnx.Module) -> None:
    """The part of `standardize_once` that computes."""
    for _, conv in nnx.iter_modules(model):
        if isinstance(conv, StdConv):
            conv.kernel[...] = conv.standardized_kernel()


class GroupNorm(nnx.Module):
    """Group norm in the type of its parameters (https://arxiv.org/abs/1803.08494)."""

    def __init__(self, width: int, *, num_groups: int, epsilon: float):
        self.scale, self.bias = nnx.Param(jnp.zeros(width)), nnx.Param(jnp.zeros(width))
        self.num_groups, self.epsilon = num_groups, epsilon

    def __call__(self, x: Array) -> Array:  # [B, H, W, C]
        values = x.astype(self.scale.dtype)
        return group_norm(values, self.scale[...], self.bias[...], self.num_groups, self.epsilon).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm(values: Array, scale: Array, bias: Array, num_groups: int, epsilon: float) -> Array:
    """(values - mean) / sqrt(variance + epsilon) * scale + bias, of [B, H, W, C] and [C].

    With the gradient that JAX finds by itself, a training step of R50x1 on a CPU takes a twenty-fifth longer.
    """
    return group_norm_forward(values, scale, bias, num_groups, epsilon)[0]


def group_norm_forward(
    values: Array, scale: Array, bias: Array, num_groups: int, epsilon: float
) -> tuple[Array, tuple[Array, ...]]:
    """The result, and what its gradient needs."""
    mean = group_mean(jnp.mean(values, (1, 2)), num_groups)
    variance = group_mean(jnp.mean(jnp.square(values - mean), (1, 2)), num_groups)  # stable: of deviations
    factor = 1 / jnp.sqrt(variance + epsilon)
    return (values - mean) * (factor * scale) + bias, (values, mean, factor, scale)


def group_norm_backward(
    num_groups: int, epsilon: float, saved: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array, Array]:
    """Of the gradient, what changes neither mean nor variance; its sums over H and W serve all three."""
    values, mean, factor, scale = saved
    normed, size = (values - mean) * factor, values.shape[1] * values.shape[2]
    sums, along = jnp.sum(gradient, (1, 2)), jnp.sum(gradient * normed, (1, 2))  # [B, C]
    means = group_mean(sums * scale / size, num_groups) + normed * group_mean(along * scale / size, num_groups)
    return factor * (gradient * scale - means), along.sum(0), sums.sum(0)


group_norm.defvjp(group_norm_forward, group_norm_backward)


def group_mean(means: Array, num_groups: int) -> Array:
    """Of means [B, C], those of the channels of a group, for each channel: [B, 1, 1, C]."""
    grouped = means.reshape(-1, num_groups, means.shape[1] // num_groups)  # of any number of images, in an export
    return jnp.repeat(grouped.mean(2), grouped.shape[2], axis=1)[:, None, None]


class LayerNorm(nnx.Module):
    """Layer norm over the last axis, in the type of its parameters (https://arxiv.org/abs/1607.06450)."""

    def __init__(self, width: int, *, epsilon: float, bias: bool = True):
        self.scale, self.bias = nnx.Param(jnp.zeros(width)), nnx.Param(jnp.zeros(width)) if bias else None
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:  # [..., D]
        normed = standardize(x.astype(self.scale.dtype), (-1,), self.epsilon) * self.scale[...]
        return (normed if self.bias is None else normed + self.bias[...]).astype(x.dtype)


class Dense(nnx.Module):
    """Dense layer in the type of its input; with `adapt`, LoRA's matrices learn in the place of its kernel."""

    lora_a: nnx.Param | None = None
    lora_b: nnx.Param | None = None

    def __init__(self, in_width: int, out_width: int, *, bias: bool = True):
        self.kernel = nnx.Param(jnp.zeros((in_width, out_width)))
        self.bias = nnx.Param(jnp.zeros(out_width)) if bias else None

    def adapt(self, rank: int, scale: float) -> None:
        """Add lora_a [in, rank] and lora_b [rank, out], whose product, times `scale`, is added to the kernel."""
        in_width, out_width = self.kernel.shape
        self.lora_a, self.lora_b = nnx.Param(jnp.zeros((in_width, rank))), nnx.Param(jnp.zeros((rank, out_width)))
        self.lora_scale = scale

    def __call__(self, x: Array) -> Array:  # [..., D]
        flat = x.reshape(-1, x.shape[-1])
        rows = jnp.dot(flat, self.kernel[...].astype(x.dtype), precision=HIGHEST)
        rows = rows if self.bias is None else rows + self.bias[...].astype(x.dtype)
        if self.lora_a is not None:
            inner = jnp.dot(flat, self.lora_a[...].astype(x.dtype), precision=HIGHEST)
            rows = rows + self.lora_scale * jnp.dot(inner, self.lora_b[...].astype(x.dtype), precision=HIGHEST)
        return rows.reshape(*x.shape[:-1], -1)


class PatchEmbedding(nnx.Module):
    """Convolution of patches that do not overlap, as tokens: [B, H, W, C] to [B, L, D], in rows of patches.

    The kernel is resized where patches have another `patch_size` than it has.
    """

    def __init__(self, in_width: int, out_width: int, kernel_size: tuple[int, int], *, bias: bool = True):
        self.kernel = nnx.Param(jnp.zeros((*kernel_size, in_width, out_width)))
        self.bias = nnx.Param(jnp.zeros(out_width)) if bias else None

    def __call__(self, x: Array, patch_size: tuple[int, int] | None = None) -> Array:
        kernel, kernel_size = self.kernel[...], self.kernel.shape[:2]
        patch_size = patch_size or kernel_size
        if patch_size != kernel_size:
            kernel = resized(kernel, resizing.kernel_matrices(kernel_size, patch_size))
        x = convolve(x, kernel, patch_size, "VALID")
        x = x if self.bias is None else x + self.bias[...].astype(x.dtype)
        return x.reshape(x.shape[0], -1, x.shape[-1])


class TokenEmbedding(nnx.Module):
    """A table of tokens: int [B, L] to [B, L, D], in the type of the table."""

    def __init__(self, vocabulary: int, width: int):
        self.embedding = nnx.Param(jnp.zeros((vocabulary, width)))

    def __call__(self, tokens: Array) -> Array:
        return self.embedding[...][tokens]


class Mlp(nnx.Module):
    """Two dense layers with a GELU, or with `gated` swish(gate) * (SwiGLU), and dropout between them."""

    def __init__(
        self, width: int, mlp_dim: int, *, gelu: str, dropout: float = 0.0, gated: bool = False, bias: bool = True
    ):  # fmt: skip
        self.gate = Dense(width, mlp_dim) if gated else None
        self.fc1 = Dense(width, mlp_dim, bias=bias)
        self.fc2 = Dense(mlp_dim, width, bias=bias)
        self.gelu, self.dropout = gelu, dropout

    def __call__(self, x: Array, seeds: Array | None = None) -> Array:  # [B, L, D]
        hidden = jax.nn.silu(self.gate(x)) * self.fc1(x) if self.gate else gelu(self.fc1(x), self.gelu)
        return self.fc2(dropout(hidden, seeds, self.dropout))


class Attention(nnx.Module):
    """Multi-head scaled dot-product attention (https://arxiv.org/abs/1706.03762); `causal`: to no later token.

    `visible` is False for tokens that none attends to (Keras has a use of its own for what is called mask). `biases` are
    the layers that have one; with `norm`, its epsilon, the queries and keys of each head are normalised; `rotation` then
    turns those of the last tokens (`rotated`). Keys and values are of tokens of `seen_width`, by default the same.
    """

    def __init__(
        self, width: int, num_heads: int, *, causal: bool = False, biases: tuple[str, ...] = ATTENTION,
        norm: float | None = None, seen_width: int | None = None,
    ):  # fmt: skip
        widths = {"key": seen_width or width, "value": seen_width or width}
        self.query, self.key, self.value, self.out = (
            Dense(widths.get(part, width), width, bias=part in biases) for part in ATTENTION
        )
        self.query_norm, self.key_norm = (
            LayerNorm(width // num_heads, epsilon=norm) if norm else None for _ in range(2)
        )
        self.num_heads, self.causal = num_heads, causal

    # [B, Q, D], [B, L, D], [B, L], [2, B or 1, P, K] -> [B, Q, D]
    def __call__(self, queries: Array, x: Array, visible: Array | None = None, rotation: Array | None = None) -> Array:
        mask = None if visible is None else visible[:, None, None]
        return self.look(queries, *self.keys_and_values(x, rotation), mask, rotation)

    def keys_and_values(self, x: Array, rotation: Array | None = None) -> tuple[Array, Array]:
        """Keys and values [B, L, N, K] of tokens [B, L, D]."""
        key, value = self.by_head(self.key(x)), self.by_head(self.value(x))
        return rotated(self.key_norm(key) if self.key_norm else key, rotation), value

    def look(
        self, queries: Array, key: Array, value: Array, mask: Array | None = None, rotation: Array | None = None
    ) -> Array:
        """What tokens [B, Q, D] find among keys and values [B, L, N, K]; a mask broadcasts to [B, N, Q, L]."""
        query = self.asked(queries, rotation)
        mask = jnp.tri(key.shape[1], dtype=bool) if self.causal else mask
        return self.out(attend(query, key, value, mask).reshape(queries.shape))

    def asked(self, queries: Array, rotation: Array | None) -> Array:
        """Queries [B, Q, N, K] of tokens [B, Q, D]."""
        query = self.by_head(self.query(queries))
        return rotated(self.query_norm(query) if self.query_norm else query, rotation)

    def by_head(self, values: Array) -> Array:
        """[B, L, D] -> [B, L, N, K]."""
        return values.reshape(*values.shape[:2], self.num_heads, -1)

    def shares(self, queries: Array, x: Array, visible: Array | None, rotation: Array | None, some: slice) -> Array:
        """[B, N, some, L]: what part of the attention of some of the queries each token has, in every head."""
        query, key = self.asked(queries, rotation), self.keys_and_values(x, rotation)[0]
        query, key = query[:, some].swapaxes(1, 2), key.swapaxes(1, 2)
        return attention_weights(query, key, None if visible is None else visible[:, None, None])


def attend(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    """Values [B, L, N, K] averaged by the softmax of scaled products of queries and keys: [B, Q, N, K].

    A mask, which broadcasts to [B, N, Q, L], is False for pairs that have no part in it.
    """
    # Not jax.nn.dot_product_attention: its layout makes the products twice as slow on a CPU, its softmax is float32.
    query, key, value = (values.swapaxes(1, 2) for values in (query, key, value))  # [B, N, L, K]
    weights = attention_weights(query, key, mask).astype(value.dtype)
    return jnp.einsum("bnql,bnlk->bnqk", weights, value, precision=HIGHEST).swapaxes(1, 2)


def attention_weights(query: Array, key: Array, mask: Array | None) -> Array:
    """The softmax, at least in float32, of scaled products of queries and keys [B, N, L, K]: [B, N, Q, L]."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    weights = jnp.einsum("bnqk,bnlk->bnql", query, key, precision=HIGHEST, preferred_element_type=wide)
    weights = weights / query.shape[-1] ** 0.5
    return softmax(weights if mask is None else jnp.where(mask, weights, -jnp.inf))


@jax.custom_vjp
def softmax(x: Array) -> Array:
    """Softmax over the last axis.

    With the gradient that JAX finds by itself, a training step of ViT-S/16 on a CPU takes a twenty-fifth longer.
    """
    return jax.nn.softmax(x)


def softmax_forward(x: Array) -> tuple[Array, Array]:
    """The result, which is all that its gradient needs."""
    result = jax.nn.softmax(x)
    return result, result


def softmax_backward(result: Array, gradient: Array) -> tuple[Array]:
    """Of the gradient, what does not change the sum."""
    return (result * (gradient - jnp.sum(result * gradient, -1, keepdims=True)),)


softmax.defvjp(softmax_forward, softmax_backward)


class LayerScale(nnx.Module):
    """A factor for each channel (https://arxiv.org/abs/2103.17239), in the type of its input."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: Array) -> Array:  # [..., D]
        return x * self.scale[...].astype(x.dtype)


def turned_as(rotation: Array, kept_patches: Array | None) -> Array:
    """`rotation` [2, P, K] for all images alike [2, 1, P, K], or for the patches that each has kept [2, B, kept, K]."""
    return rotation[:, None] if kept_patches is None else rotation[:, kept_patches]


def rotated(x: Array, rotation: Array | None) -> Array:
    """x [B, L, N, K] with pairs of channels of the last P tokens turned by the angles of `rotation` [2, B or 1, P, K].

    These are cosines and sines; the channels of the two halves of a head form pairs. Without a rotation, unchanged.
    """
    if rotation is None:
        return x
    cosine, sine = rotation[:, :, :, None]
    still, turning = x[:, : -sine.shape[1]], x[:, -sine.shape[1] :]
    first, second = jnp.split(turning, 2, -1)
    return jnp.concatenate([still, turning * cosine + jnp.concatenate([-second, first], -1) * sine], 1)


def normed_patches(x: Array, norm: LayerNorm, patch_size: tuple[int, int]) -> Array:
    """[B, H, W, C] with the pixels of each patch normalised, in rows with the channels last; what is no patch is cut."""
    (height, width), channels = patch_size, x.shape[3]
    rows, columns = x.shape[1] // height, x.shape[2] // width
    x = x[:, : rows * height, : columns * width]
    x = x.reshape(-1, rows, height, columns, width, channels).swapaxes(2, 3)  # [B, R, C, h, w, c]
    x = norm(x.reshape(-1, rows, columns, height * width * channels))
    x = x.reshape(-1, rows, columns, height, width, channels).swapaxes(2, 3)
    return x.reshape(-1, rows * height, columns * width, channels)


def convolve(x: Array, kernel: Array, stride: tuple[int, int], padding: str | tuple) -> Array:
    """[B, H, W, C] with a kernel HWIO, in the type of x."""
    layout = ("NHWC", "HWIO", "NHWC")
    kernel = kernel.astype(x.dtype)
    if kernel.shape[:2] == (1, 1):  # a product of matrices, for which XLA is faster, most of all in the backward pass
        x = x[:, :: stride[0], :: stride[1]]
        rows = jnp.dot(x.reshape(-1, x.shape[-1]), kernel[0, 0], precision=HIGHEST)
        return rows.reshape(*x.shape[:-1], -1)
    return lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=layout, precision=HIGHEST)


def gelu(x: Array, kind: str) -> Array:
    """GELU (https://arxiv.org/abs/1606.08415): `erf` exactly, its `tanh` approximation, or OpenAI's `quick` one."""
    if kind == "quick":
        return x * jax.nn.sigmoid(1.702 * x)
    return jax.nn.gelu(x, approximate=kind == "tanh")


def dropout(x: Array, seeds: Array | None, rate: float) -> Array:
    """x [B, ...] with elements zeroed at `rate` and the others scaled up; unchanged without seeds, in evaluation.

    Whether an element stays is a hash of its place and of its example's seeds, int32 [B, 2]: the same numbers in every
    engine, however a batch is split and in whatever order layers are computed.
    """
    if seeds is None or rate == 0:
        return x
    kept = random_bits(seeds, x[0].size) >= round(rate * 2**24)
    return x * kept.reshape(x.shape).astype(x.dtype) / (1 - rate)


def random_bits(seeds: Array, count: int) -> Array:
    """[B, count] of 24 random bits each: a 32-bit mix (https://github.com/skeeto/hash-prospector) of the place."""
    seeds = lax.bitcast_convert_type(seeds, jnp.uint32)
    bits = jnp.arange(count, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9) ^ seeds[:, :1]
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D) + seeds[:, 1:]
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return (bits ^ (bits >> 16)) >> 8


def drop_branch(x: Array, kept: Array | None) -> Array:
    """x [B, ...] where `kept`, bool [B], else 0; not rescaled, as in the originals. Without `kept`, unchanged."""
    return x if kept is None else x * kept.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)


def keep_patches(x: Array, kept_patches: Array | None, count: int) -> Array:
    """Tokens [B, L, D] without those of the last `count`, the patches, that `kept_patches`, int32 [B, K], does not number.

    Without `kept_patches`, unchanged.
    """
    if kept_patches is None:
        return x
    others, patches = x[:, :-count], x[:, -count:]
    return jnp.concatenate([others, jnp.take_along_axis(patches, kept_patches[:, :, None], 1)], 1)


def resized(x: Array, matrices: resizing.Matrices) -> Array:
    """x [rows, columns, ...] at another size (common/models/resizing.py)."""
    rows, columns = (jnp.asarray(matrix, x.dtype) for matrix in matrices)
    return jnp.einsum("ai,bj,ij...->ab...", rows, columns, x, precision=HIGHEST)


def regrid(positions: Array, grid: tuple[int, int], new_grid: tuple[int, int]) -> Array:
    """Positions [1, L, D] for another grid of patches; a row for the class token stays as it is."""
    first, rows = jnp.split(positions, [positions.shape[1] - math.prod(grid)], axis=1)
    rows = resized(rows.reshape(*grid, -1), resizing.position_matrices(grid, new_grid))
    return jnp.concatenate([first, rows.reshape(1, -1, positions.shape[-1])], axis=1)


def fixed_positions(grid: tuple[int, int], width: int, dtype: jnp.dtype) -> Array:
    """[1, L, D] sine and cosine positions."""
    return jnp.asarray(sincos2d(*grid, width), dtype)


def fixed_rotation(grid: tuple[int, int], width: int, dtype: jnp.dtype) -> Array:
    """[2, L, K] cosines and sines of rotary positions, for heads of this width."""
    return jnp.asarray(rotary(*grid, width), dtype)


def positions_in(positions: Array, grid: tuple[int, int], coordinates: Array) -> Array:
    """Positions [1, L, D] of a grid for patches at int `coordinates` [B, P, 2] of images of as many rows and columns as
    these need: [B, P, D], after what is no patch. Each image has its own resizing, as in common/models/resizing.py, of which
    a patch takes one row of either axis: any number of patches on a side is right, in static shapes.

    Source: `_pos_emb_resize` of big_vision's `models/proj/image_text/naflex_vit.py`, which is NaN beyond 64 on a side.
    """
    count, sides = math.prod(grid), coordinates.max(1) + 1
    rows, columns = (
        weights_of(coordinates[:, :, axis], sides[:, axis], grid[axis], positions.dtype) for axis in range(2)
    )
    weights = (rows[:, :, :, None] * columns[:, :, None]).reshape(*coordinates.shape[:2], count)
    first, patches = positions[:, : positions.shape[1] - count], positions[0, positions.shape[1] - count :]
    first = jnp.tile(first, (len(weights), 1, 1))
    return jnp.concatenate([first, jnp.matmul(weights, patches, precision=HIGHEST)], 1)


def weights_of(places: Array, new: Array, old: int, dtype: jnp.dtype) -> Array:
    """[B, P, old]: by which weights the places [B, P] of a side of `new` [B] see those of a side of `old`, antialiased."""
    scale = old / new[:, None].astype(dtype)
    distance = ((places.astype(dtype) + 0.5) * scale - 0.5)[:, :, None] - jnp.arange(old)
    weights = (1 - jnp.abs(distance) / jnp.maximum(scale, 1)[:, :, None]).clip(0)
    return weights / weights.sum(2, keepdims=True)


def seen(patch_mask: Array, num_prefix: int) -> Array:
    """bool [B, tokens]: which are seen: those before the patches, and the patches of `patch_mask` [B, P].

    A row without any patch, the padding of a batch, sees all: it has no meaning, but is a number.
    """
    mask = patch_mask | ~patch_mask.any(1, keepdims=True)
    return jnp.pad(mask, ((0, 0), (num_prefix, 0)), constant_values=True)


def mean(x: Array, mask: Array | None) -> Array:
    """[B, D]: the mean of tokens [B, L, D], of those of `mask` [B, L] where it is given."""
    if mask is None:
        return x.mean(1)
    mask = mask[:, :, None].astype(x.dtype)
    return (x * mask).sum(1) / mask.sum(1)


def on_grid(x: Array, grid: tuple[int, int]) -> Array:
    """The patches of tokens [B, L, D], without a class token before them: [B, rows, columns, D]."""
    return x[:, -math.prod(grid) :].reshape(-1, *grid, x.shape[-1])


def max_pool(x: Array, padding: str = "zero") -> Array:
    """3x3 maximum with stride 2. In the original BiT the border is padded with zeros, not with -infinity ("lowest").

    "same" pads with -infinity what makes the output the input's size / 2: on even sizes, bottom and right only.
    """
    for axis in (2, 1):  # of equal values the first row has the gradient, and in it the first column
        padded = [(0, 0)] * x.ndim
        padded[axis] = (0 if padding == "same" and x.shape[axis] % 2 == 0 else 1, 1)
        x = largest_of_three(jnp.pad(x, padded, constant_values=0.0 if padding == "zero" else -jnp.inf), axis)
    return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def largest_of_three(x: Array, axis: int) -> Array:
    """Along an axis the maxima of x[0:3], x[2:5] and so on, of which there are (length - 1) // 2.

    XLA's own max-pool takes a fourfold time with its gradient, on a CPU.
    """
    return largest_forward(x, axis)[0]


def largest_forward(x: Array, axis: int) -> tuple[Array, tuple]:
    """The result, and what its gradient needs: where the first and where else the second is the largest."""
    end = (x.shape[axis] - 1) // 2 * 2
    first, second, third = (lax.slice_in_dim(x, i, end - 1 + i, 2, axis) for i in range(3))
    is_first, is_second = (first >= second) & (first >= third), second >= third
    return jnp.maximum(jnp.maximum(first, second), third), (is_first, is_second, x.shape[axis])


def largest_backward(axis: int, saved: tuple, gradient: Array) -> tuple[Array]:
    """Elements of even number are the first of one triple and the third of the one before, odd ones are a second."""
    is_first, is_second, length = saved
    zeros = jnp.zeros_like(lax.slice_in_dim(gradient, 0, 1, 1, axis))
    others = jnp.where(is_first, 0, gradient)
    firsts = jnp.concatenate([jnp.where(is_first, gradient, 0), zeros], axis)
    evens = firsts + jnp.concatenate([zeros, jnp.where(is_second, 0, others)], axis)
    odds = jnp.concatenate([jnp.where(is_second, others, 0), zeros], axis)
    shape = (*gradient.shape[:axis], -1, *gradient.shape[axis + 1 :])
    return (lax.slice_in_dim(jnp.stack([evens, odds], axis + 1).reshape(shape), 0, length, 1, axis),)


largest_of_three.defvjp(largest_forward, largest_backward)
