"""The layers in which frameworks differ: convolutions, norms, dense layers, GELU, attention, dropout and max-pools.

Activations flow in the type of the images; parameters, norms and standardisation keep the type of the parameters.
Layers have the constructors of those of `torch.nn` that they are, so that tools can look at them and make more of them.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.models import ResNetConfig, ViTConfig, resizing
from common.models.family import check_image
from common.models.positions import sincos2d
from common.models.transformer import ATTENTION


class StdConv(nn.Conv2d):
    """`nn.Conv2d` whose kernel is standardised over H, W and input channels.

    Source: Weight Standardization (https://arxiv.org/abs/1903.10520); epsilon is added to the biased variance, or to
    the deviation. `same` pads before, such that the output is the input's size / stride.
    """

    def __init__(
        self, *arguments: Any, epsilon: float = ResNetConfig.standardization_epsilon,
        standardization: str = "variance", same: bool = False, **options: Any,
    ):  # fmt: skip
        super().__init__(*arguments, **options)
        self.epsilon, self.standardization, self.same = epsilon, standardization, same

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        if self.same:
            x = pad_same(x, self.kernel_size[0], self.stride[0])
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return self._conv_forward(x, self.standardized_kernel().to(x.dtype), bias)

    def standardized_kernel(self) -> Tensor:  # [O, I, H, W]
        if self.standardization == "done":
            return self.weight
        if self.standardization == "variance":  # the formula of a layer norm, which is one fused operation
            return F.layer_norm(self.weight, self.weight.shape[1:], eps=self.epsilon)
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        return (self.weight - mean) / (torch.sqrt(variance) + self.epsilon)


@torch.no_grad()
def standardize_once(model: nn.Module) -> None:
    """Put the standardised kernels in the place of the kernels: the same outputs, sooner, of a model that stays as it is.

    It must not be trained or saved afterwards.
    """
    for conv in model.modules():
        if isinstance(conv, StdConv):
            conv.weight.copy_(conv.standardized_kernel())
            conv.standardization = "done"


class GroupNorm(nn.GroupNorm):
    """Group norm in the type of its parameters (https://arxiv.org/abs/1803.08494)."""

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        # PyTorch's channels-last kernel for the CPU is three times less precise: the contiguous one is as fast.
        return super().forward(x.to(self.weight.dtype).contiguous()).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis, in the type of its parameters (https://arxiv.org/abs/1607.06450)."""

    def forward(self, x: Tensor) -> Tensor:  # [..., D]
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class Dense(nn.Linear):
    """Dense layer in the type of its input; with `adapt`, LoRA's matrices learn in the place of its kernel."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.register_parameter("lora_a", None)
        self.register_parameter("lora_b", None)

    def adapt(self, rank: int, scale: float) -> None:
        """Add lora_a [in, rank] and lora_b [rank, out], whose product, times `scale`, is added to the kernel."""
        self.lora_a = nn.Parameter(torch.zeros(self.in_features, rank))
        self.lora_b = nn.Parameter(torch.zeros(rank, self.out_features))
        self.lora_scale = scale

    def forward(self, x: Tensor) -> Tensor:  # [..., D]
        out = product(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        if self.lora_a is None:
            return out
        return out + self.lora_scale * (x @ self.lora_a.to(x.dtype) @ self.lora_b.to(x.dtype))


def product(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`, in other ways on a CPU, where PyTorch asks MKL, which takes longer on AMD processors.

    oneDNN computes large ones in float32, in 0.87 of the time; with MKL's path for Intel, both take as long. In inference, few
    rows by many columns, such as the logits of a token, are computed with both exchanged, in 0.3 to 0.5 of the time.
    """
    plain = type(x) is Tensor and type(kernel) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()
    if not (plain and x.is_cpu and x.dtype == torch.float32):
        return F.linear(x, kernel, bias)
    if not torch.is_grad_enabled() and 1 < x.numel() // x.shape[-1] <= 8 and len(kernel) >= 16384:
        columns = kernel @ x.flatten(0, -2).t()
        rows = columns.t().contiguous().unflatten(0, x.shape[:-1])
        return rows if bias is None else rows + bias
    # Below so many values, and in one thread, PyTorch does not ask oneDNN.
    if x.numel() > 20480 and torch.get_num_threads() > 1:
        return Product.apply(x.flatten(0, -2), kernel, bias).unflatten(0, x.shape[:-1])
    return F.linear(x, kernel, bias)


class Product(torch.autograd.Function):
    """See `product`; the kernel's gradient stays a product, which MKL computes sooner."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        return by_convolution(rows, kernel, bias)

    @staticmethod
    def setup_context(context: Any, inputs: tuple, output: Tensor) -> None:
        context.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(context: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        (rows, kernel), (of_rows, of_kernel, of_bias) = context.saved_tensors, context.needs_input_grad
        return (
            convolution_slopes(slopes, rows, kernel) if of_rows else None,
            slopes.t() @ rows if of_kernel else None,
            slopes.sum(0) if of_bias else None,
        )


def by_convolution(rows: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """[M, out] of rows [M, in] and a kernel [out, in], as a convolution of an image of one row of pixels."""
    return as_rows(F.conv2d(as_image(rows), kernel[:, :, None, None], bias))


def convolution_slopes(slopes: Tensor, rows: Tensor, kernel: Tensor) -> Tensor:
    """Its gradient of the rows [M, in], of that of its result [M, out]."""
    geometry = [1, 1], [0, 0], [1, 1], False, [0, 0], 1  # stride, padding, dilation, not transposed, groups
    given = as_image(slopes), as_image(rows), kernel[:, :, None, None], None
    return as_rows(torch.ops.aten.convolution_backward(*given, *geometry, [True, False, False])[0])


def as_image(rows: Tensor) -> Tensor:
    """[M, C] as [1, C, 1, M], channels last."""
    return rows.reshape(1, 1, -1, rows.shape[1]).permute(0, 3, 1, 2)


def as_rows(image: Tensor) -> Tensor:
    """The inverse of `as_image`."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


class PatchEmbedding(nn.Conv2d):
    """Convolution of patches that do not overlap, as tokens: [B, C, H, W] to [B, L, D], in rows of patches.

    The stride is the usual size of a patch; the kernel is resized where patches have another size than it has.
    """

    def forward(self, x: Tensor, patch_size: tuple[int, int] | None = None) -> Tensor:
        return patches(x, self.weight, self.bias, patch_size, self.stride)


def patches(
    x: Tensor, kernel: Tensor, bias: Tensor | None, patch_size: tuple[int, int] | None, usual_size: tuple[int, int]
) -> Tensor:
    """See PatchEmbedding."""
    kernel_size, patch_size = tuple(kernel.shape[2:]), patch_size or usual_size
    if patch_size != kernel_size:
        matrices = resizing.kernel_matrices(kernel_size, patch_size)
        kernel = resized(kernel.permute(2, 3, 1, 0), matrices).permute(3, 2, 0, 1)
    x = F.conv2d(x, kernel.to(x.dtype), None if bias is None else bias.to(x.dtype), patch_size)
    return x.flatten(2).transpose(1, 2)


class TokenEmbedding(nn.Module):
    """A table of tokens: int [B, L] to [B, L, D], in the type of the table."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(vocabulary, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.embedding)


class Mlp(nn.Module):
    """Two dense layers with a GELU, or with `gated` swish(gate) * (SwiGLU), and dropout between them."""

    def __init__(
        self, width: int, mlp_dim: int, *, gelu: str, dropout: float = 0.0, gated: bool = False, bias: bool = True
    ):  # fmt: skip
        super().__init__()
        self.gate = Dense(width, mlp_dim) if gated else None
        self.fc1 = Dense(width, mlp_dim, bias=bias)
        self.fc2 = Dense(mlp_dim, width, bias=bias)
        self.gelu, self.dropout = gelu, dropout

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:  # [B, L, D]
        hidden = F.silu(self.gate(x)) * self.fc1(x) if self.gate else gelu(self.fc1(x), self.gelu)
        return self.fc2(dropout(hidden, seeds, self.dropout))


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (https://arxiv.org/abs/1706.03762); `causal`: to no later token.

    `visible` is False for tokens that none attends to (Keras has a use of its own for what is called mask). `biases` are
    the layers that have one; with `norm`, its epsilon, the queries and keys of each head are normalised; `rotation` then
    turns those of the last tokens (`rotated`). Keys and values are of tokens of `seen_width`, by default the same.
    """

    def __init__(
        self, width: int, num_heads: int, *, causal: bool = False, biases: tuple[str, ...] = ATTENTION,
        norm: float | None = None, seen_width: int | None = None,
    ):  # fmt: skip
        super().__init__()
        widths = {"key": seen_width or width, "value": seen_width or width}
        self.query, self.key, self.value, self.out = (
            Dense(widths.get(part, width), width, bias=part in biases) for part in ATTENTION
        )
        self.query_norm, self.key_norm = (LayerNorm(width // num_heads, norm) if norm else None for _ in range(2))
        self.num_heads, self.causal = num_heads, causal

    # [B, Q, D], [B, L, D], [B, L], [2, B or 1, P, K] -> [B, Q, D]
    def forward(
        self, queries: Tensor, x: Tensor, visible: Tensor | None = None, rotation: Tensor | None = None
    ) -> Tensor:
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
        heads = F.scaled_dot_product_attention(query, key, value, mask, is_causal=self.causal)
        return self.out(heads.transpose(1, 2).flatten(2))

    def asked(self, queries: Tensor, rotation: Tensor | None) -> Tensor:
        """Queries [B, N, Q, K] of tokens [B, Q, D]."""
        query = self.by_head(self.query(queries))
        return rotated(self.query_norm(query) if self.query_norm else query, rotation)

    def by_head(self, values: Tensor) -> Tensor:
        """[B, L, D] -> [B, N, L, K]."""
        return values.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def shares(
        self, queries: Tensor, x: Tensor, visible: Tensor | None, rotation: Tensor | None, some: slice
    ) -> Tensor:
        """[B, N, some, L]: what part of the attention of some of the queries each token has, in every head."""
        query, key = self.asked(queries, rotation), self.keys_and_values(x, rotation)[0]
        weights = query[:, :, some] @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        return (weights if visible is None else weights.where(visible[:, None, None], -torch.inf)).softmax(-1)


class LayerScale(nn.Module):
    """A factor for each channel (https://arxiv.org/abs/2103.17239), in the type of its input."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:  # [..., D]
        return x * self.scale.to(x.dtype)


def turned_as(rotation: Tensor, kept_patches: Tensor | None) -> Tensor:
    """`rotation` [2, P, K] for all images alike [2, 1, P, K], or for the patches that each has kept [2, B, kept, K]."""
    return rotation[:, None] if kept_patches is None else rotation[:, kept_patches.long()]


def rotated(x: Tensor, rotation: Tensor | None) -> Tensor:
    """x [B, N, L, K] with pairs of channels of the last P tokens turned by the angles of `rotation` [2, B or 1, P, K].

    These are cosines and sines; the channels of the two halves of a head form pairs. Without a rotation, unchanged.
    """
    if rotation is None:
        return x
    cosine, sine = rotation[:, :, None]
    still, turning = x[:, :, : -sine.shape[2]], x[:, :, -sine.shape[2] :]
    first, second = turning.chunk(2, -1)
    return torch.cat([still, turning * cosine + torch.cat([-second, first], -1) * sine], 2)


def normed_patches(x: Tensor, norm: nn.Module, patch_size: tuple[int, int]) -> Tensor:
    """[B, C, H, W] with the pixels of each patch normalised, in rows with the channels last; what is no patch is cut."""
    (height, width), channels = patch_size, x.shape[1]
    rows, columns = x.shape[2] // height, x.shape[3] // width
    x = x[:, :, : rows * height, : columns * width]
    x = x.reshape(-1, channels, rows, height, columns, width).permute(0, 2, 4, 3, 5, 1)  # [B, R, C, h, w, c]
    x = norm(x.flatten(3)).unflatten(3, (height, width, channels)).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(-1, channels, rows * height, columns * width)


def gelu(x: Tensor, kind: str) -> Tensor:
    """GELU (https://arxiv.org/abs/1606.08415): `erf` exactly, its `tanh` approximation, or OpenAI's `quick` one."""
    if kind == "quick":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if kind == "tanh" else "none")


def dropout(x: Tensor, seeds: Tensor | None, rate: float) -> Tensor:
    """x [B, ...] with elements zeroed at `rate` and the others scaled up; unchanged without seeds, in evaluation.

    Whether an element stays is a hash of its place and of its example's seeds, int32 [B, 2]: the same numbers in every
    engine, however a batch is split and in whatever order layers are computed.
    """
    if seeds is None or rate == 0:
        return x
    kept = random_bits(seeds, x[0].numel()) >= round(rate * 2**24)
    return x * kept.view(x.shape).to(x.dtype) / (1 - rate)


def random_bits(seeds: Tensor, count: int) -> Tensor:
    """[B, count] of 24 random bits each: a 32-bit mix (https://github.com/skeeto/hash-prospector) of the place."""
    place = torch.arange(count, dtype=torch.int32, device=seeds.device)
    bits = place * (0x9E3779B9 - 2**32) ^ seeds[:, :1]  # int32 wraps around; the shifts below must not copy the sign
    bits = (bits ^ (bits >> 16 & 0xFFFF)) * 0x7FEB352D + seeds[:, 1:]
    bits = (bits ^ (bits >> 15 & 0x1FFFF)) * (0x846CA68B - 2**32)
    return (bits ^ (bits >> 16 & 0xFFFF)) >> 8 & 0xFFFFFF


def drop_branch(x: Tensor, kept: Tensor | None) -> Tensor:
    """x [B, ...] where `kept`, bool [B], else 0; not rescaled, as in the originals. Without `kept`, unchanged."""
    return x if kept is None else x * kept.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)


def keep_patches(x: Tensor, kept_patches: Tensor | None, count: int) -> Tensor:
    """Tokens [B, L, D] without those of the last `count`, the patches, that `kept_patches`, int32 [B, K], does not number.

    Without `kept_patches`, unchanged.
    """
    if kept_patches is None:
        return x
    others, patches = x[:, :-count], x[:, -count:]
    return torch.cat([others, torch.take_along_dim(patches, kept_patches[:, :, None].long(), 1)], 1)


def part(noise: Tensor | None, columns: int | slice) -> Tensor | None:
    """noise[:, columns] of what training gives, or None in evaluation."""
    return None if noise is None else noise[:, columns]


def checked(images: Tensor, size: tuple[int, int]) -> Tensor:
    """`images` [B, C, H, W], which are of `size` (H, W). Raises UserError for others."""
    check_image(size, tuple(images.shape[2:]))
    return images


def resized(x: Tensor, matrices: resizing.Matrices) -> Tensor:
    """x [rows, columns, ...] at another size (common/models/resizing.py)."""
    rows, columns = (torch.tensor(matrix, dtype=x.dtype, device=x.device) for matrix in matrices)
    return torch.einsum("ai,bj,ij...->ab...", rows, columns, x)


def regrid(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Positions [1, L, D] for another grid of patches; a row for the class token stays as it is."""
    count = math.prod(grid)
    first, rows = positions.split([positions.shape[1] - count, count], 1)
    rows = resized(rows.reshape(*grid, -1), resizing.position_matrices(grid, new_grid))
    return torch.cat([first, rows.reshape(1, -1, positions.shape[-1])], 1)


def takes(
    config: ViTConfig, images: Tensor, patch_size: tuple[int, int] | None, coordinates: Tensor | None = None
) -> Tensor:
    """`images` [B, C, H, W], which a ViT takes with patches of this size. Raises UserError for others."""
    count = None if coordinates is None else coordinates.shape[1]
    config.at_patch(patch_size).check_image(*images.shape[2:], count)
    return images


def positions_at(positions: Tensor, config: ViTConfig, patch_size: tuple[int, int] | None) -> Tensor:
    """The positions [1, L, D] of a FlexiViT for patches of another size."""
    grid = config.at_patch(patch_size).grid
    if config.positions == "sincos2d":
        return positions if grid == config.grid else torch.from_numpy(sincos2d(*grid, config.width)).to(positions)
    return positions if grid == config.stored_grid else regrid(positions, config.stored_grid, grid)


def positions_in(positions: Tensor, grid: tuple[int, int], coordinates: Tensor) -> Tensor:
    """Positions [1, L, D] of a grid for patches at int `coordinates` [B, P, 2] of images of as many rows and columns as
    these need: [B, P, D], after what is no patch. Each image has its own resizing, as in common/models/resizing.py, of which
    a patch takes one row of either axis: any number of patches on a side is right, in static shapes.

    Source: `_pos_emb_resize` of big_vision's `models/proj/image_text/naflex_vit.py`, which is NaN beyond 64 on a side.
    """
    count, sides = math.prod(grid), coordinates.amax(1) + 1
    rows, columns = (
        weights_of(coordinates[:, :, axis], sides[:, axis], grid[axis], positions.dtype) for axis in range(2)
    )
    weights = (rows[:, :, :, None] * columns[:, :, None]).flatten(2)  # [B, P, rows * columns of the grid]
    first, patches = positions.split([positions.shape[1] - count, count], 1)
    return torch.cat([first.expand(len(weights), -1, -1), weights @ patches], 1)


def weights_of(places: Tensor, new: Tensor, old: int, dtype: torch.dtype) -> Tensor:
    """[B, P, old]: by which weights the places [B, P] of a side of `new` [B] see those of a side of `old`, antialiased."""
    scale = old / new[:, None].to(dtype)
    distance = ((places.to(dtype) + 0.5) * scale - 0.5)[:, :, None] - torch.arange(old, device=places.device)
    weights = (1 - distance.abs() / scale.clamp(min=1)[:, :, None]).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)


def seen(patch_mask: Tensor, num_prefix: int) -> Tensor:
    """bool [B, tokens]: which are seen: those before the patches, and the patches of `patch_mask` [B, P].

    A row without any patch, the padding of a batch, sees all: it has no meaning, but is a number.
    """
    return F.pad(patch_mask | ~patch_mask.any(1, keepdim=True), (num_prefix, 0), value=True)


def mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """[B, D]: the mean of tokens [B, L, D], of those of `mask` [B, L] where it is given."""
    if mask is None:
        return x.mean(1)
    mask = mask[:, :, None].to(x.dtype)
    return (x * mask).sum(1) / mask.sum(1)


def on_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The patches of tokens [B, L, D], without a class token before them: [B, D, rows, columns]."""
    return x[:, -math.prod(grid) :].transpose(1, 2).unflatten(2, grid)


def pad_same(x: Tensor, size: int, stride: int, value: float = 0.0) -> Tensor:
    """[B, C, H, W] padded such that windows of `size` give H / stride; an odd pixel goes to the bottom and right."""
    pads = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in (x.shape[3], x.shape[2])]
    return F.pad(x, [side for pad in pads for side in (pad // 2, pad - pad // 2)], value=value)


def max_pool(x: Tensor, padding: str = "zero") -> Tensor:
    """3x3 maximum with stride 2. In the original BiT the border is padded with zeros, not with -infinity ("lowest").

    "same" pads with -infinity what makes the output the input's size / 2: on even sizes, bottom and right only.
    """
    if padding == "same":
        return F.max_pool2d(pad_same(x, 3, 2, float("-inf")), 3, 2)
    even = not (x.shape[2] % 2 or x.shape[3] % 2)
    if x.is_cpu and even and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return largest_of_neighbours(largest_of_neighbours(x, 2, padding), 3, padding)
    return F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=0.0 if padding == "zero" else float("-inf")), 3, 2)


def largest_of_neighbours(x: Tensor, axis: int, padding: str) -> Tensor:
    """Along an axis of even length, the maxima of x[-1:2], x[1:4] and so on; x[-1] is the border of `max_pool`.

    On a CPU, PyTorch's own max-pool takes eight times as long. It has no gradient.
    """
    first, second = (x.unflatten(axis, (-1, 2)).select(axis + 1, place) for place in range(2))
    found = torch.maximum(first, second)
    others = found.narrow(axis, 1, found.shape[axis] - 1)
    torch.maximum(others, second.narrow(axis, 0, others.shape[axis]), out=others)
    if padding == "zero":
        found.narrow(axis, 0, 1).clamp_(min=0)
    return found


for function in (
    "dropout",
    "max_pool",
    "pad_same",
    "patches",
    "product",
    "rotated",
    "turned_as",
):  # which decide by values: nodes of a graph that torch.fx traces
    torch.fx.wrap(function)
