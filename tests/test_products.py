"""What PyTorch computes sooner on a CPU in another way: large and wide dense layers, max-pools of inference by slices."""

import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F

from bit_pytorch import layers


@pytest.fixture(autouse=True)
def two_threads():
    """In one thread, as tests run, PyTorch does not ask oneDNN."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def operands(*lead: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """x [..., 96], kernel [160, 96] and bias [160]."""
    shapes, generator = ((*lead, 96), (160, 96), (160,)), torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def names(function) -> set[str]:
    """Names of what a function calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("with_bias", (True, False))
@pytest.mark.parametrize("lead", ((400,), (8, 50), (2, 4, 50)))
def test_outputs_and_gradients_are_those_of_a_product(lead, with_bias):
    x, kernel, bias = operands(*lead)
    bias = bias if with_bias else None
    inputs = [value for value in (x, kernel, bias) if value is not None]
    out, expected = (
        layers.product(x, kernel, bias),
        F.linear(x.double(), kernel.double(), None if bias is None else bias.double()),
    )
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(out, expected.float(), rtol=1e-5, atol=1e-4)
    found = torch.autograd.grad((out * weights).sum(), inputs)
    for ours, theirs in zip(found, torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
        assert ours.is_contiguous()  # the memory that optimizers and exchanges of gradients expect
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("with_bias", (True, False))
@pytest.mark.parametrize("lead", ((2,), (4, 1), (2, 4), (9,)))
def test_few_rows_by_many_columns_in_inference(lead, with_bias):
    generator = torch.Generator().manual_seed(0)
    x, kernel, bias = (torch.randn(shape, generator=generator) for shape in ((*lead, 24), (16384, 24), (16384,)))
    bias = bias if with_bias else None
    with torch.no_grad():
        found = layers.product(x, kernel, bias)
    assert found.is_contiguous()
    torch.testing.assert_close(found, F.linear(x, kernel, bias), rtol=1e-5, atol=1e-5)


def test_onednn_computes_large_products_in_float32_and_no_others():
    assert "aten::mkldnn_convolution" in names(lambda: layers.product(*operands(400)))
    for others in (operands(4), operands(400, dtype=torch.float64), [v.bfloat16() for v in operands(400)]):
        assert not any("conv" in name for name in names(lambda others=others: layers.product(*others)))
    torch.set_num_threads(1)
    assert not any("conv" in name for name in names(lambda: layers.product(*operands(400))))


def test_gradients_of_gradients_and_of_many_at_once():
    """As users ask for them with torch.autograd and torch.func."""
    x, kernel, bias = operands(400)

    def norm_of_slopes(product) -> torch.Tensor:
        slopes = torch.autograd.grad(product(x, kernel, bias).square().mean(), (x, kernel), create_graph=True)
        return torch.autograd.grad(sum(value.square().sum() for value in slopes), kernel)[0]

    torch.testing.assert_close(norm_of_slopes(layers.product), norm_of_slopes(F.linear), rtol=1e-4, atol=1e-7)
    dense = layers.Dense(96, 160)
    parameters = {name: value.detach() for name, value in dense.named_parameters()}
    loss = lambda given, x: torch.func.functional_call(dense, given, (x,)).square().mean()
    images = torch.randn(3, 400, 96)
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, images)
    for number, image in enumerate(images):
        alone = torch.func.grad(loss)(parameters, image)
        torch.testing.assert_close(found["weight"][number], alone["weight"], rtol=1e-4, atol=1e-7)


def test_a_graph_of_a_dense_layer_has_a_product():
    program = torch.export.export(layers.Dense(96, 160), (torch.zeros(400, 96),))
    assert any("linear" in str(node.target) for node in program.graph.nodes)
    traced = torch.fx.symbolic_trace(layers.Dense(96, 160))
    torch.testing.assert_close(traced(torch.ones(400, 96)), traced(torch.ones(1, 96)).expand(400, -1))


@pytest.mark.parametrize("padding", ("zero", "lowest", "same"))
@pytest.mark.parametrize("size", ((8, 6), (2, 2), (7, 6), (6, 7)))
def test_a_max_pool_of_inference_is_that_of_training(padding, size):
    """Equal to the bit, also where all values of a window are below the border's zeros, and where there is none."""
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)) - 1
    x[0, 0, 1, 1] = torch.nan
    expected = layers.max_pool(x, padding)
    with torch.inference_mode():
        found = layers.max_pool(x, padding)
    assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9)) and found.isnan().any()


def test_a_max_pool_of_inference_asks_for_no_indices():
    def pooled() -> torch.Tensor:
        with torch.no_grad():
            return layers.max_pool(torch.randn(1, 2, 8, 8))

    assert "aten::maximum" in names(pooled) and not any("max_pool" in name for name in names(pooled))
