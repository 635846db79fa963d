"""Later ViTs of running peers, in float64: DeiT, DeiT III, MAE's encoder, DINOv2, DINOv3 of timm and transformers.

Random weights with every optional part away from its default give our engines' outputs; and peers load our files strictly.
"""

import functools
import re
from pathlib import Path

import numpy as np
import pytest
from test_peers import assert_same, images, no_waiting_for_the_disk, peer_logits, randomise, relative, timm_vit

from common.convert import convert
from common.models.positions import rotary
from common.models.resizing import cubic
from common.system.errors import UserError
from common.weights.adapt import adapt
from common.weights.source import read_model

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
__all__ = ["no_waiting_for_the_disk"]
BOUND = 1e-9
TIMM = {
    "dinov2": lambda: timm_vit(init_values=1e-5),
    "dinov2_registers": lambda: timm_vit(init_values=1e-5, reg_tokens=3, no_embed_class=True),
    "dinov2_gated": lambda: timm_vit("vit_giant_patch14_dinov2", mlp_ratio=3.0),
    "deit3": lambda: timm_vit("deit3_small_patch16_224"),
    "registers_with_positions": lambda: timm_vit(reg_tokens=3),
    "registers_gap": lambda: timm_vit(class_token=False, global_pool="avg", fc_norm=False, reg_tokens=2),
    "mae_fine_tuned": lambda: timm_vit(global_pool="avg"),
    "gap_norm": lambda: timm_vit(class_token=False, global_pool="avg", init_values=1e-5, reg_tokens=2),
    "qk_norm": lambda: timm_vit(qk_norm=True, qkv_bias=False),
    "deit_distilled": lambda: timm_vit("deit_base_distilled_patch16_224"),
    "dinov3": lambda: timm_vit("vit_small_patch16_dinov3", global_pool="token"),
    "dinov3_gated": lambda: timm_vit("vit_small_plus_patch16_dinov3_qkvb", global_pool="token", mlp_ratio=3.0),
    "dinov3_biased": lambda: timm_vit("vit_small_patch16_dinov3_qkvb", global_pool="token", num_classes=0),
}


def hugging(name: str, **changes):
    """A model of transformers; `name` is that of its class."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    sizes |= {"attn_implementation": "sdpa", "num_labels": 5} | ({} if "inov2" in name else {"intermediate_size": 64})
    kind = name.split("For")[0].removesuffix("Model")
    return getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**sizes | changes))


HUGGING_FACE = {
    "dinov2": lambda: hugging("Dinov2Model", mlp_ratio=2),
    "dinov2_gated": lambda: hugging("Dinov2Model", mlp_ratio=3, use_swiglu_ffn=True),
    "dinov2_registers": lambda: hugging("Dinov2WithRegistersModel", num_register_tokens=3, mlp_ratio=2),
    "dinov2_classes": lambda: hugging("Dinov2ForImageClassification", mlp_ratio=2, qkv_bias=False),
    "dinov2_gated_classes": lambda: hugging("Dinov2ForImageClassification", mlp_ratio=3, use_swiglu_ffn=True),
    "dinov2_registers_classes": lambda: hugging(
        "Dinov2WithRegistersForImageClassification", num_register_tokens=3, mlp_ratio=2
    ),
    "dinov3": lambda: hugging("DINOv3ViTModel", num_register_tokens=3),
    "dinov3_gated": lambda: hugging(
        "DINOv3ViTModel", use_gated_mlp=True, hidden_act="silu", query_bias=False, num_register_tokens=4
    ),
    "mae": lambda: hugging("ViTMAEModel", mask_ratio=0.0),
    "deit_distilled": lambda: hugging("DeiTForImageClassificationWithTeacher"),
    "deit": lambda: hugging("DeiTForImageClassification"),
    "deit_features": lambda: hugging("DeiTModel"),
    "vit_without_biases": lambda: hugging("ViTForImageClassification", qkv_bias=False),
}


@functools.cache
def model_of(peer: str, name: str):
    """A peer's model in float32, its values random."""
    torch.manual_seed(0)
    model = {"timm": TIMM, "huggingface": HUGGING_FACE}[peer][name]()
    randomise(model)
    return model.eval()


