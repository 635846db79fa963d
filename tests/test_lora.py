"""LoRA: the small matrices and the head are trained, the kernels keep their bits, in every engine alike."""

import dataclasses
import functools
import re

import numpy as np
import pytest
from engines import INSTALLED, Engine, recipe_of
from tiny_models import CONFIGS, IMAGES, TEXTS, WRITERS, random_arrays

from common.config import TrainConfig
from common.models import find_architecture
from common.models.initial import draw_some, initial_parameters
from common.models.low_rank import merged, with_lora
from common.recipes.create import create_recipe
from common.recipes.groups import create_groups, trained
from common.recipes.lora import TARGETS, Lora
from common.recipes.task import Captioning, Contrastive
from common.runs.run import Run
from common.system.errors import UserError
from common.weights.adapter import write_adapter

EVERY = ".*"
LORA = Lora(3, 6.0, TARGETS)
GROUPS = create_groups(lora=True)


def adapted(name: str, targets: str = TARGETS):
    return with_lora((CONFIGS | TEXTS | WRITERS)[name], dataclasses.replace(LORA, targets=targets), name)


def batches(count: int, texts: bool = False) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {"images": rng.integers(0, 256, (8, 32, 32, 3), np.uint8), "labels": rng.integers(0, 5, 8, np.int32)}
        | ({"tokens": rng.integers(1, 11, (8, 7), np.int32), "counted": rng.random((8, 7)) < 0.7} if texts else {})
        for _ in range(count)
    ]


@functools.cache
def start(name: str, targets: str):
    """Values as a run starts with, but for those of the matrices, none of which is 0."""
    return {key: value.astype(float) for key, value in random_arrays(adapted(name, targets)).items()}


@functools.cache
def trajectory(engine: str, name: str, targets: str):
    """(losses, arrays, state) of five updates in float64."""
    engine = Engine(engine)
    task = {"task": Contrastive() if name in TEXTS else Captioning()} if name in TEXTS | WRITERS else {}
    recipe = recipe_of((0.02,) * 5, optimizer="adam", base_lr=0.02, weight_decay=0.1, clip=1.0, decay="decoupled",
                       ema=0.5, batch_split=2, groups=GROUPS, **task)  # fmt: skip
    model = engine.build(adapted(name, targets), start(name, targets), "float64", groups=GROUPS)
    optimizer = engine.optim.create_optimizer(model, recipe)
    losses = [
        float(engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"])
        for step, batch in enumerate(engine.devices.to_device(iter(batches(5, name in TEXTS | WRITERS)), model.devices))
    ]
    return losses, engine.weights.dump(model), engine.weights.dump_optimizer(model, optimizer)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("vit_token", TARGETS), ("mixer", TARGETS), pytest.param("siglip", TARGETS, marks=pytest.mark.slow),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("vit_parts", EVERY), ("clip", EVERY), ("lit", TARGETS), ("cappa", EVERY))),
    ],
)  # fmt: skip
def test_the_same_matrices_are_learned_in_every_engine(engine, name, targets):
    """Five steps with weight decay, clipping, an average and micro-batches; nothing else moves or has moments."""
    before, (losses, after, state) = start(name, targets), trajectory(engine.name, name, targets)
    names = {key for key in before if "lora_" in key or key in ("t", "b") or re.match("((image|text)/)?head", key)}
    assert names == trained(GROUPS, before) and len([key for key in names if "lora_" in key]) >= 8
    for key in before:
        assert (after[key].tobytes() == before[key].tobytes()) == (key not in names), key
    assert name not in TEXTS or {"t", "text/blocks/1/attn/value/lora_b"} < names
    assert set(state) == {f"{part}/{key}" for part in ("first", "second", "average") for key in names}
    expected, arrays, _ = trajectory(INSTALLED[0], name, targets)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    for key in names:
        np.testing.assert_allclose(after[key], arrays[key], rtol=1e-9, atol=1e-11, err_msg=key)


