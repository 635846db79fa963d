"""Spellings: one table each, both directions, every pair a round trip without losing a bit."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import format_cases
import golden_cases
import numpy as np
import pytest
from format_cases import CASES, random_arrays

from common.convert import CONTAINERS, convert
from common.models.family import below
from common.system.errors import UserError
from common.weights import containers
from common.weights.express import choose_table, express, expressed
from common.weights.layouts import layout
from common.weights.recognise import recognise
from common.weights.source import Facts, read_facts, read_model
from common.weights.spellings import SPELLINGS, TABLES
from scripts import formats

SAME = ("vision_transformer", "big_transfer")  # how a file may be recognised that another spelling writes alike
HELD = [(case, spelling) for case, (_, spellings) in CASES.items() for spelling in ("ours", *spellings)]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Thousands of small files are written here, and whether they survive a power cut is tested elsewhere."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def write_ours(path: Path, config, dtype=np.float32) -> dict[str, np.ndarray]:
    """A file in our spelling, from which everything else is converted; returns its arrays."""
    from common.models.families import dump_config
    from common.weights.source import RECORD

    arrays = random_arrays(config, dtype)
    containers.write(path, arrays, {RECORD: json.dumps({"config": dump_config(config)})})
    return arrays


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def target(folder: Path, spelling: str) -> Path:
    """A fresh place for a file in a spelling."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"model{CONTAINERS.get(spelling, ('.npz',))[0]}"


# --- layouts and tables


@pytest.mark.parametrize(
    ("text", "shape", "there"),
    [
        ("IO -> OI", (3, 4), (4, 3)),
        ("HWIO -> OIHW", (1, 2, 3, 4), (4, 3, 1, 2)),
        ("D(NK) -> DNK", (6, 12), (6, 3, 4)),
        ("(NK)D -> NKD", (12, 6), (3, 4, 6)),
        ("IO -> OI11", (3, 4), (4, 3, 1, 1)),
        ("C -> 111C", (5,), (1, 1, 1, 5)),
        ("1(YX)D -> YXD", (1, 9, 4), (3, 3, 4)),
        ("HWIO -> (HWI)O", (2, 2, 3, 4), (12, 4)),
    ],
)
def test_layouts_go_both_ways(text, shape, there):
    array = np.arange(np.prod(shape)).reshape(shape)
    moved = layout(text).to_there(array, 3)
    assert moved.shape == there == layout(text).shape_there(shape, 3)
    assert layout(text).shape_here(there) == shape
    np.testing.assert_array_equal(layout(text).to_here(moved), array)
    with pytest.raises(ValueError, match="is not"):
        layout(text).shape_here((*there, 2))


@pytest.mark.parametrize(("case", "spelling"), HELD)
def test_every_parameter_stands_in_exactly_one_row(case, spelling):
    config = CASES[case][0]
    table = choose_table(spelling, config)
    rows = table.rows(expressed(config, table)[0])
    names = [name for row in rows for name in row.parameters]
    assert sorted(names) == sorted(expressed(config, table)[0].parameter_shapes())
    assert len({row.theirs for row in rows}) == len(rows)


@pytest.mark.parametrize("case", CASES)
def test_spellings_are_listed_completely(case):
    """A spelling that the list of cases leaves out refuses the model, or folds a position, which is tested below."""
    config, spellings = CASES[case]
    for spelling in set(SPELLINGS) - {"ours", *spellings}:
        try:
            notes = expressed(config, choose_table(spelling, config))[1]
        except UserError as error:
            assert re.search("has no|cannot hold|are read only", str(error))
        else:
            assert any("cannot be undone" in note for note in notes), spelling


def test_every_spelling_and_family_is_covered():
    covered = {(spelling, type(CASES[case][0])) for case, spelling in HELD}
    assert covered == {(table.spelling, table.family) for table in TABLES if table.written}


# --- what the originals call their arrays


@pytest.mark.parametrize("name", [name for name in golden_cases.names() if "resize" not in name])
def test_golden_names_and_shapes_are_recognised(name):
    """Names and shapes that the original code wrote, in its own spelling."""
    case = golden_cases.case(name)
    shapes = {key: tuple(shape) for key, shape in case.golden["params"].items()}
    facts = {"image_size": case.config.image_size} if case.config.image_size else {}
    if getattr(case.config, "pooling", None) in ("first", "none"):
        facts["pooling"] = case.config.pooling
    found = recognise(shapes, facts, name)
    assert found.table.published_shapes(found.config) == shapes
    same = {"max_pool_padding": "zero"} if hasattr(case.config, "max_pool_padding") else {}
    if hasattr(case.config, "cls_position") and case.config.pooling != "token":
        same["cls_position"] = found.config.cls_position
    assert found.config == dataclasses.replace(case.config, **same)


