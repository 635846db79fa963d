"""Read and write weights as canonical arrays {name: numpy array}, in the published layouts `.npz` and `.h5`."""

import dataclasses
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from common import storage
from common.errors import UserError
from common.files import write_atomically
from common.formats import bit
from common.initializers import initial_parameters
from common.models import PACKAGED_WEIGHTS, PublishedModel, ResNetConfig

MAX_LISTED = 8  # names in an error message
Arrays = dict[str, np.ndarray]


def find_file(model: PublishedModel, folder: str | Path) -> Path:
    """Where the published file of `model` lies: below `folder`, or shipped with the project.

    Raises UserError with the command that fetches it.
    """
    if storage.is_remote(folder):
        names = storage.RemoteFolder(str(folder)).sizes()
        file = next((name for name in (model.file, f"{model.name}.h5") if name in names), None)
        if file:
            return storage.local_file(f"{folder}/{file}", *cards(file))
    for candidate in (Path(folder) / model.file, Path(folder) / f"{model.name}.h5", PACKAGED_WEIGHTS / model.file):
        if candidate.is_file():
            return candidate
    elsewhere = f"--dir {shlex.quote(str(folder))} " if Path(folder) != Path("weights") else ""
    raise UserError(
        f"{Path(folder) / model.file} is missing; fetch it with `scripts/download_weights.sh {elsewhere}{model.name}`, "
        "or name a file with --weights."
    )


def choose_file(model: PublishedModel, weights: str | Path | None, folder: str | Path = "weights") -> Path | None:
    """The file that `weights` means: its path, "pretrained" for the published one, None or "none" for no file."""
    if weights == "pretrained":
        return find_file(model, folder)
    return None if weights in (None, "none") else storage.local_file(weights, *cards(str(weights)))


def cards(file: str) -> tuple[str, ...]:
    """Names that the card beside a weights file may have."""
    stem = PurePosixPath(file).stem
    return ("card.json",) if stem == "weights" else (f"{stem}.json",)


def starting_values(
    model: PublishedModel, path: Path | None, num_classes: int | None = None, seed: int = 0
) -> tuple[ResNetConfig, Arrays]:
    """(config, arrays) of `model` with the values in `path`, or initial ones drawn with `seed` where there is no file.

    `num_classes` defaults to the file's, or the published number; another number gets a head of zeros.
    """
    if path is None:
        config = model.config(num_classes)
        return config, initial_parameters(seed, config)
    arrays = read_weights(path, model.config())
    config = model.config(num_classes or arrays["head/bias"].size)
    return config, adapt_head(arrays, config.num_classes)


def read_weights(path: str | Path, config: ResNetConfig) -> Arrays:
    """The parameters in `path` (.npz or .h5) under their canonical names; the head has the file's number of classes.

    Raises UserError when the file is damaged, or holds missing, unexpected, misshapen or non-finite tensors.
    """
    where, path = path, storage.local_file(path)
    if not path.is_file():
        raise UserError(f"The weights file {where} does not exist; name an existing .npz or .h5 file.")
    if path.suffix == ".npz":
        arrays = _from_published(read_npz(path, lambda declared: _check_published(declared, config, path)), config)
    elif path.suffix in (".h5", ".hdf5"):
        from common.formats import h5

        arrays = h5.read(path, config)
    else:
        raise UserError(f"The weights file {path} ends in {path.suffix!r}, expected .npz or .h5; convert it first.")
    arrays = {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}
    check_finite(arrays, path)
    return arrays


def write_weights(path: str | Path, arrays: Arrays, config: ResNetConfig) -> None:
    """Write canonical `arrays` in the published layout that the suffix of `path` names, and read them back."""
    path = Path(path)
    if path.suffix == ".npz":
        table = bit.names(config)
        published = {table[name]: np.ascontiguousarray(arrays[name]) for name in table}
        published["resnet/head/conv2d/kernel"] = published["resnet/head/conv2d/kernel"][None, None]
        write_atomically(
            path, lambda file: np.savez(file, **published), lambda new: _verify(read_npz(new), published, new)
        )
    elif path.suffix in (".h5", ".hdf5"):
        from common.formats import h5

        h5.write(path, arrays, config)
    else:
        raise UserError(f"Cannot write weights to {path}: expected a name that ends in .npz or .h5.")


