"""The layers in which frameworks differ: convolutions, norms, dense layers, GELU, attention, dropout and max-pools.

Activations flow in the type of the images; parameters, norms and standardisation keep the type of the parameters.
Every variable exists once a layer is constructed.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Self

import keras
import tensorflow as tf
from tensorflow import Tensor

from common.models import resizing
from common.models.positions import rotary, sincos2d
from common.models.transformer import ATTENTION


def uninitialized(shape: tuple[int, ...], dtype: str) -> Tensor:
    """Memory that nothing has touched yet: kernels, the bulk of a model, get their values on loading."""
    return tf.raw_ops.Empty(shape=shape, dtype=dtype)


registered = keras.saving.register_keras_serializable("bit_zoo")  # Keras makes nothing else of ours from a file


@contextlib.contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """What is constructed here has this policy, whatever the user's own is."""
    users_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(users_policy)


class Traced(keras.layers.Layer):
    """The shape and type of a layer's output before it is called; `call` is traced."""

    def compute_output_spec(self, *args, **kwargs) -> keras.KerasTensor:
        return super(keras.layers.Layer, self).compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self.compute_output_spec(keras.KerasTensor(input_shape, self.variable_dtype)).shape


class Layer(Traced):
    """A layer that is whole once it is constructed: `build` only notes the shape of the input (`Model.build`)."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.built = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        pass

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """A layer like another one, with Keras's usual initial values."""
        with dtype_policy(keras.dtype_policies.get(config["dtype"])):
            layer = super().from_config(config)
        for value in layer.weights:
            if value.name == "kernel":
                value.assign(keras.initializers.GlorotUniform()(value.shape, value.dtype))
        return layer


@registered
class StdConv(Layer):
    """Convolution without bias whose kernel is standardised over H, W and input channels.

    Source: Weight Standardization (https://arxiv.org/abs/1903.10520); epsilon is added to the biased variance, or to
    the deviation. Padding is symmetric, or that which makes the output the input's size / stride ("same").
    """

    def __init__(
        self, in_width: int, out_width: int, kernel_size: int, *, stride: int = 1, epsilon: float,
        standardization: str = "variance", same: bool = False, **kwargs,
    ):  # fmt: skip
        super().__init__(**kwargs)
        self.kernel = self.add_weight((kernel_size, kernel_size, in_width, out_width), uninitialized, name="kernel")
        self.stride, self.same, self.padding = stride, same, (kernel_size - 1) // 2
        self.epsilon, self.standardization = epsilon, standardization

    def call(self, x: Tensor) -> Tensor:  # [B, H, W, C]
        kernel = tf.cast(self.standardized_kernel(), x.dtype)
        if self.same or self.stride == 1:  # where nothing strides, "SAME" is symmetric
            return tf.nn.conv2d(x, kernel, self.stride, "SAME")
        # Not conv2d's own explicit padding: its backward pass on a CPU takes half as long again.
        x = tf.pad(x, ((0, 0), (self.padding, self.padding), (self.padding, self.padding), (0, 0)))
        return tf.nn.conv2d(x, kernel, self.stride, "VALID")

    def standardized_kernel(self) -> Tensor:  # [H, W, I, O]
        kernel = tf.convert_to_tensor(self.kernel)
        if self.standardization == "done":
            return kernel
        return standardized(kernel, self.epsilon, self.standardization == "deviation")


def standardized(kernel: Tensor, epsilon: float, to_deviation: bool) -> Tensor:
    """(kernel - mean) / sqrt(variance + epsilon), or / (deviation + epsilon), over all but the last axis of [H, W, I, O].

    With the gradient that TensorFlow finds by itself, five arrays of the size of all kernels wait for the end of a step.
    """

    @tf.custom_gradient
    def normed(kernel: Tensor) -> tuple[Tensor, Callable]:
        mean, variance = tf.nn.moments(kernel, (0, 1, 2))
        scale = tf.sqrt(variance) + epsilon if to_deviation else tf.sqrt(variance + epsilon)
        result = (kernel - mean) / scale

        def backward(gradient: Tensor) -> Tensor:
            """Of the gradient, what changes neither mean nor variance."""
            along = tf.reduce_mean(gradient * result, (0, 1, 2))
            along = along * scale / tf.sqrt(variance) if to_deviation else along
            return (gradient - tf.reduce_mean(gradient, (0, 1, 2)) - result * along) / scale

        return result, backward

    return normed(kernel)


