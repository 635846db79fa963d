"""Running peers: their models with random weights, saved as they save, give our engines' logits; and they load our files.

The float32 bound is 2e-5 of the largest logit: both sides round in another order. Peers are timm, transformers and
torchvision; their versions stand in constraints.txt.
"""

import contextlib
import copy
import dataclasses
import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from engines import Engine
from format_cases import CASES, SMALL, random_arrays

from common.convert import convert
from common.models import ARCHITECTURES, ResNetConfig, ViTConfig
from common.models.families import dump_config
from common.system.errors import UserError
from common.weights import containers, timm_config
from common.weights.recognise import recognise
from common.weights.source import RECORD, read_model

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
BOUND = 2e-5


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Whether files survive a power cut is tested elsewhere."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@functools.cache
def images(height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(7).uniform(-1, 1, (3, height, width, 3)).astype(np.float32)


def randomise(model) -> None:
    """Values of the same kind for every parameter: peers start heads and biases at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            is_scale = value.ndim == 1 and name.endswith("weight")
            value.copy_(noise / max(4, math.prod(value.shape[1:])) ** 0.5 + is_scale)


def peer_logits(model, size: tuple[int, int]) -> np.ndarray:
    with torch.no_grad():
        out = model.eval()(torch.from_numpy(images(*size)).permute(0, 3, 1, 2))
    return np.asarray(getattr(out, "logits", out))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def our_logits(engine, path: Path, size: tuple[int, int]) -> np.ndarray:
    found = read_model(path)
    return engine.logits(engine.build(found.config, found.arrays), images(*size))


def assert_same(path: Path, other: Path) -> None:
    """Two files of one model, with the same logits therefore."""
    ours, theirs = read_model(path), read_model(other)
    assert ours.config == theirs.config and ours.arrays.keys() == theirs.arrays.keys()
    assert all(np.array_equal(ours.arrays[name], theirs.arrays[name]) for name in ours.arrays)


# --- timm


def timm_vit(architecture: str = "vit_base_patch16_224", **changes):
    timm = pytest.importorskip("timm")
    arguments = {
        "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0, "num_classes": 5,
    }  # fmt: skip
    return timm.create_model(architecture, **arguments | changes)


def timm_hybrid(layers: tuple[int, ...], patch_size: int):
    pytest.importorskip("timm")
    from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import HybridEmbed, StdConv2dSame, partial

    convolution = partial(StdConv2dSame, eps=1e-8)
    if layers:
        backbone = ResNetV2(
            layers, (128, 256), num_classes=0, global_pool="", preact=False, stem_type="same", stem_chs=32,
            conv_layer=convolution,
        )  # fmt: skip
    else:
        backbone = create_resnetv2_stem(3, 32, stem_type="same", preact=False, conv_layer=convolution)
    return VisionTransformer(
        img_size=64, patch_size=patch_size, embed_layer=partial(HybridEmbed, backbone=backbone), embed_dim=32, depth=2,
        num_heads=4, mlp_ratio=2.0, num_classes=5,
    )  # fmt: skip


def timm_bit(num_classes=5):
    pytest.importorskip("timm")
    from timm.models.resnetv2 import ResNetV2, StdConv2d, partial

    return ResNetV2(
        (2, 1),
        (128, 256),
        num_classes=num_classes,
        stem_chs=32,
        stem_type="fixed",
        conv_layer=partial(StdConv2d, eps=1e-8),
    )


def timm_mixer(**changes):
    pytest.importorskip("timm")
    from timm.models.mlp_mixer import MlpMixer

    sizes = {"num_classes": 5, "img_size": 32, "patch_size": 8, "num_blocks": 2, "embed_dim": 32}
    return MlpMixer(**sizes | {"mlp_ratio": (0.5, 2.0)} | changes)


TIMM = {  # name -> (model, size of the images, whether timm's hub layout describes it)
    "token": (timm_vit, (32, 32), True),
    "token_gelu_tanh": (lambda: timm_vit(act_layer="gelu_tanh"), (32, 32), True),
    "token_rectangle": (lambda: timm_vit(img_size=(32, 48)), (32, 48), True),
    "token_patches_only": (lambda: timm_vit(no_embed_class=True), (32, 32), True),
    "gap": (lambda: timm_vit(class_token=False, global_pool="avg", fc_norm=False), (32, 32), True),
    "map": (lambda: timm_vit(class_token=False, global_pool="map"), (32, 32), True),
    "token_features": (lambda: timm_vit(num_classes=0), (32, 32), True),
    "siglip": (lambda: timm_vit("vit_base_patch16_siglip_224", num_classes=0), (32, 32), True),
    "clip": (lambda: timm_vit("vit_base_patch16_clip_224"), (32, 32), True),
    "clip_quick_gelu": (lambda: timm_vit("vit_base_patch16_clip_quickgelu_224", num_classes=0), (32, 32), True),
    "hybrid": (lambda: timm_hybrid((2, 1), 1), (64, 64), False),
    "hybrid_stem": (lambda: timm_hybrid((), 4), (64, 64), False),
    "bit": (timm_bit, (64, 64), False),
    "bit_features": (lambda: timm_bit(0), (64, 64), False),
    "mixer_features": (lambda: timm_mixer(num_classes=0), (32, 32), False),
    "mixer": (timm_mixer, (32, 32), False),
    "mixer_rectangle": (lambda: timm_mixer(img_size=(32, 48)), (32, 48), False),
}


@functools.cache
def timm_model(name: str):
    torch.manual_seed(0)
    build, size, _ = TIMM[name]
    model = build()
    randomise(model)
    return model, peer_logits(model, size)


def save_timm(name: str, folder: Path) -> Path:
    """As timm saves for its hub, or its state_dict where the model was not built by name."""
    from timm.models import save_for_hf

    model, size, _ = (timm_model(name)[0], *TIMM[name][1:])
    folder.mkdir(exist_ok=True)
    if TIMM[name][2]:
        save_for_hf(model, folder, safe_serialization=True)
    else:
        safetensors_torch.save_file(model.state_dict(), folder / "model.safetensors")
        arguments = {"num_heads": 4, "img_size": list(size)}
        (folder / "config.json").write_text(json.dumps({"architecture": "by hand", "model_args": arguments}))
    return folder


@pytest.mark.parametrize("name", TIMM)
def test_timm_models_have_the_same_logits(engine, name, tmp_path):
    folder, expected, size = save_timm(name, tmp_path / "theirs"), timm_model(name)[1], TIMM[name][1]
    assert relative(our_logits(engine, folder, size), expected) < BOUND


@pytest.mark.parametrize("name", ("token", "token_gelu_tanh", "bit", "mixer"))
def test_timm_models_have_the_same_logits_in_float64(engine, name, tmp_path):
    """A constant or a sum in float32 anywhere would show: of an engine, of timm, or of a framework's own GELU."""
    model, size = copy.deepcopy(timm_model(name)[0]).double(), TIMM[name][1]
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(images(*size)).double().permute(0, 3, 1, 2)).numpy()
    found = read_model(save_timm(name, tmp_path / "theirs"))
    ours = engine.build(found.config, found.arrays, "float64")
    assert relative(engine.logits(ours, images(*size).astype(np.float64)), expected) < 1e-13


