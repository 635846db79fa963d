"""The update of a Recipe (common/recipes/recipe.py has the formulas), native: moments and moving average beside a model."""

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bit_pytorch.devices import cut_like, is_shard
from common.recipes.groups import Part
from common.recipes.moments import means
from common.recipes.recipe import Recipe, UpdateNumbers

MEANS = ("rows", "columns")  # of the second moment of adafactor
FUSED = ("cpu", "cuda")  # devices for which PyTorch has Adam in one pass
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")  # of compiled and checkpointed modules, in names of parameters


class Optimizer:
    """The trained parameters of a model, and its state, each part {name: tensor}; common/recipes/moments.py has the parts."""

    def __init__(self, model: nn.Module, recipe: Recipe):
        self.parameters = trained(model)
        self.names = tuple(canonical_name(name, value) for name, value in self.parameters.items())
        self.state = {"first": {name: zeros(value, recipe.first_moment) for name, value in self.parameters.items()}}
        by_head = model.config.shapes_by_head() if recipe.optimizer == "adafactor" else {}
        named = zip(self.parameters, self.names)
        self.means = {name: means(by_head[canonical]) for name, canonical in named} if by_head else {}
        if recipe.optimizer != "sgd":
            whole = {name: value for name, value in self.parameters.items() if not self.means.get(name)}
            self.state["second"] = {name: torch.zeros_like(value) for name, value in whole.items()}
        if self.means:
            zeros_of = functools.partial(torch.zeros, dtype=model.dtype, device=model.device)
            kept = {name: kept.shapes for name, kept in self.means.items() if kept}
            self.state |= {part: {name: zeros_of(shapes[part]) for name, shapes in kept.items()} for part in MEANS}
        if recipe.ema:
            self.state["average"] = {name: value.detach().clone() for name, value in self.parameters.items()}


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """{PyTorch's name: parameter} of `model` itself, not of copies."""
    return dict(model.named_parameters())


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those of `parameters` that are trained."""
    return {name: value for name, value in parameters(model).items() if value.requires_grad}


def canonical_name(name: str, tensor: Tensor) -> str:
    """`blocks.0.conv1.weight` -> `blocks/0/conv1/kernel`; PyTorch calls both kernels and scales `weight`."""
    *parts, leaf = (part for part in name.split(".") if part not in WRAPPERS)
    return "/".join([*parts, {"weight": "scale" if tensor.ndim == 1 else "kernel"}.get(leaf, leaf)])


def turned(tensor: Tensor, name: str) -> Tensor:
    """OIHW as HWIO, [out, in] as [in, out]; tables of embeddings lie alike."""
    order = {4: (2, 3, 1, 0), 2: (1, 0)} if name.endswith("kernel") else {}
    return tensor.detach().permute(order.get(tensor.ndim, tuple(range(tensor.ndim))))


def zeros(value: Tensor, dtype: str) -> Tensor:
    """A moment of a parameter: bfloat16, or else of the parameter's type."""
    return torch.zeros_like(value, dtype=torch.bfloat16 if dtype == "bfloat16" else value.dtype)


def create_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The optimizer of `model`; the numbers of an update are given with it."""
    return Optimizer(model, recipe)


def global_norm(gradients: dict[str, Tensor]) -> Tensor:
    """The norm of all gradients as one vector, of all processes' shards of them."""
    norm = nn.utils.get_total_norm(gradients.values())
    return norm.full_tensor() if is_shard(norm) else norm


@torch.no_grad()
def update(optimizer: Optimizer, recipe: Recipe, numbers: UpdateNumbers, gradients: dict[str, Tensor]) -> None:
    """One update of every trained parameter, in place, for which the gradients are used up."""
    if recipe.clip:
        norm = global_norm(gradients)
        torch._foreach_mul_([gradients[name] for name in optimizer.parameters], (recipe.clip / norm).clamp(max=1))
    alike = {}  # by the same numbers: {name: what holds for it}
    for name, part in zip(optimizer.parameters, recipe.parts(optimizer.names)):
        alike.setdefault(recipe.numbers_of(part, numbers), {})[name] = part
    for own_numbers, parts in alike.items():
        update_alike(optimizer, recipe, own_numbers, gradients, parts)


