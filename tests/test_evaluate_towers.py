"""`evaluate` of image-text models: zero-shot in the three engines, the files that it writes, and what it refuses."""

import dataclasses
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from engines import INSTALLED, Engine
from PIL import Image as pillow

from common import probe, weights
from common.config import EvaluateConfig, TrainConfig
from common.data.catalogue import listed, open_dataset
from common.data.text import open_tokenizer
from common.data.text.prompts import PROMPTS, prompted
from common.models import TextConfig, TwoTowersConfig, ViTConfig
from common.models.cards import Card
from common.models.initial import initial_parameters
from common.models.published import PublishedModel
from common.models.tokens import Text
from common.reports import curves, mistakes, record
from common.runs.checkpoint import CURRENT, PREVIOUS
from common.runs.command import parse
from common.runs.jobs import evaluation
from common.runs.run import Run
from common.system.errors import UserError

VOCABULARY = Path(__file__).parent / "golden" / "text" / "tiny_sentencepiece.model"
TEXT = Text("sentencepiece", VOCABULARY.name, 12, 1, "sticky", "ascii", "kept")
IMAGES = ViTConfig((16, 16), 24, 1, 2, 32, None, (32, 32), pooling="map", cls_position=False)
CONFIG = TwoTowersConfig(IMAGES, TextConfig(78, 12, 24, 1, 2, 32, 24))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A tiny image-text model with its vocabulary; every published name is that of one like it."""
    monkeypatch.setattr(PublishedModel, "config", lambda self, num_classes=None: CONFIG)
    shutil.copy(VOCABULARY, tmp_path)
    write(tmp_path, Card(resolution=32, text=TEXT))
    return tmp_path


def write(folder: Path, card: Card, config: TwoTowersConfig = CONFIG) -> None:
    weights.write_weights(folder / "tiny.npz", initial_parameters(1, config), config, card)


def job(folder: Path, *flags: str):
    given = ("--model", "SigLIP-B/16-224", "--weights", folder / "tiny.npz", "--bit_pretrained_dir", folder)
    return evaluation(parse(EvaluateConfig, [*map(str, given), "--workers", "2", *flags], "evaluate", ""))


def embeddings(engine: Engine, texts: list[str], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of texts and images uint8, by the model alone."""
    model = engine.build(CONFIG, initial_parameters(1, CONFIG))
    tokens = open_tokenizer(TEXT, VOCABULARY).encode(texts)
    seen = engine.tensor(images.astype(np.float32) / 127.5 - 1)
    return engine.array(model.encode_text(engine.raw(tokens))), engine.array(model.encode_image(seen))


