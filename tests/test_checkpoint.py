"""Checkpoints: exact, checked to the bit, and at every moment one that is whole."""

import errno
import io
import json
import os
import resource
import shutil
import stat
import threading

import numpy as np
import pytest
import safetensors.numpy
from disturbances import Proxy

from common.runs import checkpoint
from common.runs.checkpoint import CURRENT, PREVIOUS, Checkpoints, read, write
from common.system import files
from common.system.errors import UserError

RNG = np.random.default_rng(0)


def arrays_of(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "model/head/kernel": rng.standard_normal((5, 3)).astype(np.float32),
        "optimizer/head/kernel": rng.standard_normal((5, 3)),
    }


FACTS = {"seed": 3, "config": {"name": 'naïve "x"', "mixup": None, "lrs": [0.1, 1e-30]}}


def encode(step: int, arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    write(buffer, step, arrays, FACTS)
    return buffer.getvalue()


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def save(folder, *steps: int) -> None:
    """As one run does: with what is there restored first."""
    checkpoints = Checkpoints(folder)
    checkpoints.restore()
    for step in steps:
        checkpoints.save(step, arrays_of(step), FACTS)
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
    step, found, facts = read(path)
    assert step == 7 and facts == FACTS
    assert_same(found, {"a/b": array})
    assert_same(safetensors.numpy.load_file(path), {"a/b": array})  # other people's tools read it


def test_save_and_restore(tmp_path):
    assert restore(tmp_path) is None
    save(tmp_path, 1, 2, 3)
    step, found, _ = restore(tmp_path)
    assert step == 3
    assert_same(found, arrays_of(3))
    assert_same(read(tmp_path / PREVIOUS).arrays, arrays_of(2))
    assert sorted(os.listdir(tmp_path)) == sorted([CURRENT, PREVIOUS])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def test_saving_happens_in_the_background(tmp_path, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(checkpoint, "check_finite", lambda *_: go.wait(10))
    checkpoints = Checkpoints(tmp_path)
    assert not checkpoints.is_writing()
    checkpoints.save(1, arrays_of(1), FACTS)
    assert checkpoints.is_writing() and not (tmp_path / CURRENT).exists()
    go.set()
    checkpoints.wait()
    assert not checkpoints.is_writing() and read(tmp_path / CURRENT).step == 1
    checkpoints.close()


@pytest.mark.parametrize("value", (np.nan, -np.inf))
def test_what_is_not_finite_never_takes_the_place_of_a_good_checkpoint(value, tmp_path):
    save(tmp_path, 1, 2)
    arrays = arrays_of(3)
    arrays["optimizer/head/kernel"][4, 2] = value
    checkpoints = Checkpoints(tmp_path)
    checkpoints.restore()
    checkpoints.save(3, arrays, FACTS)
    with pytest.raises(UserError, match=r"after step 3 is not finite \(optimizer/head/kernel, 1 of 2 tensors\)"):
        checkpoints.close()
    assert "step 2 is intact" in checkpoints.what_is_left()
    assert read(tmp_path / CURRENT).step == 2 and read(tmp_path / PREVIOUS).step == 1


def test_memory(tmp_path):
    """Writing takes none, but for what is not contiguous; reading takes the file's size, and twice that for a moment."""
    import tracemalloc

    arrays = {str(i): np.full((2**18,), i, np.float32) for i in range(20)}
    tracemalloc.start()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays, FACTS)
    checkpoints.close()
    assert tracemalloc.get_traced_memory()[1] < 3 * 2**20
    tracemalloc.reset_peak()
    read(tmp_path / CURRENT)
    assert tracemalloc.get_traced_memory()[1] < 42 * 2**20
    tracemalloc.stop()


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
    step, found, _ = restore(tmp_path)
    assert step == 1
    assert_same(found, arrays_of(1))


def test_a_vanished_or_unreadable_checkpoint_gives_way_to_the_previous_one(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / CURRENT).unlink()
    assert restore(tmp_path).step == 1
    (tmp_path / CURRENT).mkdir()  # the nearest to a disk error that a test can make
    assert restore(tmp_path).step == 1


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
            checkpoints.save(step, arrays_of(step), FACTS)
        checkpoints.close()
    assert moments.count >= 12
    steps = []
    for number in range(moments.count):
        step, found, _ = restore(tmp_path / "copies" / str(number))
        assert_same(found, arrays_of(step))
        steps.append(step)
    assert steps == sorted(steps) and steps[0] == before and steps[-1] in (4, 5)
    assert restore(folder).step == 5 and read(folder / PREVIOUS).step == 4


class Faults:
    """Lets the `fatal`-th system call of a save fail, and counts them all."""

    def __init__(self, monkeypatch, number: int, fatal: int):
        self.number, self.fatal, self.calls = number, fatal, []
        for name in ("open", "replace", "fsync", "unlink", "mkdir", "close"):
            monkeypatch.setattr(os, name, self.watch(name, getattr(os, name)))
        monkeypatch.setattr(files, "open", self.open, raising=False)
        monkeypatch.setattr(checkpoint, "open", self.open, raising=False)

    def count(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self.fatal:
            raise OSError(self.number, os.strerror(self.number))

    def watch(self, name, operation):
        def watched(*arguments, **options):
            self.count(name)
            return operation(*arguments, **options)

        return watched

    def open(self, *arguments):
        self.count(f"open {arguments[1]}")
        file = open(*arguments)  # noqa: SIM115
        for name in ("write", "flush", "read"):
            file = Proxy(file, **{name: self.watch(name, getattr(file, name))})
        return file


@pytest.mark.parametrize("damaged", (False, True))
@pytest.mark.parametrize("number", (errno.ENOSPC, errno.EROFS, errno.EIO), ids=errno.errorcode.get)
def test_every_system_call_of_a_save_may_fail(number, damaged, monkeypatch, tmp_path):
    """After each, the previous checkpoint or the new one is whole, the message says which, and the next save works."""
    seen = set()
    for fatal in range(1, 100):
        folder = tmp_path / str(fatal)
        save(folder, 1, 2)
        if damaged:
            damage(folder / CURRENT)
        checkpoints, error = Checkpoints(folder), ""
        before = checkpoints.restore().step
        with monkeypatch.context() as patch:
            faults = Faults(patch, number, fatal)
            checkpoints.save(3, arrays_of(3), FACTS)
            try:
                checkpoints.wait()
            except UserError as caught:
                error = str(caught)
        if len(faults.calls) < fatal:
            break
        failed = faults.calls[fatal - 1]
        seen.add(failed)  # of `mkdir`, pathlib forgives the failure where the folder is there
        found = restore(folder)
        assert_same(found.arrays, arrays_of(found.step))
        assert found.step in ((before, 3) if error else (3,)), failed
        assert f"step {found.step} is intact" in checkpoints.what_is_left(), failed
        if error:
            assert os.strerror(number) in error and error.startswith(("Cannot write ", "The checkpoint ")), error
        checkpoints.save(4, arrays_of(4), FACTS)
        checkpoints.close()
        files.remove_leftovers(folder)  # where the removal of the temporary file was what failed
        assert restore(folder).step == 4 and read(folder / PREVIOUS).step in (before, 3)
        assert sorted(os.listdir(folder)) == sorted([CURRENT, PREVIOUS])
    assert fatal > 15
    assert seen == {
        "mkdir",
        "open wb",
        "write",
        "flush",
        "fsync",
        "open rb",
        "read",
        "replace",
        "open",
        "close",
        "unlink",
    }


@pytest.fixture
def small_disk():
    """No file may grow beyond a limit: the kernel refuses in the middle of a write, as it does when a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if limit is None else limit, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_at_any_byte_leaves_everything_as_it_was(small_disk, tmp_path):
    save(tmp_path, 1, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for size in range(0, len(before[CURRENT]), 7):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.restore()
        small_disk(size)
        checkpoints.save(3, arrays_of(3), FACTS)
        with pytest.raises(UserError, match="Cannot write .*File too large"):
            checkpoints.close()
        small_disk(None)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    save(tmp_path, 1)
    (tmp_path / f".{CURRENT}.0123abcd.tmp").touch()
    (tmp_path / "mine.tmp").touch()
    files.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [CURRENT, "mine.tmp"]


def test_an_error_in_the_background_is_raised_by_the_next_call(tmp_path):
    (tmp_path / "file").touch()
    for call in ("wait", "close"):
        checkpoints = Checkpoints(tmp_path / "file")
        checkpoints.save(1, arrays_of(1), FACTS)
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
    assert restore(tmp_path).step == 1
