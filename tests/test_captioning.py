"""Models that write, in every engine: the original's outputs, updates and scores in float64, and texts token by token."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from engines import float64, recipe_of
from golden.golden_params import image, param
from tiny_models import IMAGES, WRITERS, random_arrays

from common.models import DecoderConfig, ViTConfig
from common.recipes import schedules
from common.recipes.task import Captioning, Writing
from common.weights.recognise import fit
from common.weights.spellings import TABLES

GOLDEN = Path(__file__).parent / "golden"
TABLES = {table.spelling: table for table in TABLES if table.family is DecoderConfig}
SPELLING = {
    "bv_cappa": "big_vision",
    "cappa": "big_vision",
    "bv_uvim": "big_vision_uvim",
    "uvim": "big_vision_uvim",
}  # by family


def golden(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def as_float64(values: np.ndarray) -> np.ndarray:
    """float32 values in float64, as the cases have them."""
    return values.astype(np.float32).astype(np.float64)


def model_of(case: dict) -> tuple[DecoderConfig, dict[str, np.ndarray]]:
    """(configuration, canonical float64 arrays) of a golden case."""
    shapes = {key: tuple(shape) for key, shape in case["params"].items()}
    table = TABLES[SPELLING[case["family"]]]
    config = fit(table, shapes, {"image": ViTConfig((8, 8), 32, 2, 4, 64, None, (32, 32), pooling="gap")}).config
    return config, table.from_published({key: as_float64(param(key, shape)) for key, shape in shapes.items()}, config)


def tokens_of(seed: int) -> np.ndarray:
    """The texts of a step, as `input` of the cases says."""
    tokens = np.random.RandomState(2000 + seed).randint(1, 24, (4, 6)).astype(np.int32)
    tokens[1, 4:], tokens[3, 2:] = 0, 0
    return tokens


def batch_of(seed: int, **further: np.ndarray) -> dict[str, np.ndarray]:
    """The images and texts of a step."""
    tokens = tokens_of(seed)
    return {"images": as_float64(image((4, 32, 32, 3), seed)), "tokens": tokens, "counted": tokens != 0} | further


def outputs(engine, model, name: str, batch: dict[str, np.ndarray], task: Captioning = Captioning()) -> dict:
    """One of the engine's OUTPUTS of a batch."""
    (placed,) = engine.devices.to_device(iter([batch | {"mask": np.ones(len(batch["images"]), bool)}]), model.devices)
    found = engine.loop.eval_step({"model": model}, placed, name, task)
    return {column: engine.array(rows) for column, rows in found.items()}


@pytest.mark.parametrize("name", ("tiny", "vtt_tiny_learn"))
def test_float64_outputs_equal_the_originals(engine, name):
    """Logits within 1e-9, of CapPa and of UViM's second stage."""
    case = golden(f"bv_cappa/{name}")
    config, arrays = model_of(case)
    images = as_float64(image(tuple(case["input"]["shape"]), case["input"]["seed"]))
    model = engine.build(config, arrays, "float64")
    found = model(engine.tensor(images), engine.raw(np.array(case["tokens"]["data"], np.int32)))
    expected = np.array(case["outputs"]["logits"]["data"]).reshape(case["outputs"]["logits"]["shape"])
    np.testing.assert_allclose(engine.array(found), expected, rtol=0, atol=1e-9)


def smoothed(logits: np.ndarray, labels: np.ndarray, counted: np.ndarray, dtype: type) -> np.ndarray:
    """Means of the cross-entropies with label smoothing 0.1, whose targets are of this type."""
    targets = np.full(logits.shape, (1 - 0.9) / 10, dtype)
    np.put_along_axis(targets, labels[:, :, None], dtype(0.9), 2)
    losses = -(targets * (logits - np.log(np.exp(logits).sum(2, keepdims=True)))).sum(2) * counted
    return losses.sum(1) / np.maximum(counted.sum(1), 1)