def test_the_model_computes_as_with_the_merged_kernels(engine):
    config, arrays, plain_config = adapted("vit_parts", EVERY), start("vit_parts", EVERY), CONFIGS["vit_parts"]
    plain = merged(arrays, config.lora)
    assert list(plain) == list(plain_config.parameter_shapes()) and config.after_training == plain_config
    bare = {key: arrays[key] for key in plain}
    found, expected, without = (
        engine.logits(engine.build(one, values, "float64"), IMAGES.astype(float))
        for one, values in ((config, arrays), (plain_config, plain), (plain_config, bare))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert np.abs(found - without).max() > 1e-2


@pytest.mark.parametrize("name", ("mixer", "siglip", "cappa"))
def test_other_models_compute_as_with_the_merged_kernels(name):
    """Of an image-text model, both towers' embeddings; of one that writes, also with what it attends to images by."""
    engine, config = Engine(INSTALLED[0]), adapted(name)
    arrays = start(name, TARGETS)
    plain, tokens = merged(arrays, config.lora), engine.raw(np.arange(14).reshape(2, 7) % 11)
    images = engine.tensor(IMAGES[:2].astype(float))
    models = [engine.build(config, arrays, "float64"), engine.build(config.after_training, plain, "float64")]
    assert name != "cappa" or "blocks/1/cross_attn/value/kernel" in config.lora.kernels(
        config.after_training.parameter_shapes()
    )
    found, expected = ([model(images)] if name == "mixer" else model(images, tokens)[:2] for model in models)
    for ours, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(engine.array(ours), engine.array(other), rtol=0, atol=1e-12)


def test_the_first_gradients_are_those_of_the_kernel(engine):
    """By the chain rule in numpy: with the kernel's gradient G, lora_a has scale * G @ b.T and lora_b scale * a.T @ G."""
    config, arrays = adapted("vit_token"), start("vit_token", TARGETS)
    recipe, plain = recipe_of((0.1,), batch_split=1), merged(arrays, config.lora)
    found, whole = (
        engine.slopes(
            {"model": engine.build(one, values, "float64", groups=groups)},
            next(iter(engine.devices.to_device(iter(batches(1)), engine.devices.FirstDevice()))), recipe,
        )
        for one, values, groups in ((config, arrays, GROUPS), (CONFIGS["vit_token"], plain, create_groups()))
    )  # fmt: skip
    assert set(found) == trained(GROUPS, arrays)
    for kernel in config.lora.kernels(CONFIGS["vit_token"].parameter_shapes()):
        layer = kernel.removesuffix("kernel")
        a, b = arrays[f"{layer}lora_a"], arrays[f"{layer}lora_b"]
        np.testing.assert_allclose(found[f"{layer}lora_a"], 2 * whole[kernel] @ b.T, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(found[f"{layer}lora_b"], 2 * a.T @ whole[kernel], rtol=1e-9, atol=1e-13)


def test_initial_values_are_those_of_peft():
    """lora_A: Kaiming-uniform with a = sqrt(5), which is uniform within 1 / sqrt(in); lora_B: zeros; the rest as without."""
    config = with_lora(find_architecture("ViT-S/16"), Lora(8, 8.0, TARGETS), "ViT-S/16")
    values = initial_parameters(0, config)
    a, b = values["blocks/3/attn/query/lora_a"], values["blocks/3/attn/query/lora_b"]
    assert a.shape == (384, 8) and b.shape == (8, 384) and not b.any() and a.dtype == b.dtype == np.float32
    bound = 384**-0.5
    assert 0.99 * bound < np.abs(a).max() <= bound and abs(a.std() - bound / 3**0.5) < 0.02 * bound
    assert not np.array_equal(a, values["blocks/4/attn/query/lora_a"])
    without = initial_parameters(0, config.after_training)
    assert all(np.array_equal(values[name], without[name]) for name in without)
    np.testing.assert_array_equal(draw_some(0, config, ["blocks/3/attn/query/lora_a"])["blocks/3/attn/query/lora_a"], a)


def recipe(**flags):
    return create_recipe(TrainConfig(model="ViT-S/16", **flags), 50_000, (32, 32), {})


def test_the_numbers_of_a_recipe():
    made = recipe(lora_rank=8)
    assert made.lora == Lora(8, 8.0, TARGETS) and made.lora.scale == 1
    assert made.groups == create_groups(lora=True)
    made = recipe(lora_rank=4, lora_alpha=16.0, lora_targets=EVERY, train_only="norm", locked="head/.*")
    assert made.lora == Lora(4, 16.0, EVERY) and made.lora.scale == 4
    assert made.record()["lora"] == {"rank": 4, "alpha": 16.0, "targets": EVERY}
    names = trained(made.groups, adapted("vit_token").parameter_shapes())
    assert {"norm/scale", "blocks/0/attn/value/lora_b"} < names and not {"head/kernel", "stem/kernel"} & names


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"lora_rank": 0}, "--lora_rank is 0, expected"),
        ({"lora_rank": 33}, r"--lora_rank 33 is above 32, the smaller side of blocks/0/attn/query/kernel \[32, 32\]; give"),
        ({"lora_rank": 2, "lora_targets": "x"}, "--lora_targets x fits no dense kernel of ViT-mu/16, such as blocks/0/attn"),
        ({"lora_rank": 2, "lora_targets": "head/.*"}, "--lora_targets head/.* fits no dense kernel"),
        ({"lora_rank": 2, "lora_targets": "("}, r"--lora_targets is '\(', expected a regular expression"),
        ({"lora_alpha": 2.0}, "--lora_alpha 2.0 belongs to LoRA, which is off; give --lora_rank, too"),
        ({"lora_targets": "x"}, "--lora_targets x belongs to LoRA, which is off"),
        ({"lora_rank": 2, "model": "BiT-M-R50x1"}, "adapts the dense kernels of ViTs, Mixers, image-text models and models that write, and BiT"),
        ({"lora_rank": 2, "train_only": "head"}, "--train_only head leaves what --lora_rank adds untrained"),
        ({"lora_rank": 2, "locked": ".*"}, "Nothing of ViT-mu/16 is left to train"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused(tmp_path, flags, sentence):
    asked = {"model": "ViT-mu/16", "weights": "none", "logdir": str(tmp_path / "runs"), "name": "a"} | flags
    with pytest.raises(UserError, match=sentence):
        Run(TrainConfig(**asked), engine="numpy")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", WRITERS)
def test_what_peft_does_not_know_is_one_short_line(name, tmp_path):
    config = adapted(name)
    said = write_adapter(tmp_path, random_arrays(config), config, GROUPS)
    assert said == "No adapter.safetensors for peft, which knows the models of Hugging Face alone"
    assert not list(tmp_path.iterdir())