class Turning(torch.nn.Module):
    """Rotary positions in float64, in the place of a peer's, which are float32: a test below compares those."""

    def __init__(self, theirs):
        super().__init__()
        self.values = torch.from_numpy(rotary(4, 4, 8))
        self.is_timm = hasattr(theirs, "get_embed")

    def forward(self, pixels):
        return self.values[0], self.values[1]

    def get_embed(self, *_, **__):
        return torch.cat([self.values[1], self.values[0]], -1)


def expected(peer: str, name: str) -> np.ndarray:
    """Logits, or features, of a peer's model in float64."""
    import copy

    model = copy.deepcopy(model_of(peer, name)).double()
    for part in ("rope", "rope_embeddings"):
        if getattr(model, part, None) is not None:
            setattr(model, part, Turning(getattr(model, part)))
    pixels = torch.from_numpy(images()).double().permute(0, 3, 1, 2)
    order = {"noise": torch.arange(16.0).repeat(3, 1)} if name == "mae" else {}  # patches stay where they are
    with torch.no_grad():
        found = model(pixels, **order)
    if not hasattr(found, "last_hidden_state"):
        return np.asarray(getattr(found, "logits", found))
    return found.last_hidden_state[:, 0].numpy()


def saved(peer: str, name: str, folder: Path) -> Path:
    """The folder of a peer's model, as it saves it."""
    if peer == "timm":
        from timm.models import save_for_hf

        arguments = {"global_pool": "token"} if name.startswith("dinov3") else {}
        save_for_hf(model_of(peer, name), folder, safe_serialization=True, model_args=arguments | {"num_heads": 4})
    else:
        model_of(peer, name).save_pretrained(folder)
    return folder


QUICK = {
    "timm": ("dinov2_registers", "mae_fine_tuned"), "huggingface": ("dinov3_gated", "dinov2_registers_classes"),
}  # fmt: skip
CASES = [
    pytest.param(peer, name, marks=() if name in QUICK[peer] else pytest.mark.slow)
    for peer, names in (("timm", TIMM), ("huggingface", HUGGING_FACE))
    for name in names
]


@pytest.mark.parametrize(("peer", "name"), CASES)
def test_later_vits_compute_what_their_peers_do(engine, peer, name, tmp_path):
    found = read_model(saved(peer, name, tmp_path))
    ours = engine.build(found.config, found.arrays, "float64")
    assert relative(engine.logits(ours, images().astype(np.float64)), expected(peer, name)) < BOUND


@pytest.mark.parametrize(("peer", "name"), CASES)
def test_peers_load_our_files_of_later_vits_strictly(peer, name, tmp_path):
    """Converted to ours and back, their own loaders take every tensor and compute the very same outputs."""
    theirs = saved(peer, name, tmp_path / "theirs")
    ours = convert(theirs, tmp_path / "ours.safetensors")
    assert_same(ours, theirs)
    path = convert(ours, tmp_path / "back", peer)
    assert_same(path, theirs)
    model, pixels = model_of(peer, name), torch.from_numpy(images()).permute(0, 3, 1, 2)
    if peer == "timm":
        again = pytest.importorskip("timm").create_model(f"local-dir:{path.parent}", pretrained=True)
        again.load_state_dict(safetensors_torch.load_file(path), strict=True)
        np.testing.assert_array_equal(peer_logits(again, (32, 32)), peer_logits(model, (32, 32)))
        return
    again, info = type(model).from_pretrained(path.parent, output_loading_info=True, attn_implementation="sdpa")
    allowed = {"embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias"}  # which no output here depends upon
    missing = {re.sub(r"^dinov2\w*\.", "", key) for key in info.pop("missing_keys")}
    assert missing <= allowed and not any(info.values()), info
    if name != "mae":
        with torch.no_grad():
            found, wanted = (one.eval()(pixels) for one in (again, model))
        part = (lambda out: out.last_hidden_state) if hasattr(found, "last_hidden_state") else lambda out: out.logits
        np.testing.assert_array_equal(part(found), part(wanted))


