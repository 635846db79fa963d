"""Texts behind prompts, by which a model is told what to write: prompts are given, in training, judging and writing."""

import dataclasses

import numpy as np
import pytest
from engines import INSTALLED
from jobs import make_pairs, metrics

from common.config import TrainConfig
from common.data.columns import CAPTION
from common.data.split import Example
from common.data.text import kept_tokenizer
from common.data.written import Told, behind, texts, tokens_of, told
from common.models import find_model
from common.models.initial import initial_parameters
from common.runs.plan import Plan
from common.system.errors import UserError
from common.weights import write_weights

TOKENIZER = kept_tokenizer(find_model("CapPa-T/8").card.text, None, ".")
MODEL = ("--model", "CapPa-T/8", "--workers", 1)
FLAGS = {"recipe": "cappa", "model": "CapPa-T/8", "weights": "none", "batch": 4, "steps": 2, "warmup_steps": 1}


def plan_of(tmp_path, dataset: str = "", **flags) -> Plan:
    """Of a run on `pairs`, or on a data set of images with classes."""
    if not dataset:
        make_pairs(tmp_path)
    return Plan(TrainConfig(**FLAGS | {"dataset": dataset or str(tmp_path / "pairs")} | flags))


def rows_of(columns, split, number: int, **draws) -> dict[str, np.ndarray]:
    """What columns of texts make of an example."""
    made = [column for column in columns if column.name in ("tokens", "counted", "masked")]
    return {c.name: c.make(Example(split, number), *(draws[stream.name] for stream in c.streams)) for c in made}


def test_a_prompt_is_given_and_not_predicted(tmp_path):
    """Its tokens stand before a text, do not count, and are never hidden; the text's are those that it has anyway."""
    plan = plan_of(tmp_path, prompt="caption:", parallel=0.5)
    train = plan.splits["train"]
    order = np.random.default_rng(0).random(16)
    for draw in (0.0, 0.99):
        found = rows_of(plan.task.columns(plan, train, True), train, 2, caption_draws=draw, mask_draws=order)
        text = train.captions[2][int(draw * 3)]
        first, whole = TOKENIZER.encode(["caption:"])[0], TOKENIZER.encode([f"caption: {text}"])[0]
        assert found["tokens"].tolist() == whole.tolist() and (whole[:2] == first[:2]).all()
        assert found["counted"].tolist() == [False, False, *(whole[2:] != 0)]
        assert found["masked"].tolist() == [False, False, *[True] * 14]
        assert behind(TOKENIZER, "caption:")(whole[None]) == TOKENIZER.decode(TOKENIZER.encode([text]))
    assert plan.card("bit_jax")["prompt"] == "caption:"
    judged = plan.evaluators()["test"].batches
    batch, work = judged.jobs(0)
    for job in work:
        job()
    assert not batch["counted"][:, :2].any() and batch["counted"][:, 2].all()


def test_names_of_classes_are_texts_behind_a_prompt_of_their_own():
    """One more text of each image, drawn as often as a caption."""
    plan = plan_of(None, "cifar10-sample", class_prompt="a class:", parallel=0.0)
    train = plan.splits["train"]
    found = rows_of(plan.task.columns(plan, train, True), train, 5, caption_draws=0.3)
    name = plan.dataset.class_names[train.labels[5]]
    assert TOKENIZER.decode(found["tokens"][None]) == TOKENIZER.decode(TOKENIZER.encode([f"a class: {name}"]))
    given = int((tokens_of(TOKENIZER, "a class:") != 0).sum())
    assert not found["counted"][:given].any() and found["counted"][given]
    assert "test" in plan.evaluators() and "prompt" not in plan.card("bit_jax")


def test_captions_and_classes_of_the_same_images_are_drawn_together(tmp_path):
    """Of a set that has both."""
    make_pairs(tmp_path)
    split = Plan(TrainConfig(**FLAGS, dataset=str(tmp_path / "pairs"))).splits["train"]
    both = dataclasses.replace(split, labels=np.arange(len(split), dtype=np.int32) % 2)
    of = told(both, "caption:", "class:", ("cat", "dog"))
    assert of(1) == [Told("caption:", text) for text in split.captions[1]] + [Told("class:", "dog")]
    tokens, counted = texts(TOKENIZER, of, drawn=True)
    assert tokens.streams == (CAPTION,) == counted.streams
    drawn = {TOKENIZER.decode(tokens.make(Example(both, 1), draw)[None])[0] for draw in (0.1, 0.5, 0.9)}
    assert len(drawn) == 3 and "class dog" in drawn


@pytest.mark.parametrize(
    ("flags", "said"),
    (
        ({"class_prompt": "class:"}, "is for images with one class each"),
        ({"prompt": "a cat " * 9}, "give a shorter one"),
        ({"recipe": "siglip", "model": "SigLIP-T/8", "prompt": "x"}, "--prompt belongs to the tasks captioning and"),
    ),
)
def test_a_mistake_is_one_sentence(tmp_path, flags, said):
    with pytest.raises(UserError, match=said):
        plan = plan_of(tmp_path, **flags)
        rows_of(plan.task.columns(plan, plan.splits["train"], False), plan.splits["train"], 0)


def test_a_model_remembers_its_prompt(run, tmp_path):
    """Trained with one, it writes behind it and is judged behind it; the prompt is no part of its texts."""
    make_pairs(tmp_path)
    config = find_model("CapPa-T/8").config()
    values = initial_parameters(0, config)
    values["head/bias"][[236, 10, 1]] += (9, 7, 7)  # two tokens of "cats", and the end
    write_weights(tmp_path / "w.npz", values, config)
    name = INSTALLED[0]
    train = (
        "--recipe",
        "cappa",
        *MODEL,
        "--weights",
        "w.npz",
        "--dataset",
        "pairs",
        "--batch",
        4,
        "--steps",
        2,
        "--warmup_steps",
        1,
    )
    run(f"{name}.train", *train, "--prompt", "a picture", "--name", "told", "--eval_every", 0)
    loss = metrics(tmp_path, "told")[-1]["test/loss"]
    weights = (*MODEL, "--weights", "runs/told")
    asked = lambda *flags: run(f"{name}.evaluate", *weights, "--dataset", "pairs", *flags).stdout
    assert f"loss {loss:.4f}" in asked() and f"loss {loss:.4f}" in asked("--prompt", "a picture")
    assert f"loss {loss:.4f}" not in asked("--prompt", "")
    line = run(f"{name}.predict", *weights, "pairs/test/0.png").stdout
    whole = run(f"{name}.predict", *weights, "--prompt", "a picture", "pairs/test/0.png").stdout
    assert whole.strip() == line.replace("0.png: ", "0.png: a picture ").strip() and "a picture" not in line