def test_lit_is_recognised_as_vision_transformer_saves_it():
    """Names and shapes that its own code wrote, below `img/` and `txt/`."""
    golden = json.loads((Path(__file__).parent / "golden/vit_jax_lit/lit_tiny_24_24.json").read_text())
    shapes = {key: tuple(shape) for key, shape in golden["params"].items()}
    found = recognise(shapes, {}, "a")
    assert (found.table.spelling, found.config.image.pooling) == ("vision_transformer_linen", "token")
    assert found.table.published_shapes(found.config) == shapes and not found.config.bias


def test_stacked_layers_equal_the_golden_ones():
    case = golden_cases.case("bv_vit/tiny_map_learn_repTrue")
    scan = {name: tuple(shape) for name, shape in case.golden["scan_true"]["params"].items()}
    found = choose_table("big_vision_scan", case.config).published_shapes(case.config)
    assert scan.items() <= found.items()
    assert set(found) - set(scan) == {name for name in case.golden["params"] if "encoderblock" not in name}


@pytest.mark.parametrize("name", ("coyo_vit/tiny_rep0", "coyo_vit/full_Ti16_224"))
def test_coyo_names_equal_the_golden_ones(name):
    case = golden_cases.case(name)
    variables = case.golden["tf_variables"]
    expected = {row["checkpoint_key"]: tuple(row["tf_shape"]) for row in variables}
    table = choose_table("coyo", case.config)
    assert table.published_shapes(case.config) == expected
    google = {row.ours: row.theirs for row in choose_table("vision_transformer", case.config).rows(case.config)}
    for row in table.rows(case.config):
        assert google[row.ours] == next(v["npz_name"] for v in variables if v["checkpoint_key"] == row.theirs)


def test_bit_paper_names_equal_the_golden_ones():
    case = golden_cases.case("bv_bit/bit_paper_tiny2")
    paper, transfer = (choose_table(name, case.config).rows(case.config) for name in ("big_vision", "big_transfer"))
    published = {row.ours: row.theirs for row in transfer}
    assert {row.theirs: published[row.ours] for row in paper} == case.golden["mapping_big_vision_to_published"]


# --- round trips


@pytest.mark.parametrize("case", CASES)
def test_every_pair_of_spellings_is_a_round_trip(case, tmp_path):
    """ours -> A -> B is ours -> B, bit for bit, for every A and B that hold the model: hence so is each way back."""
    config, spellings = CASES[case]
    arrays = write_ours(tmp_path / "ours.safetensors", config)
    first = {}
    for spelling in ("ours", *spellings):
        path = convert(tmp_path / "ours.safetensors", target(tmp_path / spelling, spelling), spelling)
        first[spelling] = path
        found = read_model(path)
        assert (found.spelling, found.config) in [(name, config) for name in (spelling, *SAME)], spelling
        assert_same(found.arrays, arrays)
    expected = {spelling: contents(path) for spelling, path in first.items()}
    for one, other in itertools.permutations(first, 2):
        there, facts = contents(convert(first[one], target(tmp_path / f"{one}-{other}", other), other))
        assert_same(there, expected[other][0])
        assert (facts.fields, facts.recorded) == (expected[other][1].fields, expected[other][1].recorded)


def contents(path: Path) -> tuple[dict[str, np.ndarray], Facts]:
    """The arrays in a file, and what is stated of the model: the arrays of a conversion depend on nothing else."""
    with containers.open_container(path) as file:
        return {name: file.get(name) for name in file.declared}, read_facts(path, file.metadata)


@pytest.mark.parametrize("dtype", (np.float16, np.float32, np.float64))
@pytest.mark.parametrize("spelling", ("timm", "big_vision_scan", "vision_transformer", "ours"))
def test_extreme_values_of_every_type_survive(spelling, dtype, tmp_path):
    config = CASES["vit_patches_only"][0]
    arrays = random_arrays(config, dtype)
    arrays["head/kernel"].flat[:3] = (-0.0, np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max)
    containers.write(tmp_path / "a.safetensors", arrays, {})
    there = convert(tmp_path / "a.safetensors", target(tmp_path / "there", spelling), spelling, given={"num_heads": 4})
    assert_same(read_model(convert(there, tmp_path / "b.npz")).arrays, arrays)


