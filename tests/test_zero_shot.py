"""Prompts, zero-shot classification and retrieval: the numbers of big_vision's evaluators, their edges, ties and memory."""

import dataclasses
import importlib.util
import itertools
import json
import runpy
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
from golden.golden_params import image

from common.data.batches import prefetch
from common.data.split import Dataset, MultiLabels
from common.data.text.prompts import PROMPTS, canonical, doubts, names_of, prompted, read_prompts
from common.data.text.text_batches import form_of, text_batches
from common.evaluation import retrieval
from common.evaluation.contrastive import pair_losses
from common.evaluation.metrics import in_words
from common.evaluation.pairs import read_pairs
from common.evaluation.predictions import read_predictions
from common.evaluation.retrieval import RetrievalEvaluator, places
from common.evaluation.zero_shot import ZeroShotEvaluator
from common.models.published import prompted_classes
from common.system.errors import UserError

GOLDEN = Path(__file__).parent / "golden" / "siglip"
ZERO_SHOT, MATRIX, RETRIEVAL, FACTS = (
    json.loads((GOLDEN / f"{name}.json").read_text())
    for name in ("zero_shot_classifier", "retrieval_metrics", "retrieval_evaluator", "facts")
)
CLASSES = ZERO_SHOT["input"]["class_names"]


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1, as the models of two towers make them."""
    values = values.astype(np.float32).astype(np.float64)
    return values / (np.linalg.norm(values, axis=1, keepdims=True) + 1e-8)


def rows(embeddings: np.ndarray, **further) -> dict[str, np.ndarray]:
    """What an engine gives: the embeddings, and two rows of padding."""
    pad = lambda values: np.concatenate([values, np.full((2, *values.shape[1:]), 7, values.dtype)])
    columns = {
        "embedding": embeddings,
        "scale": np.full(len(embeddings), 10.0),
        "bias": np.zeros(len(embeddings)),
    } | further
    return {name: pad(values) for name, values in columns.items()} | {
        "mask": np.arange(len(embeddings) + 2) < len(embeddings)
    }


# --- prompts


@pytest.mark.parametrize("name", PROMPTS)
def test_lists_of_prompts_have_the_counts_of_the_original(name):
    prompts = PROMPTS[name]
    canonicalised = {canonical(prompt, keep="{}") for prompt in prompts}
    facts = {
        "entries": len(prompts),
        "distinct": len(set(prompts)),
        "distinct after canonicalisation": len(canonicalised),
    }
    assert facts == FACTS["prompt_lists"][name] and len(prompts) == ZERO_SHOT["prompts"][name]
    assert all(prompt.count("{}") == 1 for prompt in prompts) and set(prompts) <= set(PROMPTS["clip_paper"])


def test_the_prompts_are_those_of_open_clip():
    if not (package := importlib.util.find_spec("open_clip")):
        pytest.skip("open_clip is not installed")
    file = Path(
        package.submodule_search_locations[0], "zero_shot_metadata.py"
    )  # which imports nothing, as its package does
    templates = runpy.run_path(str(file))["OPENAI_IMAGENET_TEMPLATES"]
    assert (*(template("{}") for template in templates), "{}") == PROMPTS["clip_paper"]


@pytest.mark.parametrize("text", ZERO_SHOT["canonicalisation"]["canonicalize_text examples"])
def test_texts_are_made_canonical_as_by_the_original(text):
    assert (
        canonical(text, "{}" if "{}" in text else ",")
        == (ZERO_SHOT["canonicalisation"]["canonicalize_text examples"][text])
    )


def test_numbered_classes_are_told():
    """As archives have them without a list of names: a prompt of a number says little, unless it is of digits."""
    named = Dataset("cifar", ("cat", "dog"), {})
    (sentence,) = doubts(dataclasses.replace(named, class_names=("0", "1")))
    assert sentence.startswith("The classes of cifar are called 0, 1, ..., and so prompts speak of numbers; name them")
    assert doubts(named) == [] == doubts(dataclasses.replace(named, class_names=("1", "0")))


def test_class_names_are_made_canonical_as_by_the_original():
    expected = ZERO_SHOT["canonicalisation"]
    assert [canonical(name, ",") for name in CLASSES] == expected["class_names"]
    assert prompted(CLASSES[1:], ("A {}!",), canonicalize=False)[0] == ["A dog!", "A Guinea_Pig!", "A chef's hat!"]
    assert prompted(["Tabby Cat, kitten"], ("a  photo_of {}!",), aliases=True)[0] == [
        "a photo of tabby cat", "a photo of  kitten",  # two blanks, as in the original
    ]  # fmt: skip


def test_prompts_are_read_from_a_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa photo of a {}.\r\n\r\n  ein Bild: {} — schön\r\n".encode())
    assert read_prompts(str(file)) == ("a photo of a {}.", "ein Bild: {} — schön")
    assert read_prompts("clip_best") is PROMPTS["clip_best"]


@pytest.mark.parametrize(
    ("content", "said"),
    (
        (b"a photo of a {}\na photo\n", "Line 2 of .*'a photo', has 0 places {} for the name of a class, expected one"),
        (b"{} and {}\n", "Line 1 of .* has 2 places"),
        (b"a photo of a {c}.\n", "has 0 places"),
        (b"caf\xe9 {}\n", "Line 1 of .* is not in UTF-8"),
        (b"\n\n", "holds no prompt"),
    ),
)
def test_a_file_without_prompts_is_an_error(tmp_path, content, said):
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_prompts(str(tmp_path / "prompts.txt"))


def test_a_missing_list_names_the_nearest():
    with pytest.raises(
        UserError, match="'clip_papr'; did you mean clip_paper.*class_name_only, clip_best, clip_paper, or"
    ):
        read_prompts("clip_papr")


def test_a_class_of_which_nothing_is_left_is_an_error():
    with pytest.raises(UserError, match=r"The class '\+\+' has no name"):
        prompted(["c", "++"], ("{}",))


def test_classes_of_imagenet_have_the_names_of_clips_authors():
    names = [*prompted_classes().values()]
    facts = {"entries": len(names), "distinct": len(set(names))}
    facts["distinct after canonicalisation"] = len({canonical(name, keep=",") for name in names})
    assert facts == FACTS["class_name_lists"]["imagenet2012"]
    assert names_of("imagenet-a", ["n01440764", "n02124075"]) == ["tench", "Egyptian Mau"]
    assert names_of("pets", ["n01440764", "dog"]) == ["n01440764", "dog"]
    with pytest.raises(UserError, match="my/set calls a class n00000001, which is none"):
        names_of("my/set", ["n01440764", "n00000001"])


# --- zero-shot classification


def golden_cases() -> list:
    return [(prompts, aliases) for prompts in PROMPTS for aliases in (False, True)]


def zero_shot(prompts: str, aliases: bool, labels=None, **options) -> tuple[dict, ZeroShotEvaluator]:
    """(the original's numbers, an evaluator that was given its embeddings)."""
    expected = ZERO_SHOT["outputs"][f"{prompts}, first_class_name_only={not aliases}"]
    texts, classes = prompted(CLASSES, PROMPTS[prompts], aliases=aliases)
    assert len(texts) == expected["number_of_texts"] == len(classes)
    labels = np.array(ZERO_SHOT["input"]["labels"], np.int32) if labels is None else labels
    evaluator = ZeroShotEvaluator("val", "images", labels, "prompts", classes, **options)
    assert [*evaluator.passes()] == [("text_embeddings", "prompts"), ("image_embeddings", "images")]
    chosen = expected["text_embedding_row (hash of the text mod 97)"]
    evaluator.add("text_embeddings", rows(unit(image((97, 6), 44))[chosen]))
    evaluator.add("image_embeddings", rows(unit(image((21, 6), 43))))
    return expected, evaluator


@pytest.mark.parametrize(("prompts", "aliases"), golden_cases())
def test_zero_shot_is_that_of_the_original(prompts, aliases):
    expected, evaluator = zero_shot(prompts, aliases)
    if expected["text_labels"]:
        np.testing.assert_array_equal(evaluator.classes, expected["text_labels"])
    np.testing.assert_allclose(evaluator.class_embeddings, expected["average_embedding"]["data"], rtol=0, atol=1e-12)
    found = evaluator.result()
    assert found["top1"] == expected["accuracy"] and found["top1"] * expected["count"] == expected["correct"]
    assert "top5" not in found  # of four classes


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(PROMPTS, 2)])
@pytest.mark.parametrize("aliases", (False, True))
def test_texts_stand_in_the_order_of_the_original(one, other, aliases):
    """Equal texts of two lists have equal hashes in the original's record, and only they, but for some chance."""
    (here, there), hashes = zip(*(
        (prompted(CLASSES, PROMPTS[name], aliases=aliases)[0],
         ZERO_SHOT["outputs"][f"{name}, first_class_name_only={not aliases}"]["text_embedding_row (hash of the text mod 97)"])
        for name in (one, other)
    ))  # fmt: skip
    known = dict(zip(there, hashes[1], strict=True))
    same = [known[text] == number for text, number in zip(here, hashes[0], strict=True) if text in known]
    assert len(same) == len(here) and all(same)


