"""Fetch published weights: `python -m common.download NAME...`; resumed, verified, and installed only when whole.

A file is checked against the size and SHA-256 in the manifest where it states them, and against the size and md5 that the
server sends. Where the manifest states no SHA-256, that of the first download is kept in DIR/downloads.lock
(`sha256sum --check` reads it), and another file under the same name is refused from then on. An interrupted download
stays as NAME.npz.part, which the same command resumes. Exit status: 0, or 2 when a name could not be fetched (the others
still are).
"""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import base64
import binascii
import contextlib
import dataclasses
import fcntl
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any

from common.flags import Parser
from common.system.errors import UserError, exit_with_sentence, nearest
from common.system.files import NO_LOCKS, digest, sync
from common.models import PACKAGED_WEIGHTS, PublishedModel
from common.system.progress import Count

CHUNK_BYTES = 2**20
TIMEOUT_SECONDS = 60  # of silence on the line
WHO = {"User-Agent": "common.download"}
LOCK = "downloads.lock"
SIGNATURES = {"npz": b"PK\x03\x04", "h5": b"\x89HDF"}
OF_H5 = re.compile(r"BiT-[SM]-R\d+x\d(-ILSVRC2012)?")  # what the original authors published as .h5, too


def main() -> None:
    """The command; a UserError ends with exit status 2."""
    parser = Parser(prog="python -m common.download", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a name of --list, or one that a pattern in the manifest describes"
    )
    parser.add_argument("--list", action="store_true", help="print the names, and what each was trained on")
    parser.add_argument("--dir", type=Path, default=Path("weights"), help="where the files land (default: weights)")
    parser.add_argument(
        "--format", choices=tuple(SIGNATURES), default="npz", help="h5 was published for BiT-S-* and BiT-M-* only"
    )
    parser.add_argument(
        "--manifest", type=Path, default=PACKAGED_WEIGHTS / "manifest.json", help="another list of names and addresses"
    )
    parser.add_argument("--tries", type=int, default=5, help="attempts to restore a lost connection (default: 5)")
    with exit_with_sentence():
        args = parser.parse_args()
        manifest = read_manifest(args.manifest)
        if args.tries < 1:
            raise UserError(f"--tries is {args.tries}, expected at least 1; correct the flag.")
        if args.list:
            rows = manifest["models"] + manifest.get("vocabularies", [])
            print("\n".join(f"{row['name']:<44} {row.get('source', '')}" for row in rows))
        elif not args.names:
            raise UserError("No model was named; name some of those that --list prints.")
        failed = [name for name in args.names if not fetch(name, manifest, args)]
        sys.exit(2 if failed else 0)


def fetch(name: str, manifest: dict[str, Any], args) -> bool:
    """Install one file; its sentence on stderr and False where that fails."""
    try:
        if file := find(name, manifest, args):
            install(file, args.tries)
        else:
            print(f"{name}: ships with the project, nothing to fetch")
        return True
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return False


# --- what is to be fetched


@dataclasses.dataclass
class File:
    """A file to fetch, and what is known of it: from the manifest, the lock, and, once asked, its server."""

    label: str  # its path below the folder
    folder: Path
    url: str
    manifest: Path
    size: int | None = None  # bytes
    sha256: str | None = None
    sha256_source: Path | None = None
    md5: str | None = None
    sent: tuple[str, ...] = ()  # the facts that the server sent

    @property
    def path(self) -> Path:
        """The path at which it is installed."""
        return self.folder / self.label

    @property
    def part(self) -> Path:
        """The path at which it lies until it is whole."""
        return self.folder / f"{self.label}.part"

    @property
    def format(self) -> str:
        """`npz` or `h5`; that of a vocabulary has no signature."""
        return self.label.rpartition(".")[2]


