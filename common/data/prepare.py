"""`python -m common.datasets prepare NAME`: fetch a named dataset, verify it, install it as a whole or not at all."""

import dataclasses
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

from common.system.errors import UserError, nearest, reason
from common.system.files import digest, sync
from common.system.progress import Count, show

CHUNK_BYTES = 2**20
TIMEOUT_SECONDS = 60  # of silence on the line
IMAGENET_LAYOUT = "{folder}/{{train,val}}/<wnid>/*.JPEG"  # e.g. train/n01440764/n01440764_10026.JPEG


@dataclasses.dataclass(frozen=True)
class Archive:
    """One file to fetch, with the size and digest that its publisher's copy has."""

    url: str
    size_bytes: int
    md5: str

    @property
    def file(self) -> str:
        """Its name without the address."""
        return self.url.rpartition("/")[2]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The archives of a prepared folder, and the paths under it that make it complete."""

    archives: tuple[Archive, ...]
    expected: tuple[str, ...]


TORONTO = "https://www.cs.toronto.edu/~kriz"
OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"

# Digests: https://www.cs.toronto.edu/~kriz/cifar.html and torchvision.datasets; sizes: the checksums of TFDS.
PREPARED = {
    "cifar10": Prepared(
        (Archive(f"{TORONTO}/cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),),
        tuple(
            f"cifar-10-batches-bin/{file}"
            for file in ("batches.meta.txt", *(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
        ),
    ),
    "cifar100": Prepared(
        (Archive(f"{TORONTO}/cifar-100-binary.tar.gz", 168_513_733, "03b5dce01913d631647c71ecec9e9cb8"),),
        tuple(f"cifar-100-binary/{file}" for file in ("fine_label_names.txt", "train.bin", "test.bin")),
    ),
    "oxford_flowers102": Prepared(
        (
            Archive(f"{OXFORD}/flowers/102/102flowers.tgz", 344_862_509, "52808999861908f626f3c1f4e79d11fa"),
            Archive(f"{OXFORD}/flowers/102/imagelabels.mat", 502, "e0620be6f572b9609742df49c70aed4d"),
            Archive(f"{OXFORD}/flowers/102/setid.mat", 14_989, "a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
        ("jpg", "imagelabels.mat", "setid.mat"),
    ),
    "oxford_iiit_pet": Prepared(
        (
            Archive(f"{OXFORD}/pets/data/images.tar.gz", 791_918_971, "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            Archive(f"{OXFORD}/pets/data/annotations.tar.gz", 19_173_078, "95a8c909bbe2e81eed6a22bccdf3f68f"),
        ),
        ("images", "annotations/trainval.txt", "annotations/test.txt"),
    ),
}


def prepared_folder(name: str, datadir: Path) -> Path:
    """The folder of the prepared dataset; the UserError names the missing path and the command that fetches it."""
    folder = Path(datadir) / name
    missing = _missing(folder, PREPARED[name])
    if missing:
        raise UserError(
            f"The dataset {name} is not prepared: expected {folder / missing}; "
            f"fetch it with `python -m common.datasets prepare {name} --datadir {datadir}`."
        )
    return folder


def prepare(
    name: str, datadir: Path | str = "data", *, url_base: str | None = None, known: Mapping[str, Prepared] = PREPARED
) -> Path:
    """Make `datadir/name` hold the dataset, and return that folder; a prepared one is left alone.

    Downloads land in `datadir/.downloads/name`, are resumed there when they were cut off, and are removed once the
    dataset is installed. `url_base` replaces the address of the folder that holds the archives (a mirror; sizes and
    digests stay those of the publisher). Raises UserError, and then `datadir/name` is as it was.
    """
    if name not in known:
        raise UserError(_not_fetched(name, Path(datadir), known))
    folder, prepared = Path(datadir) / name, known[name]
    missing = _missing(folder, prepared)
    if not missing:
        show(f"{name} is already prepared in {folder}.")
        return folder
    if folder.exists():
        raise UserError(f"{folder} exists but lacks {missing}; move it away or choose another --datadir.")
    downloads = Path(datadir) / ".downloads" / name
    files = {archive.file: _fetch(archive, downloads, url_base) for archive in prepared.archives}
    _install(files, prepared, folder)
    shutil.rmtree(downloads, ignore_errors=True)
    show(f"{name} is prepared in {folder}.")
    return folder


def _missing(folder: Path, prepared: Prepared) -> str | None:
    return next((path for path in prepared.expected if not (folder / path).exists()), None)


def _not_fetched(name: str, datadir: Path, known: Mapping[str, Prepared]) -> str:
    """Why no command fetches `name`, and what to do instead."""
    if name == "imagenet2012":
        layout = IMAGENET_LAYOUT.format(folder=datadir / name)
        return (
            "The licence of imagenet2012 asks everyone to fetch it by hand, from https://image-net.org; "
            f"expected its images as {layout}."
        )
    if name.endswith("-sample"):
        return f"The dataset {name} comes with the project: there is nothing to prepare; train on it right away."
    if name.startswith("tfds:"):
        return f"{name} is prepared by TensorFlow Datasets; run `tfds build {name[5:]} --file_format=array_record`."
    return f"No dataset that can be fetched is called {name!r}{nearest(name, known)} Give one of {', '.join(known)}."


def _fetch(archive: Archive, downloads: Path, url_base: str | None) -> Path:
    """The verified file, fetched or completed; UserError when it cannot be had or is not the publisher's."""
    url = f"{url_base.rstrip('/')}/{archive.file}" if url_base else archive.url
    part = downloads / f"{archive.file}.part"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        if not part.exists() or part.stat().st_size < archive.size_bytes:
            _download(url, part, archive)
        size_bytes, md5 = part.stat().st_size, digest(part, "md5")
    except OSError as error:
        raise UserError(
            f"Cannot write {part} ({error.strerror or error}); free or choose another --datadir."
        ) from error
    if size_bytes < archive.size_bytes:
        raise UserError(
            f"The download of {url} stopped at {size_bytes:,} of {archive.size_bytes:,} bytes; "
            "run the same command again, which continues there."
        )
    if (size_bytes, md5) != (archive.size_bytes, archive.md5):
        part.unlink()  # else every later attempt would find it complete, and wrong
        raise UserError(
            f"{url} gave {size_bytes:,} bytes with the MD5 digest {md5}, expected {archive.size_bytes:,} bytes with "
            f"{archive.md5}; nothing was installed: run the command again or give another --url_base."
        )
    return part