def standardize_once(model: keras.Model) -> None:
    """Put the standardised kernels in the place of the kernels: the same outputs, sooner, of a model that stays as it is.

    It must not be trained or saved afterwards.
    """
    for conv in model._flatten_layers(recursive=True):
        if isinstance(conv, StdConv):
            conv.kernel.assign(conv.standardized_kernel())
            conv.standardization = "done"


@registered
class GroupNorm(Layer):
    """Group norm in the type of its parameters (https://arxiv.org/abs/1803.08494)."""

    def __init__(self, width: int, *, num_groups: int, epsilon: float, **kwargs):
        super().__init__(**kwargs)
        self.scale = self.add_weight((width,), "zeros", name="scale")
        self.bias = self.add_weight((width,), "zeros", name="bias")
        self.num_groups, self.epsilon = num_groups, epsilon

    def call(self, x: Tensor) -> Tensor:  # [B, H, W, C]
        values, scale, bias = tf.cast(x, self.dtype), tf.convert_to_tensor(self.scale), tf.convert_to_tensor(self.bias)
        return tf.cast(group_norm(values, scale, bias, self.num_groups, self.epsilon), x.dtype)


def group_norm(values: Tensor, scale: Tensor, bias: Tensor, num_groups: int, epsilon: float) -> Tensor:
    """(values - mean) / sqrt(variance + epsilon) * scale + bias, of [B, H, W, C] and [C].

    With the gradient that TensorFlow finds by itself, a training step of R50x1 on a CPU takes a twentieth longer.
    """

    @tf.custom_gradient
    def normed(values: Tensor, scale: Tensor, bias: Tensor) -> tuple[Tensor, Callable]:
        mean = group_mean(tf.reduce_mean(values, (1, 2)), num_groups)
        variance = group_mean(tf.reduce_mean(tf.square(values - mean), (1, 2)), num_groups)  # stable: of deviations
        factor = 1 / tf.sqrt(variance + epsilon)

        def backward(gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Of the gradient, what changes neither mean nor variance; its sums over H and W serve all three."""
            normed, size = (values - mean) * factor, tf.cast(tf.reduce_prod(tf.shape(values)[1:3]), values.dtype)
            sums, along = tf.reduce_sum(gradient, (1, 2)), tf.reduce_sum(gradient * normed, (1, 2))  # [B, C]
            means = group_mean(sums * scale / size, num_groups) + normed * group_mean(along * scale / size, num_groups)
            return factor * (gradient * scale - means), tf.reduce_sum(along, 0), tf.reduce_sum(sums, 0)

        return (values - mean) * (factor * scale) + bias, backward

    return normed(values, scale, bias)


def group_mean(means: Tensor, num_groups: int) -> Tensor:
    """Of means [B, C], those of the channels of a group, for each channel: [B, 1, 1, C]."""
    grouped = tf.reshape(means, (-1, num_groups, means.shape[1] // num_groups))
    grouped = tf.broadcast_to(tf.reduce_mean(grouped, 2, keepdims=True), tf.shape(grouped))
    return tf.reshape(grouped, (-1, 1, 1, means.shape[1]))


@registered
class LayerNorm(Layer):
    """Layer norm over the last axis, in the type of its parameters (https://arxiv.org/abs/1607.06450)."""

    def __init__(self, width: int, *, epsilon: float, bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.scale = self.add_weight((width,), "zeros", name="scale")
        self.bias = self.add_weight((width,), "zeros", name="bias") if bias else None
        self.epsilon = epsilon

    def call(self, x: Tensor) -> Tensor:  # [..., D]
        values = tf.cast(x, self.dtype)
        values -= tf.reduce_mean(values, -1, keepdims=True)
        variance = tf.reduce_mean(tf.square(values), -1, keepdims=True)  # stable: of deviations
        values = values * tf.math.rsqrt(variance + self.epsilon) * self.scale
        return tf.cast(values if self.bias is None else values + self.bias, x.dtype)


@registered
class Dense(Layer):
    """Dense layer in the type of its input; with `adapt`, LoRA's matrices learn in the place of its kernel."""

    def __init__(self, in_width: int, out_width: int, *, bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.kernel = self.add_weight((in_width, out_width), uninitialized, name="kernel")
        self.bias = self.add_weight((out_width,), "zeros", name="bias") if bias else None
        self.lora_a = self.lora_b = None

    def adapt(self, rank: int, scale: float) -> None:
        """Add lora_a [in, rank] and lora_b [rank, out], whose product, times `scale`, is added to the kernel."""
        in_width, out_width = self.kernel.shape
        self.lora_a = self.add_weight((in_width, rank), "zeros", name="lora_a")
        self.lora_b = self.add_weight((rank, out_width), "zeros", name="lora_b")
        self.lora_scale = scale

    def call(self, x: Tensor) -> Tensor:  # [..., D]
        # As one product of matrices: of a batch of them, TensorFlow sums the kernel's gradients afterwards.
        flat = tf.reshape(x, (-1, x.shape[-1]))
        rows = tf.matmul(flat, tf.cast(self.kernel, x.dtype))
        rows = rows if self.bias is None else tf.nn.bias_add(rows, tf.cast(self.bias, x.dtype))
        if self.lora_a is not None:
            inner = tf.matmul(flat, tf.cast(self.lora_a, x.dtype))
            rows += self.lora_scale * tf.matmul(inner, tf.cast(self.lora_b, x.dtype))
        return tf.reshape(rows, (-1, *x.shape[1:-1], rows.shape[-1]))


@registered
class PatchEmbedding(Layer):
    """Convolution of patches that do not overlap, as tokens: [B, H, W, C] to [B, L, D], in rows of patches.

    The kernel is resized where patches have another `patch_size` than it has.
    """

    def __init__(self, in_width: int, out_width: int, kernel_size: tuple[int, int], *, bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.kernel = self.add_weight((*kernel_size, in_width, out_width), uninitialized, name="kernel")
        self.bias = self.add_weight((out_width,), "zeros", name="bias") if bias else None
        self.kernel_size = kernel_size

    def call(self, x: Tensor, patch_size: tuple[int, int] | None = None) -> Tensor:
        kernel, patch_size = tf.convert_to_tensor(self.kernel), patch_size or self.kernel_size
        if patch_size != self.kernel_size:
            kernel = resized(kernel, resizing.kernel_matrices(self.kernel_size, patch_size))
        x = tf.nn.conv2d(x, tf.cast(kernel, x.dtype), patch_size, "VALID")
        x = x if self.bias is None else x + tf.cast(self.bias, x.dtype)
        return tf.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))


@registered
class TokenEmbedding(Layer):
    """A table of tokens: int [B, L] to [B, L, D], in the type of the table."""

    def __init__(self, vocabulary: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.embedding = self.add_weight((vocabulary, width), uninitialized, name="embedding")

    def call(self, tokens: Tensor) -> Tensor:
        return tf.gather(tf.convert_to_tensor(self.embedding), tokens)


@registered
class Mlp(Layer):
    """Two dense layers with a GELU, or with `gated` swish(gate) * (SwiGLU), and dropout between them."""

    def __init__(
        self, width: int, mlp_dim: int, *, gelu: str, dropout: float = 0.0, gated: bool = False, bias: bool = True,
        **kwargs,
    ):  # fmt: skip
        super().__init__(**kwargs)
        self.gate = Dense(width, mlp_dim) if gated else None
        self.fc1 = Dense(width, mlp_dim, bias=bias)
        self.fc2 = Dense(mlp_dim, width, bias=bias)
        self.gelu, self.dropout = gelu, dropout

    def call(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:  # [B, L, D]
        hidden = tf.nn.silu(self.gate(x)) * self.fc1(x) if self.gate else gelu(self.fc1(x), self.gelu)
        return self.fc2(dropout(hidden, seeds, self.dropout))


@registered
class Attention(Layer):
    """Multi-head scaled dot-product attention (https://arxiv.org/abs/1706.03762); `causal`: to no later token.

    `visible` is False for tokens that none attends to (Keras has a use of its own for what is called mask). `biases` are
    the layers that have one; with `norm`, its epsilon, the queries and keys of each head are normalised; `rotation` then
    turns those of the last tokens (`rotated`). Keys and values are of tokens of `seen_width`, by default the same.
    TensorFlow has no fused kernel.
    """

    def __init__(
        self, width: int, num_heads: int, *, causal: bool = False, biases: tuple[str, ...] = ATTENTION,
        norm: float | None = None, seen_width: int | None = None, **kwargs,
    ):  # fmt: skip
        super().__init__(**kwargs)
        widths = {"key": seen_width or width, "value": seen_width or width}
        self.query, self.key, self.value, self.out = (
            Dense(widths.get(part, width), width, bias=part in biases) for part in ATTENTION
        )
        self.query_norm, self.key_norm = (
            LayerNorm(width // num_heads, epsilon=norm) if norm else None for _ in range(2)
        )
        self.num_heads, self.causal = num_heads, causal

    # [B, Q, D], [B, L, D], [B, L], [2, B or 1, P, K] -> [B, Q, D]
    def call(self, queries: Tensor, x: Tensor, visible: Tensor | None = None, rotation: Tensor | None = None) -> Tensor:
        mask = None if visible is None else visible[:, None, None]
        return self.look(queries, *self.keys_and_values(x, rotation), mask, rotation)

    def keys_and_values(self, x: Tensor, rotation: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values [B, N, L, K] of tokens [B, L, D]."""
        key, value = self.by_head(self.key(x)), self.by_head(self.value(x))
        return rotated(self.key_norm(key) if self.key_norm else key, rotation), value

    def look(
        self, queries: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, rotation: Tensor | None = None
    ) -> Tensor:
        """What tokens [B, Q, D] find among keys and values [B, N, L, K]; a mask broadcasts to [B, N, Q, L]."""
        query = self.asked(queries, rotation)
        mask = tf.linalg.band_part(tf.ones((key.shape[2], key.shape[2]), tf.bool), -1, 0) if self.causal else mask
        heads = tf.matmul(tf.cast(self.attention_weights(query, key, mask), value.dtype), value)
        return self.out(tf.reshape(tf.transpose(heads, (0, 2, 1, 3)), (-1, *queries.shape[1:])))

    def attention_weights(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """The softmax, at least in float32, of scaled products of queries and keys [B, N, L, K]: [B, N, Q, L]."""
        weights = tf.matmul(query * query.shape[-1] ** -0.5, key, transpose_b=True)
        if weights.dtype == tf.bfloat16:
            weights = tf.cast(weights, self.dtype)
        weights = weights if mask is None else tf.where(mask, weights, tf.constant(-math.inf, weights.dtype))
        return tf.nn.softmax(weights)

    def asked(self, queries: Tensor, rotation: Tensor | None) -> Tensor:
        """Queries [B, N, Q, K] of tokens [B, Q, D]."""
        query = self.by_head(self.query(queries))
        return rotated(self.query_norm(query) if self.query_norm else query, rotation)

    def by_head(self, values: Tensor) -> Tensor:
        """[B, L, D] -> [B, N, L, K]."""
        heads = tf.reshape(values, (-1, values.shape[1], self.num_heads, values.shape[2] // self.num_heads))
        return tf.transpose(heads, (0, 2, 1, 3))

    def shares(
        self, queries: Tensor, x: Tensor, visible: Tensor | None, rotation: Tensor | None, some: slice
    ) -> Tensor:
        """[B, N, some, L]: what part of the attention of some of the queries each token has, in every head."""
        query, key = self.asked(queries, rotation), self.keys_and_values(x, rotation)[0]
        return self.attention_weights(query[:, :, some], key, None if visible is None else visible[:, None, None])


@registered
class LayerScale(Layer):
    """A factor for each channel (https://arxiv.org/abs/2103.17239), in the type of its input."""

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.scale = self.add_weight((width,), "ones", name="scale")

    def call(self, x: Tensor) -> Tensor:  # [..., D]
        return x * tf.cast(self.scale, x.dtype)


def turned_as(rotation: Tensor, kept_patches: Tensor | None) -> Tensor:
    """`rotation` [2, P, K] for all images alike [2, 1, P, K], or for the patches that each has kept [2, B, kept, K]."""
    return rotation[:, None] if kept_patches is None else tf.gather(rotation, kept_patches, axis=1)


def rotated(x: Tensor, rotation: Tensor | None) -> Tensor:
    """x [B, N, L, K] with pairs of channels of the last P tokens turned by the angles of `rotation` [2, B or 1, P, K].

    These are cosines and sines; the channels of the two halves of a head form pairs. Without a rotation, unchanged.
    """
    if rotation is None:
        return x
    cosine, sine = tf.unstack(rotation[:, :, None])
    still, turning = x[:, :, : -sine.shape[2]], x[:, :, -sine.shape[2] :]
    first, second = tf.split(turning, 2, -1)
    return tf.concat([still, turning * cosine + tf.concat([-second, first], -1) * sine], 2)


def normed_patches(x: Tensor, norm: LayerNorm, patch_size: tuple[int, int]) -> Tensor:
    """[B, H, W, C] with the pixels of each patch normalised, in rows with the channels last; what is no patch is cut."""
    (height, width), channels = patch_size, x.shape[3]
    rows, columns = x.shape[1] // height, x.shape[2] // width
    x = x[:, : rows * height, : columns * width]
    x = tf.reshape(x, (-1, rows, height, columns, width, channels))
    x = tf.transpose(x, (0, 1, 3, 2, 4, 5))  # [B, R, C, h, w, c]
    x = norm(tf.reshape(x, (-1, rows, columns, height * width * channels)))
    x = tf.transpose(tf.reshape(x, (-1, rows, columns, height, width, channels)), (0, 1, 3, 2, 4, 5))
    return tf.reshape(x, (-1, rows * height, columns * width, channels))


def gelu(x: Tensor, kind: str) -> Tensor:
    """GELU (https://arxiv.org/abs/1606.08415): `erf` exactly, its `tanh` approximation, or OpenAI's `quick` one."""
    if kind == "quick":
        return x * tf.sigmoid(1.702 * x)
    # Not tf.nn.gelu, whose constants are rounded to float32 whatever the type of x is: in float64 it is right to 4e-9.
    if kind == "erf":
        return 0.5 * x * (1 + tf.math.erf(math.sqrt(0.5) * x))
    return 0.5 * x * (1 + tf.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def dropout(x: Tensor, seeds: Tensor | None, rate: float) -> Tensor:
    """x [B, ...] with elements zeroed at `rate` and the others scaled up; unchanged without seeds, in evaluation.

    Whether an element stays is a hash of its place and of its example's seeds, int32 [B, 2]: the same numbers in every
    engine, however a batch is split and in whatever order layers are computed.
    """
    if seeds is None or rate == 0:
        return x
    kept = random_bits(seeds, math.prod(x.shape[1:])) >= round(rate * 2**24)
    return x * tf.cast(tf.reshape(kept, tf.shape(x)), x.dtype) / (1 - rate)


def random_bits(seeds: Tensor, count: int) -> Tensor:
    """[B, count] of 24 random bits each: a 32-bit mix (https://github.com/skeeto/hash-prospector) of the place."""
    xor, right_shift = tf.bitwise.bitwise_xor, tf.bitwise.right_shift
    seeds = tf.bitcast(seeds, tf.uint32)
    bits = xor(tf.cast(tf.range(count), tf.uint32) * tf.constant(0x9E3779B9, tf.uint32), seeds[:, :1])
    bits = xor(bits, right_shift(bits, 16)) * tf.constant(0x7FEB352D, tf.uint32) + seeds[:, 1:]
    bits = xor(bits, right_shift(bits, 15)) * tf.constant(0x846CA68B, tf.uint32)
    return tf.cast(right_shift(xor(bits, right_shift(bits, 16)), 8), tf.int32)


def drop_branch(x: Tensor, kept: Tensor | None) -> Tensor:
    """x [B, ...] where `kept`, bool [B], else 0; not rescaled, as in the originals. Without `kept`, unchanged."""
    return x if kept is None else x * tf.cast(tf.reshape(kept, (-1, *[1] * (x.shape.rank - 1))), x.dtype)


def keep_patches(x: Tensor, kept_patches: Tensor | None, count: int) -> Tensor:
    """Tokens [B, L, D] without those of the last `count`, the patches, that `kept_patches`, int32 [B, K], does not number.

    Without `kept_patches`, unchanged.
    """
    if kept_patches is None:
        return x
    others, patches = x[:, :-count], x[:, -count:]
    return tf.concat([others, tf.gather(patches, kept_patches, batch_dims=1)], 1)


def resized(x: Tensor, matrices: resizing.Matrices) -> Tensor:
    """x [rows, columns, ...] at another size (common/models/resizing.py)."""
    rows, columns = (tf.constant(matrix, x.dtype) for matrix in matrices)
    return tf.einsum("bj,aj...->ab...", columns, tf.einsum("ai,ij...->aj...", rows, x))


def regrid(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Positions [1, L, D] for another grid of patches; a row for the class token stays as it is."""
    count = math.prod(grid)
    first, rows = tf.split(positions, [positions.shape[1] - count, count], axis=1)
    rows = resized(tf.reshape(rows, (*grid, -1)), resizing.position_matrices(grid, new_grid))
    return tf.concat([first, tf.reshape(rows, (1, -1, positions.shape[-1]))], axis=1)


def fixed_positions(grid: tuple[int, int], width: int, dtype: tf.DType) -> Tensor:
    """[1, L, D] sine and cosine positions."""
    return tf.constant(sincos2d(*grid, width), dtype)


def fixed_rotation(grid: tuple[int, int], width: int, dtype: tf.DType) -> Tensor:
    """[2, L, K] cosines and sines of rotary positions, for heads of this width."""
    return tf.constant(rotary(*grid, width), dtype)


def positions_in(positions: Tensor, grid: tuple[int, int], coordinates: Tensor) -> Tensor:
    """Positions [1, L, D] of a grid for patches at int `coordinates` [B, P, 2] of images of as many rows and columns as
    these need: [B, P, D], after what is no patch. Each image has its own resizing, as in common/models/resizing.py, of which
    a patch takes one row of either axis: any number of patches on a side is right, in static shapes.

    Source: `_pos_emb_resize` of big_vision's `models/proj/image_text/naflex_vit.py`, which is NaN beyond 64 on a side.
    """
    count, sides = math.prod(grid), tf.reduce_max(coordinates, 1) + 1
    rows, columns = (
        weights_of(coordinates[:, :, axis], sides[:, axis], grid[axis], positions.dtype) for axis in range(2)
    )
    weights = tf.reshape(rows[:, :, :, None] * columns[:, :, None], (-1, coordinates.shape[1], count))
    first, patches = positions[:, : positions.shape[1] - count], positions[0, positions.shape[1] - count :]
    first = tf.tile(first, (tf.shape(weights)[0], 1, 1))
    return tf.concat([first, tf.matmul(weights, patches)], 1)


def weights_of(places: Tensor, new: Tensor, old: int, dtype: tf.DType) -> Tensor:
    """[B, P, old]: by which weights the places [B, P] of a side of `new` [B] see those of a side of `old`, antialiased."""
    scale = old / tf.cast(new[:, None], dtype)
    distance = ((tf.cast(places, dtype) + 0.5) * scale - 0.5)[:, :, None] - tf.range(old, dtype=dtype)
    weights = tf.maximum(1 - tf.abs(distance) / tf.maximum(scale, 1)[:, :, None], 0)
    return weights / tf.reduce_sum(weights, 2, keepdims=True)


def seen(patch_mask: Tensor, num_prefix: int) -> Tensor:
    """bool [B, tokens]: which are seen: those before the patches, and the patches of `patch_mask` [B, P].

    A row without any patch, the padding of a batch, sees all: it has no meaning, but is a number.
    """
    mask = patch_mask | ~tf.reduce_any(patch_mask, 1, keepdims=True)
    return tf.pad(mask, ((0, 0), (num_prefix, 0)), constant_values=True)


def mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """[B, D]: the mean of tokens [B, L, D], of those of `mask` [B, L] where it is given."""
    if mask is None:
        return tf.reduce_mean(x, 1)
    mask = tf.cast(mask[:, :, None], x.dtype)
    return tf.reduce_sum(x * mask, 1) / tf.reduce_sum(mask, 1)


def on_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The patches of tokens [B, L, D], without a class token before them: [B, rows, columns, D]."""
    return tf.reshape(x[:, -math.prod(grid) :], (-1, *grid, x.shape[-1]))


def max_pool(x: Tensor, padding: str = "zero") -> Tensor:
    """3x3 maximum with stride 2. In the original BiT the border is padded with zeros, not with -infinity ("lowest").

    "same" pads with -infinity what makes the output the input's size / 2: on even sizes, bottom and right only.
    """
    if padding == "same":
        return tf.nn.max_pool2d(x, 3, 2, "SAME")
    border = 0.0 if padding == "zero" else -math.inf
    return tf.nn.max_pool2d(tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=border), 3, 2, "VALID")
