#!/usr/bin/env bash
# flax's nnx.tabulate shows every public method of a module. A public method that takes another module, as one does that runs
# blocks with or without recomputation, ends it with a TypeError of its own code when the module holds lists; a private one
# does not. After the error its wrappers stay: from then on no nnx.List with an entry can be made in the process, so that every
# later model fails with an error that names neither tabulate nor the first failure. Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
venv/bin/python - <<'PYTHON'
import flax
import jax
from flax import nnx


class Block(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)])

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Public(nnx.Module):
    def __init__(self, rngs):
        self.block = Block(rngs)

    def run(self, block, x):
        return block(x)

    def __call__(self, x):
        return self.run(self.block, x)


class Private(Public):
    run = None

    def _run(self, block, x):
        return block(x)

    def __call__(self, x):
        return self._run(self.block, x)


def outcome(action):
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return "fine"


x = jax.numpy.ones((1, 4))
print("flax", flax.__version__, "jax", jax.__version__)
found = {
    "a private method, tabulated": outcome(lambda: nnx.tabulate(Private(nnx.Rngs(0)), x)),
    "a list made afterwards": outcome(lambda: Block(nnx.Rngs(0))),
    "a public method, called": outcome(lambda: Public(nnx.Rngs(0))(x)),
    "a public method, tabulated": outcome(lambda: nnx.tabulate(Public(nnx.Rngs(0)), x)),
    "a list made after that": outcome(lambda: Block(nnx.Rngs(0))),
}
for what, said in found.items():
    print(f"{what}: {said}")
kinds = [said.partition(":")[0] for said in found.values()]
raise SystemExit(kinds != ["fine", "fine", "fine", "TypeError", "AttributeError"])
PYTHON
