"""`tf_model.h5` and `flax_model.msgpack`, as transformers wrote them until version 4: made here of running peers' values.

The layouts are Keras's (h5py) and Flax's own (`flax.serialization.to_bytes`); no released version of transformers that runs
beside the ones of constraints.txt writes them any more.
"""

import json
import re
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import test_peers
from engines import Engine

from common import weights
from common.convert import convert
from common.system.errors import UserError
from common.weights import containers
from common.weights.containers import hub, msgpack
from common.weights.source import read_model

transformers = pytest.importorskip("transformers")


def leaf(name: str, ndim: int, scale: str, shift: str) -> str:
    """The last part of a name: norms have others than layers do."""
    if not name.endswith((".weight", ".bias")):
        return name
    layer, last = name.rsplit(".", 1)
    if "norm" in layer.rsplit(".", 1)[1 if "." in layer else 0]:
        return f"{layer}.{scale if last == 'weight' else shift}"
    return f"{layer}.{'kernel' if last == 'weight' else last}"


def there(array: np.ndarray) -> np.ndarray:
    return array.transpose({2: (1, 0), 4: (2, 3, 1, 0)}.get(array.ndim, tuple(range(array.ndim))))


def pytorch_values(model, folder: Path) -> dict[str, np.ndarray]:
    """What `save_pretrained` writes, whose names version 4 had, and its config.json."""
    model.save_pretrained(folder)
    with containers.open_container(folder / "model.safetensors") as file:
        values = {name: file.get(name) for name in file.declared}
    (folder / "model.safetensors").unlink()
    return values