def read_manifest(path: Path) -> dict[str, Any]:
    """`models`, rows with a `name` each, and `patterns`. Raises UserError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for row in found["models"]:
            if not isinstance(row["name"], str) or not isinstance(row.get("url") or "", str):
                raise TypeError(f"the row {row}")
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no readable manifest ({error}); restore it from the repository.") from error


def find(name: str, manifest: dict[str, Any], args) -> File | None:
    """The file of a name; None where it ships with the project. UserError where there is none."""
    vocabularies = {row["name"]: row for row in manifest.get("vocabularies", [])}
    rows = {row["name"]: row for row in manifest["models"]} | vocabularies
    for pattern in manifest.get("patterns", []):
        if found := re.fullmatch(pattern["regex"], name):
            rows.setdefault(name, {"url": pattern["url"].format(file=found["file"])})
    if name not in rows:
        raise UserError(f"No model is called {name!r}{nearest(name, rows)} --list prints the names.")
    url, size, sha256 = (rows[name].get(key) for key in ("url", "bytes", "sha256"))
    if not url:
        return None
    if not url.startswith(("https://", "http://")):
        raise UserError(f"{shown(args.manifest)} gives {name} the address {url}, expected https://; correct it.")
    if name in vocabularies:
        return File(name, args.dir, url, args.manifest, size, sha256, args.manifest)
    if args.format == "h5":
        if not OF_H5.fullmatch(name):
            raise UserError(f"{name} was published as .npz only; fetch it without --format h5.")
        url, size, sha256 = f"{url.removesuffix('npz')}h5", None, None  # the manifest describes the .npz
    label = PublishedModel(name, "", 0, "").file.removesuffix("npz") + args.format
    return File(label, args.dir, url, args.manifest, size, sha256, args.manifest)


def add_recorded(file: File) -> None:
    """Take the SHA-256 of the first download where the manifest states none."""
    lock = file.folder / LOCK
    if not file.sha256 and lock.exists():
        lines = (line.split(maxsplit=1) for line in lock.read_text(errors="replace").splitlines())
        known = {line[1]: line[0] for line in lines if len(line) == 2}
        file.sha256, file.sha256_source = known.get(file.label), lock


def record(file: File, path: Path) -> str:
    """Keep a file's SHA-256 where none is known yet; returns the end of a sentence on it."""
    if file.sha256:
        return ""
    with open(file.folder / LOCK, "a") as lock:
        lock.write(f"{digest(path)}  {file.label}\n")
    return f", SHA-256 recorded in {shown(file.folder / LOCK)}"


def ask_server(file: File) -> None:
    """Learn size and md5, where the server sends them. Raises UserError."""
    headers = headers_of(file)
    length = headers.get("Content-Length", "")
    offered = int(length) if length.isdecimal() else None
    if file.size and offered is not None and file.size != offered:
        raise UserError(
            f"{file.url} is {offered} bytes long where {shown(file.manifest)} states {file.size}; nothing was fetched: "
            "update the project."
        )
    file.size = file.size or offered
    hashes = re.search(r"md5=([A-Za-z0-9+/]{22}==)", ",".join(headers.get_all("x-goog-hash", [])))
    with contextlib.suppress(binascii.Error):
        file.md5 = base64.b64decode(hashes[1]).hex() if hashes else None
    told = {"size": offered is not None, "md5": bool(file.md5)}
    file.sent = tuple(name for name, is_told in told.items() if is_told)


