"""Models of models: whatever walks a configuration walks its children, down to a backbone within a tower within a model.

The names and shapes of the two towers are those that big_vision's own code wrote; the image tower's table is the ViT's as
it is.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from format_cases import CASES, random_arrays
from golden.golden_params import param

from common.models import ResNetV1Config, TextConfig, TwoTowersConfig, ViTConfig, family_name, num_parameters
from common.models.families import dump_config, parse_config, sizes
from common.models.family import below, within
from common.models.initial import initial_parameters
from common.system.errors import UserError
from common.weights import check_shapes
from common.weights.adapt import adapt, check_same_model
from common.weights.express import cannot_hold, choose_table, differing, express, expressed, restore
from common.weights.recognise import fit, infer
from common.weights.spellings import TABLES, google
from common.weights.table import Table

GOLDEN = Path(__file__).parent / "golden/bv_two_towers"
NAMES = ("siglip_map_last", "tok_first", "gap_map_noB")


VIT = next(table for table in TABLES if (table.spelling, table.family) == ("big_vision", ViTConfig))
STACKED = next(table for table in TABLES if (table.spelling, table.family) == ("big_vision_scan", ViTConfig))
HYBRID = next(
    table for table in TABLES if (table.spelling, table.family) == ("vision_transformer", ViTConfig) and table.children
)


def towers_table(image: Table) -> Table:
    return google.towers("towers", image, google.TEXT["big_vision"])


TABLE = towers_table(VIT)
SMALL_TEXT = TextConfig(11, 7, 16, 3, 2, 24, 5)
SMALL_IMAGE = ViTConfig((8, 8), 32, 2, 4, 64, 5, image_size=(32, 32), cls_position=False)
TINY = TwoTowersConfig(SMALL_IMAGE, SMALL_TEXT)
BACKBONE = ResNetV1Config((2, 1), 0.5)
NESTED = TwoTowersConfig(CASES["hybrid"][0], SMALL_TEXT, bias=False)
CONFIGS = {"two": (TINY, TABLE), "stacked": (TINY, towers_table(STACKED)), "nested": (NESTED, towers_table(HYBRID))}


@pytest.mark.parametrize("name", NAMES)
def test_two_towers_are_the_vits_table_below_img_and_a_text_table_below_txt(name):
    """Names and shapes as big_vision wrote them: read, and written again."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    shapes = {key: tuple(shape) for key, shape in golden["params"].items()}
    found = fit(TABLE, shapes, {"image": dataclasses.replace(SMALL_IMAGE, pooling="gap")})
    config, given = found.config, golden["config"]
    sizes = ("width", "depth", "num_heads", "mlp_dim")
    assert [getattr(config.image, one) for one in sizes] == [given["image"][one] for one in sizes]
    assert [getattr(config.text, one) for one in sizes] == [given["text"][one] for one in sizes]
    assert config.text.vocabulary == given["text"]["vocab_size"] and config.bias == ("b" in shapes)
    assert TABLE.published_shapes(config) == shapes and num_parameters(config) == golden["num_params"]
    published = {key: param(key, shape) for key, shape in shapes.items()}
    arrays = TABLE.from_published(dict(published), config)
    query = "Transformer/encoderblock_1/MultiHeadDotProductAttention_0/query/kernel"
    np.testing.assert_array_equal(arrays["image/blocks/1/attn/query/kernel"], published[f"img/{query}"].reshape(32, 32))
    check_shapes(arrays, config.parameter_shapes(), name)
    back = TABLE.to_published(arrays, config)
    assert back.keys() == published.keys() and all((back[key] == published[key]).all() for key in back)


@pytest.mark.parametrize("name", CONFIGS)
def test_tables_of_tables_are_read_and_written_bit_for_bit(name):
    """Each child has its own number of blocks, units and heads."""
    config, table = CONFIGS[name]
    arrays = random_arrays(config)
    published = table.to_published(dict(arrays), config)
    found = fit(table, {key: array.shape for key, array in published.items()}, {"image": config.image})
    assert found.config == config and found.channels == 3
    back = table.from_published(published, found.config)
    assert list(back) == list(arrays) == list(config.parameter_shapes())
    assert all(back[key].tobytes() == arrays[key].tobytes() for key in arrays)


def templates(table: Table, name: str) -> int:
    """How many rows of a table and of its children's match a name."""
    own = sum(bool(template.pattern.fullmatch(name)) for template in table.templates)
    rest = (templates(c.table, name.removeprefix(c.theirs)) for c in table.children if name.startswith(c.theirs))
    return own + sum(rest)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_name_of_two_towers_is_matched_exactly_once(name):
    config, table = CONFIGS[name]
    assert {key: templates(table, key) for key in table.published_shapes(config)} == dict.fromkeys(
        table.published_shapes(config), 1
    )


@pytest.mark.parametrize("case", CASES)
def test_each_name_is_matched_exactly_once(case):
    config, spellings = CASES[case]
    for spelling in (*spellings, "ours"):
        table = choose_table(spelling, config)
        names = table.published_shapes(expressed(config, table)[0])
        assert all(templates(table, name) == 1 for name in names), spelling


def test_an_older_name_of_a_child_is_read():
    published = VIT.published_shapes(SMALL_IMAGE)
    assert VIT.rename("params/Transformer/pos_embedding") == "pos_embedding" in published
    assert TABLE.rename("module.img/Transformer/pos_embedding") == "img/pos_embedding"
    assert TABLE.rename("img/opt/count") is None and TABLE.rename("txt/pos_embedding") == "txt/pos_embedding"


