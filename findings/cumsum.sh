#!/usr/bin/env bash
# TensorFlow's cumsum of float32 adds one number after the other, and so does NumPy's: 32,000 probabilities, as of a language model's
# vocabulary, end 2.5e-6 short of 1, and 4 % of draws from them find another token than in float64. JAX's cumsum, and TensorFlow's own
# within a function that XLA compiles, add in a tree: 0.1 % do. What has to draw the same tokens in both, or in eager and compiled
# TensorFlow, adds in float64. Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet tensorflow-cpu==2.21.0 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > case.py <<'PYTHON'
from importlib.metadata import version

import jax.numpy as jnp
import numpy as np
import tensorflow as tf

TOKENS, DRAWS = 32_000, 1_000_000
rng = np.random.default_rng(0)
shares = rng.random(TOKENS).astype(np.float32)
shares /= shares.sum(dtype=np.float64).astype(np.float32)
draws = rng.random(DRAWS)
exact = np.cumsum(shares.astype(np.float64))
sums = {
    "NumPy": np.cumsum(shares),
    "TensorFlow": tf.cumsum(shares).numpy(),
    "TensorFlow, compiled by XLA": tf.function(tf.cumsum, jit_compile=True)(shares).numpy(),
    "JAX": np.asarray(jnp.cumsum(shares)),
}
expected = np.searchsorted(exact, draws * exact[-1], side="right")
print(f"tensorflow {tf.__version__}, jax {version('jax')}, numpy {np.__version__}: {TOKENS:,} float32 shares of 1")
others = {}
for name, found in sums.items():
    tokens = np.searchsorted(found.astype(np.float64), draws * np.float64(found[-1]), side="right")
    others[name] = np.count_nonzero(tokens != expected) / DRAWS
    print(
        f"  {name}: the last sum is {found[-1]:.7f}, the largest error {abs(found - exact).max():.1e}, and "
        f"{others[name]:.2%} of the draws find another token than in float64"
    )
one_by_one, tree = others["TensorFlow"], others["JAX"]
same = np.array_equal(sums["NumPy"], sums["TensorFlow"]) and abs(sums["TensorFlow"][-1] - 1) > 1e-6
same &= one_by_one > 5 * tree and others["TensorFlow, compiled by XLA"] < 2 * tree and abs(sums["JAX"][-1] - 1) < 3e-7
assert same, "the behaviour has changed"
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python -W ignore case.py
