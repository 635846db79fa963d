"""The Python API, the same in every engine: names, sizes, cards, images as `predict` sees them, classes in words, new heads."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import zoo
from common.config import PredictConfig
from common.data.views import model_view
from common.models import DEFAULT_MODEL, PACKAGED_WEIGHTS, MixerConfig, ViTConfig, find_model, num_parameters
from common.models.cards import Card, Preprocessing
from common.runs.prediction import Prediction
from common.system.errors import UserError
from common.weights import write_weights
from common.weights.source import read_model

WEIGHTS = PACKAGED_WEIGHTS / f"{DEFAULT_MODEL}.npz"
VIT = ViTConfig((8, 8), 16, 1, 2, 32, 4, image_size=(24, 24))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """Three photographs of different sizes."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number, size in enumerate(((40, 60), (90, 50), (48, 48))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def in_nhwc(engine, tensor) -> np.ndarray:
    array = engine.array(tensor)
    return array.transpose(0, 2, 3, 1) if engine.name == "bit_pytorch" else array


def test_models_are_listed_with_what_they_were_trained_on(engine):
    every, vits = engine.api.list_models(), engine.api.list_models("vit*")
    assert vits and all(name.startswith("ViT") for name in vits) and vits.items() < every.items()
    assert every["BiT-M-R50x1"] == "ImageNet-21k" and every[DEFAULT_MODEL].startswith("Tiny-ImageNet")
    assert engine.api.list_models("*R50X1-ilsvrc2012") == engine.api.list_models("*r50x1-ILSVRC2012") != {}
    assert "initial values" in every["ViT-H/14"] and "ViT-H/14" not in engine.api.list_models(pretrained=True)
    assert engine.api.list_models("no such model") == {} and all(find_model(name) for name in every)


def test_a_model_knows_its_card(engine):
    model = engine.api.create_model(DEFAULT_MODEL, weights="pretrained")
    assert len(model.class_names) == model.config.num_classes == 200 and model.card.class_names == model.class_names
    assert model.card.resolution == 48 and model.num_params == num_parameters(model.config)
    assert engine.api.create_model(DEFAULT_MODEL).class_names is None
    other = engine.api.create_model(DEFAULT_MODEL, weights=WEIGHTS, num_classes=3)
    assert other.class_names is None and other.config.num_classes == 3


def test_a_card_goes_with_the_weights(engine, tmp_path):
    """Class names and preprocessing stand in every kind of file, and come back with `load_weights`."""
    model = engine.api.create_model(DEFAULT_MODEL, weights="pretrained")
    model.card = dataclasses.replace(model.card, mean=(0.4, 0.5, 0.6), resize_kind="area")
    for suffix in (".npz", ".h5", ".safetensors"):
        engine.api.save_weights(model, tmp_path / f"a{suffix}")
        other = engine.api.create_model(DEFAULT_MODEL, weights=tmp_path / f"a{suffix}")
        assert other.card == model.card and other.preprocessing.mean == (0.4, 0.5, 0.6)
        again = engine.api.create_model(DEFAULT_MODEL)
        engine.api.load_weights(again, tmp_path / f"a{suffix}")
        assert again.card == model.card and again.preprocessing == other.preprocessing
    model.reset_head(2)
    engine.api.save_weights(model, tmp_path / "a.npz")  # no names of other classes stay beside it
    assert engine.api.create_model(DEFAULT_MODEL, weights=tmp_path / "a.npz").class_names is None


@pytest.mark.parametrize("name", ("photos", "arrays", "bytes", "Pillow", "folder", "batch"))
def test_images_of_every_kind_are_prepared(photos, name):
    """As the engine's own `scale` prepares what the card says."""
    arrays = [np.asarray(Image.open(path)) for path in photos]
    given = {
        "photos": [str(photos[0]), *photos[1:]], "arrays": arrays, "bytes": [path.read_bytes() for path in photos],
        "Pillow": [Image.open(path) for path in photos], "folder": photos[0].parent, "batch": np.stack([arrays[2]] * 3),
    }[name]  # fmt: skip
    card = Card(eval_resize=28, resize_kind="bicubic", mean=(0.4, 0.5, 0.6), resolution=24)
    found, preprocessing = zoo.preprocess(VIT, card.preprocessing, given), card.preprocessing
    expected = [arrays[2]] * 3 if name == "batch" else arrays
    assert found.dtype == np.float32 and found.shape == (3, 24, 24, 3)
    np.testing.assert_array_equal(found, [preprocessing.scale(model_view(image, preprocessing)) for image in expected])