def test_several_classes_of_an_image_any_will_do_and_images_without_one_do_not_count():
    plain = np.array(ZERO_SHOT["input"]["labels"], np.int32)
    _, evaluator = zero_shot("clip_best", False)
    predicted = evaluator.predictions.predicted
    kept = np.arange(21) % 5 > 0  # the others have no class
    pairs = [[label, other] for label, other in zip(plain, (plain + 1) % 4)]
    classes = np.concatenate([pair for pair, keep in zip(pairs, kept) if keep]).astype(np.int32)
    labels = MultiLabels(classes, np.concatenate([[0], np.cumsum(2 * kept)]), 4)
    _, several = zero_shot("clip_best", False, labels)
    right = [guess in pair for guess, pair, keep in zip(predicted, pairs, kept) if keep]
    assert several.result()["top1"] == pytest.approx(np.mean(right)) and np.mean(right) > evaluator.result()["top1"]
    _, none = zero_shot("clip_best", False, MultiLabels(np.zeros(0, np.int32), np.zeros(22, int), 4))
    with pytest.raises(UserError, match="None of the images"):
        none.result()


def test_of_equally_similar_classes_the_first_is_taken_and_nan_is_right_nowhere():
    labels = np.arange(10, dtype=np.int32)
    evaluator = ZeroShotEvaluator("val", (), labels, (), np.arange(10, dtype=np.int32))
    evaluator.add("text_embeddings", rows(np.tile(unit(image((1, 6), 1)), (10, 1))))
    evaluator.add("image_embeddings", rows(unit(image((10, 6), 2))))
    assert evaluator.result() == {"top1": 0.1, "top5": 0.5}  # those of class 0, and of classes 0 to 4
    broken = ZeroShotEvaluator("val", (), labels, (), labels)
    broken.add("text_embeddings", rows(np.full((10, 6), np.nan)))
    broken.add("image_embeddings", rows(unit(image((10, 6), 2))))
    assert broken.result() == {"top1": 0, "top5": 0}