def test_losses_equal_the_originals(engine):
    """Each text's mean and sum, with and without smoothing; of a text without tokens, 0."""
    case = golden("cappa/weighted_softmax_xent")
    labels, every = np.array(case["input"]["labels"], np.int32), np.ones((4, 6), bool)
    logits, expected = as_float64(2 * image((4, 6, 11), 71)), {n: one["data"] for n, one in case["outputs"].items()}
    found = {}
    for which, counted in (("no weights", every), ("weights", labels != 0)):
        with float64(engine):
            both = engine.losses.per_text(*map(engine.raw, (logits, labels, counted)))
        found |= dict(zip((which, f"{which}, normalize=False"), map(engine.array, both)))
    for which, values in found.items():
        np.testing.assert_allclose(values, expected[f"{which} (reduction=False)"], rtol=0, atol=1e-12, err_msg=which)
    # The original's targets are float32 (`onehot` of big_vision's utils.py), ours of the type of the logits.
    theirs, ours = (smoothed(logits, labels, labels != 0, dtype) for dtype in (np.float32, np.float64))
    name = "weights, label_smoothing=0.1 (reduction=False)"
    np.testing.assert_allclose(theirs, expected[name], rtol=0, atol=1e-12)
    with float64(engine):
        mean, _ = engine.losses.per_text(*map(engine.raw, (logits, labels, labels != 0)), 0.1)
    np.testing.assert_allclose(engine.array(mean), ours, rtol=0, atol=1e-12)


def recipe_for(case: dict, **changes):
    """The recipe of a golden run."""
    given = case["config"]
    factor = np.float32(schedules.cosine(10, 2, 1.0)).astype(float)  # float32, as there
    return recipe_of(
        map(float, given["lr"] * factor), batch=4, batch_eval=4, base_lr=given["lr"], weight_decay=given["wd"],
        clip=given["grad_clip_norm"], decay="independent", optimizer="adam", **changes,
    )  # fmt: skip


def drawn(case: dict, step: int) -> dict[str, np.ndarray]:
    """What the original drew in a step: which texts are predicted at once, and which of their tokens are hidden."""
    model, draws = case["config"]["model"], case.get("random_draws") or {}
    if not model["masked_pred_prob"]:
        return {}
    uniform, masked = (
        next(value for name, value in draws.items() if name.startswith(prefix))
        for prefix in ("do_masked_pred", "mask_locations")
    )
    return {
        "parallel": np.array(uniform[step]) < model["masked_pred_prob"],
        "masked": np.array(masked[step], bool),
    }