@pytest.mark.parametrize("name", TIMM)
def test_timm_loads_our_files_strictly(name, tmp_path):
    """Converted to ours and back, its own loader takes every tensor and computes the very same logits."""
    timm = pytest.importorskip("timm")
    theirs = save_timm(name, tmp_path / "theirs")
    ours = convert(theirs, tmp_path / "ours.npz")
    assert_same(ours, theirs)
    path = convert(ours, tmp_path / "back", "timm")
    model, expected = timm_model(name)
    back = safetensors_torch.load_file(path)
    for key, value in model.state_dict().items():
        assert torch.equal(back[key], value), key
    if TIMM[name][2]:
        again = timm.create_model(f"local-dir:{path.parent}", pretrained=True)
    else:
        again = TIMM[name][0]()
        again.load_state_dict(back, strict=True)
    np.testing.assert_array_equal(peer_logits(again, TIMM[name][1]), expected)


def test_timm_loads_our_hybrids_and_mixers_by_their_published_names(tmp_path):
    """Our config.json names an architecture; only its parameters are checked, which are large enough."""
    timm = pytest.importorskip("timm")
    from common.models import find_architecture
    from common.weights.timm_config import describe

    for name in ("R+ViT-Ti/16", "R26+ViT-S/32", "Mixer-S/32", "Mixer-L/16", "ViT-Ti/16", "ViT-H/14"):
        config = dataclasses.replace(find_architecture(name), gelu="erf")
        architecture, arguments = describe(config)
        with torch.device("meta"):
            model = timm.create_model(architecture, **arguments)
        from common.weights.express import choose_table

        expected = choose_table("timm", config).published_shapes(config)
        assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected
    for name in ARCHITECTURES:
        architecture = describe(ResNetConfig(*ARCHITECTURES[name], 10))[0]
        assert architecture is None if name == "R26x0.5" else timm.is_model(architecture)


