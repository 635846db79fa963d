"""The manifest's rows for ViT, hybrids and Mixer, and the names of ImageNet's classes."""

import json
import re

import pytest

from common.models import (
    PACKAGED_WEIGHTS,
    MixerConfig,
    TwoTowersConfig,
    ViTConfig,
    architectures,
    find_model,
    num_parameters,
    published_models,
)
from common.models.discrete import MAPS
from common.models.listing import listed
from common.models.published import imagenet_classes, unpublished_models
from common.system.errors import UserError
from common.tasks.coded import sizes
from common.weights import choose_file
from scripts import manifest as manifest_writer

ROWS = {row["name"]: row for row in manifest_writer.vit_rows()}
TEXT_ROWS = {row["name"]: row for row in manifest_writer.text_rows()}
UVIM_ROWS = {row["name"]: row for row in manifest_writer.uvim_rows()}
BUCKETS = (manifest_writer.VIT_BUCKET, manifest_writer.MIXER_BUCKET, manifest_writer.BIG_VISION_BUCKET)
MEBIBYTES = {  # of the recommended files, as the README of vision_transformer states them
    "ViT-L/16": 1243, "ViT-B/16": 391, "ViT-S/16": 115, "R50+ViT-L/32": 1337, "R26+ViT-S/32": 170, "ViT-Ti/16": 37,
    "ViT-B/32": 398, "ViT-S/32": 118, "R+ViT-Ti/16": 40,
}  # fmt: skip


def test_the_manifest_is_what_its_writer_writes():
    manifest = json.loads((PACKAGED_WEIGHTS / "manifest.json").read_text())
    assert {
        row["name"]: row for row in manifest["models"] if row.get("url", "").startswith(BUCKETS)
    } == ROWS | TEXT_ROWS | UVIM_ROWS
    assert manifest["patterns"] == manifest_writer.PATTERNS
    addresses = {row["url"] for row in (ROWS | TEXT_ROWS | UVIM_ROWS).values()}
    assert len(addresses) == len(ROWS) + len(TEXT_ROWS) + len(UVIM_ROWS)


def test_texts_have_shares_of_their_own_where_the_loss_had_a_bias():
    """Trained with the sigmoid loss (SigLIP, which adds b), `predict` shows sigmoids; with the softmax loss, shares of 1."""
    known = {**published_models(), **unpublished_models()}.values()
    towers = {model.name: model for model in known if isinstance(model.config(), TwoTowersConfig)}
    assert {"SigLIP-B/16-224", "SigLIP2-B/16-naflex", "CLIP-B/32", "LiT-B16B", "CLIPPO-B/16"} <= {*towers}
    for name, model in towers.items():
        assert (model.card.loss == "sigmoid") == model.config().bias, name


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_model(name):
    model = find_model(name)
    config = model.config()
    assert config.num_classes == model.num_classes and config.image_size == (model.resolution, model.resolution)
    assert isinstance(config, MixerConfig if "Mixer" in name else ViTConfig)
    assert num_parameters(config) > 5e6
    assert not re.search(r"/[0-9]", model.file) and model.file.endswith(".npz")


@pytest.mark.parametrize("target", MAPS)
def test_both_stages_of_uvim_fit_one_another(target):
    """Of each target: what writes has as many words and places as the oracle has codes, and both see the same images."""
    first, second = find_model(f"UViM-B/16-{target}"), find_model(f"VTT-L/16-{target}")
    name = target.removesuffix("ization")
    assert [model.url.rpartition("/")[2] for model in (first, second)] == [
        f"{name}_stageI_params.npz", f"{name}_stageII_params.npz",
    ]  # fmt: skip
    oracle, config = first.config(), second.config()
    assert oracle.target == target and sizes(oracle) == {"vocabulary": config.vocabulary, "length": config.length}
    assert oracle.image_size == config.image.image_size == (512, 512) and first.card == second.card
    assert first.card.resize_kind == "bilinear_aliased"


@pytest.mark.parametrize("name", TEXT_ROWS)
def test_every_row_of_an_image_text_model_is_one_with_texts(name):
    model = find_model(name)
    assert isinstance(model.config(), TwoTowersConfig) and model.config().image_size == (model.resolution,) * 2
    kind = (
        "bilinear" if model.config().naflex else "bilinear_aliased"
    )  # `resize_to_sequence` of ops_naflex.py antialiases
    assert model.card.text and model.card.resize_kind == kind and not model.card.eval_resize
    assert (
        re.search(r"[/_-](webli|siglip2|clippo|LiT|coco)", model.url) and model.bytes is None and model.sha256 is None
    )
    size = re.search(r"_(224|256|384|512)[_.]", model.url)
    assert size is None or int(size[1]) == model.resolution
    variant = find_model(model.architecture).config()  # of the row itself, or of the architecture's
    assert model.config() == variant