@pytest.mark.parametrize("suffix", (".npz", ".h5", ".safetensors"))
@pytest.mark.parametrize("case", ("bit", "vit_map", "mixer", "resnet_v1", "hybrid"))
def test_ours_in_every_kind_of_file(case, suffix, tmp_path):
    config = CASES[case][0]
    arrays = write_ours(tmp_path / "a.safetensors", config)
    found = read_model(convert(tmp_path / "a.safetensors", tmp_path / f"b{suffix}"))
    assert found.config == config and found.spelling == "ours"
    assert_same(found.arrays, arrays)


def test_the_class_tokens_position_is_added_where_positions_are_for_patches_only(tmp_path):
    """What big_vision's own loader does; afterwards the round trips are exact."""
    config = CASES["vit_token"][0]
    arrays, lines = write_ours(tmp_path / "a.safetensors", config), []
    path = convert(tmp_path / "a.safetensors", tmp_path / "b.npz", "big_vision", say=lines.append)
    assert any("cannot be undone" in line for line in lines)
    found = read_model(path)
    assert found.config == config or not found.config.cls_position
    np.testing.assert_array_equal(found.arrays["cls"], arrays["cls"] + arrays["pos_embedding"][:, :1])
    np.testing.assert_array_equal(found.arrays["pos_embedding"], arrays["pos_embedding"][:, 1:])


def test_written_out_positions_that_were_trained_stay_learned(tmp_path):
    """The record beside the arrays says sincos2d, and no longer holds."""
    config = CASES["vit_gap_sincos"][0]
    write_ours(tmp_path / "a.safetensors", config)
    path = convert(tmp_path / "a.safetensors", tmp_path / "b", "timm")
    with containers.open_container(path) as file:
        metadata, arrays = file.metadata, {name: file.get(name) for name in file.declared}
    arrays["pos_embed"] = arrays["pos_embed"] + 1
    containers.write(path, arrays, metadata)
    found = read_model(path)
    assert found.config.positions == "learned"
    np.testing.assert_array_equal(found.arrays["pos_embedding"], arrays["pos_embed"])


def test_the_table_of_the_page_is_what_its_writer_writes():
    page = formats.PAGE.read_text()
    assert formats.written(page) == page and "| DINOv2 with registers |" in page


# --- other forms of the same spellings


@pytest.mark.parametrize("prefix", ("params/", "opt/target/"))
def test_big_vision_with_prefix_and_optimizer(prefix, tmp_path):
    config = CASES["vit_map"][0]
    arrays = random_arrays(config)
    published = choose_table("big_vision", config).to_published(dict(arrays), config)
    extra = {"opt/0/mu/head/bias": np.zeros(5, "V2"), "opt/state/step": np.int64(3), "chrono/accum": np.float64(1)}
    np.savez(tmp_path / "a.npz", **{prefix + name: array for name, array in published.items()}, **extra)
    found = read_model(tmp_path / "a.npz")
    assert found.spelling == "big_vision"
    assert_same(found.arrays, arrays)


def test_bfloat16_stored_as_void_is_read_exactly(tmp_path):
    config = CASES["vit_map"][0]
    halves = {name: array.view(np.uint32) >> 16 << 16 for name, array in random_arrays(config).items()}
    arrays = {name: half.view(np.float32) for name, half in halves.items()}
    published = choose_table("big_vision", config).to_published(dict(arrays), config)
    stored = {n: (a.view(np.uint32) >> 16).astype(np.uint16).view("V2") for n, a in published.items()}
    np.savez(tmp_path / "a.npz", **stored)
    assert_same(read_model(tmp_path / "a.npz").arrays, arrays)


