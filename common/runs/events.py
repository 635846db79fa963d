"""`--tensorboard`: the metrics of a run and the first images that it trains on, as an event file for TensorBoard.

`tensorboard --logdir runs` shows every run by its name. The file holds the numbers of `metrics.jsonl`. Whenever a run starts
or resumes, the file is written anew from the lines that count, so no step appears twice.
"""

import importlib.util
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.data.naflex import pictures
from common.system.errors import UserError
from common.system.files import write_atomically

FILE = "events.out.tfevents.run"  # TensorBoard reads what has `tfevents` in its name
IMAGES = "train/images"
MOST_IMAGES, COLUMNS = 32, 8


def check_installed() -> None:
    """UserError where TensorBoard, which no engine needs, is missing."""
    if not importlib.util.find_spec("tensorboard"):
        raise UserError("--tensorboard needs tensorboard, which is not installed; `pip install '.[tensorboard]'`.")


class EventFile:
    """The event file of one run's folder; only the package's protocol buffers and records are used, no framework."""

    def __init__(self, path: Path, lines: list[dict[str, float]]):
        """Write the file anew: the images that are in it, and `lines` with the times at which they were first written."""
        from tensorboard.compat.proto.event_pb2 import Event

        before = list(read_events(path))
        self.has_images = any(is_image(event) for event in before)
        times = {key(event): event.wall_time for event in before}
        events = [Event(wall_time=time.time(), file_version="brain.Event:2"), *filter(is_image, before)]
        for line in lines:
            events.append(event := scalars(line["step"], line))
            event.wall_time = times.get(key(event), event.wall_time)
        self.path = path
        write_atomically(path, lambda file: [append(file, event) for event in events])

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add what is known of one step."""
        self._append(scalars(step, values))

    def with_first_images(self, batches: Iterator[dict[str, np.ndarray]], step: int) -> Iterator[dict[str, np.ndarray]]:
        """The same batches; the first one's images are added as the model sees them in `step`, if none are there yet."""
        for batch in batches:
            if not self.has_images:
                self._append(picture(step, as_seen(batch)))
                self.has_images = True
            yield batch

    def _append(self, event: Any) -> None:
        try:
            with open(self.path, "ab") as file:
                append(file, event)
        except OSError as error:
            raise UserError(f"Cannot write {self.path} ({error.strerror or error}); free its disk.") from error


def scalars(step: int, values: dict[str, float]) -> Any:
    """An event of numbers."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items() if name != "step"]
    return Event(wall_time=time.time(), step=step, summary=Summary(value=found))


def picture(step: int, image: np.ndarray) -> Any:
    """An event of one image, uint8 [H, W, 3]."""
    from PIL import Image
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    height, width, _ = image.shape
    found = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png.getvalue())
    return Event(wall_time=time.time(), step=step, summary=Summary(value=[Summary.Value(tag=IMAGES, image=found)]))


def as_seen(batch: dict[str, np.ndarray]) -> np.ndarray:
    """uint8 [H, W, 3]: the first images of a training batch side by side, blended where there is mixup."""
    images = batch["images"][:MOST_IMAGES]
    if "coordinates" in batch:  # strips of patches
        images = pictures(images, *(batch[name][:MOST_IMAGES] for name in ("coordinates", "patch_mask")))
    if "mixup_weight" in batch:
        weight, partners = (
            batch["mixup_weight"],
            images.reshape(-1, 2, *images.shape[1:])[:, ::-1].reshape(images.shape),
        )
        images = np.rint(weight * images + (1 - weight) * partners).astype(np.uint8)
    rows = -(-len(images) // COLUMNS)
    grid = np.zeros((rows * COLUMNS, *images.shape[1:]), np.uint8)
    grid[: len(images)] = images
    _, height, width, _ = grid.shape
    grid = grid.reshape(rows, COLUMNS, height, width, 3).swapaxes(1, 2).reshape(rows * height, COLUMNS * width, 3)
    return grid[:, : min(len(images), COLUMNS) * width]


def key(event: Any) -> tuple:
    """The key that distinguishes an event from the others of its file."""
    return event.step, *(value.tag for value in event.summary.value)


def is_image(event: Any) -> bool:
    """Whether an event holds an image."""
    return any(value.HasField("image") for value in event.summary.value)


def append(file: Any, event: Any) -> None:
    """One record at the end of a file."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    RecordWriter(file).write(event.SerializeToString())


def read_events(path: Path) -> Iterator[Any]:
    """The events of a file as far as they are whole; none where there is no file."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub import errors
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    if not path.exists():
        return
    reader = PyRecordReader_New(str(path))
    try:
        while True:
            reader.GetNext()
            yield Event.FromString(reader.record())
    except (errors.OutOfRangeError, errors.DataLossError):
        return