def _download(url: str, part: Path, archive: Archive) -> None:
    """Append to `part` what it lacks; a server without ranges sends the whole file anew."""
    done = part.stat().st_size if part.exists() else 0
    try:
        headers = {"User-Agent": "common.data.prepare"} | ({"Range": f"bytes={done}-"} if done else {})
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the server's file ends before ours: start afresh next time
            part.unlink(missing_ok=True)
        raise UserError(f"{url} answers {error.code} {error.reason}; try again later or give a --url_base.") from error
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(
            f"{url} cannot be reached ({getattr(error, 'reason', error)}); check the network or --url_base."
        ) from error
    with response, open(part, "ab" if response.status == 206 else "wb") as file:
        show(f"Fetching {url} ({archive.size_bytes:,} bytes)")
        with Count(archive.file, archive.size_bytes, "B", file.tell()) as count:
            while count.done <= archive.size_bytes and (chunk := _read(response)):  # a longer file is the wrong one
                count.advance(file.write(chunk))


def _read(response) -> bytes:
    """The next bytes, or none at the end or where the connection broke; the size distinguishes the two."""
    try:
        return response.read(CHUNK_BYTES)
    except (OSError, HTTPException):
        return b""


def _install(files: Mapping[str, Path], prepared: Prepared, folder: Path) -> None:
    """Unpack into a hidden sibling and rename it to `folder` when it is complete."""
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
    try:
        temporary.mkdir(parents=True)
        for file, path in files.items():
            _unpack(path, file, temporary)
        missing = _missing(temporary, prepared)
        if missing:
            raise UserError(
                f"The archives {', '.join(files)} lack {missing}; nothing was installed: give another --url_base."
            )
        os.sync()  # the contents reach the disk before the name does
        os.rename(temporary, folder)
        sync(folder.parent)
    except OSError as error:
        raise UserError(
            f"Cannot write {folder} ({error.strerror or error}); free or choose another --datadir."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack(path: Path, file: str, folder: Path) -> None:
    """Extract a tar archive, or copy any other file; no member may leave `folder`."""
    if not file.endswith((".tar.gz", ".tgz")):
        shutil.copyfile(path, folder / file)
        return
    try:
        with tarfile.open(path, "r:gz") as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(
            f"{file} is no safe tar archive ({reason(error)}); nothing was installed: give another --url_base."
        ) from error
