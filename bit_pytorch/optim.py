"""SGD as every engine here defines it: v = momentum * v + g + weight_decay * w (kernels only); w = w - lr * v."""

from torch import nn
from torch.optim import SGD


def create_optimizer(model: nn.Module, *, momentum: float, weight_decay: float) -> SGD:
    """The optimizer of `model`; its learning rate is set before every update."""
    kernels = [value for value in model.parameters() if value.ndim > 1]
    others = [value for value in model.parameters() if value.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return SGD(groups, lr=0.0, momentum=momentum, dampening=0, nesterov=False)


def update(optimizer: SGD, lr: float) -> None:
    """One update of every parameter with the gradients that it holds, which are dropped."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