def test_one_image_is_a_batch_of_one(engine, photos):
    model = engine.build(VIT, {n: np.zeros(s, np.float32) for n, s in VIT.parameter_shapes().items()})
    several = in_nhwc(engine, engine.api.preprocess(model, photos))
    for given in (
        photos[0],
        str(photos[0]),
        photos[0].read_bytes(),
        Image.open(photos[0]),
        np.asarray(Image.open(photos[0])),
    ):
        np.testing.assert_array_equal(in_nhwc(engine, engine.api.preprocess(model, given)), several[:1])
    assert in_nhwc(engine, engine.api.preprocess("ViT-Ti/16", photos[0])).shape == (1, 224, 224, 3)
    assert in_nhwc(engine, engine.api.preprocess("BiT-M-R50x1", photos)).shape == (3, 128, 128, 3)  # the HyperRule's


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("missing.png", "There is no image or folder .missing.png"),
        ([], "There is no image in an empty list"),
        (b"no image", "The image number 0 "),
        (np.zeros((0, 4, 3), np.uint8), "number 0 is a ndarray of uint8 .0, 4, 3., expected a path"),
        ([np.zeros((4, 4, 3), np.float32)], "number 0 is a ndarray of float32 .4, 4, 3., expected a path"),
        (np.zeros((4, 4), np.uint8), r"of uint8 \[4, 4\], expected"),
        (7, "number 0 is a int of int64"),
    ],
)
def test_what_is_no_image_is_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        zoo.preprocess(VIT, Preprocessing(), given)


def test_logits_are_those_of_predict(engine, photos):
    """`preprocess`, the model and `decode_predictions` give what the command computes and prints."""
    job = Prediction(PredictConfig(images=tuple(map(str, photos)), weights="pretrained", top=3))
    theirs = engine.build(job.model_config, job.arrays, preprocessing=job.preprocessing)
    (_, expected), *rest = engine.inference.predict(theirs, job.batches())
    model = engine.api.create_model(DEFAULT_MODEL, weights="pretrained")
    logits = model(engine.api.preprocess(model, photos))
    assert not rest
    np.testing.assert_allclose(engine.array(logits), expected, rtol=1e-5, atol=1e-5)
    for row, top in zip(expected, engine.api.decode_predictions(model, logits, top=3), strict=True):
        assert job.describe(row) == ", ".join(f"{name} {share:.1%}" for name, share in top)


def test_predictions_in_words(engine):
    logits = np.log(np.array([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2]], np.float32))
    model = engine.build(VIT, {n: np.zeros(s, np.float32) for n, s in VIT.parameter_shapes().items()})
    found = engine.api.decode_predictions(model, engine.raw(logits), top=2)
    assert [[name for name, _ in row] for row in found] == [["class 1", "class 2"], ["class 0", "class 1"]]
    np.testing.assert_allclose([[share for _, share in row] for row in found], [[0.5, 0.3], [0.6, 0.2]], rtol=1e-6)
    model.card = Card(class_names=("a", "b", "c"))
    assert engine.api.decode_predictions(model, logits[0])[0][0][0] == "b"
    names = engine.api.decode_predictions("ViT-B/16-ILSVRC2012", np.eye(1000, dtype=np.float32)[:1], top=1)
    assert names[0][0][0] == find_model("ViT-B/16-ILSVRC2012").class_names[0]
    with pytest.raises(UserError, match=r"The logits are \[1, 4\], expected \[images, 3\]"):
        engine.api.decode_predictions(model, np.zeros((1, 4), np.float32))