def test_a_published_image_text_model_is_found_by_its_name(tmp_path):
    model = find_model("SigLIP-B/16-224")
    with pytest.raises(UserError, match=f"fetch it with `python -m common.download --dir {tmp_path} SigLIP-B/16-224`"):
        choose_file(model, "pretrained", tmp_path)
    (tmp_path / "SigLIP-B_16-224.npz").touch()
    assert choose_file(model, "pretrained", tmp_path) == tmp_path / "SigLIP-B_16-224.npz"
    shown = listed(["siglip-b/16-224"], tmp_path).split("\n")[1]
    assert re.search(r"SigLIP-B/16-224 +none +224 +203\.2 M +downloaded +WebLI, English", shown)


@pytest.mark.parametrize("name", MEBIBYTES)
def test_the_recommended_files_have_the_size_that_the_originals_state(name):
    """Four bytes a parameter: so the recommended checkpoints have no layer before the head."""
    mebibytes = 4 * num_parameters(find_model(name).config()) / 2**20
    assert abs(mebibytes - MEBIBYTES[name]) < 1.0


def test_a_plain_name_takes_the_recommended_checkpoint():
    assert find_model("ViT-B/16").url.endswith("B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz")
    assert find_model("ViT-B/16").file == "ViT-B_16.npz"
    assert find_model("ViT-B/16-ILSVRC2012").accuracy == 0.8549
    assert find_model("Mixer-B/16").url.endswith("mixer_models/imagenet21k/Mixer-B_16.npz")
    assert find_model("ViT-S/16-i1k-90ep").config().positions == "sincos2d"


@pytest.mark.parametrize(
    ("file", "architecture", "classes", "resolution"),
    [
        ("B_8-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0", "ViT-B/8", 21843, 224),
        ("S_16-i1k-300ep-lr_0.001-aug_medium2-wd_0.1-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.01-res_384",
         "ViT-S/16", 1000, 384),
        ("R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0", "R+ViT-Ti/16", 21843, 224),
    ],
)  # fmt: skip
def test_the_pattern_of_all_augreg_checkpoints(file, architecture, classes, resolution):
    """Addresses that timm lists."""
    model = find_model(f"augreg/{file}")
    assert (model.architecture, model.num_classes, model.resolution) == (architecture, classes, resolution)
    assert model.url == f"https://storage.googleapis.com/vit_models/augreg/{file}.npz"
    assert model.file == f"augreg/{file}.npz"


def test_every_augreg_address_of_timm_follows_the_pattern():
    vision_transformer = pytest.importorskip("timm.models.vision_transformer")
    hybrid = pytest.importorskip("timm.models.vision_transformer_hybrid")
    urls = [
        config.url
        for module in (vision_transformer, hybrid)
        for default in module.default_cfgs.values()
        for config in default.cfgs.values()
        if "/augreg/" in (config.url or "")
    ]
    assert len(urls) > 30
    for url in urls:
        assert find_model(f"augreg/{url.rpartition('/')[2].removesuffix('.npz')}").url == url


def test_names_that_are_none():
    with pytest.raises(UserError, match="did you mean ViT-B/16"):
        find_model("ViT-B/15")
    with pytest.raises(UserError, match="No model is called"):
        find_model("augreg/B_16-i21k-300ep")


def test_architectures_without_weights_start_from_initial_values():
    from common.weights import find_file

    for name in ("R50", "Mixer-H/14", "ViT-mu/16"):
        assert name in architectures() and name not in published_models()
        model = find_model(name)
        assert model.config(7).num_classes == 7 and model.class_names is None
        with pytest.raises(UserError, match="No weights are listed for .*--weights none"):
            find_file(model, "weights")


def test_names_of_imagenets_classes():
    """In the order of the heads: that of sorted WordNet ids."""
    names = imagenet_classes(1000)
    assert len(names) == 1000 and names[0] == "tench, Tinca tinca" and names[207] == "golden retriever"
    assert len(imagenet_classes(21843)) == 21843 and imagenet_classes(21843)[0] == "organism, being"
    assert imagenet_classes(10) is None
    assert find_model("ViT-B/16-ILSVRC2012").class_names == names == find_model("BiT-S-R50x1").class_names
    assert find_model("BiT-M-R50x1").class_names[0] == "organism, being"
    assert find_model("vtab/BiT-M-R50x1-run0-cifar100").class_names is None
    assert find_model("BiT-T-R26x0.5").class_names is None
