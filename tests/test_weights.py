"""Weights files: the published layouts, bit-exact round trips, and what hostile or foreign files end in."""

import io
import json
import pickle
import resource
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from golden.golden_params import param

from common.models import ARCHITECTURES, PACKAGED_WEIGHTS, ResNetConfig, find_architecture, find_model
from common.models.cards import Card
from common.models.initial import initial_parameters
from common.system.errors import UserError
from common.weights import containers, find_file, read_weights, write_weights
from common.weights.adapt import adapt_head
from common.weights.containers.npz import Npz
from common.weights.spellings import bit

GOLDEN = Path(__file__).parent / "golden"
MINI = ResNetConfig((2, 1), 0.5, 10)  # of mini.h5
HEAD = "resnet/head/conv2d/kernel"


def golden(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


PUBLISHED = {name: param(name, shape).astype(np.float32) for name, shape in bit.published_shapes(MINI).items()}


def published() -> dict[str, np.ndarray]:
    """What a published `.npz` holds: the golden rule's value of each name."""
    return {name: array.copy() for name, array in PUBLISHED.items()}


def mini_arrays(dtype=np.float32) -> dict[str, np.ndarray]:
    """The same under canonical names."""
    arrays = {ours: PUBLISHED[theirs].astype(dtype) for ours, theirs in bit.names(MINI).items()}
    return arrays | {"head/kernel": arrays["head/kernel"][0, 0]}


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes(), name


# --- names, shapes and counts


@pytest.mark.parametrize("case", ("tiny", "tiny_eps", "R50x1_head10", "R101x1_head10"))
def test_published_names_and_shapes(case):
    arch, shapes = golden(case)["arch"], golden(case)["param_shapes"]
    config = ResNetConfig(tuple(arch["block_units"]), arch["width_factor"], arch["head_size"])
    assert bit.published_shapes(config) == {name: tuple(shape) for name, shape in shapes.items()}
    assert config.parameter_shapes().keys() == bit.names(config).keys()


@pytest.mark.parametrize("case", ("mini", "R50x1"))
def test_names_are_in_the_order_of_the_original_h5(case):
    config = MINI if case == "mini" else find_model("BiT-M-R50x1").config()
    assert list(bit.published_shapes(config)) == list(golden(f"h5_layout_{case}")["h5_dataset_to_npz_key"].values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_canonical_name_has_one_published_name(architecture):
    config = ResNetConfig(*ARCHITECTURES[architecture], 10)
    table = bit.names(config)
    assert table.keys() == config.parameter_shapes().keys() and len(set(table.values())) == len(table)


COUNTS = {  # of the published checkpoints with 10, 1,000 and 21,843 classes, as timm's resnetv2_*_bit count them
    "R50x1": (23_520_842, 25_549_352, 68_256_659),
    "R101x1": (42_512_970, 44_541_480, 87_248_787),
    "R50x3": (211_235_530, 217_319_080, 345_399_315),
    "R101x3": (381_851_338, 387_934_888, 516_015_123),
    "R152x2": (232_279_178, 236_335_208, 321_728_979),
    "R152x4": (928_422_154, 936_533_224, 1_107_299_923),
}


@pytest.mark.parametrize("architecture", COUNTS)
def test_parameter_counts(architecture):
    for num_classes, count in zip((10, 1000, 21843), COUNTS[architecture]):
        shapes = ResNetConfig(*ARCHITECTURES[architecture], num_classes).parameter_shapes()
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == count


# --- reading what others wrote, writing what others read


@pytest.mark.parametrize("file", ("mini.h5", "mini_build.h5"))
def test_h5_files_of_the_original_code(file):
    """Its names inside depend on how the Keras model was built."""
    found = read_weights(GOLDEN / file, MINI)
    assert list(found) == list(MINI.parameter_shapes())
    assert_same(found, mini_arrays())


def test_our_h5_has_the_layout_of_the_original(tmp_path):
    write_weights(tmp_path / "a.h5", mini_arrays(), MINI)
    layout = golden("h5_layout_mini")
    with h5py.File(tmp_path / "a.h5") as ours, h5py.File(GOLDEN / "mini.h5") as theirs:
        layers = [name.decode() for name in ours.attrs["layer_names"]]
        assert layers == layout["top_level_attrs"]["layer_names"]
        for layer in layers:
            names = [name.decode() for name in ours[layer].attrs["weight_names"]]
            assert names == layout["group_attrs"][layer]["weight_names"]
            for name in names:
                np.testing.assert_array_equal(ours[layer][name], theirs[layer][name])


def test_our_npz_is_plain_and_has_the_published_names(tmp_path):
    write_weights(tmp_path / "a.npz", mini_arrays(), MINI)
    with np.load(tmp_path / "a.npz") as archive:
        found = {name: archive[name] for name in archive.files}
    assert_same(found, {name: published()[name] for name in golden("h5_layout_mini")["param_shapes"]})
    assert found[HEAD].shape == (1, 1, 256, 10)


@pytest.mark.parametrize("dtype", (np.float16, np.float32, np.float64))
@pytest.mark.parametrize("suffixes", (("npz", "h5", "npz"), ("h5", "npz", "h5")))
def test_round_trips_are_bit_exact(dtype, suffixes, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in MINI.parameter_shapes().items()}
    arrays["stem/kernel"].flat[:3] = (-0.0, np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max)
    found = arrays
    for number, suffix in enumerate(suffixes):
        write_weights(tmp_path / f"{number}.{suffix}", found, MINI)
        found = read_weights(tmp_path / f"{number}.{suffix}", MINI)
    assert_same({name: found[name] for name in arrays}, arrays)


@pytest.mark.parametrize("suffix", ("npz", "h5"))
def test_transposed_arrays_are_written_in_their_order(suffix, tmp_path):
    arrays = {name: np.asfortranarray(array) for name, array in mini_arrays().items()}
    arrays["head/kernel"] = np.ascontiguousarray(arrays["head/kernel"].T).T  # what a Linear layer's weight looks like
    write_weights(tmp_path / f"a.{suffix}", arrays, MINI)
    assert_same(read_weights(tmp_path / f"a.{suffix}", MINI) | {}, mini_arrays())


def test_big_endian_files_are_read_in_native_order(tmp_path):
    np.savez(tmp_path / "a.npz", **{name: array.astype(">f4") for name, array in published().items()})
    found = read_weights(tmp_path / "a.npz", MINI)
    assert_same(found, mini_arrays())
    assert all(array.dtype.isnative for array in found.values())


def test_the_head_of_the_file_counts_and_another_becomes_zeros(tmp_path):
    write_weights(tmp_path / "a.npz", mini_arrays(np.float64), MINI)
    found = read_weights(tmp_path / "a.npz", ResNetConfig((2, 1), 0.5, 21843))
    assert found["head/kernel"].shape == (256, 10)
    assert adapt_head(found, 10) is found
    adapted = adapt_head(found, 7)
    assert adapted["head/kernel"].shape == (256, 7) and adapted["head/bias"].shape == (7,)
    assert (
        adapted["head/kernel"].dtype == np.float64
        and not adapted["head/kernel"].any()
        and not adapted["head/bias"].any()
    )
    assert_same(
        {n: a for n, a in adapted.items() if "head" not in n}, {n: a for n, a in found.items() if "head" not in n}
    )


# --- files that do not fit


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.pop("resnet/group_norm/beta"), "missing: resnet/group_norm/beta"),
        (lambda arrays: arrays.pop(HEAD), f"missing: {HEAD}"),
        (lambda arrays: arrays.clear(), "it is empty"),
        (lambda arrays: arrays.update({"resnet/x": np.zeros(2, np.float32)}), "unexpected: resnet/x"),
        (
            lambda arrays: arrays.update({HEAD: arrays[HEAD][0]}),
            r"misshapen: .*\(1, 256, 10\) instead of \(1, 1, 256, 10\)",
        ),
        (
            lambda arrays: arrays.update({"resnet/head/conv2d/bias": np.zeros(9, np.float32)}),
            r"\(1, 1, 256, 10\) instead of \(1, 1, 256, 9\)",
        ),
        (lambda arrays: arrays["resnet/group_norm/beta"].fill(np.nan), "not finite .*group_norm/beta"),
        (lambda arrays: arrays["resnet/group_norm/beta"].fill(np.inf), "not finite .*group_norm/beta"),
        (lambda arrays: arrays.update({HEAD: arrays[HEAD].astype(int)}), "not floating-point .*head"),
        (lambda arrays: arrays.update({HEAD: arrays[HEAD].astype(complex)}), "not floating-point .*head"),
        (lambda arrays: arrays.update({HEAD: arrays[HEAD].astype("S8")}), "not floating-point .*head"),
    ],
    ids=[
        "missing",
        "no head",
        "none at all",
        "unexpected",
        "3-D head",
        "head bias",
        "nan",
        "inf",
        "integer",
        "complex",
        "text",
    ],
)
def test_an_npz_that_does_not_fit_lists_why(change, words, tmp_path):
    arrays = published()
    change(arrays)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=f"(?s)a.npz .*{words}"):
        read_weights(tmp_path / "a.npz", MINI)


