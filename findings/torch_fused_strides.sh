#!/usr/bin/env bash
# torch.optim's fused Adam, SGD and Adagrad on a CPU read a gradient by its place in memory, not by its index: one that has other
# strides than its parameter, such as a transposed matrix that was put into .grad, moves the wrong elements, and nothing is said.
# Gradients that backward() makes have the parameter's strides; those of torch.func, or summed or loaded by hand, need not.
# Package and version: torch 2.15.0. Valid input: a parameter [4, 3] and the transposed of a contiguous gradient [3, 4].
# Seen: foreach and the plain loop agree, `fused=True` differs from them by twice the rate in Adam and Adagrad.
# bit_pytorch copies such gradients first (tests/test_updates.py). Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.15.0 numpy
venv/bin/python - <<'PYTHON'
import torch

print("torch", torch.__version__)
torch.manual_seed(0)
value, gradient = torch.randn(4, 3), torch.randn(3, 4).T
wrong = []
for kind in (torch.optim.Adam, torch.optim.Adagrad, torch.optim.SGD):
    found = {}
    for how in ("plain", "foreach", "fused"):
        parameter = torch.nn.Parameter(value.clone())
        parameter.grad = gradient.clone(memory_format=torch.preserve_format)
        assert parameter.grad.stride() == (1, 4) and torch.equal(parameter.grad, gradient)
        options = {"foreach": False} if how == "plain" else {how: True}
        kind([parameter], lr=0.1, **options).step()
        found[how] = parameter.detach()
    apart = {how: (found[how] - found["plain"]).abs().max().item() for how in ("foreach", "fused")}
    print(kind.__name__, {how: f"{value:.3f}" for how, value in apart.items()})
    wrong.append(apart["foreach"] < 1e-6 and apart["fused"] > 0.1)
raise SystemExit(not all(wrong))
PYTHON