def test_older_names_of_the_same_arrays(tmp_path):
    config = CASES["vit_gap"][0]
    published = choose_table("big_vision", config).to_published(random_arrays(config), config)
    published["Transformer/pos_embedding"] = published.pop("pos_embedding")
    np.savez(tmp_path / "a.npz", **published)
    assert read_model(tmp_path / "a.npz").spelling == "big_vision"

    config = CASES["bit"][0]
    published = choose_table("big_transfer", config).to_published(random_arrays(config), config)
    counted = {name.replace("/standardized_conv2d/", "/standardized_conv2d_7/"): a for name, a in published.items()}
    np.savez(tmp_path / "b.npz", **counted)
    assert_same(read_model(tmp_path / "b.npz").arrays, random_arrays(config))


def test_norms_of_hybrids_may_have_four_axes(tmp_path):
    config = CASES["hybrid"][0]
    published = choose_table("vision_transformer", config).to_published(random_arrays(config), config)
    for name in published:
        if "/gn" in name or name.startswith("gn"):
            published[name] = published[name].reshape(1, 1, 1, -1)
    np.savez(tmp_path / "a.npz", **published)
    assert_same(read_model(tmp_path / "a.npz", given={"num_heads": 4}).arrays, random_arrays(config))


def test_old_and_new_numbering_of_vision_transformer():
    config = CASES["vit_token"][0]
    old, new = (choose_table(name, config).published_shapes(config) for name in format_cases.GOOGLE)
    block = "Transformer/encoderblock_0"
    assert f"{block}/MlpBlock_3/Dense_0/kernel" in old and f"{block}/MlpBlock_0/Dense_0/kernel" in new
    assert f"{block}/LayerNorm_2/scale" in old and f"{block}/LayerNorm_1/scale" in new


def test_express_keeps_what_is_the_same_already():
    config = CASES["vit_token"][0]
    arrays = random_arrays(config)
    assert express(arrays, config, config) is arrays


@pytest.mark.parametrize("prefix", ("", "params/"))
@pytest.mark.parametrize("tower", ("image", "text"))
def test_one_tower_of_a_file_of_big_vision(tower, prefix, tmp_path):
    """Its names may begin with the tower's, as they do in the file of both."""
    config = CASES["siglip"][0]
    arrays = below(random_arrays(config), tower)
    one, there = getattr(config, tower), {"image": "img/", "text": "txt/"}[tower]
    published = choose_table("big_vision", one).to_published(dict(arrays), one)
    np.savez(tmp_path / "a.npz", **{f"{prefix}{there}{name}": array for name, array in published.items()})
    found = read_model(tmp_path / "a.npz")
    assert (found.spelling, found.config) == ("big_vision", one)
    assert_same(found.arrays, arrays)


@pytest.mark.parametrize("spelling", format_cases.VISION)
def test_positions_that_an_older_text_tower_has_twice_are_added(spelling, tmp_path):
    """What `load` of text_transformer.py does; the file is never written again so."""
    config = CASES["siglip"][0]
    arrays = random_arrays(config)
    published = choose_table(spelling, config).to_published(dict(arrays), config)
    more = {"txt/Encoder_0/pos_embedding": published["txt/pos_embedding"][:, ::-1]}
    np.savez(tmp_path / "a.npz", **{f"params/{name}": array for name, array in (published | more).items()})
    found = read_model(tmp_path / "a.npz")
    assert found.config == config and not found.unused
    expected = arrays["text/pos_embedding"] + arrays["text/pos_embedding"][:, ::-1]
    assert_same(found.arrays, arrays | {"text/pos_embedding": expected})
    assert any("Encoder_0/pos_embedding is added to params/txt/pos_embedding" in note for note in found.notes)


def test_what_a_user_states_of_a_model_is_true_of_its_towers(tmp_path):
    config = CASES["siglip"][0]
    write_ours(tmp_path / "a.safetensors", config)
    found = read_model(tmp_path / "a.safetensors", given={"gelu": "erf", "layer_norm_epsilon": 1e-5}).config
    assert (found.image.gelu, found.text.gelu) == ("erf", "erf") and found.bias
    assert (found.image.layer_norm_epsilon, found.text.layer_norm_epsilon) == (1e-5, 1e-5)
    path = convert(tmp_path / "a.safetensors", tmp_path / "b", "huggingface")
    told = json.loads(path.with_name("config.json").read_text())
    assert told["vision_config"]["hidden_act"] == told["text_config"]["hidden_act"] == "gelu_pytorch_tanh"
    convert(tmp_path / "a.safetensors", tmp_path / "c", "huggingface", given={"gelu": "erf"})
    assert read_model(tmp_path / "c").config.text.gelu == "erf"
