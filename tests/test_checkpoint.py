"""Checkpoints: exact, checked to the bit, and at every moment one that is whole."""

import json
import os
import shutil
import stat
import threading

import numpy as np
import pytest
import safetensors.numpy

from common import checkpoint
from common.checkpoint import CURRENT, PREVIOUS, Checkpoints, encode, read
from common.errors import UserError

RNG = np.random.default_rng(0)


def arrays_of(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "model/head/kernel": rng.standard_normal((5, 3)).astype(np.float32),
        "optimizer/head/kernel": rng.standard_normal((5, 3)),
    }


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def save(folder, *steps: int) -> None:
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(step, arrays_of(step))
    checkpoints.close()


def restore(folder):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore()
    finally:
        checkpoints.close()


# --- exact

LAYOUTS = {
    "float64": np.array([0.1, -0.0, np.inf, np.nan, 5e-324]),
    "float16": RNG.standard_normal(7).astype(np.float16),
    "int64": np.array([2**62, -1]),
    "bool": np.array([True, False]),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 4), np.float32),
    "transposed": RNG.standard_normal((4, 6)).T,
    "Fortran order": np.asfortranarray(RNG.standard_normal((3, 4, 5))),
    "permuted": RNG.standard_normal((2, 3, 4, 5)).transpose(2, 3, 1, 0),
    "strided": RNG.standard_normal((8, 9))[::2, ::-3],
    "broadcast": np.broadcast_to(np.float32(7), (3, 2)),
    "read-only": np.frombuffer(bytes(range(16)), np.int32),
}


@pytest.mark.parametrize("array", LAYOUTS.values(), ids=LAYOUTS)
def test_a_round_trip_is_exact(array, tmp_path):
    path = tmp_path / CURRENT
    path.write_bytes(encode(7, {"a/b": array}))
    step, found = read(path)
    assert step == 7
    assert_same(found, {"a/b": array})
    assert_same(safetensors.numpy.load_file(path), {"a/b": array})  # other people's tools read it


def test_save_and_restore(tmp_path):
    assert restore(tmp_path) is None
    save(tmp_path, 1, 2, 3)
    step, found = restore(tmp_path)
    assert step == 3
    assert_same(found, arrays_of(3))
    assert_same(read(tmp_path / PREVIOUS)[1], arrays_of(2))
    assert sorted(os.listdir(tmp_path)) == sorted([CURRENT, PREVIOUS])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def test_saving_happens_in_the_background(tmp_path, monkeypatch):
    go = threading.Event()
    write = checkpoint.write_atomically
    monkeypatch.setattr(checkpoint, "write_atomically", lambda *args: go.wait(10) and write(*args))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays_of(1))
    assert not (tmp_path / CURRENT).exists()
    go.set()
    checkpoints.wait()
    assert read(tmp_path / CURRENT)[0] == 1
    checkpoints.close()


# --- damage


def test_every_flipped_bit_is_seen(tmp_path):
    path, whole = tmp_path / CURRENT, encode(12, arrays_of(0))
    for position in range(len(whole)):  # all of them: header, digest, data
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(RNG.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged"):
            read(path)


def test_every_truncation_and_appendix_is_seen(tmp_path):
    path, whole = tmp_path / CURRENT, encode(12, arrays_of(0))
    for data in [whole[:length] for length in range(len(whole))] + [whole + b"\0", whole + whole, b"\0" + whole]:
        path.write_bytes(data)
        with pytest.raises(UserError, match="is damaged"):
            read(path)


def header(text: str) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        header("{}"),
        header("[]"),
        header("not json"),
        header("[" * 100_000),
        header(json.dumps({"__metadata__": {"step": "1"}})),
        header(json.dumps({"__metadata__": {"step": "1", "sha256": ""}})),
        header(json.dumps({"__metadata__": {"step": "1", "sha256": 5}})),
        header(json.dumps({"__metadata__": ["sha256"]})),
        b"\xff" * 64,
        safetensors.numpy.save({"a": np.zeros(3)}),
    ],
    ids=lambda data: repr(data[8:40]),
)
def test_files_of_another_making_are_damaged(data, tmp_path):
    (tmp_path / CURRENT).write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        read(tmp_path / CURRENT)


