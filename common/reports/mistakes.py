"""Mistakes of a run: confusion matrix, accuracy of every class, the most confident mistakes with their images."""

import base64
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from common.config import TrainConfig
from common.data import images
from common.data.checked import checked, open_turned
from common.data.split import SPLITS, Split, choose_splits, evenly
from common.evaluation.pairs import Pair
from common.evaluation.predictions import Predictions
from common.models.cards import nameless
from common.reports.record import Record
from common.system.errors import UserError
from common.system.remote import is_remote

MOST_CLASSES = 20  # of which every pair is shown
MOST_PAIRS, MOST_EXTREMES, MOST_IMAGES = 15, 10, 12
THUMBNAIL_PX = 160  # longest side


@dataclasses.dataclass(frozen=True)
class Table:
    """Text for a person, before it is HTML or Markdown."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    shades: dict[tuple[int, int], float] = dataclasses.field(default_factory=dict)  # (row, column) -> 0 to 1


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image that a model took for something else."""

    source: str  # a `data:` address
    caption: str
    is_whole: bool = False  # as wide as it is, in place of a thumbnail


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """The mistakes of one run, for the page."""

    title: str
    tables: list[Table]
    pictures: list[Picture]
    note: str  # why there are no pictures
    heading: str = "Most confident mistakes"  # over the pictures


def all_mistakes(records: Sequence[Record], *, remote: bool = False) -> list[Mistakes]:
    """The mistakes of the runs that have kept any. Images in the cloud are fetched if `remote`."""
    found = [kind(record, remote=remote) for record in records for kind in (mistakes, wrong_pairs, captions, maps)]
    return [told for told in found if told]


def wrong_pairs(record: Record, *, remote: bool = False) -> Mistakes | None:
    """The texts for which a run has found another image than theirs; None where it has kept none."""
    told = record.pairs
    if not told:
        return None
    right = told.num_texts - told.num_wrong
    title = f"{record.name} ({record.framework}): {right:,} of {told.num_texts:,} {told.split} texts find their image"
    try:
        split = find_split(record, remote, told.split, lambda split: len(split) == told.num_images)
        found = [
            Picture(thumbnail(split.decode(pair.found)), f"{in_words(pair)}: {file_of(record, split, pair.found)}")
            for pair in first_of_each(told.pairs)[:MOST_IMAGES]
        ]
        return Mistakes(title, [], found, "")
    except UserError as error:
        return Mistakes(title, [], [], f"The images are not at hand: {error}")


def captions(record: Record, *, remote: bool = False) -> Mistakes | None:
    """What a run has written of held-out images, beside what people did; None where it has kept nothing."""
    told = record.written
    if not told:
        return None
    title = f"{record.name} ({record.framework}): texts of {len(told.captions):,} {told.split} images"
    try:
        split = find_split(record, remote, told.split, lambda split: len(split) == told.num_images)
        found = [
            Picture(
                thumbnail(split.decode(one.image)),
                f"“{one.text}”; people: {', '.join(f'“{text}”' for text in one.references)}",
            )
            for one in (told.captions[i] for i in evenly(len(told.captions), MOST_IMAGES))
        ]
        return Mistakes(title, [], found, "", "Texts")
    except UserError as error:
        return Mistakes(title, [], [], f"The images are not at hand: {error}", "Texts")


def maps(record: Record, *, remote: bool = False) -> Mistakes | None:
    """What a run has predicted of the pixels of held-out images; None where it has kept nothing."""
    if record.maps is None:
        return None
    title = f"{record.name} ({record.framework}): maps of held-out images"
    words = "in each line what the model sees, what is known, and what it predicts"
    whole = Picture(thumbnail(record.maps, max(record.maps.shape)), words, is_whole=True)
    return Mistakes(title, [], [whole], "", "Maps")


def first_of_each(pairs: Sequence[Pair]) -> list[Pair]:
    """The first pair of every image that was found: one that many texts find would be seen alone."""
    first = {}
    for pair in pairs:
        first.setdefault(pair.found, pair)
    return [*first.values()]


def in_words(pair: Pair) -> str:
    """A text and how similar the image that it found is."""
    further = f"{pair.place:,} image{'s' * (pair.place != 1)} before its own ({pair.own_similarity:.3f})"
    return f"“{pair.text}” found this ({pair.similarity:.3f}), {further}"


def mistakes(record: Record, *, remote: bool = False) -> Mistakes | None:
    """The mistakes of a run; None where it has kept no predictions. Images in the cloud are fetched if `remote`."""
    told = record.predictions
    if not told:
        return None
    names = class_names(record)
    title = f"{record.name} ({record.framework}): {told.num_right:,} of {len(told.labels):,} {told.split} images right"
    few = len(names) <= MOST_CLASSES
    tables = [confusion_matrix(record, names)] if few else [confused_pairs(record, names), extremes(record, names)]
    try:
        return Mistakes(title, tables, pictures(record, names, remote), "")
    except UserError as error:
        return Mistakes(title, tables, [], f"The images are not at hand: {error}")