def test_top5_is_among_the_five_most_similar(monkeypatch):
    monkeypatch.setattr("common.evaluation.zero_shot.TILE", 3 * 50)  # three images at a time
    labels, classes = np.arange(40, dtype=np.int32) % 50, np.arange(50, dtype=np.int32)
    evaluator = ZeroShotEvaluator("val", (), labels, (), classes)
    images, texts = unit(image((40, 6), 3)), unit(image((50, 6), 4))
    images += 0.8 * texts[labels]
    evaluator.add("text_embeddings", rows(texts[:20]))
    evaluator.add("text_embeddings", rows(texts[20:]))
    evaluator.add("image_embeddings", rows(unit(images)))
    order = np.argsort(-(unit(images) @ texts.T), axis=1)
    found = evaluator.result()
    assert found["top1"] == pytest.approx((order[:, 0] == labels).mean())
    assert (
        found["top5"] == pytest.approx((order[:, :5] == labels[:, None]).any(1).mean())
        and found["top5"] > found["top1"] > 0
    )


def test_predictions_are_kept_with_the_probability_of_the_scaled_softmax(tmp_path):
    _, evaluator = zero_shot("clip_best", False, keeps=True)
    evaluator.write(tmp_path)
    told = read_predictions(tmp_path / "predictions.npz", 4)
    logits = 10 * unit(image((21, 6), 43)) @ evaluator.class_embeddings.T
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_array_equal(told.predicted, logits.argmax(1))
    np.testing.assert_allclose(told.probability, shares.max(1), rtol=1e-5)
    assert told.num_right / 21 == evaluator.result()["top1"] and told.split == "val"
    _, other = zero_shot("clip_best", False)
    (tmp_path / "predictions.npz").unlink()
    other.write(tmp_path)
    assert not [*tmp_path.iterdir()]