@pytest.mark.parametrize(
    ("name", "batch_split"), [("steps_cappa", 2), *(pytest.param(n, 1, marks=pytest.mark.slow) for n in ("steps_cap", "steps_cappa"))]
)  # fmt: skip
def test_float64_updates_equal_the_originals(engine, monkeypatch, name, batch_split):
    """Losses within 1e-8, gradients and every parameter within 1e-9; in parts as at once."""
    case = golden(f"cappa/{name}")
    config, arrays = model_of(case)
    recipe = recipe_for(
        case, batch_split=batch_split, task=Captioning(parallel=case["config"]["model"]["masked_pred_prob"])
    )
    batches = [batch_of(seed, **drawn(case, step)) for step, seed in enumerate(case["input"]["seeds_per_step"])]
    engine.keep_images(monkeypatch)
    model = engine.build(config, arrays, "float64")
    optimizer, losses, first = engine.optim.create_optimizer(model, recipe), [], {}
    for step, batch in enumerate(engine.devices.to_device(iter(batches), model.devices)):
        first = first or engine.slopes({"model": model}, batch, recipe)
        losses.append(float(engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"]))
    engine.forget_compiled()
    np.testing.assert_allclose(losses, case["outputs"]["training_loss"]["data"], rtol=0, atol=1e-8)
    found = engine.weights.dump(model)
    for row in TABLES[SPELLING[case["family"]]].rows(config):
        ours, theirs = row.ours[0], row.theirs
        expected, slope = case["gradients_first_step"][theirs], first[ours]
        assert np.linalg.norm(slope) == pytest.approx(expected["l2"], rel=1e-9, abs=1e-12), theirs
        np.testing.assert_allclose(slope.ravel()[:4], expected["first4"], rtol=1e-8, atol=1e-12, err_msg=theirs)
        if theirs.endswith("key/bias"):
            continue  # its gradient is nothing but rounding, and so is what Adam makes of it
        expected, moved = case["final_params"][theirs], found[ours] - arrays[ours]
        assert np.linalg.norm(moved) == pytest.approx(expected["delta_l2"], rel=1e-7, abs=1e-10), theirs
        np.testing.assert_allclose(found[ours].ravel()[:4], expected["first4"], rtol=1e-9, atol=1e-11, err_msg=theirs)


def test_evaluators_equal_the_originals(engine, monkeypatch):
    """Log-likelihoods of texts, of their own and of five labels."""
    case = golden("cappa/evaluators")
    engine.keep_images(monkeypatch)
    model = engine.build(*model_of(case), "float64")
    batch, expected = batch_of(100), {name: np.array(one["data"]) for name, one in case["outputs"].items()}
    found = outputs(engine, model, "likelihoods", batch)
    np.testing.assert_allclose(found["nll"], expected["perplexity evaluator, normalize_by_seqlen=False"], atol=1e-9)
    np.testing.assert_allclose(found["loss"], expected["perplexity evaluator, normalize_by_seqlen=True"], atol=1e-9)
    assert found["num_tokens"].tolist() == [6, 4, 6, 2]
    labels = np.tile(np.array(case["input"]["label_tokens"], np.int32), (4, 1, 1))
    scores = outputs(engine, model, "text_scores", batch | {"texts": labels, "texts_counted": labels > 0})["scores"]
    wanted = expected["score (log-likelihood of 5 labels per image)"].reshape(4, 5)
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-9)
    engine.forget_compiled()


def test_blocks_computed_again_give_the_same_gradients(engine):
    """Also of the image tower, which they reach through each block of the decoder."""
    config, slopes = WRITERS["cappa"], []
    tokens = np.random.default_rng(0).integers(1, 11, (3, 7), np.int32)
    batch = {
        "images": np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8),
        "tokens": tokens,
        "counted": tokens > 2,
    }
    for remat in (False, True):
        arrays = {name: value.astype(float) for name, value in random_arrays(config).items()}
        model = engine.build(config, arrays, "float64", remat=remat)
        (placed,) = engine.devices.to_device(iter([batch]), model.devices)
        slopes.append(engine.slopes({"model": model}, placed, recipe_of((0.1,), batch=3, task=Captioning())))
    for name, expected in slopes[0].items():
        np.testing.assert_allclose(slopes[1][name], expected, rtol=1e-9, atol=1e-12, err_msg=name)


CONFIG = dataclasses.replace(WRITERS["cappa"], vocabulary=23, length=9)
PROMPT = np.array([[0] * 9, [3, 4] + [0] * 7, [5] + [0] * 8], np.int32)
HOW = {"greedy": {}, "beams": {"beams": 3}, "nucleus": {"top_p": 0.9, "temperature": 0.7}, "sampling": {"top_p": 1.0}}


def rewritten(logits_of, how: Writing, draws: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray]:
    """What `write` says, by whole forward passes and plain Python: `logits_of(tokens [B * W, L])` [B * W, L, V]."""
    count, length = PROMPT.shape
    beams = [[((), 0.0)] for _ in PROMPT]
    for place in range(length):
        rows = np.zeros((count, how.beams, length), np.int32)
        for number, number_of in enumerate(beams):
            for beam, (text, _) in enumerate(number_of):
                rows[number, beam, :place] = text
        logits = logits_of(rows.reshape(-1, length)).reshape(*rows.shape, -1)[:, :, place]
        logs = logits - np.log(np.exp(logits - logits.max(2, keepdims=True)).sum(2, keepdims=True))
        logs -= logits.max(2, keepdims=True)
        for number, wanted in enumerate(PROMPT[:, place]):
            longer = []
            for (text, score), own in zip(beams[number], logs[number]):
                choices = [0] if end in text else [wanted] if wanted else range(len(own))
                free = end not in text and not wanted
                if how.top_p and free:
                    choices = [nucleus(own, how, draws[number, place])]
                longer += [((*text, int(k)), score + (own[k] if free else 0.0)) for k in choices]
            beams[number] = sorted(longer, key=lambda one: -one[1])[: how.beams]
    return np.array([own[0][0] for own in beams]), np.array([own[0][1] for own in beams])