def test_zero_shot_is_what_the_towers_say(engine, folder, capsys):
    """Of one model the embeddings, by the command; the same classes as by hand, and a file that the probe reads."""
    found = job(folder, "--prompts", "clip_best", "--output", str(folder / "out"), "--batch_eval", "96")
    engine.inference.evaluate_main(found)
    split = found.splits["test"]
    images = np.concatenate([batch["images"][batch["mask"]] for batch in found.batches("test")])
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    texts, classes = prompted(names, PROMPTS["clip_best"])
    text, image = embeddings(engine, texts, images)
    means = np.stack([text[classes == number].mean(0) for number in range(10)])
    right = (image @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(1) == split.labels
    told = capsys.readouterr().out
    assert told.startswith(f"cifar10-sample test, 500 images, 8 prompts a class: top-1 {right.mean():.2%}, top-5 ")
    features, labels = probe.read_features(folder / "out" / "test.npz")
    np.testing.assert_allclose(features, image, atol=2e-6)
    np.testing.assert_array_equal(labels, split.labels)
    with np.load(folder / "out" / "test.npz") as file:
        assert (file["logits"].argmax(1) == labels).mean() == right.mean()
        np.testing.assert_allclose(
            file["logits"], 10 * (features @ unit(means).T) - 10, atol=1e-4
        )  # t and b as initially


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def birds(tmp_path) -> Path:
    """Forty test images of the sample in two classes."""
    split = open_dataset("cifar10-sample").splits["test"]
    for number, name in ((2, "bird"), (8, "ship")):
        (tmp_path / "birds" / "test" / name).mkdir(parents=True)
        for i in np.flatnonzero(split.labels == number)[:20]:
            pillow.fromarray(split.decode(i)).save(tmp_path / "birds" / "test" / name / f"{i}.png")
    return tmp_path / "birds"


def test_several_data_sets_are_evaluated_as_each_alone(engine, folder, birds, capsys):
    """One after the other, by their own prompts and with their own files."""
    sets, lines = (str(birds), "cifar10-sample"), []
    for name in sets:
        engine.inference.evaluate_main(job(folder, "--dataset", name, "--prompts", "clip_best"))
        lines += capsys.readouterr().out.splitlines()
    flags = [word for name in sets for word in ("--dataset", name)]
    engine.inference.evaluate_main(job(folder, *flags, "--prompts", "clip_best"))
    assert capsys.readouterr().out.splitlines() == lines and lines[0].startswith(f"{birds} test, 40 images, 8 prompts")
    engine.inference.evaluate_main(job(folder, *flags, "--prompts", "clip_best", "--output", str(folder / "out")))
    told = capsys.readouterr().out
    for name, count in (("birds", 40), ("cifar10-sample", 500)):
        assert f"Wrote {folder / 'out' / name / 'test.npz'}" in told
        assert len(probe.read_features(folder / "out" / name / "test.npz")[1]) == count


def test_a_comma_of_a_pattern_or_a_folder_does_not_part_data_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert listed("a,b") == ["a,b"] and listed("a,c,a") == ["a", "c"]
    assert listed("wds:x/{0,1}.tar,cifar10,parquet:{a,b}.p") == ["wds:x/{0,1}.tar", "cifar10", "parquet:{a,b}.p"]
    config = parse(EvaluateConfig, ["--dataset", "cifar10", "--dataset=wds:{0,1}.tar"], "evaluate", "")
    assert listed(config.dataset) == ["cifar10", "wds:{0,1}.tar"]


def test_what_one_of_several_data_sets_lacks_is_told_before_any_is_evaluated(folder, birds, tmp_path):
    with pytest.raises(UserError, match=r"birds has no split 'train'; choose of test"):
        job(folder, "--dataset", "cifar10-sample", "--dataset", str(birds), "--split", "train")
    shutil.copytree(birds, tmp_path / "other" / birds.name)
    with pytest.raises(UserError, match=r"Several data sets would be kept in out/birds; evaluate '.*' by itself"):
        job(folder, "--dataset", str(birds), "--dataset", str(tmp_path / "other" / birds.name), "--output", "out")


def test_prompts_of_a_file_are_taken_and_clips_are_left_as_they_are(folder, monkeypatch):
    (folder / "mine.txt").write_text("A drawing of one {}!\nthe {}\n")
    assert job(folder, "--prompts", str(folder / "mine.txt")).texts[:2] == ["a drawing of one airplane", "the airplane"]
    assert len(job(folder).texts) == 81 * 10
    monkeypatch.setattr("common.runs.towers.open_tokenizer", lambda *_, **__: open_tokenizer(TEXT, VOCABULARY))
    write(folder, Card(resolution=32, text=dataclasses.replace(TEXT, kind="bpe", lower="unicode")))
    assert job(folder, "--prompts", str(folder / "mine.txt")).texts[0] == "A drawing of one airplane!"


@pytest.mark.parametrize(
    ("flags", "said"),
    (
        (("--prompts", "clip_bst"), "No list of prompts or file is called 'clip_bst'; did you mean clip_best"),
        (("--evaluator", "classification"), "has no head to tell classes with"),
        (
            ("--evaluator", "classification", "--prompts", "clip_best"),
            "--prompts are for --evaluator zero_shot and scoring, not clas",
        ),
        (("--evaluator", "zero-shot"), "--evaluator"),
        (("--bit_pretrained_dir", "nowhere"), "The vocabulary nowhere/tiny_sentencepiece.model is not there"),
    ),
)
def test_what_does_not_go_together_is_one_sentence(folder, flags, said):
    with pytest.raises(UserError, match=said):
        job(folder, *flags)


def test_a_card_without_texts_or_with_those_of_another_model_is_refused(folder):
    write(folder, Card(resolution=32))
    with pytest.raises(UserError, match=r"The card of .*tiny.npz does not say how the model's texts become numbers"):
        job(folder)
    write(folder, Card(resolution=32, text=dataclasses.replace(TEXT, length=16)))
    with pytest.raises(UserError, match="78 tokens at 12 places, and the texts of its card are 16"):
        job(folder)


def test_a_vocabulary_may_lie_elsewhere(folder):
    found = job(folder, "--bit_pretrained_dir", "nowhere", "--vocabulary", str(VOCABULARY))
    assert found.tokenizer.vocab_size == 78


def test_a_classifier_takes_no_texts():
    flags = ("--evaluator", "zero_shot", "--dataset", "cifar10-sample")
    with pytest.raises(UserError, match=r"BiT-T-R26x0.5 takes no texts, which zero_shot compares .* such as SigLIP"):
        evaluation(parse(EvaluateConfig, flags, "evaluate", ""))
    with pytest.raises(
        UserError, match="--vocabulary is for texts, which BiT-T-R26x0.5 does not take here; leave it off"
    ):
        evaluation(parse(EvaluateConfig, ("--vocabulary", str(VOCABULARY)), "evaluate", ""))


def test_clip_benchmark_gets_what_it_asks_for(folder, capsys):
    """Its own steps (`clip_benchmark/metrics/zeroshot_classification.py`) with our model, transform and tokenizer: our top-1."""
    torch = pytest.importorskip("torch")
    plugin = runpy.run_path(str(ROOT / "scripts" / "clip_benchmark_plugin.py"))
    model, transform, tokenizer = plugin["load"](
        model_name="SigLIP-B/16-224", pretrained=str(folder / "tiny.npz"), cache_dir=str(folder), device="cpu"
    )
    model.eval()
    found = job(folder, "--prompts", "clip_best")
    split, classes = found.splits["test"], []
    with torch.no_grad():
        for first in range(0, 80, 8):
            texts = model.encode_text(tokenizer(found.texts[first : first + 8]).to("cpu"))
            classes.append(torch.nn.functional.normalize(texts, dim=-1).mean(0))
        pictures = [transform(pillow.fromarray(split.decode(i))) for i in range(0, 500, 5)]
        told = (
            model.encode_image(torch.stack(pictures)) @ torch.nn.functional.normalize(torch.stack(classes)).T
        ).argmax(1)
    Engine("bit_pytorch").inference.evaluate_main(
        job(folder, "--prompts", "clip_best", "--output", str(folder / "out"))
    )
    with np.load(folder / "out" / "test.npz") as file:
        np.testing.assert_array_equal(file["logits"].argmax(1)[::5], told)
    assert "Wrote" in capsys.readouterr().out


# --- retrieval


@pytest.fixture
def captions(tmp_path) -> Path:
    """Thirty images of the sample with one to three captions each, of words that the tiny vocabulary has."""
    split = open_dataset("cifar10-sample").splits["test"]
    (tmp_path / "data" / "test").mkdir(parents=True)
    lines = []
    for i in range(30):
        pillow.fromarray(split.decode(16 * i)).save(tmp_path / "data" / "test" / f"{i:02d}.png")
        lines.append("\t".join([f"{i:02d}.png", *(f"photo {i} {'of a cat ' * n}" for n in range(1 + i % 3))]))
    (tmp_path / "data" / "test" / "captions.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


def test_retrieval_is_what_the_towers_say(engine, folder, captions, capsys):
    flags = (
        "--evaluator",
        "retrieval",
        "--dataset",
        str(captions),
        "--output",
        str(folder / "out"),
        "--batch_eval",
        "16",
    )
    found = job(folder, *flags)
    engine.inference.evaluate_main(found)
    split = found.splits["test"]
    images = np.concatenate([batch["images"][batch["mask"]] for batch in found.batches("test")])
    texts, image = embeddings(engine, [text for own in split.captions for text in own], images)
    with np.load(folder / "out" / "test.npz") as file:
        np.testing.assert_allclose(file["features"], image, atol=2e-6)
        np.testing.assert_allclose(file["texts"], texts, atol=2e-6)
        images_of = file["images_of"]
    assert images_of.tolist() == [i for i in range(30) for _ in range(1 + i % 3)]
    similar = image @ texts.T
    first = [(images_of[order[:5]] == i).any() for i, order in enumerate(np.argsort(-similar, axis=1))]
    told = capsys.readouterr().out
    assert told.startswith(f"{captions} test, 30 images, 60 texts: image to text recall@1 ")
    image_to_text, _, text_to_image = told.partition(", text to image recall@1 ")
    assert f", @5 {np.mean(first):.2%}, @10 " in image_to_text and ", @10 " in text_to_image


def test_images_without_captions_or_classes_are_refused(folder, captions):
    with pytest.raises(UserError, match=r"The images of cifar10-sample test have no captions, which retrieval is of"):
        job(folder, "--evaluator", "retrieval")
    with pytest.raises(UserError, match="have captions and no labels"):
        job(folder, "--evaluator", "zero_shot", "--dataset", str(captions))


# --- in training


@pytest.fixture
def flags(folder, captions, monkeypatch) -> tuple[str, ...]:
    """Of a run on the captions, from initial values."""
    shutil.copytree(captions / "test", captions / "train")
    (folder / "tiny.npz").unlink()
    monkeypatch.setattr(PublishedModel, "card", Card(resolution=32, text=TEXT))
    monkeypatch.chdir(folder)
    return ("--model", "SigLIP-B/16-224", "--weights", "none", "--bit_pretrained_dir", str(folder), "--recipe", "siglip",
            "--dataset", str(captions), "--val_fraction", "0.3", "--batch", "7", "--steps", "4", "--warmup_steps", "1",
            "--resize", "32", "--crop", "32", "--batch_eval", "11", "--log_every", "1", "--workers", "2")  # fmt: skip


def train(*flags: str) -> None:
    Engine(INSTALLED[0]).loop.main(Run(parse(TrainConfig, flags, "train", ""), INSTALLED[0]))


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(folder, flags):
    """In one engine; tests/test_image_text_runs.py kills runs of all, and goes on in another."""
    flags += ("--optimizer", "adafactor", "--checkpoint_every", "2", "--eval_every", "2")
    train(*flags, "--name", "a")
    whole = record.read_record(folder / "runs" / "a")
    with np.load(folder / "runs" / "a" / "weights.npz") as file:
        expected = {name: file[name].tobytes() for name in file.files}
    (folder / "runs" / "a" / "weights.npz").unlink()
    (folder / "runs" / "a" / PREVIOUS).replace(folder / "runs" / "a" / CURRENT)  # of step 2
    train(*flags, "--name", "a")
    with np.load(folder / "runs" / "a" / "weights.npz") as file:
        assert {name: file[name].tobytes() for name in file.files} == expected
    found = record.read_record(folder / "runs" / "a")
    for metric in ("train/loss", "train/temperature", "val/loss", "val/img2txt_recall@1", "test/loss"):
        assert found.points(metric) == whole.points(metric) != []


def test_a_run_judges_retrieval_and_zero_shot_by_period(folder, flags, capsys):
    """In one engine, whose `main` is the text of all; tests/test_image_text_runs.py compares the engines."""
    periods = ("--zero_shot", "cifar10-sample", "--eval_every", "val:2,cifar10-sample:3")
    train(*flags, *periods, "--name", "a")
    found = record.read_record(folder / "runs" / "a")
    steps = {metric: [step for step, _ in found.points(metric)] for line in found.lines for metric in line}
    assert steps["val/txt2img_recall@5"] == steps["val/loss"] == [2, 4] and steps["cifar10-sample/top5"] == [3, 4]
    assert steps["test/img2txt_recall@1"] == [4] and steps["train/temperature"] == [1, 2, 3, 4]
    assert record.accuracy(found)[0] == "test/img2txt_recall@1" and found.pairs.num_texts == 60
    assert mistakes.wrong_pairs(found).pictures and "val image to text recall@1 " in capsys.readouterr().out
    assert [*curves.svgs([found])] == ["Loss", "Learning rate", "Top-1 accuracy", "Recall@1", "Images per second"]