# --- Hugging Face


def huggingface_vit(**changes):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"image_size": 32, "patch_size": 8, "num_labels": 5, "attn_implementation": "eager"}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**sizes | changes))


def huggingface_bit(**changes):
    transformers = pytest.importorskip("transformers")
    sizes = {"depths": [2, 1], "hidden_sizes": [128, 256], "embedding_size": 32, "num_labels": 5}
    return transformers.BitForImageClassification(transformers.BitConfig(**sizes | changes))


HUGGING_FACE = {
    "vit": (huggingface_vit, (32, 32)),
    "vit_tanh": (lambda: huggingface_vit(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6), (32, 32)),
    "vit_rectangle": (lambda: huggingface_vit(image_size=[32, 48]), (32, 48)),
    "bit": (huggingface_bit, (64, 64)),
    "bit_names": (lambda: huggingface_bit(id2label={0: "cat", 1: "dog", 2: "owl"}, depths=[1, 2]), (64, 64)),
}


@functools.cache
def huggingface_model(name: str):
    torch.manual_seed(0)
    model = HUGGING_FACE[name][0]()
    randomise(model)
    return model, peer_logits(model, HUGGING_FACE[name][1])


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face_models_have_the_same_logits(engine, name, tmp_path):
    model, expected = huggingface_model(name)
    model.save_pretrained(tmp_path / "theirs")
    assert relative(our_logits(engine, tmp_path / "theirs", HUGGING_FACE[name][1]), expected) < BOUND


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        *((name, "huggingface") for name in HUGGING_FACE),
        *((name, "huggingface_v5") for name in HUGGING_FACE if "v" in name),
    ],
)  # BiT's names never changed
def test_hugging_face_loads_our_files_strictly(name, spelling, tmp_path):
    model, expected = huggingface_model(name)
    model.save_pretrained(tmp_path / "theirs")
    ours = convert(tmp_path / "theirs", tmp_path / "ours.npz")
    assert_same(ours, tmp_path / "theirs")
    assert_same(convert(tmp_path / "theirs", tmp_path / "ours.safetensors"), ours)
    path = convert(ours, tmp_path / "back", spelling)
    again, info = type(model).from_pretrained(path.parent, output_loading_info=True, attn_implementation="eager")
    assert not any(info.values()), info
    np.testing.assert_array_equal(peer_logits(again, HUGGING_FACE[name][1]), expected)
    assert again.config.id2label == model.config.id2label


HEADLESS = {  # class -> (arguments, what a part of its output is our features)
    "ViTModel": (huggingface_vit, lambda out: out.last_hidden_state[:, 0]),
    "BitModel": (huggingface_bit, lambda out: out.pooler_output.flatten(1)),
}


