"""What a ViT looks at, the features of its patches, and the pictures of both that `predict --map` draws, in every engine."""

import copy
import dataclasses
import importlib
import resource
from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED, Engine
from PIL import Image as pillow
from test_naflex import batch_of
from test_peers import images, no_waiting_for_the_disk, relative, save_timm, timm_model
from test_peers_vits import model_of, saved
from tiny_models import CONFIGS, IMAGES, TEXTS, random_arrays

from common.config import PredictConfig
from common.data import naflex
from common.data.views import model_view, seen_part
from common.evaluation.pictures import component_colours, heat, over
from common.models import ViTConfig
from common.models.cards import Card, Preprocessing
from common.models.published import PublishedModel
from common.runs.command import parse
from common.runs.jobs import prediction
from common.system.errors import UserError
from common.weights import write_weights
from common.weights.source import read_model

__all__ = ["no_waiting_for_the_disk"]
NAFLEX = ViTConfig((4, 4), 16, 2, 2, 24, None, (12, 16), "gap", registers=1, naflex=True)
VITS = {name: config for name, config in (CONFIGS | TEXTS).items() if isinstance(config, ViTConfig)} | {
    "token_gap": dataclasses.replace(CONFIGS["vit_token"], pooling="token_gap", registers=2),
    "gap_norm": dataclasses.replace(CONFIGS["vit_gap"], pooling="gap_norm"),
    "none": dataclasses.replace(CONFIGS["vit_gap"], pooling="none"),
    "first": dataclasses.replace(CONFIGS["vit_gap"], pooling="first", registers=1),
}
QUICK = ("vit_parts", "vit_gap", "vit_map")


def maps_of(engine: Engine, model, images: np.ndarray, **places: np.ndarray) -> list[np.ndarray]:
    """The attention map and the patch features of images in [-1, 1]."""
    module = importlib.import_module(f"{engine.name}.maps")
    places = {name: engine.raw(values) for name, values in places.items()}
    compiled = importlib.import_module("flax.nnx").jit if engine.name == "bit_jax" else lambda function: function
    both = [compiled(function) for function in (module.attention_map, module.patch_features)]
    return [engine.array(of(model, engine.tensor(images), **places)) for of in both]


# --- the peers' attention and features


def timm_maps(name: str, pixels) -> tuple[np.ndarray, np.ndarray]:
    """timm's attention [B, N, L, L] in the last block, and its features [B, L, D] behind the last norm."""
    import torch

    peer, kept = copy.deepcopy(timm_model(name)[0] if name == "token" else model_of("timm", name)).eval().double(), []
    attn = peer.blocks[-1].attn
    attn.fused_attn = False
    attn.attn_drop.register_forward_hook(lambda module, given, output: kept.append(output))
    with torch.no_grad():
        features = peer.forward_features(pixels)
    return kept[0].numpy(), features.numpy()


def hugging_face_maps(name: str, pixels) -> tuple[np.ndarray, np.ndarray]:
    """The same of transformers, by `output_attentions`."""
    import torch

    peer = copy.deepcopy(model_of("huggingface", name)).double()
    peer.set_attn_implementation("eager")
    with torch.no_grad():
        found = peer(pixels, output_attentions=True)
    return found.attentions[-1].numpy(), found.last_hidden_state.numpy()