def edited_h5(path: Path, edit) -> Path:
    """mini.h5 after `edit(file, group of the head, name of its kernel)`."""
    path.write_bytes((GOLDEN / "mini.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        edit(file, file["head/dense"], file["head/dense"].attrs["weight_names"][0])
    return path


def replaced(**options):
    def edit(file, head, kernel):
        del head[kernel]
        head.create_dataset(kernel, **options)

    return edit


def linked(link):
    def edit(file, head, kernel):
        del head[kernel]
        head[kernel] = link

    return edit


def virtual(file, head, kernel):
    del head[kernel]
    layout = h5py.VirtualLayout((256, 10), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "data", (256, 10))
    head.create_virtual_dataset(kernel, layout)


def external(file, head, kernel):
    del head[kernel]
    head.create_dataset(kernel, (256, 10), "f4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


def vast(**options):
    """A head for 10^9 classes whose chunks nobody ever wrote: HDF5 would fill them with zeros."""

    def edit(file, head, kernel):
        for name, shape in ((kernel, (256, 10**9)), (head.attrs["weight_names"][1], (10**9,))):
            del head[name]
            head.create_dataset(name, shape, "f4", chunks=True, **options)

    return edit


BAD_H5 = {
    "missing tensor": (lambda f, head, kernel: head.__delitem__(kernel), "lacks .*head/dense/kernel"),
    "dropped name": (lambda f, head, kernel: head.attrs.create("weight_names", [b"bias:0"]), "lacks bias:0"),
    "empty head": (lambda f, head, k: head.attrs.create("weight_names", np.zeros(0)), "32 tensors, the model has 34"),
    "no layer names": (lambda f, *_: f.attrs.__delitem__("layer_names"), "holds no model in a spelling"),
    "layer names are numbers": (lambda f, *_: f.attrs.__setitem__("layer_names", np.arange(3)), ""),
    "layer names are one word": (lambda f, *_: f.attrs.__setitem__("layer_names", "block1"), ""),
    "layer names are no text": (lambda f, *_: f.attrs.__setitem__("layer_names", np.array([b"\xff\xfe"])), ""),
    "layer is a tensor": (lambda f, head, k: f.attrs.__setitem__("layer_names", [f"head/dense/{k}"]), ""),
    "path through a tensor": (lambda f, head, k: head.attrs.__setitem__("weight_names", [f"{k}/x"]), ""),
    "name is a group": (lambda f, head, k: head.attrs.__setitem__("weight_names", [k.rpartition("/")[0]]), ""),
    "misshapen": (replaced(data=np.zeros((255, 10), "f4")), r"misshapen: resnet/head/conv2d/kernel \(255, 10\)"),
    "scalar": (replaced(data=np.float32(1)), "misshapen: resnet/head/conv2d/kernel"),
    "null": (replaced(data=h5py.Empty("f4")), "head"),
    "integer": (replaced(data=np.zeros((256, 10), int)), "not floating-point .*head/conv2d/kernel"),
    "text": (
        replaced(data=np.full((256, 10), "x", object), dtype=h5py.string_dtype()),
        "not floating-point .*head/conv2d/kernel",
    ),
    "compound": (
        replaced(data=np.zeros((256, 10), [("a", "f4"), ("b", "f4")])),
        "not floating-point .*head/conv2d/kernel",
    ),
    "nan": (replaced(data=np.full((256, 10), np.nan, "f4")), "not finite .*head/conv2d/kernel"),
    "soft link": (linked(h5py.SoftLink("/block1/resnet/block1/unit01/a/group_norm/gamma:0")), "link instead of data"),
    "dangling link": (linked(h5py.SoftLink("/nowhere")), "link instead of data"),
    "external link": (linked(h5py.ExternalLink("/etc/hostname", "/data")), "link instead of data"),
    "virtual": (virtual, "outside of itself"),
    "external storage": (external, "outside of itself"),
    "a terabyte of nothing": (vast(), "more bytes .* than it can hold"),
    "a terabyte of nothing, compressed": (vast(compression="gzip"), "more bytes .* than it can hold"),
}


@pytest.mark.parametrize(("edit", "words"), BAD_H5.values(), ids=BAD_H5)
def test_an_h5_that_does_not_fit_says_why(edit, words, tmp_path):
    path = edited_h5(tmp_path / "a.h5", edit)
    with pytest.raises(UserError, match=f"a.h5 .*{words}"):
        read_weights(path, MINI)


@pytest.mark.parametrize("architecture", ("R101x1", "R50x3"))
@pytest.mark.parametrize("suffix", ("npz", "h5"))
def test_the_weights_of_another_architecture(architecture, suffix, tmp_path):
    """R50x3 has as many tensors as R50x1, of other shapes; zeros that nothing stores stand for the published file."""
    held, wanted = find_model("BiT-M-R50x1").config(10), ResNetConfig(*ARCHITECTURES[architecture], 10)
    path = tmp_path / f"a.{suffix}"
    if suffix == "npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, shape in bit.published_shapes(held).items():
                archive.writestr(f"{name}.npy", npy_header(shape) + bytes(4))
    else:
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = list(bit.layers(held))
            for layer, names in bit.layers(held).items():
                file.create_group(layer).attrs["weight_names"] = [f"w{i}" for i in range(len(names))]
                for i, name in enumerate(names):
                    file[layer].create_dataset(f"w{i}", held.parameter_shapes()[name], "f4")
    with pytest.raises(
        UserError, match=r"does not fit the model \((num_units|width_factor) .*choose the --model that the file"
    ):
        read_weights(path, wanted)


# --- hostile files


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_2_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def npz_with(member: bytes, name: str = "resnet/group_norm/beta") -> bytes:
    """A complete .npz, but for one member's bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, array in published().items():
            if other != name:
                part = io.BytesIO()
                np.save(part, array)
                archive.writestr(f"{other}.npy", part.getvalue())
        archive.writestr(f"{name}.npy", member)
    return buffer.getvalue()


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def pickled_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()] * 256, object), allow_pickle=True)
    return buffer.getvalue()


WHOLE_NPZ, WHOLE_H5 = npz_with(npy_header((256,)) + bytes(1024)), (GOLDEN / "mini.h5").read_bytes()
HOSTILE = {
    "empty": b"",
    "text": b"<html>404: not found</html>\n" * 50,
    "pickle": pickle.dumps(Trap()),
    "first half of an npz": WHOLE_NPZ[: len(WHOLE_NPZ) // 2],
    "second half of an npz": WHOLE_NPZ[len(WHOLE_NPZ) // 2 :],
    "last byte of an npz missing": WHOLE_NPZ[:-1],
    "first half of an h5": WHOLE_H5[: len(WHOLE_H5) // 2],
    "first kilobyte of an h5": WHOLE_H5[:1024],
    "npz of pickled objects": npz_with(pickled_array()),
    "pickle inside of an npz": npz_with(pickle.dumps(Trap())),
    "text inside of an npz": npz_with(b"hello"),
    "empty member": npz_with(b""),
    "tensor cut off": npz_with(npy_header((256,)) + bytes(1000)),
    "terabytes declared": npz_with(npy_header((10**12,)) + bytes(1024)),
    "terabytes declared as text": npz_with(npy_header((256,), "|S4000000000")),
    "long header": npz_with(b"\x93NUMPY\x01\x00" + (16000).to_bytes(2, "little") + b" " * 16000),
    "negative shape": npz_with(npy_header((-256,)) + bytes(1024)),
    "zip of something else": npz_with(b"hello", "README"),
}


@pytest.mark.parametrize("suffix", ("npz", "h5"))
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_end_in_one_sentence(data, suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"a.{suffix} ") as caught:
        read_weights(path, MINI)
    assert "\n" not in str(caught.value)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file, whatever their names and shapes."""

    def read() -> dict[str, np.ndarray]:
        with Npz(path) as file:
            file.check_bytes()
            return {name: file.get(name) for name in file.declared}

    return containers.guarded(path, read)


def test_a_vast_head_without_values_takes_no_memory(tmp_path):
    """Its number of classes is the file's to choose, and both of its tensors agree."""
    members = {HEAD: npy_header((1, 1, 256, 10**6)), "resnet/head/conv2d/bias": npy_header((10**6,))}
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w") as archive,
        zipfile.ZipFile(io.BytesIO(npz_with(npy_header((256,)) + bytes(1024)))) as source,
    ):
        for entry in source.namelist():
            archive.writestr(entry, members.get(entry.removesuffix(".npy")) or source.read(entry))
    with pytest.raises(UserError, match="declares 1,024,000,000 bytes at .* and has 128"):
        read_npz(tmp_path / "a.npz")


def test_nothing_is_unpickled_even_where_no_shape_is_expected(tmp_path):
    (tmp_path / "a.npz").write_bytes(npz_with(pickled_array()))
    with pytest.raises(UserError, match="holds pickled Python objects at resnet/group_norm/beta"):
        read_npz(tmp_path / "a.npz")


def test_an_npz_whose_directory_lies_twice_about_the_same_bytes(tmp_path):
    """Overlapping members unpack one deflated stream a thousand times."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(10**6))
        info = archive.infolist()[0]
        for _ in range(5000):
            archive.filelist.append(info)
    with pytest.raises(UserError, match="declares 5,001,000,000 bytes"):
        read_weights(tmp_path / "a.npz", MINI)


@pytest.mark.parametrize("name", ("a", HEAD))
def test_an_honest_bomb_is_refused_before_memory_is_taken(name, tmp_path):
    """64 MB that deflate packs a thousandfold, and that no model wants."""
    import tracemalloc

    (tmp_path / "a.npz").write_bytes(npz_with(npy_header((2**24,)) + bytes(2**26), name))
    tracemalloc.start()
    with pytest.raises(UserError, match="does not fit it \\((unexpected: a|.*misshapen: resnet/head/conv2d/kernel)"):
        read_weights(tmp_path / "a.npz", MINI)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize("suffix", ("npz", "h5"))
def test_flipped_bits_raise_nothing_but_a_user_error(suffix, tmp_path):
    """An .npz has checksums: every flip that reaches a value is seen. An .h5 has none: it may only fail cleanly."""
    path, rng = tmp_path / f"a.{suffix}", np.random.default_rng(0)
    write_weights(path, mini_arrays(), MINI)
    whole, expected, refused = path.read_bytes(), mini_arrays(), 0
    structure = np.concatenate([rng.integers(0, 20_000, 30), len(whole) - rng.integers(1, 3000, 20)])
    for position in np.concatenate([structure, rng.integers(0, len(whole), 10)]):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = read_weights(path, MINI)
        except UserError:
            refused += 1
        else:
            if suffix == "npz":
                assert_same(found, expected)
    assert refused > (10 if suffix == "npz" else 0)


@pytest.mark.parametrize("name", ("missing.npz", "missing.h5", ".", "a.pth", "a"))
def test_no_such_file_or_format(name, tmp_path):
    for file in ("a.pth", "a"):
        (tmp_path / file).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="does not exist|expected .npz or .h5|holds no model.safetensors|pickle"):
        read_weights(tmp_path / name, MINI)


# --- writing


@pytest.fixture
def small_disk():
    """No file may grow beyond 100,000 bytes: the kernel refuses, as it does when a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", ("npz", "h5", "safetensors"))
@pytest.mark.parametrize("old", (None, b"what was there before"))
def test_a_full_disk_leaves_the_old_file(suffix, old, small_disk, tmp_path):
    path = tmp_path / f"a.{suffix}"
    if old:
        path.write_bytes(old)
    small_disk()
    with pytest.raises(UserError, match=f"Cannot write .*a.{suffix}"):
        write_weights(path, mini_arrays(), MINI)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([old] if old else [])


@pytest.mark.parametrize("suffix", ("npz", "h5", "safetensors"))
@pytest.mark.parametrize("operation", ("fsync", "replace"))
def test_a_failing_operation_leaves_the_old_file(suffix, operation, monkeypatch, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"os.{operation}", fail)
    with pytest.raises(UserError, match="Cannot write .*No space left on device"):
        write_weights(path, mini_arrays(), MINI)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("suffix", ("npz", "h5", "safetensors"))
def test_what_the_disk_garbles_is_noticed(suffix, monkeypatch, tmp_path):
    """What was written is read back before it takes the place of the old file."""
    path = tmp_path / f"a.{suffix}"
    write_weights(path, mini_arrays(), MINI)
    start = path.read_bytes().index(mini_arrays()["norm/bias"].tobytes())  # stored as they are
    before = path.read_bytes()

    def garble(descriptor):
        import os

        os.pwrite(descriptor, b"\x01", start + 7)

    monkeypatch.setattr("os.fsync", garble)
    with pytest.raises(UserError):
        write_weights(path, mini_arrays(), MINI)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize("suffix", ("npz", "h5", "safetensors"))
def test_others_may_read_what_they_may_read_of_any_file(suffix, tmp_path):
    write_weights(tmp_path / f"a.{suffix}", mini_arrays(), MINI)
    (tmp_path / "b").touch()
    assert (tmp_path / f"a.{suffix}").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match="ends in .npz or .h5"):
        write_weights(tmp_path / "a.pth", mini_arrays(), MINI)
    assert not list(tmp_path.iterdir())


# --- where published files lie


def test_a_missing_file_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(UserError, match=f"python -m common.download --dir {tmp_path} BiT-M-R50x1"):
        find_file(find_model("BiT-M-R50x1"), tmp_path)


@pytest.mark.parametrize("suffix", ("npz", "h5"))
def test_the_folder_is_searched_for_both_formats(suffix, tmp_path):
    (tmp_path / f"BiT-M-R50x1.{suffix}").touch()
    assert find_file(find_model("BiT-M-R50x1"), tmp_path) == tmp_path / f"BiT-M-R50x1.{suffix}"


def test_the_packaged_folder_holds_the_manifest():
    assert (PACKAGED_WEIGHTS / "manifest.json").is_file()


def test_a_card_beside_the_weights_keeps_its_facts_unless_others_are_given(tmp_path):
    config = find_architecture("ViT-mu/16", num_classes=2, image_size=(32, 32))
    arrays, card = initial_parameters(0, config), tmp_path / "card.json"
    facts = {"class_names": ["a", "b"], "resolution": 32, "accuracy": {"test": 0.5}}
    card.write_text(json.dumps(facts))
    write_weights(tmp_path / "weights.npz", arrays, config)
    assert facts.items() <= json.loads(card.read_text()).items()  # of a run that has just written it
    write_weights(tmp_path / "weights.npz", arrays, config, Card(class_names=("c", "d")))
    assert json.loads(card.read_text())["class_names"] == ["c", "d"] and "resolution" not in json.loads(
        card.read_text()
    )
