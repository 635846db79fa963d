"""`python -m common.datasets prepare` against a local server: complete, cut off, wrong, missing, hostile."""

import dataclasses
import functools
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from common.data.prepare import PREPARED, Archive, Prepared, prepare, prepared_folder
from common.system.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def tar(members: dict[str, bytes]) -> bytes:
    """A .tar.gz of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Server:
    """Serves `files`; sends only the first `cut` bytes of an answer, and knows ranges when `ranges` is set."""

    def __init__(self):
        self.files, self.cut, self.ranges, self.requests = {}, None, True, []
        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, self))
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/mirror"
        threading.Thread(target=self.httpd.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.httpd.shutdown()
        self.httpd.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, server: Server, *args):
        self.site = server
        super().__init__(*args)

    def do_GET(self):
        wanted = self.headers["Range"]
        self.site.requests.append((self.path, wanted))
        data = self.site.files.get(self.path.removeprefix("/mirror/"))
        if data is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.site.ranges else 0
        if start >= len(data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][: self.site.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def publish(server: Server, files: dict[str, bytes], expected: tuple[str, ...]) -> dict[str, Prepared]:
    """Put files on the server, and describe them as the dataset `cifar10`."""
    server.files |= files
    archives = (Archive(f"{server.url}/{f}", len(data), hashlib.md5(data).hexdigest()) for f, data in files.items())
    return {"cifar10": Prepared(tuple(archives), expected)}


PAYLOAD = os.urandom(100_000)  # does not shrink


@pytest.fixture
def sources(server):
    files = {"a.tar.gz": tar({"inner/data.bin": PAYLOAD}), "b.mat": b"plain"}
    return publish(server, files, ("inner/data.bin", "b.mat"))


def leftovers(datadir: Path) -> list[str]:
    """Everything in `datadir` but partial downloads."""
    return sorted(p.name for p in datadir.iterdir() if p.name != ".downloads") if datadir.exists() else []


def test_complete_and_twice(server, sources, tmp_path, capsys):
    folder = prepare("cifar10", tmp_path / "data", known=sources)
    assert folder == tmp_path / "data" / "cifar10"
    assert (folder / "inner/data.bin").read_bytes() == PAYLOAD and (folder / "b.mat").read_bytes() == b"plain"
    assert leftovers(tmp_path / "data") == ["cifar10"] and not list((tmp_path / "data/.downloads").iterdir())
    assert f"Fetching {server.url}" in capsys.readouterr().out
    count = len(server.requests)
    assert prepare("cifar10", tmp_path / "data", known=sources) == folder
    assert "already prepared" in capsys.readouterr().out and len(server.requests) == count


@pytest.mark.parametrize("ranges", [True, False])
def test_cut_off_and_resumed(server, sources, tmp_path, ranges):
    server.cut, server.ranges = 50_000, ranges
    with pytest.raises(UserError, match="stopped at 50,000 of 100,.* run the same command again"):
        prepare("cifar10", tmp_path, known=sources)
    assert leftovers(tmp_path) == []
    server.cut = None
    folder = prepare("cifar10", tmp_path, known=sources)
    assert server.requests[1] == ("/mirror/a.tar.gz", "bytes=50000-")
    assert (folder / "inner/data.bin").read_bytes() == PAYLOAD


def test_wrong_bytes_install_nothing(server, sources, tmp_path):
    right = server.files["a.tar.gz"]
    for wrong in (right[:-1] + bytes([right[-1] ^ 1]), right + b"more"):
        server.files["a.tar.gz"] = wrong
        with pytest.raises(UserError, match="MD5 digest .*, expected .* nothing was installed"):
            prepare("cifar10", tmp_path, known=sources)
        assert leftovers(tmp_path) == [] and not list((tmp_path / ".downloads/cifar10").iterdir())
    server.files["a.tar.gz"] = right
    prepare("cifar10", tmp_path, known=sources)


def test_the_second_archive_fails_and_the_first_is_kept(server, sources, tmp_path):
    data = server.files.pop("b.mat")
    with pytest.raises(UserError, match="b.mat answers 404"):
        prepare("cifar10", tmp_path, known=sources)
    assert leftovers(tmp_path) == []
    server.files["b.mat"] = data
    server.requests.clear()
    prepare("cifar10", tmp_path, known=sources)
    assert [path for path, _ in server.requests] == ["/mirror/b.mat"]


def test_a_server_whose_file_is_shorter_than_the_part(server, sources, tmp_path):
    server.cut = 50_000
    with pytest.raises(UserError, match="stopped"):
        prepare("cifar10", tmp_path, known=sources)
    server.cut, server.files["a.tar.gz"], right = None, b"short", server.files["a.tar.gz"]
    with pytest.raises(UserError, match="answers 416"):
        prepare("cifar10", tmp_path, known=sources)
    server.files["a.tar.gz"] = right
    prepare("cifar10", tmp_path, known=sources)


@pytest.mark.parametrize("member", ["../outside.txt", "inner/../../outside.txt"])
def test_path_traversal_is_refused(server, tmp_path, member):
    sources = publish(server, {"evil.tar.gz": tar({"inner/data.bin": b"x", member: b"evil"})}, ("inner/data.bin",))
    with pytest.raises(UserError, match="no safe tar archive"):
        prepare("cifar10", tmp_path / "data", known=sources)
    assert leftovers(tmp_path / "data") == [] and not list(tmp_path.rglob("outside.txt"))


@pytest.mark.parametrize("link", ["/etc/passwd", "../../../etc/passwd"])
def test_links_out_of_the_folder_are_refused(server, tmp_path, link):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("data.bin")
        info.type, info.linkname = tarfile.SYMTYPE, link
        archive.addfile(info)
    sources = publish(server, {"evil.tar.gz": buffer.getvalue()}, ("data.bin",))
    with pytest.raises(UserError, match="no safe tar archive"):
        prepare("cifar10", tmp_path, known=sources)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "data",
    [b"not gzip at all", tar({"x": os.urandom(5000)})[:3000], tar({"other": b"x"})],
    ids=["no archive", "truncated", "other files"],  # not their bytes: a gzip header holds the time
)
def test_an_archive_that_is_none_or_lacks_files(server, tmp_path, data):
    sources = publish(server, {"a.tar.gz": data}, ("x",))
    with pytest.raises(UserError, match="nothing was installed|Cannot write"):
        prepare("cifar10", tmp_path, known=sources)
    assert leftovers(tmp_path) == []


def test_a_mirror_keeps_the_digests(server, sources, tmp_path):
    source = sources["cifar10"]
    archives = (dataclasses.replace(archive, url=f"http://127.0.0.1:9/{archive.file}") for archive in source.archives)
    elsewhere = {"cifar10": Prepared(tuple(archives), source.expected)}
    with pytest.raises(UserError, match="cannot be reached"):
        prepare("cifar10", tmp_path, known=elsewhere)
    prepare("cifar10", tmp_path, url_base=server.url + "/", known=elsewhere)
    with pytest.raises(UserError, match="MD5"):
        server.files["b.mat"] = b"other"
        prepare("cifar10", tmp_path / "2", url_base=server.url, known=elsewhere)


def test_an_interruption_while_unpacking_leaves_nothing(sources, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("common.data.prepare._unpack", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare("cifar10", tmp_path, known=sources)
    assert leftovers(tmp_path) == []
    (tmp_path / ".cifar10.partial").mkdir()  # what a killed run leaves
    prepare("cifar10", tmp_path, known=sources)
    assert leftovers(tmp_path) == ["cifar10"]


def test_a_folder_of_something_else_is_left_alone(sources, tmp_path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "mine").touch()
    with pytest.raises(UserError, match="exists but lacks inner/data.bin"):
        prepare("cifar10", tmp_path, known=sources)
    assert (tmp_path / "cifar10" / "mine").exists()


@pytest.mark.parametrize("name", PREPARED)
def test_not_prepared_names_the_command(name, tmp_path):
    with pytest.raises(UserError, match=f"python -m common.datasets prepare {name} --datadir {tmp_path}`"):
        prepared_folder(name, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prepare", "cifar10", "--url_base", "http://127.0.0.1:9"], "cannot be reached"),
        (["prepare", "cifar10", "--url_base", "nonsense"], "unknown url type"),
        (["prepare", "cifr10"], "did you mean cifar10"),
        (["prepare", "imagenet2012"], "licence"),
        (["prepare", "cifar10-sample"], "comes with the project"),
        (["prepare", "tfds:cifar10"], "tfds build cifar10"),
        (["prepare"], "NAME"),
        (["fetch", "cifar10"], "prepare"),
    ],
)
def test_command_ends_in_one_sentence(arguments, words, tmp_path):
    command = [sys.executable, "-m", "common.datasets", *arguments]
    if arguments[1:]:
        command += ["--datadir", str(tmp_path)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert words in done.stderr


def test_command_says_already_prepared(tmp_path):
    for path in PREPARED["cifar100"].expected:
        (tmp_path / "cifar100" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cifar100" / path).touch()
    command = [sys.executable, "-m", "common.datasets", "prepare", "cifar100", "--datadir", str(tmp_path)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "already prepared" in done.stdout