@pytest.mark.parametrize("name", HEADLESS)
@pytest.mark.parametrize("as_module", (False, True))  # the names that save_pretrained writes, and those of state_dict()
def test_headless_hugging_face_models_have_the_same_features(engine, name, as_module, tmp_path):
    transformers = pytest.importorskip("transformers")
    whole, features = HEADLESS[name]
    model = getattr(transformers, name)(whole().config)
    randomise(model)
    model.save_pretrained(tmp_path)
    if as_module:
        safetensors_torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    found, pixels = read_model(tmp_path), images(32, 32)
    assert found.config.num_classes is None
    assert found.unused == (["pooler.dense.bias", "pooler.dense.weight"] if name == "ViTModel" else [])
    with torch.no_grad():
        expected = features(model.eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2))).numpy()
    assert relative(engine.logits(engine.build(found.config, found.arrays), pixels), expected) < BOUND


@pytest.mark.parametrize("name", HEADLESS)
def test_hugging_face_loads_our_headless_files(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    whole, features = HEADLESS[name]
    model = getattr(transformers, name)(whole().config)
    randomise(model)
    model.save_pretrained(tmp_path / "theirs")
    path = convert(tmp_path / "theirs", tmp_path / "ours", "huggingface")
    assert_same(path, tmp_path / "theirs")
    again, info = transformers.AutoModel.from_pretrained(path.parent, output_loading_info=True)
    assert type(again) is type(model) and set(info["missing_keys"]) <= {"pooler.dense.bias", "pooler.dense.weight"}
    values = torch.from_numpy(images()).permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(features(again.eval()(values)), features(model.eval()(values)), rtol=1e-5, atol=1e-5)


def test_the_encoder_of_a_masked_image_model(tmp_path):
    """Its decoder and its mask token are no parameters of a ViT."""
    transformers = pytest.importorskip("transformers")
    model = transformers.ViTForMaskedImageModeling(huggingface_vit(encoder_stride=8).config)
    model.save_pretrained(tmp_path)
    found = read_model(tmp_path)
    assert found.unused == ["decoder.0.bias", "decoder.0.weight", "vit.embeddings.mask_token"]
    assert np.array_equal(found.arrays["cls"], model.state_dict()["vit.embeddings.cls_token"].numpy())


def test_hugging_face_modules_bear_the_names_since_version_5(tmp_path):
    model, _ = huggingface_model("vit")
    model.save_pretrained(tmp_path)
    path = convert(tmp_path, tmp_path / "new", "huggingface_v5")
    with containers.open_container(path) as file:
        assert file.declared.keys() == model.state_dict().keys()
    model.load_state_dict(safetensors_torch.load_file(path), strict=True)
    assert read_model(path).spelling == "huggingface_v5"


SILENT = [  # architectures whose config.json on the hub says nothing of GELU and heads
    "vit_base_patch16_gap_224", "vit_base_patch32_siglip_256", "vit_large_patch16_siglip_gap_512", "vit_small_patch16_224",
]  # fmt: skip


def recognised_architectures(names) -> dict:
    """{architecture of timm: (its model without values, our configuration)} of those that are read by name alone."""
    timm, found = pytest.importorskip("timm"), {}
    for name in names:
        with torch.device("meta"):
            model = timm.create_model(name)
        config = {"architecture": name, "pretrained_cfg": {"input_size": list(model.pretrained_cfg["input_size"])}}
        config |= {"global_pool": model.global_pool} if isinstance(getattr(model, "global_pool", None), str) else {}
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        with contextlib.suppress(UserError):
            found[name] = model, recognise(shapes, timm_config.read_config(config), name).config
    return found


def check_recognised(found: dict) -> None:
    for name, (model, config) in found.items():
        if isinstance(config, ResNetConfig):
            continue
        block = model.blocks[0]
        mlp = block.mlp if isinstance(config, ViTConfig) else block.mlp_tokens
        if getattr(config, "swiglu", False):
            assert "SiLU" in type(mlp.act).__name__, name
            continue
        assert config.layer_norm_epsilon == block.norm1.eps, name
        kinds = {"GELUTanh": "tanh", "QuickGELU": "quick"}
        assert config.gelu == kinds.get(type(mlp.act).__name__, "erf"), name
        if isinstance(config, ViTConfig):
            assert config.num_heads == block.attn.num_heads, name
            assert config.rotary == (getattr(model, "rope", None) is not None), name
            assert config.registers + config.num_cls == model.num_prefix_tokens, name


def test_timm_architectures_tell_what_their_config_does_not():
    found = recognised_architectures(SILENT)
    assert found.keys() == set(SILENT)
    check_recognised(found)


@pytest.mark.slow
def test_all_timm_architectures_are_read_as_they_are_or_refused():
    timm = pytest.importorskip("timm")
    kinds = ("vit_", "deit", "flexivit", "mixer_", "gmixer", "resnetv2_", "eva", "beit")
    found = recognised_architectures(name for kind in kinds for name in timm.list_models(f"{kind}*"))
    assert len(found) > 80
    check_recognised(found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"global_pool": "avg", "fc_norm": False}, "a class token and its config.json has global_pool 'avg'"),
        ({"global_pool": "avgmax", "fc_norm": False}, "has global_pool 'avgmax', expected one of token, avg, map"),
        ({"act_layer": "relu"}, "the activation 'relu'"),
        ({"norm_layer": "layernorm2d", "depth": 0}, "norm_layer 'layernorm2d'"),
        ({"dynamic_img_pad": True}, "dynamic_img_pad True"),
        ({"block_fn": "ResPostBlock"}, "block_fn 'ResPostBlock'"),
    ],
)
def test_timm_options_that_make_another_function_are_refused(changes, words, tmp_path):
    """Their arrays are those of a ViT that is read; timm's own logits differ from that one's."""
    from timm.models import save_for_hf

    built = {name: value for name, value in changes.items() if name in ("global_pool", "fc_norm", "act_layer")}
    model = timm_vit(**built)
    save_for_hf(model, tmp_path, safe_serialization=True, model_args=changes)
    with pytest.raises(UserError, match=words):
        read_model(tmp_path)
    if built:  # without the option, the file is read, and is another function
        randomise(model)
        plain = timm_vit()
        plain.load_state_dict(model.state_dict(), strict=True)
        assert relative(peer_logits(model, (32, 32)), peer_logits(plain, (32, 32))) > 1e-4