def tokenizer(kind: str, length: int, make):
    return types.SimpleNamespace(
        kind=kind, length=length, encode=lambda texts: np.array([make(text) for text in texts])
    )


def test_texts_come_in_batches_with_padding():
    texts = [f"text {number}" for number in range(7)]
    words = tokenizer("bpe", 2, lambda text: (len(text), int(text[-1])))
    batches = text_batches(texts, words.encode, 3, **form_of(words))
    found = [*prefetch(batches, range(len(batches)), 2)]
    assert [batch["mask"].tolist() for batch in found] == [[True] * 3, [True] * 3, [True, False, False]]
    tokens = np.concatenate([batch["tokens"] for batch in found])
    assert tokens.dtype == np.int32 and tokens.tolist() == [[6, number] for number in range(7)] + [[0, 0]] * 2


def test_drawn_texts_come_in_batches_of_pixels():
    draw = lambda text: np.full((4, 4, 3), len(text), np.uint8)
    pixels = tokenizer("unifont", 4, draw)
    (batch,) = prefetch(text_batches(["a", "bc"], pixels.encode, 2, **form_of(pixels)), range(1), 1)
    assert batch["texts"].dtype == np.uint8 and batch["texts"].shape == (2, 4, 4, 3)
    assert batch["texts"][:, 0, 0, 0].tolist() == [1, 2]


# --- retrieval


def recalls(images: np.ndarray, texts: np.ndarray, images_of: np.ndarray) -> dict[str, float]:
    evaluator = RetrievalEvaluator("val", (), images_of, ())
    evaluator.add("text_embeddings", rows(texts))
    evaluator.add("image_embeddings", rows(images))
    return evaluator.result()


def test_recalls_of_a_matrix_are_those_of_the_original(tile):
    """Images are axes, so that a text's coordinates are the similarities: the negative distances."""
    images_of = np.array(MATRIX["input"]["text_image_correspondence"])
    distances = image((12, 30), 21)
    distances[images_of, np.arange(30)] -= 0.55
    np.testing.assert_allclose(distances[0], MATRIX["input"]["dist_first_row"], rtol=0, atol=1e-12)
    expected = {
        f"{way}_{name.lower()}": value for way, found in MATRIX["outputs"].items() for name, value in found.items()
    }
    assert recalls(np.eye(12), -distances.T, images_of) == pytest.approx(expected, abs=1e-12)


