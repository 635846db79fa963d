"""NaFlex (https://arxiv.org/abs/2502.14786) in every engine: images at their own aspect ratio, as patches."""

import dataclasses
import importlib
import json
import re
import shutil
from pathlib import Path

import golden_cases
import numpy as np
import pytest
from engines import NAMES
from golden.golden_params import image, param
from PIL import Image as pillow
from test_evaluate_towers import CONFIG, TEXT, VOCABULARY
from tiny_models import random_arrays

from common.config import EvaluateConfig, ExportConfig, PredictConfig
from common.convert import convert
from common.data import naflex
from common.data.images import BrokenImage, resize
from common.models import ViTConfig, resizing
from common.models.cards import Card, Preprocessing
from common.models.initial import initial_parameters
from common.models.published import PublishedModel
from common.runs.command import parse
from common.runs.export import Export
from common.runs.jobs import evaluation, prediction
from common.system.errors import UserError
from common.weights import processors, timm_config, write_weights
from common.weights.source import read_model

GOLDEN = Path(__file__).parent / "golden" / "model_parts"
CASES = ("plain_map", "dual_patch_norm_gap", "none")
SLOW = pytest.mark.slow
GRIDS = [(3, 4), (4, 4), (2, 5)]


def read(name: str) -> dict:
    return json.loads((GOLDEN / f"naflex_{name}.json").read_text())


def model_of(golden: dict) -> tuple[ViTConfig, dict[str, np.ndarray]]:
    """(configuration, arrays) of a golden case, whose patches are 8 x 8."""
    given, side = golden["config"], 8 * golden["config"]["nposemb"]
    sizes = (given["width"], given["depth"], given["num_heads"], given["mlp_dim"], given["num_classes"], (side, side))
    norms = tuple(part for part in ("pre", "post") if given.get(f"patchln_{part}"))
    config = ViTConfig((8, 8), *sizes, given["pool_type"], cls_position=False, patch_norms=norms, naflex=True)
    names, shapes = golden_cases.published_names(config, "big_vision"), config.parameter_shapes()
    value = lambda theirs: param(theirs, golden["params"][theirs]).astype(np.float32)
    return config, {ours: value(theirs).reshape(shapes[ours]) for ours, theirs in names.items()}