@pytest.mark.parametrize("name", ("BiT", "ViT", "Mixer"))
def test_a_head_is_reset(engine, name, tmp_path):
    """To zeros, for as many classes as asked for; to none and back; in the type of the others; saved and trained on."""
    if name == "BiT":
        model = engine.api.create_model(DEFAULT_MODEL, weights="pretrained")
    else:
        config = VIT if name == "ViT" else MixerConfig((8, 8), 16, 1, 16, 32, 5, image_size=(24, 24))
        arrays = {n: np.ones(s, np.float32) for n, s in config.parameter_shapes().items()}
        model = engine.build(config, arrays, "float64")
    size, before = (24, 24), model.num_params
    pixels = engine.cast(engine.raw(np.zeros((2, *size, 3), np.float32)), "float32" if name == "BiT" else "float64")
    pixels = pixels.permute(0, 3, 1, 2) if engine.name == "bit_pytorch" else pixels
    features = engine.array(model.features(pixels))
    model.reset_head(3)
    assert model.config.num_classes == 3 and model.class_names is None and model.num_params < before
    logits = engine.array(model(pixels))
    assert logits.shape == (2, 3) and not logits.any() and logits.dtype == features.dtype
    engine.api.save_weights(model, tmp_path / "a.safetensors")
    model.reset_head(0)
    assert model.head is None and model.config.num_classes is None
    np.testing.assert_array_equal(engine.array(model(pixels)), features)
    model.reset_head(3)
    engine.api.load_weights(model, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="num_classes is -1"):
        model.reset_head(-1)


def test_another_size_of_images(engine):
    vit = engine.api.create_model("ViT-Ti/16", num_classes=2, image_size=64)
    assert vit.config.image_size == (64, 64) and vit.config.num_classes == 2
    assert in_nhwc(engine, engine.api.preprocess(vit, np.zeros((50, 70, 3), np.uint8))).shape == (1, 64, 64, 3)
    bit = engine.api.create_model(DEFAULT_MODEL, image_size=80, weights="pretrained")
    assert (
        bit.card.resolution == 80
        and in_nhwc(engine, engine.api.preprocess(bit, np.zeros((9, 9, 3), np.uint8))).shape[1] == 80
    )


@pytest.mark.parametrize("size", (0, -1, "64", (64,), (64, 0), 2.5, (1, 2, 3)))
def test_what_is_no_size_is_refused(size):
    with pytest.raises(UserError, match="image_size is .*, expected pixels"):
        zoo.to_size(size)


def test_who_knows_no_card_leaves_it(tmp_path):
    """A run writes its card by itself; what the API saves is another model, whose names are not the old ones."""
    config = dataclasses.replace(VIT, gelu="erf")
    arrays = {name: np.zeros(shape, np.float32) for name, shape in config.parameter_shapes().items()}
    write_weights(tmp_path / "a.npz", arrays, config, Card(class_names=("a", "b", "c", "d"), resolution=24))
    write_weights(tmp_path / "a.npz", arrays, config)
    assert read_model(tmp_path / "a.npz").card == Card(class_names=("a", "b", "c", "d"), resolution=24)
    write_weights(tmp_path / "a.npz", arrays, config, Card())
    assert read_model(tmp_path / "a.npz").card == Card() and read_model(tmp_path / "a.npz").config == config


@pytest.mark.parametrize("name", ("VTT-T/8", "CapPa-T/8", "UViM-T/8-depth", "SigLIP-T/8"))
def test_a_model_without_classes_is_saved_and_keeps_its_head(engine, name, tmp_path):
    """What a model that writes has as `head` are its tokens."""
    model = engine.api.create_model(name)
    engine.api.save_weights(model, tmp_path / "a.npz")
    engine.api.load_weights(model, tmp_path / "a.npz")
    for wanted in (0, 3):
        with pytest.raises(UserError, match="has no head of classes"):
            model.reset_head(wanted)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("CapPa-T/8", "of texts about images and got images alone; give .* as tokenize"),
        ("UViM-T/8-colorization", r"call model.encode\(maps, images\)"),
    ],
)
def test_images_alone_are_one_sentence_where_a_model_takes_more(engine, name, sentence):
    model = engine.api.create_model(name)
    images = engine.api.preprocess(model, np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UserError, match=sentence):
        model(images)


def test_an_image_text_model_embeds_images_alone(engine):
    model = engine.api.create_model("SigLIP-T/8")
    images = engine.api.preprocess(model, np.zeros((32, 32, 3), np.uint8))
    embedding, texts, *_ = model(images)
    assert texts is None
    np.testing.assert_array_equal(engine.array(embedding), engine.array(model.encode_image(images)))


def test_a_model_of_colours_is_shown_grey_images(photos):
    """As `predict` shows them."""
    spread = {
        name: np.ptp(zoo.preprocess(find_model(name).config(), Preprocessing(32), photos), axis=3).max()
        for name in ("UViM-T/8-colorization", "UViM-T/8-depth")
    }
    assert spread["UViM-T/8-colorization"] == 0 < spread["UViM-T/8-depth"]