def test_what_a_child_lacks_is_named_with_it():
    shapes = {name: shape for name, shape in TABLE.published_shapes(TINY).items() if name != "txt/Embed_0/embedding"}
    match = TABLE.match(shapes | {"txt/other": (3,), "img/Transformer/encoder_norm/scale": (3, 3)})
    assert match.unknown == ["txt/other"]
    with pytest.raises(KeyError, match="text/stem/embedding"):
        infer(TABLE, match, {})


def test_shapes_are_the_childrens_below_their_names():
    shapes = NESTED.parameter_shapes()
    assert below(shapes, "image") == NESTED.image.parameter_shapes()
    assert below(below(shapes, "image"), "backbone") == BACKBONE.parameter_shapes()
    assert below(shapes, "text") == SMALL_TEXT.parameter_shapes() and shapes["t"] == (1,)
    assert list(shapes)[-1] == "t" and next(iter(shapes)) == NESTED.image_kernel
    assert NESTED.image_kernel == "image/backbone/stem/conv/kernel"


def test_initial_values_of_children_are_by_the_tables_of_their_families():
    found = initial_parameters(0, NESTED)
    assert list(found) == list(NESTED.parameter_shapes())
    assert np.exp(found["t"]) == pytest.approx(10) and not found["image/backbone/blocks/0/norm3/scale"].any()
    assert found["text/stem/embedding"].std() == pytest.approx(1 / 4, rel=0.1)  # flax: variance 1 / width
    kernel, again = found["image/blocks/0/attn/query/kernel"], initial_parameters(0, NESTED)
    assert abs(kernel.max() - np.sqrt(6 / 64)) < 0.01 and all((found[name] == again[name]).all() for name in found)
    alone = initial_parameters(0, SMALL_TEXT)
    assert (found["text/stem/embedding"] != alone["stem/embedding"]).any()  # a name's values are its own
    with pytest.raises(UserError, match="coyo has no TwoTowersConfig"):
        initial_parameters(0, NESTED, "coyo")


def test_a_record_says_what_the_children_are():
    record = json.loads(json.dumps(dump_config(NESTED)))
    assert parse_config(record, "a.json") == NESTED
    record["image"]["backbone"]["num_units"] = [0]
    with pytest.raises(UserError, match="num_units is"):
        parse_config(record, "a.json")
    record["image"] = 3
    with pytest.raises(UserError, match="holds no configuration"):
        parse_config(record, "a.json")


def test_a_childs_sizes_are_the_models():
    deeper = dataclasses.replace(TINY, text=dataclasses.replace(SMALL_TEXT, depth=4))
    with pytest.raises(UserError, match=r"\(text depth 3 instead of 4\)"):
        check_same_model(TINY, deeper, "a.npz")
    assert sizes(NESTED)["image backbone num_units"] == (2, 1)
    assert family_name(TINY) == "image-text model" and family_name(NESTED.image) == "hybrid of ResNet and ViT"


def test_a_child_is_adapted_like_a_model_of_its_own():
    arrays, said = random_arrays(TINY), []
    larger = dataclasses.replace(SMALL_IMAGE, image_size=(64, 32))
    wanted = dataclasses.replace(TINY, image=larger)
    found = adapt(arrays, TINY, wanted, said.append)
    check_shapes(found, wanted.parameter_shapes(), "adapted")
    alone = adapt(below(arrays, "image"), SMALL_IMAGE, larger, lambda line: None)
    assert all((found[name] == array).all() for name, array in within("image", alone).items())
    assert [line.split()[0] for line in said] == ["Positions"]
    assert all((found[name] == arrays[name]).all() for name in arrays if not name.startswith("image/"))
    grey = {name: a[:, :, :1] if name == "image/stem/kernel" else a for name, a in arrays.items()}
    assert adapt(grey, TINY, TINY, said.append)["image/stem/kernel"].shape == (8, 8, 3, 32)


def test_a_child_is_expressed_and_restored_like_a_model_of_its_own():
    config = dataclasses.replace(TINY, image=CASES["vit_token_sincos"][0])
    table = towers_table(next(t for t in TABLES if (t.spelling, t.family) == ("coyo", ViTConfig)))
    arrays = random_arrays(config)
    there, notes = expressed(config, table)
    assert there.image.positions == "learned" and all(note.startswith("image: ") for note in notes) and len(notes) == 2
    published = table.to_published(dict(express(arrays, config, there)), there)
    back, restored = restore(table.from_published(published, there), there, config)
    assert restored == config and list(back) == list(arrays)
    assert all(back[name].tobytes() == arrays[name].tobytes() for name in arrays)


def test_a_table_holds_models_with_its_children_only():
    timm, stem = (table for table in TABLES if table.spelling == "timm" and table.children)
    assert cannot_hold(TABLE, NESTED) == "image's backbone (ResNet V1) within it, only nothing"
    assert cannot_hold(towers_table(timm), NESTED) is None
    assert cannot_hold(towers_table(stem), NESTED) == "image's backbone's has_stages True, only False"
    erf = dataclasses.replace(TINY, image=dataclasses.replace(SMALL_IMAGE, gelu="erf"))
    assert differing(erf, TABLE) == {"image gelu": ("erf", "tanh")}
