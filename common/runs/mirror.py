"""A run in `gs://` or `s3://`: it works in a local folder as any other and publishes it with every checkpoint.

Each publication writes a new object, and last the pointer `checkpoint.json`, which names it; the pointer replaces a rename.
"""

import contextlib
import json
import shutil
import uuid
from typing import Self

from common.evaluation.captioning import FILE as CAPTIONS
from common.evaluation.pairs import PAIRS
from common.evaluation.predictions import PREDICTIONS
from common.runs import events
from common.runs.checkpoint import CURRENT, PREVIOUS
from common.system.files import locked_log
from common.system.remote import RemoteFolder, explained, staging_folder
from common.weights import adapter

POINTER = "checkpoint.json"
STATE = (
    "config.json",
    "recipe.json",
    "environment.json",
    "metrics.jsonl",
    "train.log",
    "best.npz",
    events.FILE,
)  # what a run needs, with a checkpoint
RESULTS = (
    "card.json",
    "curves.png",
    PREDICTIONS,
    PAIRS,
    CAPTIONS,
    events.FILE,
    adapter.FILE,
    adapter.CONFIG,
    "metrics.jsonl",
    "train.log",
    "weights.npz",  # its presence means: finished
)


class RemoteRun(RemoteFolder):
    """The folder of a run: entered, `folder` is its local copy, locked against other runs on this machine.

    Processes that only read have a `copy` each, of their own number.
    """

    def __init__(self, url: str, copy: int = 0):
        super().__init__(url)
        self.folder = staging_folder(f"{self.url}#{copy}" if copy else self.url)
        self.objects: dict[str, str] = {}  # checkpoint file -> name of its object

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked_log(self.folder.with_suffix(".lock")))
            shutil.rmtree(self.folder, ignore_errors=True)  # what a killed run left; the objects count
            names = self.sizes()
            if POINTER in names:
                self.fetch(POINTER, self.folder / POINTER)
                with explained(f"understand {self.url}/{POINTER}"):
                    pointer = json.loads((self.folder / POINTER).read_text())
                    self.objects = {file: pointer[file] for file in (CURRENT, PREVIOUS) if file in pointer}
            for file, name in self.objects.items():
                self.fetch(name, self.folder / file)
            for name in names.keys() & {*STATE, *RESULTS}:
                self.fetch(name, self.folder / name)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._open.close()

    def publish_checkpoint(self, step: int, *, moved: bool) -> None:
        """Make the new checkpoint the one that counts, and the one before it the previous one if it has `moved`."""
        self.publish(STATE)
        objects = dict(self.objects)
        if moved:
            objects[PREVIOUS] = objects.pop(CURRENT)
        objects[CURRENT] = f"checkpoint-{step}-{uuid.uuid4().hex[:8]}.safetensors"
        self.put(self.folder / CURRENT, objects[CURRENT])
        (self.folder / POINTER).write_text(json.dumps(objects))
        self.put(self.folder / POINTER, POINTER)  # from here on it counts
        self.objects = objects
        for name in self.sizes():
            if name.startswith("checkpoint-") and name not in objects.values():
                self.remove(name)

    def publish(self, names: tuple[str, ...] = RESULTS) -> None:
        """Make objects of the files that exist, in this order."""
        for name in names:
            if (self.folder / name).exists():
                self.put(self.folder / name, name)