def test_rotary_positions_are_those_of_both_peers():
    """Within their float32; of a grid that is no square as well."""
    timm = pytest.importorskip("timm")
    cosine, sine = rotary(3, 5, 8)
    theirs = timm.layers.RotaryEmbeddingDinoV3(8, feat_shape=[3, 5]).get_embed()
    np.testing.assert_allclose(np.concatenate([sine, cosine], -1), theirs, rtol=0, atol=2e-6)
    found = model_of("huggingface", "dinov3").rope_embeddings(torch.zeros(1, 3, 24, 40))
    np.testing.assert_allclose(rotary(3, 5, 8), torch.stack(found), rtol=0, atol=2e-6)


def test_dinov2_goes_from_hugging_face_to_timm_and_facebook(tmp_path):
    """timm has the class token's position within the token; facebook's original has it beside."""
    source = saved("huggingface", "dinov2_registers", tmp_path / "theirs")
    path, lines = convert(source, tmp_path / "facebook.safetensors", "facebook"), []
    found = read_model(path)
    assert found.spelling == "facebook" and found.config.registers == 3 and found.config.cls_position
    assert {"register_tokens", "blocks.0.ls1.gamma"} <= safetensors_torch.load_file(path).keys()
    assert_same(path, source)
    path = convert(source, tmp_path / "timm", "timm", say=lines.append)
    assert any("cannot be undone" in line for line in lines)
    again = pytest.importorskip("timm").create_model(f"local-dir:{path.parent}", pretrained=True)
    theirs = model_of("huggingface", "dinov2_registers")
    with torch.no_grad():
        pixels = torch.from_numpy(images()).permute(0, 3, 1, 2)
        assert relative(again(pixels).numpy(), theirs(pixels).pooler_output.numpy()) < 1e-5


V5 = ("dinov2_classes", "dinov2_gated", "deit_distilled", "mae")
SLOW_V5 = [pytest.param(name, marks=pytest.mark.slow) for name in HUGGING_FACE if name not in V5]


@pytest.mark.parametrize("name", [*V5, *SLOW_V5])
def test_names_that_modules_of_version_5_bear_are_read(name, tmp_path):
    """As `state_dict()` has them; `save_pretrained` writes the older ones of the same arrays."""
    folder = saved("huggingface", name, tmp_path / "theirs")
    before = read_model(folder)
    safetensors_torch.save_file(model_of("huggingface", name).state_dict(), folder / "model.safetensors")
    found = read_model(folder)
    assert found.config == before.config and found.spelling in ("huggingface_v5", "huggingface")
    assert all(np.array_equal(found.arrays[key], value) for key, value in before.arrays.items())


@pytest.mark.parametrize("name", V5)
def test_files_in_the_names_of_version_5_are_those_of_its_modules(name, tmp_path):
    """Strictly: but for a mask token, a pooler and a decoder, a module takes the file as its state."""
    source = saved("huggingface", name, tmp_path / "theirs")
    path = convert(source, tmp_path / "v5", "huggingface_v5")
    states, model = safetensors_torch.load_file(path), model_of("huggingface", name)
    root = re.compile(r"^(vit|deit|dinov2)\.") if name in ("dinov2_gated", "mae") else re.compile("(?!)")
    states = {root.sub("", key): value for key, value in states.items()}
    theirs = {key: value for key, value in model.state_dict().items() if "mask_token" not in key}
    assert states.keys() == theirs.keys()
    assert all(torch.equal(states[key], value) for key, value in theirs.items())