def damage(path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_gives_way_to_the_previous_one(tmp_path):
    save(tmp_path, 1, 2)
    damage(tmp_path / CURRENT)
    step, found = restore(tmp_path)
    assert step == 1
    assert_same(found, arrays_of(1))


def test_a_vanished_or_unreadable_checkpoint_gives_way_to_the_previous_one(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / CURRENT).unlink()
    assert restore(tmp_path)[0] == 1
    (tmp_path / CURRENT).mkdir()  # the nearest to a disk error that a test can make
    assert restore(tmp_path)[0] == 1


def test_without_an_intact_checkpoint_the_run_does_not_start(tmp_path):
    save(tmp_path, 1, 2)
    damage(tmp_path / CURRENT)
    damage(tmp_path / PREVIOUS)
    with pytest.raises(UserError, match=f"{CURRENT} is damaged.*{PREVIOUS} is damaged.*No intact checkpoint is left"):
        restore(tmp_path)


# --- interruption


class Moments:
    """Copies the folder before every operation on files: what a power cut at that moment would leave."""

    def __init__(self, monkeypatch, folder, copies):
        self.folder, self.copies, self.count = folder, copies, 0
        for name in ("link", "replace", "rename", "fsync", "unlink"):
            monkeypatch.setattr(os, name, self.watch(getattr(os, name)))

    def watch(self, operation):
        def watched(*arguments, **options):
            shutil.copytree(self.folder, self.copies / str(self.count))
            self.count += 1
            return operation(*arguments, **options)

        return watched


@pytest.mark.parametrize("damaged", (False, True))
def test_a_power_cut_at_any_moment_leaves_a_whole_checkpoint(damaged, monkeypatch, tmp_path):
    """Also where the run was restored from the previous checkpoint because the current one is damaged."""
    folder = tmp_path / "run"
    save(folder, 1, 2)
    if damaged:
        damage(folder / CURRENT)
    checkpoints = Checkpoints(folder)
    before = checkpoints.restore()[0]
    with monkeypatch.context() as patch:
        moments = Moments(patch, folder, tmp_path / "copies")
        for step in (3, 4, 5):
            checkpoints.save(step, arrays_of(step))
        checkpoints.close()
    assert moments.count >= 12
    steps = []
    for number in range(moments.count):
        step, found = restore(tmp_path / "copies" / str(number))
        assert_same(found, arrays_of(step))
        steps.append(step)
    assert steps == sorted(steps) and steps[0] == before and steps[-1] in (4, 5)
    assert restore(folder)[0] == 5 and read(folder / PREVIOUS)[0] == 4


@pytest.mark.parametrize("operation", ("replace", "fsync"))
@pytest.mark.parametrize("succeed", range(4))
def test_a_failing_operation_leaves_a_whole_checkpoint(operation, succeed, monkeypatch, tmp_path):
    """The operation fails after `succeed` successes; the error is one sentence, and the next save works."""
    save(tmp_path, 1, 2)
    original, calls = getattr(os, operation), []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) > succeed:
            raise OSError(28, "No space left on device")
        return original(*arguments)

    checkpoints, error = Checkpoints(tmp_path), ""
    with monkeypatch.context() as patch:
        patch.setattr(os, operation, failing)
        checkpoints.save(3, arrays_of(3))
        try:
            checkpoints.wait()
        except UserError as caught:
            error = str(caught)
    # A save takes two renames, and three syncs: of the file, and of the folder after each rename.
    assert ("No space left on device" in error) == (succeed < {"replace": 2, "fsync": 3}[operation])
    assert restore(tmp_path)[0] in ((2, 3) if error else (3,))
    save(tmp_path, 4)
    assert restore(tmp_path)[0] == 4 and sorted(os.listdir(tmp_path)) == sorted([CURRENT, PREVIOUS])
    assert read(tmp_path / PREVIOUS)[0] in (2, 3)


def test_an_error_in_the_background_is_raised_by_the_next_call(tmp_path):
    (tmp_path / "file").touch()
    for call in ("wait", "close"):
        checkpoints = Checkpoints(tmp_path / "file")
        checkpoints.save(1, arrays_of(1))
        with pytest.raises(UserError, match="Cannot write"):
            getattr(checkpoints, call)()


def test_what_the_disk_garbles_is_noticed(monkeypatch, tmp_path):
    save(tmp_path, 1)

    def garble(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # folders are synced, too
            os.pwrite(descriptor, b"\x01", 400)

    monkeypatch.setattr(os, "fsync", garble)
    with pytest.raises(UserError, match="is damaged"):
        save(tmp_path, 2)
    assert restore(tmp_path)[0] == 1
