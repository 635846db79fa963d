"""The file of a vocabulary: where it lies, and where a user gets it."""

import functools
import importlib.util
from pathlib import Path

from common.models.published import DOWNLOADS, PACKAGED_WEIGHTS, read_manifest
from common.models.tokens import Text
from common.system import remote
from common.system.errors import UserError
from common.system.files import digest

# Where packages leave these files, if they are installed: (package, path within), or a path.
INSTALLED = {
    "bpe_simple_vocab_16e6.txt.gz": ("open_clip", "bpe_simple_vocab_16e6.txt.gz"),
    "unifont.hex": (None, "/usr/share/unifont/unifont.hex"),  # Debian's package `unifont`
}
# What the manifest has no row for, since no copy was at hand to take a digest of.
T5 = "https://storage.googleapis.com/t5-data/vocabs"
COMMANDS = {
    "c4_en.model": f"curl -fo {{path}} {T5}/cc_en.32000/sentencepiece.model",
    "mc4.model": f"curl -fo {{path}} {T5}/mc4.250000.100extra/sentencepiece.model",
    "unifont.hex": "apt-get install unifont",
}


def find_vocabulary(text: Text, folder: Path | str) -> Path:
    """The file of a model's vocabulary: in `folder`, where weights are downloaded to, shipped, or where a package left it.

    UserError where there is none, with the command that fetches it, and where the digest is not that of the card.
    """
    here = local_copy(folder, text.vocabulary) if remote.is_remote(folder) else Path(folder) / text.vocabulary
    places = here, PACKAGED_WEIGHTS / text.vocabulary, installed(text.vocabulary)
    path = next((path for path in places if path and path.is_file()), None)
    if path is None:
        raise UserError(f"The vocabulary {here} is not there and the model's texts need it; run `{command(here)}`.")
    return check_vocabulary(text, path, f"move it away and run `{command(path)}`")


def local_copy(folder: Path | str, name: str) -> Path:
    """A copy of an object below a remote folder, where there is one; else where the user may put the file."""
    is_there = name in remote.RemoteFolder(str(folder)).sizes()
    return remote.local_file(f"{folder}/{name}") if is_there else Path(DOWNLOADS) / name


def check_vocabulary(
    text: Text, path: Path, instead: str = "name the file that the model was trained with, or leave --vocabulary out"
) -> Path:
    """`path`, where it is a file with the digest that the card states. Raises UserError, which says what to do `instead`."""
    if not path.is_file():
        raise UserError(f"The vocabulary {path} is no file; name {text.vocabulary}, which the model was trained with.")
    if text.sha256 and (found := known_digest(path, path.stat().st_mtime_ns)) != text.sha256:
        raise UserError(
            f"The vocabulary {path} has SHA-256 {found} and the model was trained with {text.sha256}; {instead}."
        )
    return path


@functools.lru_cache(maxsize=64)
def known_digest(path: Path, changed: int) -> str:
    """The SHA-256 of a file that changed at a time, computed once."""
    return digest(path)


def installed(name: str) -> Path | None:
    """Where a package would have left a vocabulary."""
    package, place = INSTALLED.get(name, (None, None))
    if package is None:
        return Path(place) if place else None
    found = importlib.util.find_spec(package)
    return Path(found.submodule_search_locations[0]) / place if found else None


def command(path: Path) -> str:
    """What fetches a vocabulary."""
    if any(row["name"] == path.name for row in read_manifest()["vocabularies"]):
        return f"python -m common.download --dir {path.parent} {path.name}"
    return COMMANDS.get(path.name, "cp FILE {path}").format(path=path)