@pytest.mark.parametrize("name", ("dinov3", "dinov3_gated"))
def test_timm_reads_facebooks_own_names_of_dinov3(name, tmp_path):
    """`checkpoint_filter_fn` of timm is what its own loader does with facebook's state dicts, whose bias of keys is masked."""
    from timm.models.eva import checkpoint_filter_fn

    source = tmp_path / "theirs"
    gated = {"use_gated_mlp": True, "hidden_act": "silu"} if name == "dinov3_gated" else {}
    theirs = hugging("DINOv3ViTModel", num_register_tokens=4, **gated)
    randomise(theirs)
    theirs.eval().save_pretrained(source)
    path = convert(source, tmp_path / "facebook.safetensors", "facebook")
    states = safetensors_torch.load_file(path)
    assert not states["blocks.1.attn.qkv.bias"][32:64].any() and "storage_tokens" in states
    buffers = {"mask_token": torch.zeros(1, 32), "rope_embed.periods": torch.ones(2)}
    buffers |= {f"blocks.{i}.attn.qkv.bias_mask": torch.ones(96) for i in range(2)}
    states["blocks.1.attn.qkv.bias"][32:64] = 7.0  # which the mask takes away
    safetensors_torch.save_file(states | buffers, tmp_path / "with.safetensors")
    found = read_model(tmp_path / "with.safetensors", given={"num_heads": 4})
    assert found.spelling == "facebook" and found.unused == sorted(buffers)
    assert found.config.attn_biases == ("query", "value", "out") and found.config.swiglu == (name == "dinov3_gated")
    assert_same(path, source)
    sizes = {"num_classes": 0, "global_pool": "token", "num_reg_tokens": 4}
    again = timm_vit(f"vit_small_{'plus_' if found.config.swiglu else ''}patch16_dinov3_qkvb", **sizes)
    again.load_state_dict(checkpoint_filter_fn(states | buffers, again), strict=True)
    with torch.no_grad():
        pixels = torch.from_numpy(images()).permute(0, 3, 1, 2)
        expected = theirs(pixels).last_hidden_state[:, 0].numpy()
        assert relative(again.eval()(pixels).numpy(), expected) < 1e-4


@pytest.mark.parametrize("name", ("dinov2", "dinov2_gated"))
def test_timm_reads_facebooks_own_names(name, tmp_path):
    """`_convert_dinov2` of timm is what its own loader does with facebook's state dicts."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    spelling = "facebook" if name == "dinov2_gated" else "timm"  # whose names the others have
    path = convert(saved("huggingface", name, tmp_path / "theirs"), tmp_path / "facebook.safetensors", spelling)
    states = safetensors_torch.load_file(path) | {"mask_token": torch.zeros(1, 32)}
    safetensors_torch.save_file(states, tmp_path / "with.safetensors")
    found = read_model(tmp_path / "with.safetensors", given={"num_heads": 4})
    assert found.spelling == spelling and found.unused == ["mask_token"]
    again = timm_vit(init_values=1.0, num_classes=0) if name == "dinov2" else None
    again = again or timm_vit("vit_giant_patch14_dinov2", num_classes=0, mlp_ratio=2 * found.config.mlp_dim / 32)
    again.load_state_dict(checkpoint_filter_fn(states, again), strict=True)
    with torch.no_grad():
        pixels = torch.from_numpy(images()).permute(0, 3, 1, 2)
        assert (
            relative(again.eval()(pixels).numpy(), model_of("huggingface", name)(pixels).pooler_output.numpy()) < 1e-5
        )


def test_a_masked_autoencoder_is_read_without_its_decoder(tmp_path):
    """Facebook's names: those of timm for the encoder, with a decoder and a mask token beside them."""
    states = {key: value for key, value in timm_vit(num_classes=0).state_dict().items()}
    more = {"mask_token": torch.zeros(1, 1, 16), "decoder_pos_embed": torch.zeros(1, 17, 16)}
    more |= {"decoder_blocks.0.norm1.weight": torch.ones(16), "decoder_pred.bias": torch.zeros(192)}
    safetensors_torch.save_file(states | more, tmp_path / "mae.safetensors")
    found = read_model(tmp_path / "mae.safetensors", given={"num_heads": 4})
    assert found.unused == sorted(more) and found.config.num_classes is None
    np.testing.assert_array_equal(found.arrays["cls"], states["cls_token"])