def nucleus(logs: np.ndarray, how: Writing, draw: float) -> int:
    """The token that a number in [0, 1) draws."""
    shares = np.exp(logs / how.temperature)
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")
    order = np.sort(order[: 1 + int(np.searchsorted(np.cumsum(shares[order]), how.top_p))])
    until = np.cumsum(shares[order])
    return order[min(int((until <= draw * until[-1]).sum()), len(order) - 1)]


@pytest.mark.parametrize(
    "how", [*(pytest.param(how, marks=pytest.mark.slow) for how in ("greedy", "sampling")), "beams", "nucleus"]
)  # the golden codes are written greedily
def test_texts_are_those_of_whole_forward_passes(engine, monkeypatch, how):
    """Token by token with what was computed before, as without; after a prompt, up to an end, the same in every engine."""
    how, end = Writing(**HOW[how]), 18
    engine.keep_images(monkeypatch)
    arrays = {name: value.astype(np.float64) for name, value in random_arrays(CONFIG).items()}
    model = engine.build(CONFIG, arrays, "float64")
    images, draws = IMAGES.astype(np.float64), np.random.default_rng(3).random(PROMPT.shape)
    batch = {"images": images, "prompt": PROMPT, "end": np.full(3, end, np.int32)}
    found = outputs(engine, model, "captions", batch | ({"draws": draws} if how.top_p else {}), Captioning(writing=how))
    engine.forget_compiled()
    encoded = model.encode(engine.tensor(images.repeat(how.beams, 0)))
    texts, likelihoods = rewritten(
        lambda tokens: engine.array(model.decode(encoded, engine.raw(tokens))), how, draws, end
    )
    assert found["tokens"].tolist() == texts.tolist()
    np.testing.assert_allclose(found["score"], likelihoods, rtol=0, atol=1e-9)
    assert len({*map(tuple, texts)}) == 3 and (texts[:, :-1] == end).any(), "no text ends before its last place"


def test_of_equal_tokens_the_first_is_written(engine):
    """As an untrained head rates them: every engine breaks ties alike."""
    arrays = random_arrays(CONFIG) | {"head/kernel": np.zeros((16, 23), "f4"), "head/bias": np.zeros(23, "f4")}
    model = engine.build(CONFIG, arrays)
    batch = {"images": np.zeros((1, 32, 32, 3), np.uint8), "prompt": PROMPT[:1], "end": np.full(1, 7, np.int32)}
    found = outputs(engine, model, "captions", batch, Captioning(writing=Writing(beams=2)))
    assert found["tokens"].tolist() == [[0] * 9]


def drawn_by(engine, rated: np.ndarray, draws: np.ndarray, top_p: float = 1.0) -> np.ndarray:
    """The tokens [B] that an engine draws from log-likelihoods [B, V] by numbers [B]."""
    drawn = importlib.import_module(f"{engine.name}.writing").drawn
    return engine.array(drawn(engine.raw(rated), engine.raw(draws), Writing(top_p=top_p)))


def test_float32_draws_the_tokens_of_float64(engine):
    """Also of many that are equally unlikely: a sum that rounds at every token would mostly draw another one."""
    rng = np.random.default_rng(0)
    rated, draws = np.zeros((500, 1000), "f4"), rng.uniform(0.994, 1, 500)
    rated[:, :20] = rng.normal(9, 1, (500, 20))
    found = drawn_by(engine, rated, draws)
    expected = [nucleus(logs, Writing(top_p=1.0), draw) for logs, draw in zip(rated.astype(float), draws)]
    assert (found != expected).mean() <= 0.1


@pytest.mark.parametrize("top_p", (0.9, 1.0))
def test_rounding_between_equal_tokens_draws_no_other(engine, top_p):
    """Those that no text of the training has are as likely as one another, and any of them may come out as the largest."""
    rng, draws = np.random.default_rng(0), np.random.default_rng(1).random(50)
    rated = np.repeat(rng.normal(size=(50, 10)), 10, axis=1)
    with float64(engine):
        found = [drawn_by(engine, rated + noise, draws, top_p) for noise in (0, rng.normal(0, 1e-15, rated.shape))]
    assert len({*found[0].tolist()}) > 20
    np.testing.assert_array_equal(found[0], found[1])