@pytest.mark.parametrize(
    ("peer", "name", "classes"),
    [
        ("huggingface", "dinov2_registers", 1), ("timm", "token", 1), ("timm", "deit_distilled", 2),
        pytest.param("huggingface", "deit_features", 1, marks=pytest.mark.slow),  # a softmax in float32; one token is no class
        pytest.param("timm", "dinov2_gated", 1, marks=pytest.mark.slow),
        pytest.param("timm", "qk_norm", 1, marks=pytest.mark.slow),
        pytest.param("timm", "deit3", 1, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_maps_are_the_peers_attention_and_features(engine, peer, name, classes, tmp_path):
    """Of the class tokens in the last block, the mean over heads; and of the patches behind the last norm."""
    torch = pytest.importorskip("torch")
    pixels = images().astype(np.float64)
    theirs = {"timm": timm_maps, "huggingface": hugging_face_maps}[peer]
    attention, features = theirs(name, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    source = read_model(save_timm(name, tmp_path / "a") if name == "token" else saved(peer, name, tmp_path))
    first, bound = source.config.num_prefix, 1e-6 if name == "deit_features" else 1e-9
    ours = maps_of(engine, engine.build(source.config, source.arrays, "float64"), pixels)
    assert relative(ours[0], attention[:, :, :classes, first:].mean((1, 2))) < bound
    assert relative(ours[1], features[:, first:]) < bound
    assert 0.2 < ours[0].sum(1).min() and ours[0].sum(1).max() < 1  # the rest is that of class tokens and registers


def test_the_map_of_a_probe_is_that_of_transformers(engine):
    """SigLIP's head there is PyTorch's own multi-head attention, which gives the mean over heads."""
    torch = pytest.importorskip("torch")
    config = dataclasses.replace(CONFIGS["vit_map"], pre_logits=None)
    arrays = random_arrays(config)
    ours = maps_of(engine, engine.build(config, arrays, "float64"), IMAGES.astype(np.float64))
    attention = torch.nn.MultiheadAttention(16, 2, batch_first=True).double()
    kernels = {part: torch.from_numpy(arrays[f"pool/attn/{part}/kernel"].T) for part in ("query", "key", "value")}
    biases = {part: torch.from_numpy(arrays[f"pool/attn/{part}/bias"]) for part in kernels}
    attention.in_proj_weight.data = torch.cat([*kernels.values()]).double()
    attention.in_proj_bias.data = torch.cat([*biases.values()]).double()
    probe = torch.from_numpy(arrays["pool/probe"]).double().expand(3, -1, -1)
    features = torch.from_numpy(ours[1].copy())
    _, expected = attention(probe, features, features)  # as in modeling_siglip.py of transformers
    np.testing.assert_allclose(ours[0], expected[:, 0].detach().numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours[0].sum(1), 1, atol=1e-12)


# --- engines


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VITS]
)
def test_engines_have_the_same_maps(name):
    """In float64; features are those that the model pools, and attention sums up to at most 1."""
    engines, config = [Engine(one) for one in INSTALLED], VITS[name]
    arrays, pixels = random_arrays(config), IMAGES.astype(np.float64)
    models = [engine.build(config, arrays, "float64") for engine in engines]
    found = [maps_of(engine, model, pixels) for engine, model in zip(engines, models)]
    for attention, features in found:
        np.testing.assert_allclose(attention, found[0][0], rtol=1e-9, atol=0)
        np.testing.assert_allclose(features, found[0][1], rtol=1e-9, atol=1e-12)
        assert attention.min() >= 0 and attention.sum(1).max() < 1 + 1e-12
    if name == "token_gap":  # attention is the class token's, as of the same ViT that reads nothing else
        token = dataclasses.replace(config, pooling="token", num_classes=None)
        model = engines[0].build(token, {key: arrays[key] for key in token.parameter_shapes()}, "float64")
        np.testing.assert_array_equal(maps_of(engines[0], model, pixels)[0], found[0][0])
    if name == "vit_gap":
        np.testing.assert_allclose(found[0][1].mean(1), engines[0].features(models[0], pixels), atol=1e-12)


@pytest.mark.parametrize(
    "pooling", ("gap", *(pytest.param(pooling, marks=pytest.mark.slow) for pooling in ("map", "token")))
)
def test_padding_gets_no_attention(engine, pooling):
    """Of a NaFlex: an image's own patches look as those of the same ViT without padding."""
    config = dataclasses.replace(NAFLEX, pooling=pooling)
    arrays, fixed = random_arrays(config), dataclasses.replace(config, naflex=False)
    pixels = IMAGES[:2, :12, :16].astype(np.float64)
    strips = np.pad([naflex.in_patches(one, (4, 4)) for one in pixels], ((0, 0), (0, 8), (0, 0), (0, 0)))
    coordinates, mask = batch_of([(3, 4)] * 2, 14)
    places = {"coordinates": coordinates, "patch_mask": mask}
    found = maps_of(engine, engine.build(config, arrays, "float64"), strips, **places)
    expected = maps_of(engine, engine.build(fixed, arrays, "float64"), pixels)
    np.testing.assert_allclose(found[0], np.pad(expected[0], ((0, 0), (0, 2))), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[1][:, :12], expected[1], rtol=0, atol=1e-12)


# --- pictures


def test_components_are_those_of_a_singular_value_decomposition():
    """Of all images together; their signs are fixed, whatever a library chooses."""
    rng = np.random.default_rng(0)
    features = [rng.normal(0, [5, 3, 2, 1, 1], (count, 5)).astype(np.float32) for count in (7, 20)]
    rows = np.concatenate(features).astype(float)
    rows -= rows.mean(0)
    axes = np.linalg.svd(rows, full_matrices=False)[2][:3]
    axes *= np.sign(axes[range(3), np.abs(axes).argmax(1)])[:, None]
    projected = rows @ axes.T
    expected = (projected - projected.min(0)) / np.ptp(projected, axis=0)
    found = component_colours(features)
    assert [len(one) for one in found] == [7, 20]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=1e-6)


def test_what_does_not_vary_is_grey():
    """Patches that are alike up to rounding, and features with fewer channels than colours."""
    noise = np.random.default_rng(0).normal(0, 1e-6, (9, 8)).astype(np.float32)
    np.testing.assert_array_equal(component_colours([1 + noise])[0], 0.5)
    narrow = component_colours([np.array([[0, 1], [1, 0], [2, 1]], np.float32)])[0]
    np.testing.assert_array_equal(narrow[:, 2], 0.5)
    np.testing.assert_allclose(narrow[:, 0], [0, 0.5, 1], atol=1e-12)


def test_each_patch_colours_its_own_pixels():
    """Two rows of three patches over 4 x 7 pixels of which the last column is of no patch."""
    colours = np.zeros((2, 3, 3))
    colours[1, 2] = 1
    picture = over(np.zeros((4, 7, 3), np.uint8), colours, (2, 3.5))
    lit = picture.any(-1)
    assert lit.sum() == 2 * 3 and lit[2:, 4:].all() and picture.max() == 153
    np.testing.assert_array_equal(heat(np.array([0, 2.0, 1]))[:2] * 255, [[0, 0, 4], [252, 255, 164]])
    assert heat(np.zeros(2)).max() < 0.02


@pytest.mark.parametrize("rounding", ("big_vision", "torchvision", "huggingface"))
def test_the_picture_shows_what_the_model_sees(rounding):
    """At the same scale the same pixels, and at another the same part of the image."""
    image = np.random.default_rng(0).integers(0, 256, (41, 64, 3), np.uint8)
    same = Preprocessing(resolution=32, eval_resize=41, rounding=rounding)
    np.testing.assert_array_equal(image[seen_part((41, 64), same)], model_view(image, same))
    rows, columns = seen_part((410, 640), same)
    assert (
        (rows.start, rows.stop) == (40, 360) and abs(columns.start - 160) <= 5 and columns.stop - columns.start == 320
    )
    assert seen_part((41, 64), Preprocessing(resolution=32)) == (slice(41), slice(64))
    assert all(part.stop - part.start == 1 for part in seen_part((1, 1), Preprocessing(resolution=8, eval_resize=9)))


# --- the command


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A tiny ViT without a head, and photographs; every published name is that of one like it."""
    config = dataclasses.replace(CONFIGS["vit_parts"], num_classes=None, patch_norms=())
    monkeypatch.setattr(PublishedModel, "config", lambda self, num_classes=None: config)
    write_weights(tmp_path / "tiny.npz", random_arrays(config), config, Card(resolution=32, eval_resize=36))
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), np.uint8)
    for number, image in enumerate(pixels):
        pillow.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


def job(folder: Path, *flags: str, kind: str = "attention"):
    given = ("--model", "ViT-B/16", "--weights", folder / "tiny.npz", "--workers", "2", "--map", kind)
    return prediction(parse(PredictConfig, [*map(str, given), *map(str, flags)], "predict", ""))


def drawn(engine: Engine, folder: Path, *flags: str, **options) -> dict[str, np.ndarray]:
    """The pictures that the command writes, by their names."""
    out = folder / f"of_{engine.name}"
    engine.inference.predict_main(job(folder, "--output", out, *flags, **options))
    return {path.name: np.asarray(pillow.open(path)) for path in sorted(out.iterdir())}


@pytest.mark.parametrize("kind", ("attention", "pca"))
def test_engines_draw_the_same_pictures(folder, kind, capfd):
    """In float64 pixel by pixel: over the middle of the photographs that the model sees, with one colour for a patch."""
    flags = ("--precision", "float64", "--batch_eval", "1", "--", folder / "photos")
    pictures = [drawn(Engine(name), folder, *flags, kind=kind) for name in INSTALLED]
    for found in pictures:
        assert [*found] == [f"0_{kind}.png", f"1_{kind}.png"]
        assert all((one == pictures[0][name]).all() for name, one in found.items())
    photo = np.asarray(pillow.open(folder / "photos" / "0.png"))[2:38, 6:42] * 0.4
    colours = pictures[0][f"0_{kind}.png"] - photo
    assert colours.shape == (36, 36, 3) and np.ptp(colours[:9, :9], (0, 1)).max() <= 1
    assert np.ptp(colours, (0, 1)).max() > 50
    told = capfd.readouterr()
    assert f"Wrote {folder}/of_{INSTALLED[0]}/1_{kind}.png" in told.out
    assert ("The last attention of the class token, the mean of 2 heads." in told.err) == (kind == "attention")


@pytest.mark.parametrize("kind", ("attention", "pca"))
def test_images_of_all_kinds_have_pictures(folder, kind):
    """Of one pixel, grey, with transparency, a panorama, and two of the same name; of float32 as of float64."""
    engine, photos = Engine(INSTALLED[0]), folder / "photos"
    (photos / "sub").mkdir()
    pillow.new("RGB", (1, 1), "red").save(photos / "pixel.png")
    pillow.new("L", (50, 40), 90).save(photos / "grey.jpg")
    pillow.new("RGBA", (50, 40), (9, 200, 30, 40)).save(photos / "clear.png")
    pillow.new("RGB", (9000, 30), "blue").save(photos / "wide.png")
    pillow.new("RGB", (33, 40), "blue").save(photos / "sub" / "grey.png")
    found = drawn(engine, folder, "--", photos, kind=kind)
    assert sorted(found) == sorted(
        f"{name}_{kind}.png" for name in ("0", "1", "clear", "grey", "grey_2", "pixel", "wide")
    )
    sizes = {name.removesuffix(f"_{kind}.png"): picture.shape for name, picture in found.items()}
    assert sizes["pixel"] == (32, 32, 3) and sizes["wide"] == (32, 32, 3) and sizes["clear"] == (36, 36, 3)
    exact = drawn(engine, folder, "--precision", "float64", "--", photos, kind=kind)
    assert max(np.abs(found[name].astype(int) - exact[name]).max() for name in found) <= 1
    squashed = drawn(engine, folder, "--eval_resize", "0", "--", photos / "wide.png", kind=kind)
    assert squashed[f"wide_{kind}.png"].shape == (7, 2048, 3)


def test_a_naflex_draws_the_whole_image(folder, monkeypatch):
    engine = Engine(INSTALLED[0])
    monkeypatch.setattr(PublishedModel, "config", lambda self, num_classes=None: NAFLEX)
    write_weights(folder / "tiny.npz", random_arrays(NAFLEX), NAFLEX, Card())
    pillow.new("RGB", (8, 90), "blue").save(folder / "photos" / "high.png")
    for kind in ("attention", "pca"):
        found = drawn(engine, folder, "--tokens", "10", "--", folder / "photos", kind=kind)
        assert found[f"0_{kind}.png"].shape == (40, 48, 3) and found[f"high_{kind}.png"].shape == (90, 8, 3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--map attention draws pictures; give --output, a folder for them"),
        (
            ("--output", "{}/tiny.npz"),
            "tiny.npz is the name of a file and --map attention draws pictures into a folder; give another name",
        ),
        (("--output", "{}/out", "--texts", "cat"), "--texts is for predictions, and --map attention draws pictures"),
        (("--output", "{}/out", "--top", "3"), "--top is for predictions"),
        (("--output", "{}/out", "--tokens", "3"), "--tokens are the patches of images that keep their aspect ratio"),
    ],
)
def test_what_does_not_fit_a_map_is_refused(folder, flags, words):
    with pytest.raises(UserError, match=words):
        job(folder, *(flag.format(folder) for flag in flags), "--", folder / "photos")


@pytest.mark.parametrize(
    ("name", "family"), [("BiT-T-R26x0.5", "BiT"), ("Mixer-B/16", "MLP-Mixer"), ("R50", "ResNet V1")]
)
@pytest.mark.parametrize("kind", ("attention", "pca"))
def test_models_without_patches_of_a_vit_are_refused(tmp_path, name, family, kind):
    pillow.new("L", (9, 9)).save(tmp_path / "a.png")
    given = (
        "--map",
        kind,
        "--output",
        tmp_path / "out",
        "--model",
        name,
        "--weights",
        "none",
        "--",
        tmp_path / "a.png",
    )
    with pytest.raises(
        UserError, match=f"--map {kind} shows the patches of a ViT, and {name} is of the family {family}; choose a ViT"
    ):
        prediction(parse(PredictConfig, [*map(str, given)], "predict", ""))
    assert not (tmp_path / "out").exists()


def test_pictures_replace_pictures_but_no_photograph(folder):
    engine, photos = Engine(INSTALLED[0]), folder / "photos"
    first = drawn(engine, folder, "--", photos)
    (folder / f"of_{engine.name}" / "0_attention.png").write_bytes(b"something else")
    assert all((one == first[name]).all() for name, one in drawn(engine, folder, "--", photos).items())
    pillow.new("L", (9, 9)).save(photos / "0_attention.png")
    with pytest.raises(UserError, match=r"photos/0_attention\.png is one of the images and would be replaced"):
        job(folder, "--output", photos, "--", photos)


def test_more_patches_than_memory_holds_are_refused(folder, monkeypatch):
    monkeypatch.setattr("common.runs.maps.MOST_BYTES", 16 * 16 * 4 + 1)
    with pytest.raises(
        UserError, match=r"--map pca compares the patches of all 2 images, which takes .*; give at most 1"
    ):
        job(folder, "--output", folder / "out", "--", folder / "photos", kind="pca")
    job(folder, "--output", folder / "out", "--", folder / "photos")


def test_a_full_disk_is_told_in_one_sentence(folder):
    """No file may grow beyond 100 bytes, as on a disk that is full: an older picture stays, and nothing half-written."""
    engine, out = Engine(INSTALLED[0]), folder / "out"
    out.mkdir()
    (out / "0_attention.png").write_bytes(b"older")
    found = job(folder, "--output", out, "--", folder / "photos")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(UserError, match=r"Cannot write .*0_attention\.png"):
            engine.inference.predict_main(found)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [("0_attention.png", b"older")]