def changed(states: dict, *gone: str, **more) -> dict:
    return {key: value for key, value in states.items() if key not in gone} | more


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("deit_distilled", lambda s: changed(s, "head_dist.weight", "head_dist.bias"), "missing: head_dist.weight"),
        ("deit_distilled", lambda s: changed(s, "dist_token"), "18 positions"),
        ("dinov2_registers", lambda s: changed(s, reg_token=torch.zeros(1, 0, 32)), "reg_token"),
        ("registers_with_positions", lambda s: changed(s, reg_token=torch.zeros(1, 2, 32)), "19|20 positions"),
        ("dinov2", lambda s: changed(s, "blocks.1.ls2.gamma"), "missing: blocks.1.ls2.gamma"),
        ("qk_norm", lambda s: changed(s, "blocks.0.attn.k_norm.bias"), "missing: blocks.0.attn.k_norm.bias"),
        ("dinov3", lambda s: changed(s, "blocks.0.gamma_1"), "missing: blocks.0.gamma_1"),
    ],
)
def test_files_of_which_a_part_is_missing_are_refused_in_a_sentence(name, change, words, tmp_path):
    states = change(model_of("timm", name).state_dict())
    safetensors_torch.save_file(dict(states), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=words):
        read_model(tmp_path / "a.safetensors", given={"num_heads": 4})


# --- positions for another size of image


@pytest.mark.parametrize(("old", "new"), [(7, 3), (7, 4), (4, 7), (5, 5), (2, 9), (1, 3)])
@pytest.mark.parametrize("antialias", (False, True))
def test_cubic_interpolation_is_that_of_pytorch(old, new, antialias):
    values = np.random.default_rng(old).normal(size=(old, old, 3))
    tensor = torch.from_numpy(values).permute(2, 0, 1)[None]
    options = {"mode": "bicubic", "antialias": antialias}
    resized = torch.nn.functional.interpolate(tensor, size=(new, new), **options)
    expected = resized[0].permute(1, 2, 0).numpy()
    matrix = cubic(old, new, antialias=antialias)
    np.testing.assert_allclose(np.einsum("ai,bj,ijc->abc", matrix, matrix, values), expected, rtol=0, atol=1e-12)
    scaled = torch.nn.functional.interpolate(tensor, scale_factor=((new + 0.1) / old,) * 2, mode="bicubic")
    matrix = cubic(old, new, antialias=False, offset=0.1)
    expected = scaled[0].permute(1, 2, 0).numpy()  # as DINOv2's original calls it
    np.testing.assert_allclose(np.einsum("ai,bj,ijc->abc", matrix, matrix, values), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ("dinov2", "dinov2_registers"))
def test_dinov2_at_another_size_of_images(name, tmp_path):
    """With registers, Hugging Face resizes as the original does; without, it has not the original's offset of 0.1."""
    model, lines = model_of("huggingface", name), []
    source = read_model(saved("huggingface", name, tmp_path))
    wanted = source.config.at((24, 48))
    arrays = adapt(source.arrays, source.config, wanted, lines.append)
    assert any("bicubic" in line for line in lines)
    with torch.no_grad():
        theirs = model.embeddings.interpolate_pos_encoding(torch.zeros(1, 19, 32), 24, 48).numpy()
    if name == "dinov2_registers":
        np.testing.assert_allclose(arrays["pos_embedding"], theirs, rtol=0, atol=1e-6)
        return
    rows = torch.from_numpy(source.arrays["pos_embedding"][:, 1:]).reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    original = torch.nn.functional.interpolate(rows, scale_factor=(3.1 / 4, 6.1 / 4), mode="bicubic")
    assert original.shape[2:] == (3, 6)
    original = original.permute(0, 2, 3, 1).reshape(1, -1, 32)
    np.testing.assert_allclose(arrays["pos_embedding"][:, 1:], original, rtol=0, atol=1e-6)
    assert np.abs(theirs[:, 1:] - original.numpy()).max() > 1e-3
