"""Layers whose gradients the engines state themselves, because those that frameworks find take longer."""

import numpy as np
import pytest
from engines import INSTALLED

RNG = np.random.default_rng(0)
VALUES, SCALE, BIAS, SLOPES = (RNG.normal(size=size) for size in ((2, 3, 5, 8), (8,), (8,), (2, 3, 5, 8)))
GROUPS, EPSILON = 4, 1e-2


def difference_quotients(function, *arguments: np.ndarray) -> list[np.ndarray]:
    """Slopes of a number along every element of every argument."""
    found = []
    for number, argument in enumerate(arguments):
        slopes = np.zeros_like(argument)
        for place in np.ndindex(argument.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = argument.copy()
                moved[place] += step
                ends.append(function(*arguments[:number], moved, *arguments[number + 1 :]))
            slopes[place] = (ends[0] - ends[1]) / 2e-5
        found.append(slopes)
    return found


def plain_group_norm(values: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> float:
    """The sum of the outputs times SLOPES."""
    grouped = values.reshape(*values.shape[:3], GROUPS, -1)
    mean, variance = (statistic(grouped, axis=(1, 2, 4), keepdims=True) for statistic in (np.mean, np.var))
    normed = ((grouped - mean) / np.sqrt(variance + EPSILON)).reshape(values.shape)
    return float(((normed * scale + bias) * SLOPES).sum())


def jax_gradients(values: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> tuple[float, list[np.ndarray]]:
    import jax

    from bit_jax.layers import group_norm

    total = lambda *arguments: (group_norm(*arguments, GROUPS, EPSILON) * SLOPES).sum()
    with jax.enable_x64(True):
        found, slopes = jax.value_and_grad(total, (0, 1, 2))(*map(jax.numpy.asarray, (values, scale, bias)))
    return float(found), [np.asarray(value) for value in slopes]


def tf2_gradients(values: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> tuple[float, list[np.ndarray]]:
    import tensorflow as tf

    from bit_tf2.layers import group_norm

    arguments = [tf.constant(argument) for argument in (values, scale, bias)]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        total = tf.reduce_sum(group_norm(*arguments, GROUPS, EPSILON) * SLOPES)
    return float(total), [value.numpy() for value in tape.gradient(total, arguments)]


@pytest.mark.parametrize("engine", ["bit_jax", "bit_tf2"])
def test_the_gradient_of_a_group_norm(engine):
    if engine not in INSTALLED:
        pytest.skip(f"{engine} is not installed")
    gradients = {"bit_jax": jax_gradients, "bit_tf2": tf2_gradients}[engine]
    found, slopes = gradients(VALUES, SCALE, BIAS)
    assert found == pytest.approx(plain_group_norm(VALUES, SCALE, BIAS), rel=1e-12)
    for slope, expected in zip(slopes, difference_quotients(plain_group_norm, VALUES, SCALE, BIAS), strict=True):
        np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.skipif("bit_jax" not in INSTALLED, reason="JAX is not installed")
@pytest.mark.parametrize(
    ("padding", "size"), [("zero", (8, 8)), ("lowest", (7, 6)), ("same", (8, 8)), ("same", (7, 6)), ("zero", (1, 2))]
)
def test_the_gradient_of_a_max_pool_is_that_of_xla(padding, size):
    """The same outputs and gradients, also where values are equal: there the first one has the gradient."""
    import jax
    from flax import nnx
    from jax import numpy as jnp

    from bit_jax.layers import max_pool

    def plain(x):
        if padding == "same":
            return nnx.max_pool(x, (3, 3), (2, 2), "SAME")
        border = 0.0 if padding == "zero" else -jnp.inf
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=border)
        return nnx.max_pool(x, (3, 3), (2, 2), "VALID")

    for x in (RNG.normal(size=(2, *size, 3)), RNG.integers(-1, 2, (2, *size, 3))):
        x = x.astype(np.float32)
        found, backward = jax.vjp(lambda x: max_pool(x, padding), x)
        expected, plain_backward = jax.vjp(plain, x)
        np.testing.assert_array_equal(found, expected)
        slopes = RNG.normal(size=found.shape).astype(np.float32)
        np.testing.assert_allclose(backward(slopes)[0], plain_backward(slopes)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.skipif("bit_jax" not in INSTALLED, reason="JAX is not installed")
def test_the_gradient_of_a_softmax():
    """That of JAX, also where a mask leaves nothing of some elements."""
    import jax

    from bit_jax.layers import softmax

    with jax.enable_x64(True):
        x = np.where(RNG.random((4, 6)) < 0.3, -np.inf, RNG.normal(size=(4, 6)))
        (found, backward), (expected, plain) = (jax.vjp(function, x) for function in (softmax, jax.nn.softmax))
        np.testing.assert_array_equal(found, expected)
        slopes = RNG.normal(size=x.shape)
        np.testing.assert_allclose(backward(slopes)[0], plain(slopes)[0], rtol=1e-13, atol=1e-15)


def plain_standardized(kernel: np.ndarray, to_deviation: bool, slopes: np.ndarray) -> float:
    """The sum of the standardised kernel times slopes."""
    variance = kernel.var((0, 1, 2))
    scale = np.sqrt(variance) + EPSILON if to_deviation else np.sqrt(variance + EPSILON)
    return float((slopes * (kernel - kernel.mean((0, 1, 2))) / scale).sum())


@pytest.mark.skipif("bit_tf2" not in INSTALLED, reason="TensorFlow is not installed")
@pytest.mark.parametrize("to_deviation", [False, True])
def test_the_gradient_of_a_standardized_kernel(to_deviation):
    import tensorflow as tf

    from bit_tf2.layers import standardized

    kernel, slopes = (RNG.normal(size=(3, 2, 4, 5)) for _ in range(2))
    with tf.GradientTape() as tape:
        tape.watch(given := tf.constant(kernel))
        total = tf.reduce_sum(standardized(given, EPSILON, to_deviation) * slopes)
    plain = lambda kernel: plain_standardized(kernel, to_deviation, slopes)
    assert float(total) == pytest.approx(plain(kernel), rel=1e-12)
    expected = difference_quotients(plain, kernel)[0]
    np.testing.assert_allclose(tape.gradient(total, given).numpy(), expected, rtol=1e-6, atol=1e-8)