def test_recalls_of_embeddings_are_those_of_the_original(tile):
    given = image((12, 6), 41).astype(np.float32)
    order = np.argsort(RETRIEVAL["input"]["correspondence"], kind="stable")
    images_of = np.array(RETRIEVAL["input"]["correspondence"])
    texts = image((30, 6), 42).astype(np.float32) * np.float32(0.45) + given[images_of]
    assert images_of[order].tolist() == RETRIEVAL["outputs"]["text_ids"]
    similar = unit(given)[0] @ unit(texts[order]).T
    np.testing.assert_allclose(similar, RETRIEVAL["outputs"]["similarities_first_row"], rtol=0, atol=1e-12)
    assert recalls(unit(given), unit(texts[order]), images_of[order]) == RETRIEVAL["outputs"]["metrics"]


@pytest.fixture(params=(2048, 5))
def tile(request, monkeypatch):
    """The whole matrix at once, and in pieces that do not divide it."""
    monkeypatch.setattr(retrieval, "SIDE", request.param)


@pytest.mark.parametrize("seed", range(3))
def test_places_are_those_of_a_stable_order(tile, seed):
    """With many ties: embeddings of few different values, images without a text, and texts of one image twice."""
    rng = np.random.default_rng(seed)
    images, texts = rng.integers(0, 2, (13, 3)) / 2, rng.integers(0, 2, (31, 3)) / 2
    images_of = rng.integers(0, 11, 31)  # the last two images have no text
    similar = images @ texts.T
    by_image, by_text = np.argsort(-similar, axis=1, kind="stable"), np.argsort(-similar, axis=0, kind="stable")
    found = places(images, texts, images_of)
    np.testing.assert_array_equal(
        found.of_images, [np.flatnonzero(by_text[:, j] == images_of[j])[0] for j in range(31)]
    )
    for i, order in enumerate(by_image):
        own = np.flatnonzero(images_of[order] == i)
        assert found.of_texts[i] == (own[0] if len(own) else retrieval.NOWHERE)


def test_equal_embeddings_are_equally_similar_however_a_library_adds_up():
    """The same image and text again and again, at places where the rounding of a product differs; order decides."""
    images, texts = np.tile(unit(image((1, 777), 1)), (67, 1)), np.tile(unit(image((1, 777), 2)), (131, 1))
    images_of = np.arange(131) // 2
    found = places(images.astype(np.float32), texts.astype(np.float32), images_of)
    np.testing.assert_array_equal(found.of_images, images_of)
    np.testing.assert_array_equal(found.of_texts[:66], 2 * np.arange(66))


def test_the_surest_wrong_pairs_are_kept(tile, tmp_path):
    images, texts = unit(image((13, 6), 1)), unit(image((40, 6), 2))
    images_of = np.arange(40) % 13
    captions = [f"caption {number}" for number in range(40)]
    evaluator = RetrievalEvaluator("test", (), images_of, (), captions=captions)
    evaluator.add("text_embeddings", rows(texts))
    evaluator.add("image_embeddings", rows(images))
    evaluator.write(tmp_path)
    found, similar = read_pairs(tmp_path / "pairs.json"), images @ texts.T
    wrong = np.flatnonzero(similar.argmax(0) != images_of)
    assert (found.split, found.num_images, found.num_texts, found.num_wrong) == ("test", 13, 40, len(wrong))
    order = sorted(wrong, key=lambda j: -similar[:, j].max())
    assert [pair.text for pair in found.pairs] == [captions[j] for j in order]
    for pair, j in zip(found.pairs, order):
        assert (pair.own, pair.found) == (images_of[j], similar[:, j].argmax())
        assert (
            pair.similarity == pytest.approx(similar[pair.found, j], abs=1e-6) and pair.similarity > pair.own_similarity
        )
        assert pair.place == (similar[:, j] > similar[pair.own, j]).sum()
    silent = RetrievalEvaluator("test", (), images_of, ())
    silent.write(tmp_path / "nowhere")


