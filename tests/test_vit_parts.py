"""Parts that later ViTs have: against big_vision's numbers, timm's parallel block, and one another in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED, Engine, recipe_of
from golden.golden_params import image, param
from test_peers import images, randomise, relative, timm_vit
from tiny_models import CONFIGS, IMAGES, random_arrays

from common.models import ViTConfig
from common.models.positions import regrid
from common.system.errors import UserError
from common.weights.express import choose_table

GOLDEN = Path(__file__).parent / "golden" / "model_parts" / "naflex_dual_patch_norm_gap.json"
SMALL = {"patch_size": (8, 8), "width": 32, "depth": 2, "num_heads": 4, "mlp_dim": 64, "num_classes": 10}
SMALL |= {"image_size": (32, 32), "pooling": "gap"}


@pytest.mark.parametrize("precision", ("float64", "float32"))
def test_dual_patch_norm_is_that_of_big_vision(engine, precision):
    """Its NaFlex ViT on the one image of the golden batch that fills all tokens: 4 x 4 patches, positions of 6 x 6."""
    golden = json.loads(GOLDEN.read_text())
    values = {name: param(name, tuple(shape)).astype("f4").astype("f8") for name, shape in golden["params"].items()}
    assert golden["input"]["grids (rows, columns) per example"][1] == [4, 4]
    norms = {"patchln_pre": "image_norm", "patchln_post": "embed_norm"}
    ours = {f"{norms[part]}/{leaf}": values.pop(f"{part}/{leaf}") for part in norms for leaf in ("scale", "bias")}
    values["embedding/kernel"] = values["embedding/kernel"].reshape(8, 8, 3, 32)
    values["pos_embedding"] = regrid(values["pos_embedding"].reshape(1, 36, 32), (6, 6), (4, 4))
    arrays = choose_table("big_vision", ViTConfig(**SMALL)).from_published(values, ViTConfig(**SMALL)) | ours
    patches = image((3, 16, 192), 91).astype("f4").astype("f8")[1].reshape(4, 4, 8, 8, 3)
    pixels = patches.transpose(0, 2, 1, 3, 4).reshape(1, 32, 32, 3)
    model = engine.build(ViTConfig(**SMALL, patch_norms=("pre", "post")), arrays, precision)
    expected = np.array(golden["outputs"]["output"]["data"])[1:2]
    found = engine.logits(model, pixels.astype(precision))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 if precision == "float64" else 1e-5)


def parallel(states: dict, config: ViTConfig) -> dict[str, np.ndarray]:
    """Our arrays of a ViT of timm whose blocks are `ParallelScalingBlock`s."""
    of = {"in_norm": "norm1", "q_norm": "attn/query_norm", "k_norm": "attn/key_norm", "attn_out_proj": "attn/out"}
    of |= {"mlp_out_proj": "mlp/fc2"}
    arrays = {"cls": states["cls_token"], "pos_embedding": states["pos_embed"]}
    arrays |= {"stem/kernel": states["patch_embed.proj.weight"].transpose(2, 3, 1, 0)}
    arrays |= {"stem/bias": states["patch_embed.proj.bias"]}
    for name, value in states.items():
        layer, _, leaf = name.rpartition(".")
        leaf = {"weight": "kernel" if value.ndim == 2 else "scale"}.get(leaf, leaf)
        where, _, part = layer.removeprefix("blocks.").partition(".")
        if part == "in_proj":
            names = ("mlp/fc1", "attn/query", "attn/key", "attn/value")
            cut = np.split(value, np.cumsum([config.mlp_dim, config.width, config.width]))
            arrays |= {f"blocks/{where}/{ours}/{leaf}": rows.T for ours, rows in zip(names, cut)}
        elif name.endswith("mlp_bias"):
            arrays[f"blocks/{where}/mlp/fc1/bias"] = value
        elif part in of:
            arrays[f"blocks/{where}/{of[part]}/{leaf}"] = value.T if value.ndim == 2 else value
        elif layer in ("norm", "head"):
            arrays[f"{layer}/{leaf}"] = value.T if value.ndim == 2 else value
    return {name: np.ascontiguousarray(arrays[name]) for name in config.parameter_shapes()}


@pytest.mark.parametrize("biased", (False, True))
def test_parallel_blocks_with_normalised_queries_are_those_of_timm(engine, biased):
    """ViT-22B's block: `ParallelScalingBlock` adds attention and MLP of one norm."""
    torch = pytest.importorskip("torch")
    from timm.models.vision_transformer import ParallelScalingBlock

    model = timm_vit(block_fn=ParallelScalingBlock, qk_norm=True, qkv_bias=biased)
    randomise(model)
    model = model.double().eval()
    biases = ("query", "key", "value", "out") if biased else ("out",)
    config = ViTConfig(
        **SMALL | {"num_classes": 5, "pooling": "token"}, gelu="erf", parallel=True, qk_norm=True, attn_biases=biases
    )
    arrays = parallel({name: value.numpy() for name, value in model.state_dict().items()}, config)
    pixels = images().astype(np.float64)
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    assert relative(engine.logits(engine.build(config, arrays, "float64"), pixels), expected) < 1e-9