def batch_of(grids: list[tuple[int, int]], tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(coordinates [B, L, 2], mask [B, L]) of images with these rows and columns."""
    mask = np.arange(tokens) < np.prod(grids, axis=1)[:, None]
    return np.stack([naflex.places(*grid, tokens) for grid in grids]), mask


def outputs(engine, model, strips: np.ndarray, coordinates: np.ndarray, mask: np.ndarray) -> np.ndarray:
    places = {"coordinates": engine.raw(coordinates), "patch_mask": engine.raw(mask)}
    return engine.array(model(engine.tensor(strips), **places))


@pytest.mark.parametrize("name", CASES)
def test_float64_equals_the_original(engine, name):
    """Within 1e-9; without pooling, of the patches: padding, which nothing sees, itself sees other tokens there."""
    golden = read(name)
    config, arrays = model_of(golden)
    coordinates, mask = batch_of(GRIDS, 16)
    rows = image((3, 16, 192), 91).astype(np.float32).astype(float) * mask[:, :, None]
    model = engine.build(config, arrays, "float64")
    found = outputs(engine, model, rows.reshape(3, 16 * 8, 8, 3), coordinates, mask)
    expected = np.array(golden["outputs"]["output"]["data"])
    seen = mask if name == "none" else slice(None)
    np.testing.assert_allclose(found[seen], expected[seen], rtol=0, atol=1e-9)


TINY = ViTConfig((4, 4), 16, 1, 2, 24, 5, (12, 16), "token", registers=2, naflex=True)


@pytest.mark.parametrize("pooling", ("gap", *(pytest.param(pooling, marks=SLOW) for pooling in ("token", "map"))))
def test_an_image_of_the_stored_grid_is_seen_as_by_the_vit(engine, pooling):
    """As many rows and columns as positions, and padding: the same logits."""
    config = dataclasses.replace(TINY, pooling=pooling)
    arrays, fixed = random_arrays(config), dataclasses.replace(config, naflex=False)
    images = image((2, 12, 16, 3), 5)
    strips = np.pad([naflex.in_patches(one, (4, 4)) for one in images], ((0, 0), (0, 8), (0, 0), (0, 0)))
    found = outputs(engine, engine.build(config, arrays, "float64"), strips, *batch_of([(3, 4)] * 2, 14))
    expected = engine.logits(engine.build(fixed, arrays, "float64"), images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_any_number_of_patches_on_a_side_is_right(engine):
    """More than 64, of which the original makes NaN; and padding changes nothing."""
    coordinates, mask = batch_of([(1, 100), (70, 1), (3, 4)], 100)
    layers = importlib.import_module(f"{engine.name}.layers")
    positions = image((1, 14, 6), 3)
    found = engine.array(layers.positions_in(engine.raw(positions), (3, 4), engine.raw(coordinates)))
    for row, grid in enumerate([(1, 100), (70, 1), (3, 4)]):
        expected = resizing.resized(positions[0, 2:].reshape(3, 4, 6), resizing.position_matrices((3, 4), grid))
        np.testing.assert_allclose(found[row, 2:][mask[row]], expected.reshape(-1, 6), rtol=0, atol=1e-14)
        np.testing.assert_array_equal(found[row, :2], positions[0, :2])


def test_padding_and_the_rest_of_a_batch_change_nothing(engine):
    """An image has the same logits among others and with other padding; a row without patches has numbers."""
    model = engine.build(TINY, random_arrays(TINY), "float64")
    coordinates, mask = batch_of([(2, 3), (5, 2), (1, 1)], 10)
    mask[2] = False
    strips = image((3, 40, 4, 3), 6)
    together = outputs(engine, model, strips, coordinates, mask)
    others = image((3, 40, 4, 3), 7)
    others[0, :24] = strips[0, :24]
    again = outputs(engine, model, others, *batch_of([(2, 3), (1, 9), (3, 3)], 10))
    np.testing.assert_allclose(together[0], again[0], rtol=0, atol=1e-12)
    assert np.abs(together[1] - again[1]).max() > 1e-3
    assert np.isfinite(together).all()


def test_what_is_no_strip_of_patches_is_refused(engine):
    model, fixed = (
        engine.build(config, random_arrays(config)) for config in (TINY, dataclasses.replace(TINY, naflex=False))
    )
    coordinates, mask = batch_of([(2, 3)], 6)
    images = image((1, 12, 16, 3), 5).astype(np.float32)
    with pytest.raises(UserError, match="images alone are given"):
        model(engine.tensor(images))
    with pytest.raises(UserError, match=r"is of 12 x 16 pixels, expected 6 patches of 4 x 4"):
        outputs(engine, model, images, coordinates, mask)
    with pytest.raises(UserError, match="takes images of one size"):
        outputs(engine, fixed, images, coordinates, mask)


def test_a_naflex_has_learned_positions():
    with pytest.raises(UserError, match="A NaFlex has learned positions"):
        dataclasses.replace(TINY, positions="sincos2d")


# --- preprocessing


def test_sizes_are_those_of_the_original():
    """At every size, patch and budget of the golden file whose sides are multiples of the patch."""
    sizes = read("preprocessing")["outputs"]["resize_to_sequence"]
    checked = {name: one["target_hw"] for name, one in sizes.items() if name.endswith("divisible=True")}
    for name, expected in checked.items():
        height, width, patch, tokens = map(int, re.findall(r"\d+", name))
        assert list(naflex.fitted_size((height, width), (patch, patch), tokens)) == expected, name
    assert len(checked) == len(sizes) / 2


def test_patches_are_those_of_the_original():
    golden = read("preprocessing")["outputs"]["patchify((2, 3)) of image((5, 7, 3), 3)"]
    whole = image((5, 7, 3), 3).astype(np.float32)
    cut = naflex.in_patches(whole[:4, :6], (2, 3)).reshape(-1, 2 * 3 * 3)
    np.testing.assert_array_equal(cut, np.array(golden["patches"], np.float32))
    found = naflex.places(2, 2, 6)
    np.testing.assert_array_equal(found[:4].T, [golden["yidx"], golden["xidx"]])
    assert not found[4:].any()


def test_an_image_too_long_for_the_budget_is_refused():
    assert naflex.fitted_size((1, 1000), (16, 16), 1) == (16, 16)
    with pytest.raises(BrokenImage, match="too long for --tokens 1 at any scale; give more"):
        naflex.fitted_size((1, 2_000_000), (16, 16), 1)


# --- commands


TOWERS = dataclasses.replace(
    CONFIG, image=dataclasses.replace(CONFIG.image, patch_size=(8, 8), image_size=(24, 24), naflex=True)
)
SIZES = ((40, 90), (64, 64), (120, 30))  # height and width of photographs


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """A folder with a tiny NaFlex that every published name means, its vocabulary, and `val/<class>/` of photographs."""
    monkeypatch.setattr(PublishedModel, "config", lambda self, num_classes=None: TOWERS)
    shutil.copy(VOCABULARY, tmp_path)
    write_weights(tmp_path / "tiny.npz", initial_parameters(1, TOWERS), TOWERS, Card(text=TEXT, loss="sigmoid"))
    rng = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        folder = tmp_path / "photos" / "val" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def flags_of(folder: Path, *flags: str) -> list[str]:
    given = ("--model", "SigLIP2-B/16-naflex", "--weights", folder / "tiny.npz", "--bit_pretrained_dir", folder)
    return [*map(str, given), "--workers", "2", *map(str, flags)]


def test_predict_compares_images_of_any_ratio_with_texts(engine, photos):
    """As the towers do with the patches of each; the same within a batch of two, whose rest is padding."""
    files = sorted((photos / "photos").rglob("*.png"))
    given = ("--tokens", "12", "--batch_eval", "2", "--output", photos / "out.npz", "--texts", "a cat", "a dog", "--")
    job = prediction(parse(PredictConfig, flags_of(photos, *given, *files), "predict", ""))
    engine.inference.predict_main(job)
    strips, grids = np.zeros((3, 12 * 8, 8, 3), np.float32), []
    for file, strip in zip(files, strips):
        pixels = np.asarray(pillow.open(file))
        size = naflex.fitted_size(pixels.shape[:2], (8, 8), 12)
        cut = naflex.in_patches(resize(pixels, *size), (8, 8))
        strip[: len(cut)] = cut.astype(np.float32) / 127.5 - 1
        grids.append((size[0] // 8, size[1] // 8))
    model = engine.build(TOWERS, initial_parameters(1, TOWERS)).image
    expected = outputs(engine, model, strips, *batch_of(grids, 12))
    with np.load(photos / "out.npz") as written:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(written["features"], expected, rtol=0, atol=2e-6)
        assert written["logits"].shape == (3, 2)


def test_evaluate_judges_images_of_any_ratio(engine, photos, capsys):
    given = ("--dataset", photos / "photos", "--prompts", "clip_best", "--batch_eval", "2")
    job = evaluation(parse(EvaluateConfig, flags_of(photos, *given), "evaluate", ""))
    engine.inference.evaluate_main(job)
    assert "val, 3 images, 8 prompts a class: top-1 " in capsys.readouterr().out
    batch = next(job.batches("val"))
    assert batch["images"].shape == (2, 9 * 8, 8, 3) and batch["patch_mask"].sum(1).tolist() == [8, 4]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tokens", "0"), "--tokens is 0, expected at least 1"),
        (("--resolution", "32"), "--resolution is for models of one size of images and SigLIP2-B/16-naflex keeps"),
        (("--patch_size", "4"), "--patch_size is for models of one size of images"),
    ],
)
def test_flags_of_other_models_are_refused(photos, flags, words):
    with pytest.raises(UserError, match=words):
        prediction(parse(PredictConfig, flags_of(photos, *flags, "--texts", "a cat", "--", photos), "predict", ""))


def test_the_file_of_an_image_too_long_is_named(photos):
    pillow.new("L", (2_000_000, 1)).save(photos / "line.png")
    words = flags_of(photos, "--tokens", "1", "--texts", "a cat", "--", photos / "line.png")
    job = prediction(parse(PredictConfig, words, "predict", ""))
    with pytest.raises(
        UserError, match=r"line\.png has 2000000 x 1 pixels, too long for --tokens 1 at any scale; give more"
    ):
        job.eval_batches(job.split).jobs(0)[1][0]()


def test_tokens_are_for_a_naflex():
    given = ("--model", "SigLIP-T/8", "--tokens", "64", "--texts", "a cat", "--", __file__)
    with pytest.raises(
        UserError, match="SigLIP-T/8 squashes or crops them; choose a model such as SigLIP2-B/16-naflex"
    ):
        prediction(parse(PredictConfig, given, "predict", ""))


def test_what_sees_images_of_one_size_refuses_a_naflex(photos, tmp_path):
    """Exports."""
    given = ("--weights", photos / "tiny.npz", "--to", "torch_export", "--output", tmp_path / "a.pt2")
    with pytest.raises(UserError, match="keeps the aspect ratio of images, which no graph here does"):
        Export(parse(ExportConfig, [*map(str, given), "--model", "SigLIP2-B/16-naflex"], "export", ""), "bit_pytorch")


def test_the_python_api_prepares_images_of_any_ratio(engine, photos, monkeypatch):
    """As `predict` does, of as many patches as the card says; what is saved is loaded."""
    files = sorted((photos / "photos").rglob("*.png"))
    model = engine.api.create_model("SigLIP2-B/16-naflex", weights=photos / "tiny.npz")
    inputs = engine.api.preprocess(model, [str(file) for file in files])
    given = ("--texts", "a cat", "--", *files)
    job = prediction(parse(PredictConfig, flags_of(photos, *given), "predict", ""))
    batch = next(job.prepared(job.eval_batches(job.split)))
    for name in ("coordinates", "patch_mask"):
        np.testing.assert_array_equal(engine.array(inputs[name]), batch[name])
    scaled = job.preprocessing.scale(batch["images"])
    found = engine.array(inputs["images"])
    np.testing.assert_array_equal(found.transpose(0, 2, 3, 1) if engine.name == "bit_pytorch" else found, scaled)
    embeddings = engine.array(model.encode_image(**inputs))
    alone = engine.array(model.encode_image(**engine.api.preprocess(model, str(files[0]))))
    np.testing.assert_allclose(alone[0], embeddings[0], rtol=0, atol=1e-6)
    features = engine.array(model.image.features(**inputs))
    np.testing.assert_allclose(embeddings, features / np.linalg.norm(features, axis=1, keepdims=True), atol=2e-6)
    fixed = dataclasses.replace(TOWERS, image=dataclasses.replace(TOWERS.image, naflex=False))
    monkeypatch.setattr(PublishedModel, "config", lambda self, num_classes=None: fixed)
    model = engine.api.create_model("SigLIP-B/16-224", weights=photos / "tiny.npz", tokens=20)
    with pytest.raises(UserError, match="tokens is 0, expected a number of patches from 1 to"):
        engine.api.create_model("SigLIP-B/16-224", weights=photos / "tiny.npz", tokens=0)
    engine.api.save_weights(model, photos / "again.safetensors")
    engine.api.load_weights(model, photos / "again.safetensors")
    assert engine.api.preprocess(model, str(files[0]))["patch_mask"].shape == (1, 20)
    assert read_model(photos / "again.safetensors").config == TOWERS


def test_the_name_tells_how_a_file_sees_images(photos):
    """The same parameters are those of a model of one size, in files that do not tell: there the published row does."""
    fixed = dataclasses.replace(TOWERS, image=dataclasses.replace(TOWERS.image, naflex=False))
    assert fixed.as_published(TOWERS) == TOWERS and TOWERS.as_published(fixed) == TOWERS
    assert fixed.as_published(fixed) == fixed


# --- timm


@pytest.fixture(scope="module")
def peer():
    """timm's NaFlex with SigLIP 2's parts, tiny, with random weights in float64."""
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    sizes = {
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 4,
        "mlp_ratio": 2,
        "pos_embed_grid_size": (4, 4),
    }
    model = timm.create_model("naflexvit_base_patch16_siglip", num_classes=0, **sizes).eval()
    generator = torch.Generator().manual_seed(0)
    for value in model.parameters():
        value.data = torch.normal(0, 0.3, value.shape, generator=generator)
    return model


def peer_outputs(peer, rows: np.ndarray, coordinates: np.ndarray, mask: np.ndarray) -> np.ndarray:
    torch = importlib.import_module("torch")
    seen = {"patches": rows, "patch_coord": coordinates.astype(np.int64), "patch_valid": mask}
    with torch.no_grad():
        return peer({name: torch.from_numpy(array) for name, array in seen.items()}).numpy()


@pytest.mark.parametrize("engine", [NAMES[0], *(pytest.param(name, marks=SLOW) for name in NAMES[1:])], indirect=True)
def test_timms_naflex_is_the_same_and_goes_both_ways(engine, peer, tmp_path):
    """In float32; timm resizes positions in float32 whatever their type."""
    timm, safetensors = importlib.import_module("timm"), importlib.import_module("safetensors.torch")
    (tmp_path / "theirs").mkdir()
    safetensors.save_file(peer.state_dict(), tmp_path / "theirs/model.safetensors")
    args = {"num_heads": 4, "mlp_ratio": 2, "pos_embed_grid_size": [4, 4]}
    told = {"architecture": "naflexvit_base_patch16_siglip", "num_classes": 0, "model_args": args}
    (tmp_path / "theirs/config.json").write_text(json.dumps(told))
    source = read_model(tmp_path / "theirs")
    assert source.config.naflex and source.config.image_size == (32, 32) and source.config.gelu == "tanh"
    coordinates, mask = batch_of(GRIDS, 16)
    rows = image((3, 16, 192), 91).astype(np.float32)
    expected = peer_outputs(peer, rows, coordinates, mask)
    found = outputs(engine, engine.build(source.config, source.arrays), rows.reshape(3, 128, 8, 3), coordinates, mask)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6 * np.abs(expected).max())
    convert(tmp_path / "theirs", tmp_path / "ours.npz")
    convert(tmp_path / "ours.npz", tmp_path / "back", "timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True).eval()
    np.testing.assert_array_equal(peer_outputs(again, rows, coordinates, mask), expected)


def test_timms_other_naflexes_are_refused(tmp_path):
    """They resize positions by cubics: the same arrays are another function."""
    with pytest.raises(UserError, match="pos_embed_interp_mode 'bicubic'"):
        timm_config.read_config({"architecture": "naflexvit_base_patch16_map"})


def test_hugging_faces_processor_says_how_many_patches():
    """There and back; without the number, its class takes 256."""
    prepared = Preprocessing(tokens=100)
    written, notes = processors.write_patches(prepared, (24, 24), 8, naflex=True)
    assert written["max_num_patches"] == 100 and not notes
    assert processors.write_patches(Preprocessing(), (24, 24), 8, naflex=True)[0]["max_num_patches"] == 9
    found, notes = processors.read_huggingface(written, "siglip2")
    assert found["tokens"] == 100 and not notes
    assert processors.read_huggingface({"image_processor_type": "Siglip2ImageProcessor"}, "siglip2")[0]["tokens"] == 256
