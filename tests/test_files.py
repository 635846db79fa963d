"""Files are read where they are files: of what never ends or never answers, nothing is read."""

import os
import re
import socket
from pathlib import Path

import pytest

from common.config import TrainConfig
from common.data.lists import lines
from common.data.sources.real import read_labels
from common.runs.checkpoint import Checkpoints
from common.runs.log import Metrics
from common.runs.run import Run
from common.system.errors import UserError
from common.system.files import open_regular, read_regular
from common.weights.containers import read_json


def test_a_file_is_read_whole_and_through_links(tmp_path):
    (tmp_path / "file").write_bytes(b"some bytes")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        assert read_regular(tmp_path / name) == read_regular(str(tmp_path / name), 10) == b"some bytes"
        with open_regular(tmp_path / name) as file:
            assert file.read(4) == b"some" and file.seek(0) == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "it is a named pipe, expected a file"),
        (os.mkdir, "it is a folder, expected a file"),
        (lambda path: Path(path).symlink_to("/dev/zero"), "it is a device, expected a file"),
        (lambda path: Path(path).symlink_to("/dev/null"), "it is a device, expected a file"),
        (lambda path: Path(path).write_bytes(bytes(1001)), "it has 1,001 bytes, expected at most 1,000"),
        (lambda path: Path(path).symlink_to(Path(path).name), "symbolic links"),
        (lambda path: None, "No such file"),
        # A file that says nothing of its size, as those of /proc do:
        (lambda path: Path(path).symlink_to("/proc/cpuinfo"), "it has more than the 1,000 bytes expected at most"),
    ],
)
def test_what_is_no_file_or_too_large_is_refused_at_once(tmp_path, make, words):
    make(str(tmp_path / "it"))
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=re.escape(words)) as caught:
        read_regular(tmp_path / "it", 1000)
    assert words in caught.value.strerror and caught.value.filename == str(tmp_path / "it")
    assert set(os.listdir("/proc/self/fd")) == before  # nothing stays open


def test_a_socket_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("it")
        with pytest.raises(OSError, match="No such device"):
            read_regular("it")


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("config.json", lambda folder: Run(TrainConfig(name=folder.name, logdir=str(folder.parent)), "bit_pytorch")),
        ("metrics.jsonl", lambda folder: Metrics(folder / "metrics.jsonl", 0)),
        ("checkpoint.safetensors", lambda folder: Checkpoints(folder).restore()),
        ("real.json", lambda folder: read_labels(folder / "real.json", 10)),
        ("labels.tsv", lambda folder: list(lines(folder / "labels.tsv"))),
        ("card.json", lambda folder: read_json(folder / "card.json")),
    ],
)
@pytest.mark.parametrize("make", (os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")), ids=("pipe", "device"))
def test_a_pipe_or_a_device_in_place_of_a_file_is_one_sentence(tmp_path, file, read, make):
    (tmp_path / "run").mkdir()
    make(str(tmp_path / "run" / file))
    with pytest.raises(UserError, match=rf"{file} .*it is a (named pipe|device), expected a file"):
        read(tmp_path / "run")
