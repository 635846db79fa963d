#!/usr/bin/env bash
# optax.scale_by_adam(mu_dtype=bfloat16) computes other updates under jax.jit than without, in float32: XLA leaves out the rounding
# of beta1 x moment to bfloat16. In float64 it is kept. Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q jax==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu venv/bin/python - <<'PYTHON'
import jax
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)
print("jax", jax.__version__, "optax", optax.__version__)
optimizer, rng, found = optax.scale_by_adam(mu_dtype=jax.numpy.bfloat16), np.random.default_rng(0), {}
gradients = rng.standard_normal((5, 1000))
for dtype in (np.float32, np.float64):
    results = []
    for update in (optimizer.update, jax.jit(optimizer.update)):
        state = optimizer.init(jax.numpy.zeros(1000, dtype))
        for gradient in gradients.astype(dtype):
            direction, state = update(jax.numpy.asarray(gradient), state)
        results.append(np.asarray(direction))
    found[dtype.__name__] = np.abs(results[0] - results[1]).max() / np.abs(results[0]).max()
    print(dtype.__name__, f"fifth update, eager and compiled differ by {found[dtype.__name__]:.1e} of the largest")
raise SystemExit(not (found["float32"] > 1e-4 and found["float64"] < 1e-12))
PYTHON