def read_npz(path: Path, check: Callable[[Arrays], None] = lambda declared: None) -> Arrays:
    """Every array of an `.npz` file; nothing in it is executed, and no more memory is taken than the file accounts for.

    `check` sees arrays of the declared shapes and types, which take no memory, before any value is read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            stored = sum(entry.file_size for entry in archive.infolist())
            if stored > 1100 * path.stat().st_size + 2**20:  # deflate's best ratio is about 1,032
                raise UserError(f"{path} declares {stored:,} bytes, more than it can hold; download it again.")
        with np.load(path, allow_pickle=False) as archive:
            declared = {name: _declared(archive, name) for name in archive.files}
            check(declared)
            for name, array in declared.items():
                stored = archive.zip.getinfo(f"{name}.npy").file_size
                if array.nbytes > stored and not array.dtype.hasobject:  # numpy refuses objects
                    raise UserError(
                        f"{path} declares {array.nbytes:,} bytes at {name} and has {stored:,}; download it again."
                    )
            return {name: archive[name] for name in archive.files}
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise UserError(f"{path} is no readable .npz file of plain arrays ({error}); download it again.") from error


def _declared(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    with archive.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(member)
    return np.broadcast_to(np.zeros((), dtype), shape)  # one element, seen through strides of zero


def _check_published(declared: Arrays, config: ResNetConfig, path: Path) -> None:
    kernel = declared.get("resnet/head/conv2d/kernel")
    classes = kernel.shape[-1] if kernel is not None and kernel.ndim == 4 else config.num_classes
    check_shapes(declared, bit.published_shapes(with_classes(config, classes)), path)
    check_floating(declared, path)


def _from_published(published: Arrays, config: ResNetConfig) -> Arrays:
    arrays = {ours: published[theirs] for ours, theirs in bit.names(config).items()}
    return arrays | {"head/kernel": arrays["head/kernel"][0, 0]}


def with_classes(config: ResNetConfig, num_classes: int) -> ResNetConfig:
    """`config` with another head."""
    return dataclasses.replace(config, num_classes=num_classes)


def adapt_head(arrays: Arrays, num_classes: int) -> Arrays:
    """`arrays` with a new head of zeros when theirs is for another number of classes (the originals' rule)."""
    width, classes = arrays["head/kernel"].shape
    if classes == num_classes:
        return arrays
    dtype = arrays["head/kernel"].dtype
    return arrays | {"head/kernel": np.zeros((width, num_classes), dtype), "head/bias": np.zeros(num_classes, dtype)}


def below(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names start with `prefix/`, without it."""
    return {name.removeprefix(f"{prefix}/"): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}


def check_shapes(arrays: Arrays, expected: dict[str, tuple[int, ...]], where: str | Path) -> None:
    """Raise UserError that lists missing, unexpected and misshapen tensors."""
    problems = {
        "missing": [name for name in expected if name not in arrays],
        "unexpected": [name for name in arrays if name not in expected],
        "misshapen": [
            f"{name} {arrays[name].shape} instead of {expected[name]}"
            for name in expected
            if name in arrays and arrays[name].shape != expected[name]
        ],
    }
    listed = "; ".join(f"{kind}: {_shorten(found)}" for kind, found in problems.items() if found)
    if listed:
        raise UserError(f"{where} does not fit the model ({listed}); choose the --model that the file was made for.")


def check_floating(arrays: Arrays, where: str | Path) -> None:
    """Raise UserError for tensors of another kind than floating point."""
    bad = [name for name, array in arrays.items() if array.dtype.kind != "f"]
    if bad:
        raise UserError(
            f"{where} holds tensors that are not floating-point ({_shorten(bad)}); download or train it again."
        )


def check_finite(arrays: Arrays, where: str | Path) -> None:
    """Raise UserError for tensors that hold NaN or infinity."""
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise UserError(f"{where} holds tensors that are not finite ({_shorten(bad)}); download or train it again.")


def _shorten(found: list[str]) -> str:
    rest = len(found) - MAX_LISTED
    return ", ".join(found[:MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _verify(read: Arrays, written: Arrays, path: Path) -> None:
    for name, array in written.items():
        if read[name].dtype != array.dtype or read[name].tobytes() != array.tobytes():
            raise UserError(f"{path} differs from what was written to it at {name}; check the disk and save again.")