def update_alike(
    optimizer: Optimizer, recipe: Recipe, numbers: UpdateNumbers, gradients: dict[str, Tensor], parts: dict[str, Part]
) -> None:
    """`update` of the parameters that `parts` names, by the same numbers."""
    w, g = [optimizer.parameters[name] for name in parts], [gradients[name] for name in parts]
    first, average = (
        [optimizer.state[kind][name] for name in parts] if kind in optimizer.state else []
        for kind in ("first", "average")
    )
    decayed = [number for number, part in enumerate(parts.values()) if part.decayed]
    if decayed and recipe.decay == "gradient":
        torch._foreach_add_([g[i] for i in decayed], [w[i] for i in decayed], alpha=recipe.weight_decay)
    elif decayed:
        torch._foreach_mul_([w[i] for i in decayed], 1 - numbers.decay)
    if recipe.optimizer == "adafactor":
        g = [normalized(optimizer, name, value, numbers) for name, value in zip(parts, g)]
    second = [optimizer.state["second"][name] for name in parts] if recipe.optimizer == "adam" else []
    in_one_pass = second and recipe.first_moment == "float32" and w[0].device.type in FUSED
    (fused_adam if in_one_pass else stepped)(w, g, first, second, recipe, numbers)
    for part, value in zip(parts.values(), w):
        if part.bounds:
            value.clamp_(*part.bounds)
    if average:
        torch._foreach_lerp_(average, w, 1 - numbers.ema)


def fused_adam(
    w: list[Tensor], g: list[Tensor], first: list[Tensor], second: list[Tensor], recipe: Recipe, numbers: UpdateNumbers
) -> None:
    """`stepped` of adam in one pass over memory.

    The kernel takes every tensor for one that lies in memory as its parameter does. `numbers` hold already what corrects
    the moments: after infinitely many steps the kernel's own correction is 1.
    """
    g = [
        slope if slope.stride() == value.stride() else torch.empty_like(value).copy_(slope)
        for slope, value in zip(g, w)
    ]
    steps = [torch.full((), torch.inf, device=w[0].device)] * len(w)
    betas = {"beta1": recipe.first_decay, "beta2": recipe.beta2}
    torch._fused_adam_(
        w, g, first, second, [], steps,
        lr=numbers.rate, eps=numbers.epsilon, weight_decay=0.0, amsgrad=False, maximize=False, **betas,
    )  # fmt: skip


def stepped(
    w: list[Tensor], g: list[Tensor], first: list[Tensor], second: list[Tensor], recipe: Recipe, numbers: UpdateNumbers
) -> None:
    """The moments and parameters of every optimizer, operation after operation."""
    torch._foreach_mul_(first, recipe.first_decay)
    u = [m.to(value.dtype) for m, value in zip(first, w)]  # the same tensors, but for moments in bfloat16
    torch._foreach_add_(u, g, alpha=numbers.gain)
    if second:
        torch._foreach_mul_(second, recipe.beta2)
        torch._foreach_addcmul_(second, g, g, value=1 - recipe.beta2)
        root = torch._foreach_sqrt(second)
        torch._foreach_add_(root, numbers.epsilon)
        torch._foreach_addcdiv_(w, u, root, value=-numbers.rate)
    else:
        torch._foreach_add_(w, u, alpha=-numbers.rate)
    for kept, value in zip(first, u):
        if kept is not value:
            kept.copy_(value)


