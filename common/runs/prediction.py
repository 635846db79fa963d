"""What `predict` prepares before an engine computes, and what it shows of its numbers."""

import collections
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.config import PredictConfig
from common.data.checked import refuse_broken, without_broken
from common.data.sources.image_files import Files, Unused, image_files_by_name
from common.data.split import Dataset, Split
from common.evaluation.evaluator import Rows
from common.evaluation.features import Outputs, unpadded, write_outputs
from common.models.cards import nameless
from common.runs.inference import Inference
from common.system.errors import UserError, printable, shortened
from common.system.files import check_place, read_regular
from common.system.progress import note


class Prediction(Inference):
    """`predict`: image files through one model; of their number, memory holds only the names (`Files`)."""

    computes_scores = True  # whether the engine gives features and logits of images alone

    def __init__(self, config: PredictConfig):
        self.files = find_images(config.images)
        super().__init__(config)
        self.check_output()
        self.split = self.checked()
        self.class_names = self.names()

    def check_output(self) -> None:
        """Raise UserError for a place where --output cannot be written."""
        if not self.config.output:
            return
        if Path(self.config.output).suffix != ".npz":
            raise UserError(f"--output {self.config.output} does not end in .npz; give such a name.")
        check_place("--output", Path(self.config.output), is_folder=False)

    def names(self) -> Sequence[str]:
        """What the logits belong to. Raises UserError for --texts."""
        if self.config.texts:
            raise UserError(
                f"--texts are for image-text models and {self.config.model} has classes of its own; leave them out."
            )
        if self.card.class_names is None:
            note("No card with class names lies beside the weights: classes are shown by number.")
        return self.card.class_names or nameless(self.model_config.num_classes)

    def checked(self) -> Split:
        """The split of `files`, and `files` without those that cannot be decoded where --on_broken_image skips them."""

        def split_of(files: Files) -> Split:
            labels = np.zeros(len(files), np.int32)
            return Split(lambda i: read_regular(files.path(i)), labels, files.path, self.exif)

        splits = {"images": split_of(self.files)}
        if self.config.on_broken_image == "stop":
            refuse_broken(splits, self.workers)
        else:
            kept = without_broken(Dataset("the images given", (), splits), self.workers)
            for line in kept.notes:
                note(line)
            images = kept.splits["images"]
            self.files = Files.of(map(images.describe, range(len(images))))
        return split_of(self.files)

    def places(self, what: str) -> list[Path]:
        """OUTPUT/photo_attention.png for every photo; of several of one name, that of the second is photo_2_attention.png."""
        taken = {}  # in order
        for file in self.files:
            tails = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
            names = (f"{Path(file).stem}{tail}_{what}.png" for tail in tails)
            taken[next(name for name in names if name not in taken)] = True
        return [Path(self.config.output, name) for name in taken]

    def check_folder(self, drawer: str, what: str) -> None:
        """Raise UserError where --output is no folder for the pictures of a `drawer`, or would replace one of the images."""
        if not self.config.output:
            raise UserError(f"{drawer} draws pictures; give --output, a folder for them.")
        folder = Path(self.config.output)
        if folder.suffix == ".npz":
            raise UserError(
                f"--output {folder} is the name of a file and {drawer} draws pictures into a folder; give another name."
            )
        check_place("--output", folder, is_folder=True)
        given = {Path(file).resolve() for file in self.files}
        for path in self.places(what):
            if path.resolve() in given:
                raise UserError(f"{printable(path)} is one of the images and would be replaced; give another --output.")

    def batches(self) -> Iterator[Rows]:
        """Every image, once."""
        return self.prepared(self.eval_batches(self.split))

    def show(self, outputs: Iterator[Outputs]) -> None:
        """Print the top classes of every image and write --output."""
        shown = self.print_top(unpadded(outputs, len(self.files)))
        if self.config.output:
            write_outputs(Path(self.config.output), shown, len(self.files), files=self.files)
        else:
            collections.deque(shown, maxlen=0)

    def print_top(self, outputs: Iterator[Outputs]) -> Iterator[Outputs]:
        """The same, printed as they pass."""
        files = iter(self.files)
        for features, logits in outputs:
            for row in logits:
                self.tell(f"{printable(next(files))}: {self.describe(row)}")
            yield features, logits

    def describe(self, logits: np.ndarray) -> str:
        """`cat 98.1%, dog 1.2%, ...` of one image's logits [K]."""
        top = self.likeliest(logits)
        return ", ".join(f"{printable(name)} {percentage(share)}" for name, share in top)

    def likeliest(self, logits: np.ndarray) -> list[tuple[str, float]]:
        """The --top classes of one image's logits [K], with their probabilities."""
        return likeliest(logits, self.class_names, self.config.top)


def percentage(share: float) -> str:
    """`98.1%`; of what that would show as 0.0 %, the first digit: `0.003%`."""
    return f"{share:.1%}" if share >= 5e-4 else f"{float(f'{100 * share:.1g}'):.12f}".rstrip("0").rstrip(".") + "%"


def likeliest(logits: np.ndarray, names: list[str] | tuple[str, ...], top: int) -> list[tuple[str, float]]:
    """The `top` classes of one image's logits [K], with their probabilities; of equal ones the first."""
    scores = np.exp(logits.astype(np.float64) - logits.max())
    shares = scores / scores.sum()
    return [(names[k], float(shares[k])) for k in np.argsort(-scores, kind="stable")[:top]]


def find_images(paths: tuple[str, ...]) -> Files:
    """Image files in the order given; a folder stands for the images below it, in the order of their names.

    UserError where there are none.
    """
    return Files.of(file for path in paths for file in images_at(path))


def images_at(path: str) -> Iterator[str]:
    """The image file `path`, or those below that folder. UserError where there are none."""
    if not os.path.isdir(path):
        if not os.path.isfile(path):
            raise UserError(f"There is no image or folder {shortened(path)!r}; name an existing one.")
        yield str(Path(path))
        return
    unused = Unused()
    try:
        found = image_files_by_name(path.rstrip("/") or "/", unused)
    except OSError as error:
        raise UserError(f"The folder {path} cannot be read ({error}); name another.") from error
    first = next(found, None)
    if first is None:
        there = f" but {unused}" if unused.kinds else ""
        raise UserError(f"The folder {path} holds no image{there}; name another.")
    if unused.kinds:
        note(f"Not used in {path}: {unused}.")
    folder = str(Path(path))
    yield from (os.path.join(folder if folder != "." else "", file) for file in itertools.chain([first], found))