def headers_of(file: File) -> Message:
    """Ask the server about the file without fetching it. Raises UserError."""
    request = urllib.request.Request(file.url, method="HEAD", headers=WHO)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            return response.headers
    except urllib.error.HTTPError as error:
        raise UserError(
            f"{file.url} answered '{error.code} {error.reason}', expected {file.label}; nothing was installed: check the "
            "address, or try again later."
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(
            f"{file.url} could not be reached ({cause(error)}); check the connection and run the same command again, or "
            f"fetch it elsewhere and save it as {shown(file.path)}."
        ) from error


# --- the transfer


def install(file: File, tries: int) -> None:
    """Fetch, verify and install a file, or verify the installed one. Raises UserError."""
    try:
        add_recorded(file)
        if file.path.exists():
            return check_installed(file)
        ask_server(file)
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with locked_part(file):
            add_recorded(file)
            if file.path.exists():  # another process was faster
                return check_installed(file)
            transfer(file, tries)
            if problem := problem_of(file, file.part):
                file.part.unlink()
                of_lock = file.sha256_source == file.folder / LOCK and "SHA-256" in problem
                raise UserError(
                    f"{file.label} from {file.url} {problem}; it was removed and nothing was installed: run the same "
                    f"command again{', or delete its line there if the publisher replaced the file' * of_lock}."
                )
            sync(file.part)
            outcome = f"{human(file.part.stat().st_size)}, {evidence(file)}{record(file, file.part)}"
            file.part.rename(file.path)
            sync(file.path.parent)
            print(f"{file.label}: {outcome}", flush=True)
    except OSError as error:
        raise UserError(
            f"Cannot write {shown(file.path)} ({error.strerror or error}); free or choose another --dir."
        ) from error


def check_installed(file: File) -> None:
    """Say how the installed file was verified. UserError where it is another one."""
    if not file.sha256:
        ask_server(file)
    if problem := problem_of(file, file.path):
        raise UserError(
            f"{shown(file.path)} {problem}; it was left alone: move it away and run the same command again."
        )
    print(f"{file.label}: already there, {evidence(file)}{record(file, file.path)}", flush=True)


@contextlib.contextmanager
def locked_part(file: File) -> Iterator[None]:
    """Wait for another download of the same file, which may rename or remove its part at its end."""
    while True:
        with open(file.part, "ab") as part:
            try:
                fcntl.flock(part, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            if not is_there(file.part, part.fileno()):
                continue
            try:
                yield
            finally:
                if is_there(file.part, part.fileno()) and not file.part.stat().st_size:
                    file.part.unlink()
            return


def is_there(path: Path, descriptor: int) -> bool:
    """Whether a path still names the file that is open."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def transfer(file: File, tries: int) -> None:
    """Fill the part from where it ends. UserError where the connection breaks more often than `tries`, or the disk is full."""
    drop_useless_part(file)
    have = file.part.stat().st_size
    if have == file.size:
        return
    size, resumed = f"{human(file.size)} " if file.size else "", f", resumed at {human(have)}" if have else ""
    print(f"{file.label}: fetching {size}from {file.url}{resumed}", flush=True)
    for number in range(tries):
        before = file.part.stat().st_size
        problem = receive(file)
        if not problem:
            return
        if file.part.stat().st_size <= before and number + 1 < tries:  # else it goes on at once
            time.sleep(2**number)
    raise UserError(
        f"{file.label} stopped at {human(file.part.stat().st_size)} ({problem}); the same command resumes it from "
        f"{shown(file.part)}."
    )


def drop_useless_part(file: File) -> None:
    """Empty a part that cannot be the beginning of the file, or that cannot be checked to be it."""
    have, why = file.part.stat().st_size, ""
    if have and file.size and have > file.size:
        why = f", longer than the {file.size} of the file"
    elif have and not file.size:
        why = ", since the server does not say where the file ends"
    elif have and file.format != "npz" and not (file.md5 or file.sha256):
        why = ", since no digest is known that would tell whether it is of the same version"
    if why:
        print(f"{file.label}: dropped a partial file of {have} bytes{why}", flush=True)
        os.truncate(file.part, 0)


def receive(file: File) -> str:
    """Append what one answer of the server sends; what went wrong, or nothing where the file has come to its end."""
    have = file.part.stat().st_size
    headers = WHO | ({"Range": f"bytes={have}-"} if have else {})
    try:
        body = urllib.request.urlopen(urllib.request.Request(file.url, headers=headers), timeout=TIMEOUT_SECONDS)
        with body, open(file.part, "ab" if body.status == 206 else "wb") as part:  # without ranges all of it comes anew
            copy(body, part, file)
            return "connection lost" if body.length else ""  # of the bytes that it announced some are missing
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.reason}"
    except (OSError, HTTPException) as error:
        return cause(error)


def copy(body, part, file: File) -> None:
    """Write the bytes that are sent, at most the file's size, and show how many have come."""
    with Count(file.label, file.size or 0, "B", part.tell()) as count:
        while (not file.size or count.done <= file.size) and (chunk := body.read(CHUNK_BYTES)):
            count.advance(part.write(chunk))


# --- the checks of a file


def problem_of(file: File, path: Path) -> str:
    """The problem of a file, or nothing."""
    size = path.stat().st_size
    if file.size and size != file.size:
        return f"is {size} bytes long, expected {file.size}"
    if file.md5 and (found := digest(path, "md5")) != file.md5:
        return f"has md5 {found}, but the server sent {file.md5}"
    if file.sha256 and (found := digest(path)) != file.sha256:
        return f"has SHA-256 {found}, but {shown(file.sha256_source)} holds {file.sha256}"
    with open(path, "rb") as opened:
        start = opened.read(4)
    if start != SIGNATURES.get(file.format, start):  # an error page, say
        return f"starts with the bytes {start.hex() or 'of no file'}, so it is no .{file.format} file"
    if file.format == "npz" and not (file.md5 or file.sha256) and not is_whole_zip(path):
        return "is a damaged zip"
    return ""


def is_whole_zip(path: Path) -> bool:
    """Whether the CRC-32 of each member is right, which a zip holds: for files of which no digest is known."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError):
        return False


def evidence(file: File) -> str:
    """The digests that `problem_of` compared with."""
    checked = [f"{' and '.join(file.sent)} sent by the server"] if file.sent else []
    if file.sha256:
        checked.append(f"SHA-256 in {shown(file.sha256_source)}")
    if file.format == "npz" and not (file.md5 or file.sha256):
        checked.append("CRC-32 of each array (no digest is known)")
    return f"verified {', '.join(checked) or 'nothing but the signature of the format'}"


def cause(error: BaseException) -> str:
    """Why a connection failed, in the system's words where it has some."""
    error = error.reason if isinstance(getattr(error, "reason", None), BaseException) else error
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def human(size: int) -> str:
    """`102 MB`, or bytes below one."""
    return f"{size // 10**6} MB" if size >= 10**6 else f"{size} bytes"


def shown(path: Path) -> str:
    """A path as a person in this folder calls it."""
    with contextlib.suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    return str(path)


if __name__ == "__main__":
    main()
