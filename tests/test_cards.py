"""Wrong values in cards and in the config files of other projects: a sentence, or the very model; never a traceback."""

import dataclasses
import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from format_cases import CASES, SMALL, random_arrays

from common.models import PublishedModel, ResNetConfig, TextConfig, TwoTowersConfig, ViTConfig, find_model
from common.models.cards import Card, parse_card
from common.models.families import dump_config, parse_config
from common.models.tokens import BERT, CLIP, CLIPPO, LIT, SIGLIP, SIGLIP2, SIGLIP_I18N
from common.models.two_towers import VARIANTS
from common.system.errors import UserError
from common.weights import containers
from common.weights.express import choose_table
from common.weights.source import read_model
from common.weights.starting import starting_values
from common.weights.writing import write_weights

WRONG = (
    None,
    "text",
    "",
    -1,
    0,
    1.5,
    5.0,
    True,
    math.inf,
    -math.inf,
    math.nan,
    2**40,
    [],
    [1],
    [[1, 2]],
    ["a"] * 3,
    {},
    {"a": 1},
)
NAMES = ["a", "b", "c", "d", "e"]
PREPARED = {"class_names": NAMES, "resolution": 32, "eval_resize": 40, "resize_kind": "bicubic", "loss": "softmax",
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "text": SIGLIP.facts()}  # fmt: skip
ERF = ViTConfig(**SMALL, gelu="erf")
BIT = ResNetConfig((2, 1), 0.5, 5, standardization_epsilon=1e-8)
TIMM = {
    "architecture": "vit_base_patch16_224", "num_classes": 5, "global_pool": "token", "label_names": NAMES,
    "model_args": {"img_size": 32, "num_heads": 4, "act_layer": "gelu", "class_token": True, "global_pool": "token"},
    "pretrained_cfg": {"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center",
                       "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "num_classes": 5},
}  # fmt: skip
HUGGING_FACE = {
    "model_type": "vit", "hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 8, "id2label": {str(i): name for i, name in enumerate(NAMES)}, "qkv_bias": True,
    "problem_type": "single_label_classification",
}  # fmt: skip
HUGGING_FACE_BIT = {
    "model_type": "bit", "layer_type": "preactivation", "global_padding": None, "embedding_dynamic_padding": False,
    "hidden_act": "relu", "output_stride": 32, "num_groups": 32, "width_factor": 1, "depths": [2, 1],
    "id2label": {str(i): name for i, name in enumerate(NAMES)},
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 32, "width": 32}, "resample": 2,
    "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "crop_pct": 0.875,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Whether files survive a power cut is tested elsewhere."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def mutations(value: dict, path: tuple = ()):
    """(path, copy of a JSON object in which one value is wrong)."""
    for key, old in value.items():
        if isinstance(old, dict):
            for deeper, changed in mutations(old, (*path, key)):
                yield deeper, value | {key: changed}
        for wrong in WRONG:
            yield (*path, key, repr(wrong)), value | {key: wrong}


def outcome(read) -> object:
    """What a reader returns, or None where it refuses in one sentence."""
    try:
        return read()
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return None


def check(found) -> None:
    """A model that was read has a configuration and a card of the right types."""
    assert parse_config(json.loads(json.dumps(dump_config(found.config))), "it") == found.config
    assert parse_card(json.loads(json.dumps(found.card.facts())), "it") == found.card
    names = found.card.class_names
    assert names is None or len(names) == found.config.num_classes


FREE = ("gelu", "image_size", "dropout", "num_groups")  # what arrays do not tell, so that other values may be right


def free(path: tuple) -> bool:
    """Whether a field may have another value in a model of the same arrays."""
    return path[-2] in FREE or "eps" in path[-2]


@pytest.mark.parametrize("name", ("bit", pytest.param("hybrid", marks=pytest.mark.slow), "mixer"))
def test_a_card_with_any_wrong_value(name, tmp_path):
    config, (spelling, *_) = CASES[name]
    table = choose_table(spelling, config)
    np.savez(tmp_path / "weights.npz", **table.to_published(random_arrays(config), config))

    def read(card: dict):
        (tmp_path / "card.json").write_text(json.dumps(card))
        return read_model(tmp_path / "weights.npz", values=False)

    for path, changed in mutations(json.loads(json.dumps(PREPARED | {"config": dump_config(config)}))):
        found = outcome(functools.partial(read, changed))
        if found is not None:
            check(found)
            assert found.config == config or free(path), path


FOREIGN = {
    "timm": (ERF, "timm", TIMM, {}),
    "vit": (ERF, "huggingface", HUGGING_FACE, PROCESSOR),
    "bit": (BIT, "huggingface", HUGGING_FACE_BIT, PROCESSOR | {"size": {"shortest_edge": 40}}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_config_with_any_wrong_value(name, tmp_path):
    config, spelling, told, processor = FOREIGN[name]
    published = choose_table(spelling, config).to_published(random_arrays(config), config)
    containers.write(tmp_path / "model.safetensors", published, {"format": "pt"})

    def read(told: dict, processor: dict):
        (tmp_path / "config.json").write_text(json.dumps(told))
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
        return read_model(tmp_path, values=False)

    check(read(told, processor))
    for path, changed in mutations(told):
        found = outcome(functools.partial(read, changed, processor))
        if found is not None:
            check(found)
            assert found.config == config or free(path), path
    for _, changed in mutations(processor):
        found = outcome(functools.partial(read, told, changed))
        if found is not None:
            check(found)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("bit", {"max_pool_padding": "zeros"}, "max_pool_padding is 'zeros', expected one of zero, lowest"),
        ("bit", {"group_norm_epsilon": 0}, "group_norm_epsilon is 0, expected a finite number above 0"),
        ("bit", {"standardization_epsilon": math.inf}, "standardization_epsilon is inf"),
        ("bit", {"num_groups": 7}, "num_groups is 7, expected a divisor of its stem's width, 32"),
        ("bit", {"num_classes": 5.0}, "num_classes is 5.0, expected a whole number"),
        ("bit", {"num_units": []}, "one for each stage"),
        ("resnet_v1", {"standardization": "std"}, "standardization is 'std', expected one of deviation, variance"),
        ("vit_token", {"cls_position": 1}, "cls_position is 1, expected true or false"),
        ("vit_token", {"image_size": [32]}, "two whole numbers"),
        ("vit_token", {"layer_norm_epsilon": -1e-6}, "layer_norm_epsilon is -1e-06"),
        ("mixer", {"gelu": "quick"}, "gelu is 'quick', expected one of tanh, erf"),
        ("mixer", {"image_size": [32, 32, 32]}, "two whole numbers"),
    ],
)
def test_every_choice_and_number_is_checked(name, change, words):
    with pytest.raises(UserError, match=words):
        parse_config(dump_config(CASES[name][0]) | change, "card.json")


@pytest.mark.parametrize("text", (SIGLIP, SIGLIP_I18N, SIGLIP2, CLIP, BERT, LIT, CLIPPO))
def test_the_facts_of_texts_are_part_of_a_card(text):
    card = Card(resolution=224, text=text)
    assert parse_card(json.loads(json.dumps(card.facts())), "it") == card
    assert Card(loss="sigmoid").over(card) == Card(resolution=224, loss="sigmoid", text=text)
    assert Card(text=text).over(Card(text=SIGLIP, resolution=5)) == Card(text=text, resolution=5)
    assert card.preprocessing == Card(resolution=224).preprocessing


@pytest.mark.parametrize("name", [name for name in VARIANTS if "-T/" not in name])
def test_published_names_tell_how_their_texts_become_numbers(name):
    """Of each published image-text model: the vocabulary's name, the length, and a size that its embeddings have."""
    config, text = VARIANTS[name], find_model(name).card.text
    named = {
        "SigLIP-": "c4_en.model",
        "SigLIP2": "gemma.model",
        "CLIP-": "bpe_simple",
        "LiT": "bert_uncased",
        "CLIPPO": "unifont",
    }
    expected = (
        "mc4.model" if name.endswith("i18n") else next(it for start, it in named.items() if name.startswith(start))
    )
    assert text.vocabulary.startswith(expected)
    assert text.length == (config.text.places(16) if config.text else config.image_size[0])


class Tiny(PublishedModel):
    """A small model with SigLIP's vocabulary."""

    def config(self, num_classes: int | None = None) -> TwoTowersConfig:
        image = ViTConfig((8, 8), 8, 1, 2, 16, None, (16, 16), pooling="map")
        return TwoTowersConfig(image, TextConfig(32_000, 16, 8, 1, 2, 16, 8))


def test_a_files_own_facts_of_texts_come_before_those_of_its_models_name(tmp_path):
    model, named, own = (
        Tiny("a", "a", 0, "a"),
        dataclasses.replace(SIGLIP, length=16),
        dataclasses.replace(LIT, length=16),
    )
    start = starting_values(model, None)
    assert start.card == Card(text=named)
    for number, card in enumerate((Card(), Card(text=own))):
        write_weights(path := tmp_path / f"{number}.npz", start.arrays, start.config, card)
        assert starting_values(model, path).card.text == (card.text or named)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "characters"}, "text kind is 'characters', expected sentencepiece or bpe or wordpiece or unifont"),
        ({"length": 2}, "length 2, expected a whole number from 3"),
        ({"length": 64.0}, "length 64.0, expected a whole number"),
        ({"padding": -1}, "padding -1, expected a whole number from 0"),
        ({"lower": "fold"}, "of kind sentencepiece has lower 'fold', expected ascii or unicode or none"),
        ({"kind": "bpe"}, "of kind bpe has lower 'ascii', expected unicode"),
        ({"kind": "bpe", "lower": "unicode", "end": "cut"}, "of kind bpe has end 'cut', expected sticky"),
        ({"vocabulary": "../c4_en.model"}, "expected the name of a file without a folder"),
        ({"vocabulary": ""}, "expected the name of a file without a folder"),
        ({"sha256": "1e50"}, "expected 64 hexadecimal digits"),
        ({"attention_mask": True}, "as text, expected kind, vocabulary, length"),
    ],
)
def test_facts_of_texts_that_no_model_has(change, words):
    with pytest.raises(UserError, match=words) as error:
        parse_card({"text": SIGLIP.facts() | change}, "card.json")
    assert "card.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("missing", [name for name in SIGLIP.facts() if name != "sha256"])
def test_a_fact_of_texts_is_never_assumed(missing):
    told = {name: value for name, value in SIGLIP.facts().items() if name != missing}
    with pytest.raises(UserError, match="The card it has .* as text, expected kind, vocabulary"):
        parse_card({"text": told}, "it")


@pytest.mark.parametrize("names", (NAMES[:4], [*NAMES, "f"], []))
def test_as_many_names_as_classes(names, tmp_path):
    config = CASES["bit"][0]
    np.savez(
        tmp_path / "weights.npz", **choose_table("big_transfer", config).to_published(random_arrays(config), config)
    )
    (tmp_path / "card.json").write_text(json.dumps({"class_names": names}))
    with pytest.raises(UserError, match=f"head of 5 classes and beside it stand {len(names)} class names"):
        read_model(Path(tmp_path / "weights.npz"))


def test_an_empty_card_says_nothing():
    assert parse_card({}, "it") == Card() and parse_card({"accuracy": {}}, "it") == Card()
