"""TensorFlow checkpoints: one that TensorFlow 2.21 wrote of the golden coyo-vit case, read without TensorFlow."""

import shutil
import subprocess
import sys

import golden_cases
import numpy as np
import pytest
from conftest import ROOT
from engines import Engine

from common.convert import convert, inspect
from common.system.errors import UserError
from common.weights.containers import open_container
from common.weights.source import read_model

CASE = golden_cases.case("coyo_vit/tiny_rep0")
INDEX = golden_cases.GOLDEN / "coyo_vit" / "tiny_checkpoint.index"
GIVEN = {"num_heads": CASE.config.num_heads}  # which names and shapes do not tell
DATA = INDEX.with_name("tiny_checkpoint.data-00000-of-00001")


@pytest.fixture
def checkpoint(tmp_path):
    """A copy to damage: its index."""
    for file in (INDEX, DATA):
        shutil.copy(file, tmp_path)
    return tmp_path / INDEX.name


def test_a_checkpoint_is_recognised_and_read_bit_for_bit(tmp_path):
    found = read_model(INDEX, given=GIVEN)
    assert found.spelling == "coyo" and found.config == CASE.config
    expected = CASE.arrays()
    assert found.arrays.keys() == expected.keys()
    assert all(np.array_equal(found.arrays[name], expected[name]) for name in expected)
    assert "coyo" in inspect(INDEX, given=GIVEN)


def test_a_checkpoint_is_named_as_tensorflow_names_it(tmp_path):
    """Without an ending; and it converts there and back."""
    published = convert(INDEX.with_suffix(""), tmp_path / "coyo.npz", "coyo", given=GIVEN)
    assert np.array_equal(read_model(published, given=GIVEN).arrays["cls"], CASE.arrays()["cls"])


def test_variables_of_every_type_equal_those_that_tensorflow_reads(tmp_path):
    """Hundreds of them, so that the index has several blocks."""
    Engine("bit_tf2")
    import tensorflow as tf

    types = ("bfloat16", "float16", "float32", "float64", "int32", "int64", "bool", "uint8")
    values = {f"v{i}": tf.Variable(tf.cast(tf.random.normal((i % 5, 3)) * 3, types[i % 8])) for i in range(400)}
    path = tf.train.Checkpoint(scalar=tf.Variable(0.5), **values).write(str(tmp_path / "many"))
    reader = tf.train.load_checkpoint(path)
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    with open_container(tmp_path / "many.index") as file:
        file.check_bytes()
        assert file.declared.keys() == set(names) and len(names) == 401
        for name, declared in file.declared.items():
            found, right = file.get(name), reader.get_tensor(name)
            right = right.astype(np.float32) if right.dtype.name == "bfloat16" else right
            assert found.dtype == declared.dtype == right.dtype and found.shape == declared.shape == right.shape
            assert found.tobytes() == right.tobytes(), name


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda index, data: data.unlink(), "is not beside it"),
        (lambda index, data: data.write_bytes(data.read_bytes()[:50_000]), "is shorter than"),
        (lambda index, data: flip(data, 5000), "its checksum is another"),
        (lambda index, data: flip(index, 1000), "the checksum of a block is another"),
        (lambda index, data: index.write_bytes(index.read_bytes()[:-1]), "does not end as an index does"),
        (lambda index, data: index.write_bytes(b""), "it is empty"),
    ],
    ids=("no data", "short data", "flipped data", "flipped index", "short index", "empty index"),
)
def test_damage_is_one_sentence(damage, words, checkpoint):
    damage(checkpoint, checkpoint.with_name(DATA.name))
    with pytest.raises(UserError, match=words) as error:
        read_model(checkpoint, given=GIVEN)
    assert "\n" not in str(error.value)


def test_nothing_is_written_as_a_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "common.convert", str(INDEX), "new.index", "--num_heads", "4"], check=False, cwd=tmp_path, text=True,
        capture_output=True, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2 and "new.index" in done.stderr and not list(tmp_path.iterdir())


def flip(path, place: int) -> None:
    """Turn one bit over."""
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