def test_a_model_that_has_blown_up_finds_nothing():
    broken = recalls(np.full((6, 3), np.nan), unit(image((12, 3), 1)), np.arange(12) // 2)
    assert set(broken.values()) == {0.0}
    evaluator = RetrievalEvaluator("val", (), np.arange(2), (), captions=["a", "b"])
    evaluator.add("text_embeddings", rows(np.full((2, 3), np.nan)))
    evaluator.add("image_embeddings", rows(unit(image((2, 3), 1))))
    assert evaluator.pairs.pairs == () and evaluator.pairs.num_wrong == 2


def test_what_is_not_there_is_not_found_among_few():
    """Three texts are fewer than recall@5 asks for: an image without one still finds none."""
    found = recalls(np.eye(4), np.eye(4)[:3], np.arange(3))
    assert found["img2txt_recall@10"] == 0.75 and found["txt2img_recall@1"] == 1.0


def test_memory_stays_within_some_tiles():
    """1,000 x 60,000 similarities are 240 MB in float32; what is taken beside the embeddings is under 100 MB at any size."""
    rng = np.random.default_rng(0)
    images, texts = (rng.standard_normal((count, 4), np.float32) for count in (1000, 60_000))
    images_of = rng.integers(0, 1000, 60_000)
    tracemalloc.start()
    places(images, texts, images_of)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_recalls_are_told_in_few_words():
    values = {f"{way}_recall@{depth}": 0.1 for way in ("img2txt", "txt2img") for depth in (1, 5)} | {
        "top1": 0.5,
        "top5": 0.6,
    }
    assert in_words(values, 0) == (
        "image to text recall@1 10.00%, @5 10.00%, text to image recall@1 10.00%, @5 10.00%, top-1 50.00%, top-5 60.00%"
    )
    assert in_words({"top1": 0.5, "top5": 0.6}, 5) == "top-1 50.00%"


# --- losses of held-out pairs


def test_the_softmax_loss_is_that_of_the_original():
    golden = json.loads((GOLDEN / "contrastive_evaluator.json").read_text())["outputs"]["use_global_batch=True"]
    given = image((6, 6), 61).astype(np.float32).astype(np.float64)
    texts = 0.6 * image((6, 6), 62).astype(np.float32).astype(np.float64) + given
    images, texts = unit(given)[:5], (texts / (np.linalg.norm(texts, axis=1, keepdims=True) + 1e-8))[:5]
    scale, bias = np.full(5, np.exp(2.3)), np.zeros(5)
    losses = pair_losses(images, texts, scale, bias, loss="softmax", batch=8)
    np.testing.assert_allclose(losses, golden["losses"][:5], rtol=0, atol=1e-12)  # the sixth is masked there
    evaluator = RetrievalEvaluator("val", (), np.arange(5), (), loss="softmax", batch=8)
    evaluator.add("text_embeddings", rows(texts))
    evaluator.add("image_embeddings", rows(images, scale=scale))
    found = evaluator.result()
    assert found["loss"] == pytest.approx(golden["loss"], abs=1e-12)
    assert found["img2txt_recall@1"] == golden["ncorrect_minibatch"] == 1


def test_the_sigmoid_loss_is_the_sum_over_texts_and_minibatches_do_not_mix():
    images, texts = unit(image((5, 6), 1)), unit(image((10, 6), 2))
    images_of = np.repeat(np.arange(5), 2)  # of which the first counts
    evaluator = RetrievalEvaluator("val", (), images_of, (), loss="sigmoid", batch=3)
    evaluator.add("text_embeddings", rows(texts))
    evaluator.add("image_embeddings", rows(images, bias=np.full(5, -2.0)))
    expected = []
    for i in range(5):
        partners = range(3) if i < 3 else range(3, 5)
        logits = {j: 10 * images[i] @ texts[2 * j] - 2 for j in partners}
        expected.append(sum(np.log1p(np.exp(-logit if i == j else logit)) for j, logit in logits.items()))
    assert evaluator.result()["loss"] == pytest.approx(np.mean(expected), rel=1e-12)