def class_names(record: Record) -> list[str]:
    """Those of the run's card, or numbers where it does not name them all."""
    told, names = record.predictions, record.card.get("class_names")
    count = 1 + int(max(told.labels.max(), told.predicted.max()))
    known = isinstance(names, list) and len(names) >= count
    return [str(name) for name in names] if known else nameless(count)


def confusion_matrix(record: Record, names: Sequence[str]) -> Table:
    """Every class against every class, and how often each is seen right."""
    counts = record.predictions.confusion(len(names))
    rows, shades = [], {}
    for i, (name, row) in enumerate(zip(names, counts)):
        total = int(row.sum())
        accuracy = f"{row[i] / total:.1%}" if total else "no image"
        rows.append((name, *(str(count) if count else "" for count in row), accuracy))
        shades |= {(i, j + 1): count / total for j, count in enumerate(row.tolist()) if count}
    note = (
        "A row for what an image shows, a column for what it was taken for; at the end, how many of the row were right."
    )
    return Table("Confusion matrix", ("", *names, "accuracy"), rows, note, shades)


def confused_pairs(record: Record, names: Sequence[str]) -> Table:
    """The classes that are taken for one another most often."""
    _, images = record.predictions.per_class(len(names))
    rows = [
        (names[label], names[predicted], f"{count:,}", f"{count / images[label]:.1%}")
        for label, predicted, count in record.predictions.confused_pairs(MOST_PAIRS)
    ]
    columns = ("shows", "was taken for", "images", "of the class")
    return Table("Most confused classes", columns, rows, f"Of {len(names):,} classes; no pair is more frequent.")


def extremes(record: Record, names: Sequence[str]) -> Table:
    """The classes that are seen right least and most often."""
    right, images = record.predictions.per_class(len(names))
    shown = np.flatnonzero(images)
    accuracies = right[shown] / images[shown]
    order = np.argsort(accuracies, kind="stable")
    ends = order if len(order) <= 2 * MOST_EXTREMES else [*order[:MOST_EXTREMES], *order[-MOST_EXTREMES:]]
    rows = [(names[shown[i]], f"{accuracies[i]:.1%}", f"{right[shown[i]]:,}", f"{images[shown[i]]:,}") for i in ends]
    note = f"The lowest and highest of {len(shown):,} classes with images; the median is {np.median(accuracies):.1%}."
    return Table("Accuracy per class", ("class", "accuracy", "right", "images"), rows, note)


# --- images


def pictures(record: Record, names: Sequence[str], remote: bool) -> list[Picture]:
    """The mistakes of which the model was surest. Raises UserError where the images cannot be read any more."""
    told = record.predictions
    chosen = told.mistakes(MOST_IMAGES)
    split = find_split(record, remote, told.split, lambda split: same_labels(split, told)) if len(chosen) else None
    return [Picture(thumbnail(split.decode(int(i))), caption(record, split, names, int(i))) for i in chosen]


def caption(record: Record, split: Split, names: Sequence[str], i: int) -> str:
    """`cat, taken for dog (99.0%): test/cat/3.jpg`, the file as it is called below the dataset."""
    told = record.predictions
    return f"{names[told.labels[i]]}, taken for {names[told.predicted[i]]} ({told.probability[i]:.1%}): {file_of(record, split, i)}"


def file_of(record: Record, split: Split, i: int) -> str:
    """What an image is called below the dataset."""
    return split.describe(i).removeprefix(f"{record.config['dataset']}/")


def same_labels(split: Split, told: Predictions) -> bool:
    """Whether the images have the labels that the predictions are of."""
    return not split.is_multi_label and np.array_equal(split.labels, told.labels)


def find_split(record: Record, remote: bool, name: str, is_same: Callable[[Split], bool]) -> Split:
    """The images of the split `name` of a run's dataset. Raises UserError where they are not there, or not the same.

    A folder of a run may come from anybody, and its config.json may name any address: only local ones are opened, unless
    `remote`.
    """
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    settings = {name: value for name, value in record.config.items() if name in known}
    config = TrainConfig(**settings | {"workers": None})  # of this machine
    addresses = [*filter(is_remote, (config.dataset, config.datadir, config.tfds_data_dir))]
    if addresses and not remote:
        raise UserError(f"they lie at {addresses[0]}; give --remote to fetch them.")
    try:
        dataset = open_turned(config)
        if config.on_broken_image == "skip":
            dataset = checked(dataset, config, SPLITS)
        splits = choose_splits(dataset, config)
    except (OSError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:  # a config that
        # is no longer what was written
        raise UserError(f"{config.dataset!r} cannot be opened ({error}).") from error
    split = splits.get(name)
    if split is None or not is_same(split):
        raise UserError(f"{config.dataset} holds other images than those that the run was evaluated on.")
    return split


def thumbnail(image: np.ndarray, longest_px: int = THUMBNAIL_PX) -> str:
    """A `data:` address of uint8 [H, W, 3], made smaller where it is large."""
    import simplejpeg

    scale = longest_px / max(image.shape[:2])
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        image = images.resize(image, height, width, "bilinear")
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=85, colorsubsampling="444")
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"