@pytest.mark.parametrize("activation", ("relu", "gelu", "silu"))
def test_a_bit_of_timm_computes_with_relu(activation):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        names = {type(part).__name__ for part in timm.create_model("resnetv2_50x1_bit", act_layer=activation).modules()}
    assert {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU"}[activation] in names
    config = {"architecture": "resnetv2_50x1_bit", "model_args": {"act_layer": activation}}
    if activation == "relu":
        assert timm_config.read_config(config) == timm_config.read_config({"architecture": "resnetv2_50x1_bit"})
    else:
        with pytest.raises(UserError, match=f"names the activation '{activation}', expected relu"):
            timm_config.read_config(config)


@pytest.mark.parametrize(
    ("build", "changes", "words"),
    [
        ("vit", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("vit", {"problem_type": "regression"}, "problem_type 'regression'"),
        ("bit", {"output_stride": 8}, "output_stride 8, expected 32"),
        ("bit", {"layer_type": "bottleneck"}, "layer_type 'bottleneck'"),
        ("bit", {"global_padding": "SAME"}, "global_padding 'SAME'"),
        ("bit", {"embedding_dynamic_padding": True}, "embedding_dynamic_padding True"),
        ("bit", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ],
)
def test_hugging_face_options_that_make_another_function_are_refused(build, changes, words, tmp_path):
    model = {"vit": huggingface_vit, "bit": huggingface_bit}[build](**changes)
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=words):
        read_model(tmp_path)


@pytest.mark.parametrize("changes", ({"num_groups": 16}, {"depths": [1, 1]}))
def test_hugging_face_options_of_bit_that_are_computed(changes, tmp_path):
    """The same logits, in float64. Its own `width_factor` widens the blocks and not the last norm: no such model runs."""
    model = huggingface_bit(**changes)
    randomise(model)
    model.save_pretrained(tmp_path)
    found = read_model(tmp_path)
    engine = Engine("bit_pytorch")
    ours = engine.build(found.config, found.arrays, "float64")
    pixels = images(64, 64).astype(np.float64)
    with torch.no_grad():
        expected = model.double().eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2)).logits.numpy()
    assert relative(engine.logits(ours, pixels), expected) < 1e-9


