"""FlexiViT in files and commands: what names and shapes do not tell, one size of patches, and timm beside it."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
from engines import Engine
from format_cases import random_arrays
from golden.golden_params import image
from PIL import Image

from common import convert as command
from common.config import PredictConfig
from common.convert import convert, inspect
from common.models import architectures, find_model, published_models, unpublished_models
from common.models.published import PublishedModel
from common.models.resizing import kernel_matrices, resized
from common.models.vit import VIT_VARIANTS, flexivit
from common.recipes.choices import LONGEST_SIDE
from common.runs.prediction import Prediction
from common.system.errors import UserError
from common.weights import containers, read_start, starting_values
from common.weights.adapt import adapt
from common.weights.source import read_model

CONFIG = dataclasses.replace(flexivit(*VIT_VARIANTS["mu"][:-1]), num_classes=10)
ARRAYS = random_arrays(CONFIG)
NAME = "FlexiViT-mu"


@pytest.fixture
def published(monkeypatch, tmp_path):
    """The file of a tiny FlexiViT as big_vision saves it, without a card."""
    monkeypatch.setitem(architectures(), NAME, CONFIG)
    monkeypatch.setitem(unpublished_models(), NAME, PublishedModel(NAME, NAME, 10, "a test", 240))
    containers.write(tmp_path / "ours.safetensors", ARRAYS, {})
    path = convert(tmp_path / "ours.safetensors", tmp_path / "published.npz", "big_vision", given={"num_heads": 2})
    path.with_name("published.json").unlink()
    return path


def test_the_published_row_tells_that_a_file_is_flexible(published):
    """Its names and shapes are those of a ViT with patches of 32 pixels, for images of 224."""
    assert read_model(published, given={"num_heads": 2}).config.patch_size == (32, 32)
    start = starting_values(find_model(NAME), published)
    assert start.config == CONFIG
    assert all(np.array_equal(start.arrays[name], array) for name, array in ARRAYS.items())
    assert starting_values(find_model(NAME), published, patch_size=8).config == CONFIG.with_patch((8, 8))


def test_a_card_tells_it_too(published, tmp_path):
    path = convert(published, tmp_path / "again.npz", model=NAME)
    found = read_model(path)
    assert found.config == CONFIG
    assert "kernel_size (32, 32), position_grid (7, 7)" in inspect(path)
    assert read_start(path, CONFIG).config == CONFIG
    big_vision = convert(path, tmp_path / "there.npz", "big_vision")
    assert read_model(big_vision).config == CONFIG


@pytest.mark.parametrize(
    "fields",
    [
        {"kernel_size": [0, 32]}, {"kernel_size": "32"}, {"kernel_size": [32]}, {"kernel_size": [16, 16]}, {"kernel_size": None},
        {"position_grid": None}, {"position_grid": [7, 8]}, {"position_grid": [2**31, 2]}, {"position_grid": [[7], 7]},
        {"patch_size": [480, 480]}, {"patch_size": None}, {"positions": "sincos2d"}, {"positions": "rotary"},
    ],
    ids=str,
)  # fmt: skip
def test_a_card_that_lies_is_one_sentence(published, tmp_path, fields):
    path = convert(published, tmp_path / "a.npz", model=NAME)
    card = json.loads(path.with_suffix(".json").read_text())
    card["config"] |= fields
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(UserError):
        read_model(path)


def test_prediction_and_conversion_resize_once_and_alike(published, tmp_path):
    """Bit for bit: what `predict --patch_size` computes with is what `convert --patch_size` writes."""
    lines = []
    path = convert(published, tmp_path / "fixed.npz", model=NAME, patch_size=24, say=lines.append)
    assert any("kernel is resized from 32 x 32 to 24 x 24 pixels" in line for line in lines)
    assert any("from 7 x 7 to 10 x 10 patches (linear, antialiased)" in line for line in lines)
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    job = Prediction(
        PredictConfig(model=NAME, weights=str(published), patch_size=24, images=(str(tmp_path / "photo.png"),))
    )
    written = read_model(path)
    assert job.model_config == written.config == CONFIG.with_patch((24, 24)).fixed()
    assert all(np.array_equal(job.arrays[name], array) for name, array in written.arrays.items())
    kernel = resized(ARRAYS["stem/kernel"], kernel_matrices((32, 32), (24, 24)))
    np.testing.assert_array_equal(written.arrays["stem/kernel"], kernel)


def test_a_vit_of_one_size_gets_another(tmp_path):
    """Its kernel by the pseudo-inverse, its positions as those of any ViT: corners aligned."""
    config = dataclasses.replace(CONFIG.fixed(), image_size=(48, 48))
    arrays, lines = random_arrays(config), []
    found = adapt(arrays, config, config.with_side(8), lines.append)
    assert "corners aligned" in lines[1] and found["pos_embedding"].shape == (1, 36, 32)
    np.testing.assert_array_equal(
        found["stem/kernel"], resized(arrays["stem/kernel"], kernel_matrices((16, 16), (8, 8)))
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"patch_size": 7},
            "Patches of 7 pixels do not fill images of 240 x 240; choose a side that does, such as 4, 5, 6, 8, 10.",
        ),
        ({"patch_size": 480}, "do not fill images of 240 x 240"),
        (
            {"to": "timm"},
            "timm holds ViTs with patches of one size; give it with --patch_size, or choose ours or big_vision",
        ),
        ({"model": "ViT-B/16"}, "does not fit the model"),
    ],
)
def test_conversions_that_cannot_be(published, tmp_path, arguments, words):
    with pytest.raises(UserError) as raised:
        convert(published, tmp_path / ("a" if "to" in arguments else "a.npz"), **{"model": NAME} | arguments)
    assert words in str(raised.value) and not [*tmp_path.glob("a*")]


@pytest.mark.parametrize("side", ("0", "-8", "8.5", "x"))
def test_a_side_that_is_none_ends_with_a_sentence(published, tmp_path, side, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["convert", str(published), str(tmp_path / "a.npz"), "--patch_size", side])
    with pytest.raises(SystemExit) as raised:
        command.main()
    assert raised.value.code == 2 and "patch_size" in capsys.readouterr().err


def test_families_without_patches_refuse_the_flag():
    normed = dataclasses.replace(CONFIG.fixed(), patch_norms=("pre",))
    for config in (normed, *(find_model(name).config() for name in ("BiT-M-R50x1", "Mixer-B/16", "R26+ViT-S/32"))):
        with pytest.raises(UserError, match=r"one size"):
            config.with_side(8)
    with pytest.raises(UserError, match="do not fill"):
        find_model("ViT-B/16").config().with_side(LONGEST_SIDE)


def test_published_files_are_rows():
    rows = {name: row for name, row in published_models().items() if name.startswith("FlexiViT")}
    assert len(rows) == 15
    for row in rows.values():
        config = row.config()
        assert (config.kernel_size, config.position_grid, config.image_size) == ((32, 32), (7, 7), (240, 240))


# --- timm, which has FlexiViT as ViTs with patches of 16 pixels


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
class TestTimm:
    def model(self, **changes):
        import timm

        sizes = {"embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 10} | changes
        return timm.create_model("flexivit_small", img_size=240, **sizes).eval()

    def logits(self, model) -> np.ndarray:
        import torch

        with torch.no_grad():
            return model(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)).numpy()

    def test_it_computes_the_same_of_what_is_converted(self, published, tmp_path):
        import timm

        folder = convert(published, tmp_path / "timm", "timm", model=NAME, patch_size=24, given={"gelu": "erf"}).parent
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        start = starting_values(find_model(NAME), published, patch_size=24)
        config = dataclasses.replace(start.config, gelu="erf")
        ours = Engine("bit_pytorch").build(config, start.arrays)
        np.testing.assert_allclose(Engine("bit_pytorch").logits(ours, IMAGES), self.logits(theirs), rtol=0, atol=2e-5)

    def test_what_it_saves_comes_back(self, tmp_path):
        from safetensors.torch import save_file

        theirs = self.model()
        save_file(theirs.state_dict(), tmp_path / "a.safetensors")
        found = read_model(tmp_path / "a.safetensors", given={"num_heads": 2})
        assert found.config.patch_size == (16, 16) and not found.config.cls_position
        ours = Engine("bit_pytorch").build(found.config, found.arrays)
        np.testing.assert_allclose(Engine("bit_pytorch").logits(ours, IMAGES), self.logits(theirs), rtol=0, atol=2e-5)

    @pytest.mark.parametrize("patch", (16, 24))
    def test_it_reads_big_visions_file_as_we_do(self, published, patch):
        """With the original's interpolation; positions it does not antialias, which shows only where they shrink."""
        theirs = self.model(patch_size=patch)
        theirs.load_pretrained(str(published))
        ours = starting_values(find_model(NAME), published, patch_size=patch)
        fixed = adapt(ours.arrays, ours.config, ours.config.fixed(), lambda line: None)
        kernel, positions = theirs.patch_embed.proj.weight.detach().numpy(), theirs.pos_embed.detach().numpy()
        np.testing.assert_allclose(kernel.transpose(2, 3, 1, 0), fixed["stem/kernel"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(positions, fixed["pos_embedding"], rtol=0, atol=1e-6)

    def test_its_own_resizing_is_another(self):
        """Bicubic and antialiased, where the paper and big_vision are bilinear and not: a kernel differs by a tenth."""
        from timm.layers.patch_embed import resample_patch_embed

        theirs = self.model()
        kernel = theirs.patch_embed.proj.weight.detach().clone()
        theirs.set_input_size(patch_size=24)
        default = theirs.patch_embed.proj.weight.detach()
        original = resample_patch_embed(kernel, [24, 24], interpolation="bilinear", antialias=False)
        ours = resized(kernel.numpy().transpose(2, 3, 1, 0), kernel_matrices((16, 16), (24, 24))).transpose(3, 2, 0, 1)
        np.testing.assert_allclose(original.numpy(), ours, rtol=0, atol=1e-6)
        assert np.abs(default.numpy() - ours).max() > 0.1 * np.abs(ours).max()


IMAGES = image((2, 240, 240, 3), 3).astype(np.float32)
