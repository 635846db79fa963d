"""`python -m common.download` against a local HTTP server: whole, cut off, damaged, missing."""

import base64
import collections
import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from common import download, weights
from common.models import ARCHITECTURES, DEFAULT_MODEL, PACKAGED_WEIGHTS, find_model, published_models
from common.models.published import read_manifest
from common.system.errors import UserError
from scripts import manifest as manifest_writer

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "download_weights.sh"
NAME = "BiT-M-R50x1"
VTAB = "vtab/BiT-M-R50x1-run0-caltech101"


def npz_bytes(seed, size=300_000):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored and undated: a function of the arguments
        archive.writestr(zipfile.ZipInfo("a.npy"), hashlib.shake_128(str(seed).encode()).digest(size))
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(send_body=False)

    def do_GET(self):
        self.answer(send_body=True)

    def answer(self, send_body):
        site, body = self.server, self.server.files.get(self.path)
        site.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.path in site.redirects:
            self.send_response(302)
            self.send_header("x-goog-hash", "md5=" + "A" * 22 + "==")  # describes the redirection, not the file
            self.send_header("Location", site.redirects[self.path])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if body is None:
            return self.send_error(404, "Not Found")
        time.sleep(site.delay)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "") if site.ranges else None
        start = int(wanted[1]) if wanted else 0
        if start >= len(body):
            return self.send_error(416)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if site.sends_length:
            self.send_header("Content-Length", str(len(body) - start))
        else:
            self.send_header("Connection", "close")
        for value in site.hashes(body):
            self.send_header("x-goog-hash", value)
        self.end_headers()
        if not send_body:
            return None
        if site.cuts > 0:
            site.cuts -= 1
            self.wfile.write(body[start : start + len(body) // 4])
            self.close_connection = True
        else:
            self.wfile.write((site.sent or body)[start:])
        self.close_connection |= not site.sends_length

    def log_message(self, *args):
        pass


class Site(http.server.ThreadingHTTPServer):
    """Files in memory, and the ways in which a server can go wrong."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.redirects, self.requests = {}, {}, []
        self.ranges = self.sends_length = True
        self.cuts = 0  # so many answers end after a quarter of the file
        self.delay = 0.0
        self.sent = None  # the body in place of the one that the headers describe
        self.hashes = lambda body: []

    def handle_error(self, request, address):
        pass  # the client hung up

    def gets(self):
        return [(path, span) for command, path, span in self.requests if command == "GET"]


def separate_hashes(body):
    return ["crc32c=AAAAAA==", "md5=" + base64.b64encode(hashlib.md5(body).digest()).decode()]


def joined_hashes(body):
    return [",".join(separate_hashes(body))]


@pytest.fixture
def site():
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def shop(site, server, tmp_path):
    """The command on a manifest whose addresses are the site's: shop.run(NAME...), shop.folder, shop.publish(...)."""
    return Shop(site, server("common"), tmp_path)


class Shop:
    def __init__(self, site, server, tmp_path):
        self.site, self.server, self.tries = site, server, 1
        self.folder, self.manifest = tmp_path / "weights", tmp_path / "manifest.json"
        self.rows, self.vocabularies = [{"name": "BiT-T-R26x0.5"}], []

    def publish(self, name, body, suffix="npz", **facts):
        self.site.files[f"/{name}.{suffix}"] = body
        self.list(name, **facts)

    def list(self, name, **facts):
        self.rows.append({"name": name, "url": f"http://127.0.0.1:{self.site.server_port}/{name}.npz"} | facts)

    def start(self, *arguments, **disturbance):
        self.manifest.write_text(json.dumps({"models": self.rows, "vocabularies": self.vocabularies}))
        arguments = ("--dir", self.folder, "--manifest", self.manifest, "--tries", self.tries, *arguments)
        folder, variables = self.folder.parent, {"no_proxy": "127.0.0.1"}
        return self.server.start("common.download", arguments, folder, variables, **disturbance)

    def run(self, *arguments, **disturbance):
        process = self.start(*arguments, **disturbance)
        process.wait(30)
        return process

    def refuse(self, *arguments, **disturbance):
        """Run, expecting status 2 and one sentence; return the sentence."""
        result = self.run(*arguments, **disturbance)
        assert result.returncode == 2, result.output
        assert re.fullmatch(r"error: [^\n]+\n", result.stderr), result.output
        return result.stderr

    def files(self):
        if not self.folder.exists():
            return []
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("hashes", [separate_hashes, joined_hashes])
def test_whole_file_is_verified_recorded_and_not_fetched_again(shop, site, hashes):
    body, site.hashes = npz_bytes(0, 2_500_000), hashes
    shop.publish(NAME, body)
    result = shop.run(NAME)
    assert result.returncode == 0 and result.stderr == "", result.output
    assert result.stdout.splitlines()[-1] == (
        f"{NAME}.npz: 2 MB, verified size and md5 sent by the server, SHA-256 recorded in weights/downloads.lock"
    )
    assert (shop.folder / f"{NAME}.npz").read_bytes() == body
    assert shop.files() == [f"{NAME}.npz", "downloads.lock"]
    subprocess.run(["sha256sum", "--check", "--quiet", "downloads.lock"], cwd=shop.folder, check=True)

    asked = len(site.requests)
    again = shop.run(NAME)
    assert again.returncode == 0 and len(site.requests) == asked
    assert again.stdout == f"{NAME}.npz: already there, verified SHA-256 in weights/downloads.lock\n"


def test_a_vocabulary_keeps_its_name_and_has_the_digest_of_the_manifest(shop, site):
    body = b"[PAD]\n[UNK]\n"
    site.files["/lit/LiT-B16B.txt"] = body
    row = {"name": "bert_uncased.txt", "url": f"http://127.0.0.1:{site.server_port}/lit/LiT-B16B.txt"}
    shop.vocabularies.append(row | {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()})
    result = shop.run("bert_uncased.txt")
    assert result.returncode == 0 and "SHA-256 in manifest.json" in result.stdout, result.output
    assert shop.files() == ["bert_uncased.txt"] and (shop.folder / "bert_uncased.txt").read_bytes() == body
    (shop.folder / "bert_uncased.txt").unlink()
    site.files["/lit/LiT-B16B.txt"] = body.lower()
    assert "has SHA-256" in shop.refuse("bert_uncased.txt") and shop.files() == []


def test_several_names_land_in_their_folders_and_one_failure_does_not_hide_the_others(shop):
    shop.publish(VTAB, npz_bytes(1))
    shop.list("BiT-M-R101x1")
    shop.publish(NAME, npz_bytes(2))
    result = shop.run(VTAB, "BiT-M-R101x1", NAME, "BiT-T-R26x0.5")
    assert result.returncode == 2
    assert "answered '404 Not Found'" in result.stderr and result.stderr.count("\n") == 1
    assert "BiT-T-R26x0.5: ships with the project" in result.stdout
    assert shop.files() == [f"{NAME}.npz", "downloads.lock", f"{VTAB}.npz"]
    assert f"  {VTAB}.npz\n" in (shop.folder / "downloads.lock").read_text()


def test_connection_lost_once_is_resumed_by_the_same_command(shop, site):
    body, site.hashes, site.cuts = npz_bytes(0), separate_hashes, 2
    shop.publish(NAME, body)
    shop.tries = 3
    assert shop.run(NAME).returncode == 0
    assert [span is not None for _, span in site.gets()] == [False, True, True]
    assert (shop.folder / f"{NAME}.npz").read_bytes() == body


def test_cut_off_download_is_kept_and_resumed_by_the_next_command(shop, site):
    body, site.hashes, site.cuts = npz_bytes(0), separate_hashes, 1
    shop.publish(NAME, body)
    error = shop.refuse(NAME)
    assert "stopped at" in error and "resumes it" in error
    assert shop.files() == [f"{NAME}.npz.part"]
    have = (shop.folder / f"{NAME}.npz.part").stat().st_size
    assert have == len(body) // 4

    result = shop.run(NAME)
    assert result.returncode == 0 and f"resumed at {have} bytes" in result.stdout
    assert site.gets()[-1][1] == f"bytes={have}-"
    assert (shop.folder / f"{NAME}.npz").read_bytes() == body
    assert shop.files() == [f"{NAME}.npz", "downloads.lock"]


def test_complete_partial_file_is_installed_without_a_transfer(shop, site):
    shop.publish(NAME, npz_bytes(0))
    shop.folder.mkdir()
    (shop.folder / f"{NAME}.npz.part").write_bytes(npz_bytes(0))
    assert shop.run(NAME).returncode == 0
    assert site.gets() == [] and shop.files() == [f"{NAME}.npz", "downloads.lock"]


def test_partial_file_of_another_version_is_never_installed(shop, site):
    body = npz_bytes(0)
    shop.publish(NAME, body)  # no digest is known: the checksums inside the zip tell
    shop.folder.mkdir()
    part = shop.folder / f"{NAME}.npz.part"
    part.write_bytes(npz_bytes(1)[:200_000])
    error = shop.refuse(NAME)
    assert "is a damaged zip" in error and "run the same command again" in error
    assert shop.files() == []

    part.write_bytes(npz_bytes(1, 400_000))
    result = shop.run(NAME)
    assert result.returncode == 0 and "longer than" in result.stdout
    assert "verified size sent by the server, CRC-32 of each array" in result.stdout
    assert (shop.folder / f"{NAME}.npz").read_bytes() == body


def test_server_that_ignores_ranges_mixes_no_versions(shop, site):
    body, site.ranges, site.hashes = npz_bytes(0), False, separate_hashes
    shop.publish(NAME, body)
    shop.folder.mkdir()
    (shop.folder / f"{NAME}.npz.part").write_bytes(npz_bytes(1)[:100_000])  # all of it comes anew
    assert shop.run(NAME).returncode == 0
    assert (shop.folder / f"{NAME}.npz").read_bytes() == body


@pytest.mark.parametrize("told_by", ["md5", "manifest", "size"])
def test_wrong_bytes_are_refused_and_removed(shop, site, told_by):
    body = npz_bytes(0)
    site.sent = npz_bytes(1)
    facts = {}
    if told_by == "md5":
        site.hashes = separate_hashes
    elif told_by == "manifest":
        facts = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    else:
        site.sent, site.sends_length = body[:1000], False
        facts = {"bytes": len(body)}
    shop.publish(NAME, body, **facts)
    error = shop.refuse(NAME)
    found = {
        "md5": hashlib.md5(site.sent).hexdigest(),
        "manifest": f"manifest.json holds {hashlib.sha256(body).hexdigest()}",
        "size": f"1000 bytes long, expected {len(body)}",
    }
    assert found[told_by] in error and "nothing was installed" in error and "delete its line" not in error
    assert shop.files() == []


def test_manifest_digest_needs_no_lock(shop):
    body = npz_bytes(0)
    shop.publish(NAME, body, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
    result = shop.run(NAME)
    assert result.returncode == 0 and "verified size sent by the server, SHA-256 in manifest.json\n" in result.stdout
    assert shop.files() == [f"{NAME}.npz"]
    assert "already there, verified SHA-256 in manifest.json" in shop.run(NAME).stdout


def test_size_that_contradicts_the_manifest_is_refused_before_the_transfer(shop, site):
    shop.publish(NAME, npz_bytes(0), bytes=7)
    assert "manifest.json states 7" in shop.refuse(NAME)
    assert site.gets() == [] and shop.files() == []


def test_lock_refuses_a_later_change_until_its_line_is_deleted(shop, site):
    shop.publish(NAME, npz_bytes(0))
    assert shop.run(NAME).returncode == 0
    (shop.folder / f"{NAME}.npz").unlink()
    site.files[f"/{NAME}.npz"] = npz_bytes(1)
    site.hashes = separate_hashes
    error = shop.refuse(NAME)
    assert "weights/downloads.lock holds" in error and "delete its line there" in error
    assert shop.files() == ["downloads.lock"]

    (shop.folder / "downloads.lock").write_text("")
    assert shop.run(NAME).returncode == 0
    assert (shop.folder / f"{NAME}.npz").read_bytes() == npz_bytes(1)


def test_file_placed_by_hand_is_compared_with_the_server_and_never_removed(shop, site):
    site.hashes = separate_hashes
    shop.publish(NAME, npz_bytes(0))
    shop.folder.mkdir()
    file = shop.folder / f"{NAME}.npz"
    file.write_bytes(npz_bytes(1))
    error = shop.refuse(NAME)
    assert "but the server sent" in error and "left alone" in error
    assert file.read_bytes() == npz_bytes(1) and shop.files() == [f"{NAME}.npz"]

    file.write_bytes(npz_bytes(0))
    result = shop.run(NAME)
    assert "already there, verified size and md5 sent by the server, SHA-256 recorded" in result.stdout
    assert site.gets() == []


def test_changed_installed_file_is_reported(shop):
    shop.publish(NAME, npz_bytes(0))
    assert shop.run(NAME).returncode == 0
    (shop.folder / f"{NAME}.npz").write_bytes(npz_bytes(1))
    assert "weights/downloads.lock holds" in shop.refuse(NAME)
    assert (shop.folder / f"{NAME}.npz").exists()


def test_missing_on_the_server(shop):
    shop.list(NAME)
    shop.list(VTAB)
    assert "404 Not Found" in shop.refuse(NAME) and "404 Not Found" in shop.refuse(VTAB)
    assert not shop.folder.exists()


def test_unreachable_server(shop, site):
    shop.rows.append({"name": NAME, "url": "http://127.0.0.1:1/x.npz"})
    assert "Connection refused" in shop.refuse(NAME)
    assert not shop.folder.exists()


def test_error_page_never_lands(shop, site):
    shop.publish(NAME, b"<!DOCTYPE html><p>Please log in")
    assert "is no .npz file" in shop.refuse(NAME)
    assert shop.files() == []


def test_redirection_is_followed_and_its_own_headers_are_ignored(shop, site):
    site.hashes = separate_hashes
    shop.list(NAME)
    site.redirects[f"/{NAME}.npz"] = "/elsewhere.npz"
    site.files["/elsewhere.npz"] = npz_bytes(0)
    result = shop.run(NAME)
    assert result.returncode == 0 and "verified size and md5 sent by the server" in result.stdout


def test_server_that_sends_neither_size_nor_digest(shop, site):
    site.sends_length = False
    shop.publish(NAME, npz_bytes(0))
    result = shop.run(NAME)
    assert result.returncode == 0 and "verified CRC-32 of each array" in result.stdout


def test_full_disk_is_reported_in_one_sentence(shop, site):
    shop.publish(NAME, npz_bytes(0))
    error = shop.refuse(NAME, file_limit=100_000)
    assert "File too large" in error and "resumes it" in error
    assert f"{NAME}.npz" not in shop.files()


def test_two_downloads_of_one_file_take_turns(shop, site):
    body, site.hashes, site.delay = npz_bytes(0), separate_hashes, 0.2
    shop.publish(NAME, body)
    first, second = shop.start(NAME), shop.start(NAME)
    assert (first.wait(30), second.wait(30)) == (0, 0)
    outputs = first.stdout, second.stdout
    assert len(site.gets()) == 1 and sum("already there" in output for output in outputs) == 1
    assert (shop.folder / f"{NAME}.npz").read_bytes() == body
    assert shop.files() == [f"{NAME}.npz", "downloads.lock"]
    assert (shop.folder / "downloads.lock").read_text().count("\n") == 1


def test_h5_exists_for_the_plain_models_only(shop, site):
    h5 = b"\x89HDF\r\n\x1a\n" + bytes(1000)
    shop.publish(f"{NAME}-ILSVRC2012", h5, suffix="h5", sha256="0" * 64, bytes=5)  # facts of the .npz, not of the .h5
    shop.list(VTAB)
    shop.list("R50x1_224")
    part = shop.folder / f"{NAME}-ILSVRC2012.h5.part"
    part.parent.mkdir()
    part.write_bytes(b"old")  # nothing would tell that the result is a mixture
    result = shop.run("--format", "h5", f"{NAME}-ILSVRC2012")
    assert result.returncode == 0 and "dropped a partial file" in result.stdout, result
    assert (shop.folder / f"{NAME}-ILSVRC2012.h5").read_bytes() == h5
    for name in (VTAB, "R50x1_224"):
        assert f"{name} was published as .npz only" in shop.refuse("--format", "h5", name)


def test_wrong_arguments_end_in_one_sentence(shop):
    shop.list(NAME)
    assert f"did you mean {NAME}" in shop.refuse("bit-m-r50x")
    assert "No model was named" in shop.refuse()
    assert "invalid choice: 'zip'" in shop.refuse("--format", "zip", NAME)
    assert "nrecognized arguments: --all" in shop.refuse("--all")
    assert "--tries is 0" in shop.refuse("--tries", "0", NAME)
    assert "no readable manifest" in shop.refuse("--manifest", "missing.json", NAME)
    shop.rows.append({"name": "ftp", "url": "ftp://nowhere/ftp.npz"})
    assert "expected https://" in shop.refuse("ftp")


@pytest.mark.parametrize("text", ("[]", "{", '{"models": [1]}', '{"models": [{"name": 1}]}', '{"models": 1}', "\xff"))
def test_a_list_that_is_none_is_one_sentence(text, tmp_path):
    (tmp_path / "list.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="no readable manifest"):
        download.read_manifest(tmp_path / "list.json")


def test_names_are_listed(run):
    lines = run("common.download", "--list").stdout.splitlines()
    vocabularies = [row["name"] for row in read_manifest()["vocabularies"]]
    assert [line.split()[0] for line in lines] == [*published_models(), *vocabularies]
    assert any(line.startswith("ViT-B/16 ") and "AugReg" in line for line in lines)


def test_the_script_is_the_same_command_with_the_folder_of_the_checkout(tmp_path):
    """Called from elsewhere; without what the project needs it says so."""
    variables = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(
        [SCRIPT, DEFAULT_MODEL], text=True, capture_output=True, check=True, cwd=tmp_path, env=variables
    )
    assert "ships with the project" in done.stdout
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    variables["PYTHON"] = str(tmp_path / "python")
    done = subprocess.run([SCRIPT, NAME], text=True, capture_output=True, check=False, env=variables)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "pip install ." in done.stderr


def test_train_names_the_command_and_finds_what_it_fetched(shop):
    for name, stem in ((NAME, NAME), (VTAB, VTAB), ("ViT-B/16", "ViT-B_16")):
        shop.publish(name, npz_bytes(0))
        command = f"python -m common.download --dir {shop.folder} {name}"
        with pytest.raises(UserError, match=re.escape(command)):
            weights.find_file(find_model(name), shop.folder)
        assert shop.run(name).returncode == 0
        assert weights.find_file(find_model(name), shop.folder) == shop.folder / f"{stem}.npz"


def test_manifest_has_every_published_file_once():
    rows = json.loads((PACKAGED_WEIGHTS / "manifest.json").read_text())["models"]
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names)) == len(published_models())
    published = [row for row in rows if manifest_writer.BUCKET in row.get("url", "")]
    assert len(published) == 6 * 3 + 8 + 5 * 3 * 19
    assert {row["name"] for row in published} == {row["name"] for row in manifest_writer.published_rows()}
    kinds = collections.Counter(
        "vtab" if row["name"].startswith("vtab/") else "plain" if row["name"].startswith("BiT-") else "distill"
        for row in published
    )
    assert kinds == {"plain": 18, "distill": 8, "vtab": 285}
    for row in published:
        folder = "distill/" if not row["name"].startswith(("BiT-", "vtab/")) else ""
        assert row["url"] == f"{manifest_writer.BUCKET}/{folder}{row['name']}.npz"
        assert row["architecture"] in ARCHITECTURES and find_model(row["name"]).file == f"{row['name']}.npz"