# --- torchvision


def torchvision_vit(**changes):
    pytest.importorskip("torchvision")
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5, **changes)


@pytest.mark.parametrize("changes", ({}, {"representation_size": 24}))
def test_torchvision_both_ways(engine, changes, tmp_path):
    model = torchvision_vit(**changes)
    randomise(model)
    expected = peer_logits(model, (32, 32))
    safetensors_torch.save_file(model.state_dict(), tmp_path / "theirs.safetensors")
    ours = convert(tmp_path / "theirs.safetensors", tmp_path / "ours.npz", given={"num_heads": 4})
    assert relative(our_logits(engine, ours, (32, 32)), expected) < BOUND
    back = safetensors_torch.load_file(convert(ours, tmp_path / "back.safetensors", "torchvision"))
    again = torchvision_vit(**changes)
    again.load_state_dict(back, strict=True)
    np.testing.assert_array_equal(peer_logits(again, (32, 32)), expected)


def test_published_torchvision_models_are_recognised():
    """By names and shapes alone: their sizes are those of published ViTs."""
    models = pytest.importorskip("torchvision.models")
    from common.weights.recognise import recognise

    for name, patch in (("vit_b_16", 16), ("vit_b_32", 32), ("vit_l_16", 16), ("vit_h_14", 14)):
        with torch.device("meta"):
            shapes = {key: tuple(value.shape) for key, value in getattr(models, name)().state_dict().items()}
        found = recognise(shapes, {}, name)
        assert found.table.spelling == "torchvision" and found.config.patch_size == (patch, patch)
        assert (found.config.gelu, found.config.image_size) == ("erf", (224, 224))


# --- ours first: what peers make of models that our engines trained


GOING_OUT = {  # name -> (configuration, spelling)
    "vit_timm": (ViTConfig(**SMALL), "timm"),
    "vit_sincos_timm": (CASES["vit_gap_sincos"][0], "timm"),
    "vit_map_timm": (CASES["vit_map"][0], "timm"),
    "vit_huggingface": (ViTConfig(**SMALL), "huggingface"),
    "vit_patches_only_huggingface": (CASES["vit_patches_only"][0], "huggingface_v5"),
    "bit_huggingface": (ResNetConfig((2, 1), 0.5, 5, standardization_epsilon=1e-8), "huggingface"),
}


@pytest.mark.parametrize("name", GOING_OUT)
def test_peers_compute_our_logits(engine, name, tmp_path):
    config, spelling = GOING_OUT[name]
    arrays, size = random_arrays(config), (config.image_size or (64, 64))
    record = {RECORD: json.dumps({"config": dump_config(config)})}
    containers.write(tmp_path / "ours.safetensors", arrays, record)
    path = convert(tmp_path / "ours.safetensors", tmp_path / "there", spelling)
    if spelling == "timm":
        timm = pytest.importorskip("timm")
        peer = timm.create_model(f"local-dir:{path.parent}", pretrained=True)
    else:
        transformers = pytest.importorskip("transformers")
        peer = transformers.AutoModelForImageClassification.from_pretrained(path.parent)
    expected = engine.logits(engine.build(config, arrays), images(*size))
    assert relative(peer_logits(peer, size), expected) < BOUND