def normalized(optimizer: Optimizer, name: str, g: Tensor, numbers: UpdateNumbers) -> Tensor:
    """Adafactor's gradient over the root of its second moment, of which the optimizer keeps the new one.

    Means are taken of whole gradients, which all processes gather from their shards, in canonical layout.
    """

    def renew(part: str, value: Tensor) -> Tensor:
        return optimizer.state[part][name].mul_(numbers.second_decay).add_(value, alpha=numbers.second_gain)

    kept = optimizer.means[name]
    if kept is None:
        return g / renew("second", g * g + 1e-30).sqrt()
    whole = g.full_tensor() if is_shard(g) else g
    found = torch.empty_like(whole)
    canonical = dict(zip(optimizer.parameters, optimizer.names))[name]
    seen, result = (turned(value, canonical) for value in (whole, found))
    seen = seen.reshape(kept.shape)
    squares = seen * seen + 1e-30
    rows, columns = renew("rows", squares.mean(kept.longest)), renew("columns", squares.mean(kept.second))
    rows = rows / rows.mean(kept.second_of_rows, keepdim=True)
    seen = seen / rows.sqrt().unsqueeze(kept.longest) / columns.sqrt().unsqueeze(kept.second)
    result.copy_(seen.reshape(result.shape))
    return cut_like(found, g) if whole is not g else found


@contextlib.contextmanager
def ascended(optimizer: Optimizer, gradients: dict[str, Tensor], numbers: UpdateNumbers) -> Iterator[None]:
    """Within it every trained parameter w is w + rho * g / (|g| + 1e-12), afterwards w again, bit for bit.

    |g| is the norm of all gradients. Source: `trainers/proj/gsam/gsam.py` of google-research/big_vision; SAM, equation 2
    (https://arxiv.org/abs/2010.01412).
    """
    w = list(optimizer.parameters.values())
    with torch.no_grad():
        scale = numbers.rho / (global_norm(gradients) + 1e-12)
        uphill = [torch.addcmul(value, gradients[name], scale) for name, value in optimizer.parameters.items()]
    del gradients  # the caller may have let them go, so that the next ones take their memory
    kept = exchange(w, uphill)
    try:
        yield
    finally:
        exchange(w, kept)


def exchange(parameters: list[nn.Parameter], values: list[Tensor]) -> list[Tensor]:
    """Give parameters other values, and return the ones before: the memory changes hands, but that of shards is FSDP's."""
    before = [value.detach().clone() if is_shard(value) else value.data for value in parameters]
    for parameter, value in zip(parameters, values):
        if is_shard(parameter):
            parameter.detach().copy_(value)
        else:
            parameter.data = value
    return before


@torch.no_grad()
def sharpness_aware(clean: dict[str, Tensor], sharp: dict[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """The gradients that SAM or GSAM updates by: `clean` ones are of the parameters, `sharp` ones of the `ascended`.

    They are in the memory of the sharp ones:
    sharp - gsam_alpha * (clean - its part along sharp); GSAM, algorithm 1 (https://arxiv.org/abs/2203.08065). Where the
    sharp ones are all 0, nothing is along them; the original divides 0 by 0 there.
    """
    if not recipe.gsam_alpha:
        return sharp
    share = dot(clean, sharp) / dot(sharp, sharp).clamp(min=torch.finfo(torch.float32).tiny)
    torch._foreach_mul_(list(sharp.values()), 1 + recipe.gsam_alpha * share)
    torch._foreach_sub_(list(sharp.values()), [clean[name] for name in sharp], alpha=recipe.gsam_alpha)
    return sharp


def dot(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
    """The product of two gradients as vectors, of all processes' shards of them."""
    product = sum((a[name] * b[name]).sum() for name in a)
    return product.full_tensor() if is_shard(product) else product


@torch.no_grad()
def swap_average(optimizer: Optimizer) -> None:
    """Exchange the parameters and their moving average, if there is one; twice is nothing."""
    if "average" in optimizer.state:
        before = exchange(list(optimizer.parameters.values()), list(optimizer.state["average"].values()))
        optimizer.state["average"] = dict(zip(optimizer.parameters, before))