def write_tensorflow(model, folder: Path) -> None:
    """As TFViTForImageClassification.save_pretrained did: layers, in each its weights under the model's own name."""
    values = pytorch_values(model, folder)
    layers = {}
    for name, array in values.items():
        kernel = name.endswith("weight") and array.ndim in (2, 4)
        parts = leaf(name, array.ndim, "gamma", "beta").split(".")
        path = re.sub(r"/layer/(\d+)/", r"/layer_._\1/", "/".join(parts))
        path = f"tf_vi_t_for_image_classification/{path}:0"
        layers.setdefault(parts[0], {})[path] = there(array) if kernel else array
    with h5py.File(folder / "tf_model.h5", "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.11.0"
        for layer, arrays in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [path.encode() for path in arrays]
            for path, array in arrays.items():
                group.create_dataset(path, data=array)


def write_flax(model, folder: Path, dtype: str = "float32", wrap=lambda tree: tree) -> None:
    """As FlaxViTForImageClassification.save_pretrained did."""
    serialization, ml_dtypes = pytest.importorskip("flax.serialization"), pytest.importorskip("ml_dtypes")
    tree = {}
    for name, array in pytorch_values(model, folder).items():
        kernel = name.endswith("weight") and array.ndim in (2, 4)
        *path, last = leaf(name, array.ndim, "scale", "bias").split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        array = np.ascontiguousarray(there(array) if kernel else array)
        node[last] = array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    (folder / "flax_model.msgpack").write_bytes(serialization.to_bytes(wrap(tree)))


WRITERS = {
    "tensorflow": write_tensorflow,
    "flax": write_flax,
    "flax_params": lambda model, folder: write_flax(model, folder, wrap=lambda tree: {"params": tree}),
}


@pytest.mark.parametrize("kind", ("tensorflow", "flax"))
def test_the_logits_are_those_of_the_peer(kind, tmp_path):
    """In one engine: the arrays are those of a safetensors file, bit for bit, whose logits all engines compute."""
    engine = Engine("bit_pytorch")
    model, expected = test_peers.huggingface_model("vit")
    WRITERS[kind](model, tmp_path)
    assert test_peers.relative(test_peers.our_logits(engine, tmp_path, (32, 32)), expected) < test_peers.BOUND


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", ("vit_rectangle", "bit", "headless"))
def test_the_values_are_those_of_its_safetensors(kind, name, tmp_path):
    if name == "headless":
        model = transformers.ViTModel(test_peers.huggingface_vit().config)
        test_peers.randomise(model)
    else:
        model = test_peers.huggingface_model(name)[0]
    model.save_pretrained(tmp_path / "safe")
    WRITERS[kind](model, tmp_path / "old")
    test_peers.assert_same(tmp_path / "old", tmp_path / "safe")
    converted = convert(tmp_path / "old", tmp_path / "new.npz")
    test_peers.assert_same(converted, tmp_path / "safe")


def test_bfloat16_is_read_exactly(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    model, _ = test_peers.huggingface_model("vit")
    write_flax(model, tmp_path, "bfloat16")
    found = read_model(tmp_path).arrays["blocks/1/attn/key/kernel"]
    right = model.state_dict()["vit.layers.1.attention.k_proj.weight"].numpy().T
    np.testing.assert_array_equal(found, right.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_the_names_of_tensorflow():
    for name, ndim, expected in (
        ("tf_m/vit/encoder/layer_._11/output/dense/kernel:0", 2, ("vit.encoder.layer.11.output.dense.weight", (1, 0))),
        ("tf_m/vit/embeddings/patch_embeddings/projection/kernel:0", 4,
         ("vit.embeddings.patch_embeddings.projection.weight", (3, 2, 0, 1))),
        ("tf_m/a___b/layernorm/gamma:0", 1, ("b.layernorm.weight", (0,))),
        ("tf_m/x/word_embeddings/embeddings:0", 2, ("x.word_embeddings.weight", (0, 1))),
        ("tf_m/vit/layernorm/beta:0", 1, ("vit.layernorm.bias", (0,))),
    ):  # fmt: skip
        assert hub.from_tensorflow(name, ndim) == expected


# --- hostile msgpack


def packed(shape: bytes, dtype: bytes, data: bytes, declared: int | None = None) -> bytes:
    """The payload of Flax's extension."""
    size = len(data) if declared is None else declared
    text = bytes([0xA0 | len(dtype)]) + dtype
    return b"\x93" + shape + text + b"\xc6" + struct.pack(">I", size) + data


def extension(payload: bytes, number: int = 1) -> bytes:
    return b"\xc9" + struct.pack(">IB", len(payload), number) + payload


def entry(key: bytes, value: bytes) -> bytes:
    return bytes([0xA0 | len(key)]) + key + value


GOOD = extension(packed(b"\x91\x02", b"float32", bytes(8)))
HOSTILE = {
    "empty": (b"", "it is empty"),
    "text": (b"<html>not found</html>", "web page"),
    "cut": (b"\x81" + entry(b"a", GOOD)[:-1], "other bytes|too early"),
    "terabytes": (b"\x81" + entry(b"a", extension(packed(b"\x91\xcf" + bytes([0, 0, 1]) + bytes(5), b"float32", bytes(8)))), "other bytes"),
    "long": (b"\x81" + entry(b"a", extension(packed(b"\x91\x02", b"float32", bytes(8), 2**31))), "other bytes"),
    "negative": (b"\x81" + entry(b"a", extension(packed(b"\x91\xff", b"float32", bytes(8)))), "no list of sizes"),
    "objects": (b"\x81" + entry(b"a", extension(packed(b"\x91\x02", b"object", bytes(8)))), "the type 'object'"),
    "no triple": (b"\x81" + entry(b"a", extension(b"\x90")), "no triple"),
    "deep": (b"\x81\xa1a" * 5000, "nested more than"),
    "list of lists": (b"\xdd\xff\xff\xff\xff" * 10, "too early|nested"),
    "many": (b"\xdd\xff\xff\xff\xff" + b"\xc0" * 60_000, "more than 50,000 values"),
    "key is a map": (b"\x81\x80\x01", "no short text"),
    "long key": (b"\x81\xdb" + struct.pack(">I", 2**31), "no short text"),
    "not a byte": (b"\xc1", "begins no value"),
    "not utf-8": (b"\x81\xa1\xff" + GOOD, "decode"),
    "twice": (b"\x82" + entry(b"a", GOOD) * 2, "holds a twice"),
    "another extension": (b"\x81" + entry(b"a", extension(b"x" * 40, 42)), "it is empty"),
    "no arrays": (b"\x81\xa1a\x01", "it is empty"),
    "timestamp": (b"\x81" + entry(b"a", b"\xd6\xff\0\0\0\0"), "it is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_msgpack_is_one_sentence(case, tmp_path):
    data, words = HOSTILE[case]
    (tmp_path / "a.msgpack").write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        weights.read_weights(tmp_path / "a.msgpack", test_peers.CASES["vit_token"][0])
    assert "\n" not in str(caught.value) and "a.msgpack" in str(caught.value)


def test_flipped_bits_of_a_msgpack_raise_nothing_but_a_user_error(tmp_path):
    model, _ = test_peers.huggingface_model("vit")
    write_flax(model, tmp_path)
    path, rng = tmp_path / "flax_model.msgpack", np.random.default_rng(0)
    whole, refused = path.read_bytes(), 0
    names = [
        place
        for word in (b"kernel", b"float32", b"query")
        for place in range(len(whole))
        if whole.startswith(word, place)
    ]
    for position in rng.choice([n + int(d) for n in names for d in rng.integers(-8, 20, 2)], 60):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            read_model(tmp_path)
        except UserError:
            refused += 1
    assert refused > 20


def test_plain_values_of_every_kind_are_passed_over(tmp_path):
    """What the library itself packs: numbers of every width, texts, bytes, lists, nothing."""
    library = pytest.importorskip("msgpack")
    serialization = pytest.importorskip("flax.serialization")
    odd = [
        0,
        127,
        128,
        2**16,
        2**33,
        -1,
        -33,
        -(2**9),
        -(2**20),
        -(2**40),
        1.5,
        None,
        True,
        False,
        "x" * 40,
        "y" * 300,
        b"z",
        [1] * 20,
    ]
    odd += ["w" * 70_000, b"v" * 300, {"k": list(range(20))}]
    data = library.packb({"odd": odd, **{f"n{i}": i for i in range(20)}})
    array = serialization.to_bytes({"a": {"b": np.arange(6.0).reshape(2, 3), "c": np.float32(1)}})
    (tmp_path / "a.msgpack").write_bytes(b"\x82\xa1x" + data + b"\xa1y" + array)
    file = msgpack.Msgpack(tmp_path / "a.msgpack")
    assert file.declared.keys() == {"y.a.b"} and file.declared["y.a.b"].shape == (2, 3)
    np.testing.assert_array_equal(file.get("y.a.b"), np.arange(6.0).reshape(2, 3))


def test_a_folder_of_the_hub_that_says_less(tmp_path):
    """A config.json of another family is refused as it is beside safetensors."""
    model, _ = test_peers.huggingface_model("vit")
    write_tensorflow(model, tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "swin"}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="model_type 'swin'"):
        read_model(tmp_path)