@pytest.mark.parametrize("name", ("vit_parts", pytest.param("vit_rotary", marks=pytest.mark.slow)))
def test_engines_agree_on_the_parts_with_noise(name):
    """In float64, with stochastic depth, dropout and dropped patches."""
    import dataclasses

    config, rng = dataclasses.replace(CONFIGS[name], dropout=0.2), np.random.default_rng(0)
    noise = {
        "kept_branches": rng.random((3, config.num_branches)) < 0.5,
        "dropout_seeds": rng.integers(0, 2**31, (3, config.num_dropouts, 2), dtype=np.int32),
        "kept_patches": np.stack([np.sort(rng.permutation(16)[:9]) for _ in range(3)]).astype(np.int32),
    }
    arrays = {key: value.astype("f8") for key, value in random_arrays(config).items()}
    found = []
    for engine in map(Engine, INSTALLED):
        model, pixels = engine.build(config, arrays, "float64"), engine.tensor(IMAGES.astype("f8"))
        drawn = {key: engine.raw(value) for key, value in noise.items()}
        found.append(engine.array(model.logits(model.features(pixels, **drawn))))
        assert np.abs(found[0] - engine.logits(model, IMAGES.astype("f8"))).max() > 1e-3
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("pooling", ("gap_norm", "token_gap"))
def test_engines_train_the_later_poolings_alike(pooling):
    """Three steps in float64; of ours, DINOv2's classifier and a fine-tuned MAE are compared in test_peers_vits.py."""
    config = ViTConfig(**SMALL | {"pooling": pooling}, registers=2)
    arrays = {key: value.astype("f8") for key, value in random_arrays(config).items()}
    assert arrays["head/kernel"].shape == (32 * (1 + (pooling == "token_gap")), 10)
    assert ("pool_norm/scale" in arrays) == (pooling == "gap_norm") != ("norm/scale" in arrays)
    rng = np.random.default_rng(0)
    batches = [
        {"images": rng.integers(0, 256, (8, 32, 32, 3), np.uint8), "labels": rng.integers(0, 10, 8, np.int32)}
        for _ in range(3)
    ]
    found = [
        Engine(name).train(config, arrays, batches, recipe_of((0.1,) * 3), precision="float64") for name in INSTALLED
    ]
    for losses, trained in found:
        np.testing.assert_allclose(losses, found[0][0], rtol=1e-8)
        same = [key for key in arrays if not np.abs(trained[key] - arrays[key]).max() > 0]
        assert not [key for key in same if not key.endswith("attn/key/bias")]  # which changes nothing
        for key, value in found[0][1].items():
            np.testing.assert_allclose(trained[key], value, rtol=1e-7, atol=1e-9, err_msg=key)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pooling": "token_gap", "pre_logits": 8}, "has no pre_logits; leave these away"),
        ({"distilled": True}, "A distilled ViT has pooling 'token'"),
        ({"registers": -1}, "registers is -1, expected a whole number of at least 0"),
        ({"register_positions": True}, "without registers has no positions for them"),
        ({"positions": "rotary", "num_heads": 16}, "heads of a width that 4 divides, not 2"),
        (
            {"attn_biases": ("key", "query")},
            "attn_biases is .*, expected some of query, key, value, out, in this order",
        ),
        ({"patch_norms": ("middle",)}, "patch_norms is .*, expected some of pre, post"),
        ({"positions": "rotary", "kernel_size": (8, 8)}, "patches of one size; leave out the kernel_size"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        ViTConfig(**SMALL | changes)


def test_a_head_of_other_classes_is_two_for_a_distilled_model(engine):
    """`reset_head` puts zeros into both places, and their mean is what the model says."""
    config = CONFIGS["vit_parts"]
    model = engine.build(config, random_arrays(config))
    model.reset_head(7)
    assert engine.logits(model, IMAGES).shape == (3, 7) and not engine.logits(model, IMAGES).any()
    assert engine.weights.dump(model)["head_dist/kernel"].shape == (16, 7)
    model.reset_head(0)
    assert engine.logits(model, IMAGES).shape == (3, 32)


def test_predict_shows_the_mean_of_both_heads(engine):
    """`predict` and `evaluate` compute features and logits in one pass; those of a distilled ViT are of two tokens."""
    config = ViTConfig(**SMALL | {"pooling": "token"}, distilled=True)
    model = engine.build(config, random_arrays(config, seed=3))
    batch = {"images": np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8), "mask": np.ones(3, bool)}
    features, logits = next(engine.inference.predict(model, iter([batch])))
    assert features.shape == (3, 64)
    np.testing.assert_allclose(logits, engine.logits(model, batch["images"] / np.float32(127.5) - 1), rtol=0, atol=1e-5)
