"""`predict --texts` and `tokenize`: images beside texts, in the three engines."""

import importlib

import numpy as np
import pytest
from PIL import Image as pillow
from test_evaluate_towers import CONFIG, TEXT, VOCABULARY, folder, write  # noqa: F401  a fixture

from common.config import PredictConfig
from common.data.text import open_tokenizer
from common.models import find_model
from common.models.cards import Card
from common.models.initial import initial_parameters
from common.runs.command import parse
from common.runs.jobs import prediction
from common.runs.prediction import percentage
from common.system.errors import UserError

TEXTS = ("a photo of a cat", "a dog, and its bone")


def job(folder, *flags: str):
    given = ("--model", "SigLIP-B/16-224", "--weights", folder / "tiny.npz", "--bit_pretrained_dir", folder)
    return prediction(parse(PredictConfig, [*map(str, given), "--workers", "2", *map(str, flags)], "predict", ""))


@pytest.fixture
def photos(folder):  # noqa: F811
    """Three images in a folder of their own."""
    (folder / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), np.uint8)
    for number, image in enumerate(pixels):
        pillow.fromarray(image).save(folder / "photos" / f"{number}.png")
    return folder / "photos"


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_images_are_compared_with_texts(engine, folder, photos, capsys, loss):  # noqa: F811
    """What the towers of the model alone say: each text by itself after one loss, all together after the other."""
    write(folder, Card(resolution=32, text=TEXT, loss=loss))
    found = job(folder, "--output", folder / "out.npz", "--texts", *TEXTS, "--", photos)
    engine.inference.predict_main(found)
    model = engine.build(CONFIG, initial_parameters(1, CONFIG))
    images = np.stack([found.split.decode(number) for number in range(3)])
    (batch,) = found.batches()
    seen = engine.tensor(batch["images"][:3].astype(np.float32) / 127.5 - 1)
    tokens = engine.raw(open_tokenizer(TEXT, VOCABULARY).encode(TEXTS))
    zimg, ztxt, *_ = model(seen, tokens)
    logits = engine.array(model.similarity(zimg, ztxt))
    written = np.load(folder / "out.npz")
    np.testing.assert_allclose(written["features"], engine.array(zimg), atol=2e-6)
    np.testing.assert_allclose(written["logits"], logits, atol=2e-5)
    assert [file.rsplit("/")[-1] for file in written["files"]] == ["0.png", "1.png", "2.png"] and images.shape[0] == 3
    shares = 1 / (1 + np.exp(-logits)) if loss == "sigmoid" else np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    best, other = np.argsort(-shares[0], kind="stable")
    line = f"{photos}/0.png: {TEXTS[best]} {percentage(shares[0, best])}, {TEXTS[other]} {percentage(shares[0, other])}"
    assert capsys.readouterr().out.splitlines()[0] == line


def test_a_small_share_shows_its_first_digit():
    """Of a sigmoid loss all may be small, and 0.0 % beside 0.0 % tells nothing."""
    shown = {0.981: "98.1%", 0.0005: "0.1%", 0.00049: "0.05%", 3.2e-7: "0.00003%", 1.0: "100.0%", 0.0: "0%"}
    assert {share: percentage(share) for share in shown} == shown


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("a cat", " "), "One of --texts is empty, of which no image can be; write it, or leave it out"),
        (("a cat", "a dog", "a cat"), "--texts name 'a cat' twice; give every text once"),
    ],
)
def test_texts_that_say_nothing_are_refused(folder, photos, texts, words):  # noqa: F811
    with pytest.raises(UserError, match=words):
        job(folder, "--texts", *texts, "--", photos)


def test_what_does_not_fit_is_refused(folder, photos):  # noqa: F811
    with pytest.raises(UserError, match="compares images with texts and there are none; give --texts, such as"):
        job(folder, photos)
    write(folder, Card(resolution=32))
    with pytest.raises(UserError, match="does not say how the model's texts become numbers"):
        job(folder, "--texts", "a cat", "--", photos)


def test_a_classifier_takes_no_texts(tmp_path):
    pillow.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="--texts are for image-text models and BiT-T-R26x0.5 has classes of its own"):
        prediction(parse(PredictConfig, ["--texts", "a cat", "--", str(tmp_path / "a.png")], "predict", ""))


def test_tokenize_gives_what_the_card_states(engine):
    package = importlib.import_module(engine.name)
    found = engine.array(package.tokenize("SigLIP-T/8", ["A photo of a Cat!", "a photo of a cat"]))
    assert found.dtype == np.int32 and found.shape == (2, 16) and (found[0] == found[1]).all()
    text = find_model("SigLIP-T/8").card.text
    np.testing.assert_array_equal(found, open_tokenizer(text).encode(["A photo of a Cat!"] * 2))
    assert (engine.array(package.tokenize("SigLIP-T/8", "a photo of a cat")) == found[:1]).all()
    for texts in (None, 3, b"a cat", ["a cat", None]):
        with pytest.raises(UserError, match="The texts are .*, expected (one text or )?a list of "):
            package.tokenize("SigLIP-T/8", texts)
    with pytest.raises(UserError, match="takes no texts"):
        package.tokenize("BiT-T-R26x0.5", "a cat")
