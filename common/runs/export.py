"""`export` but for the graph: the checked flags and the model before, verification and renaming after."""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common import weights
from common.config import ExportConfig
from common.models import BertConfig, DecoderConfig, TextConfig, TwoTowersConfig, VqVaeConfig, find_model
from common.models.cards import Card, Preprocessing
from common.system.errors import UserError, reason
from common.system.files import write_atomically, write_json
from common.system.progress import note
from common.weights.adapt import adapt
from common.weights.source import read_model

FORMATS = {  # --to -> (the engine that writes it, how its files end; a saved_model is a folder)
    "onnx": ("bit_pytorch", ".onnx"),
    "torch_export": ("bit_pytorch", ".pt2"),
    "stablehlo": ("bit_jax", ".stablehlo"),
    "saved_model": ("bit_tf2", ""),
    "litert": ("bit_tf2", ".tflite"),
}
TAKEN = {  # by models that a graph of images alone cannot hold
    TextConfig: "texts",
    BertConfig: "texts",
    TwoTowersConfig: "texts",
    DecoderConfig: "texts or codes",
    VqVaeConfig: "maps",
}
LARGEST_BYTES = 2**31 - 1  # of the files that hold a graph and its weights as one message
BOUNDS = {"float32": 1e-4, "float64": 1e-9}  # of the difference from the engine's logits, relative to the largest
Run = Callable[[np.ndarray], np.ndarray]  # images -> logits


class Export:
    """The model of an export: `model_config`, `arrays`, `preprocessing` and the `card` that goes with the graph.

    Raises UserError for a format of another engine, and for a target that exists.
    """

    def __init__(self, config: ExportConfig, engine: str):
        self.config, self.target, self.channels_first = config, Path(config.output or ""), False
        check_target(config, engine)
        self.model_config, self.arrays, card = weights.of_one_size(start(config), note)
        if self.model_config.naflex:
            raise UserError(
                "The model keeps the aspect ratio of images, which no graph here does; export one of one size."
            )
        if what := TAKEN.get(type(self.model_config)):
            raise UserError(f"The model takes {what}, and graphs here take images alone; export another.")
        resolution = config.resolution or card.resolution or find_model(config.model).resolution
        if self.model_config.image_size:
            resolution = self.model_config.image_size[0]
        if not resolution:
            raise UserError("No card states the size of the images and the model takes any; give --resolution.")
        self.preprocessing: Preprocessing = card.preprocessing.at(resolution)
        self.card = dataclasses.replace(card, **vars(self.preprocessing))

    @property
    def facts(self) -> dict[str, Any]:
        """The card of what is written, as JSON holds it: how its images are made, and what its logits mean."""
        axes = "[B, 3, H, W]" if self.channels_first and not self.config.preprocess else "[B, H, W, 3]"
        kind = "uint8" if self.config.preprocess else f"{self.config.precision}, (pixels / 255 - mean) / std,"
        return {"images": f"{kind} {axes}"} | self.card.facts()

    def expect(self, run: Run, *, channels_first: bool = False) -> None:
        """Note what the engine's own model gives, which takes scaled images as [B, 3, H, W] where channels come first."""
        self.run, self.channels_first = run, channels_first

    def images(self, count: int) -> np.ndarray:
        """Random images as the graph takes them: uint8 [count, H, W, 3] with --preprocess, else scaled."""
        side = self.preprocessing.resolution
        views = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
        if self.config.preprocess:
            return views
        scaled = self.preprocessing.scale(views, np.dtype(self.config.precision).type)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)) if self.channels_first else scaled

    def check(self, run: Run) -> None:
        """UserError unless the graph gives the engine's logits of one, two and five images."""
        for count in (1, 2, 5):
            images = self.images(count)
            found, expected = run(images), self.run(images)
            same = found.shape == expected.shape
            difference = np.abs(found - expected).max() / (np.abs(expected).max() or 1) if same else np.inf
            if not difference <= BOUNDS[self.config.precision]:
                raise UserError(
                    f"{self.config.to} gives other logits than the engine (by {difference:.1e} of the largest), and "
                    "nothing was written; choose another format."
                )
        note(f"Read back: its logits are the engine's within {difference:.1e} of the largest.")

    def write_file(self, data: bytes, verify: Callable[[Path], None]) -> None:
        """Write the graph once `verify` has read it, and its card beside it."""
        if len(data) > LARGEST_BYTES:
            raise UserError(
                f"{self.config.to} holds at most 2 GiB and the model takes {len(data):,} bytes; export a smaller."
            )
        write_atomically(self.target, lambda file: file.write(data), verify)
        write_json(self.target.with_suffix(".json"), self.facts)
        self.tell(len(data))

    def write_folder(self, write: Callable[[Path], None], verify: Callable[[Path], None]) -> None:
        """Let `write` fill a folder, which takes its name once `verify` has read it."""
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{self.target.name}.", suffix=".tmp", dir=self.target.parent))
            try:
                write(folder)
                verify(folder)
                folder.chmod(0o755)
                os.rename(folder, self.target)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise UserError(f"Cannot write {self.target} ({reason(error)}); free or choose another place.") from error
        self.tell(sum(path.stat().st_size for path in self.target.rglob("*") if path.is_file()))

    def tell(self, size: int) -> None:
        """The line of result."""
        print(f"Wrote {self.target}: {self.config.to}, {size:,} bytes, any number of images of {self.facts['images']}.")

    def metadata(self) -> dict[str, str]:
        """Each fact as text, and all of them as `card`, for formats that hold no other."""
        facts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in self.facts.items()}
        return facts | {"card": json.dumps(self.facts)}


def check_target(config: ExportConfig, engine: str) -> None:
    """Raise UserError where the flags do not go together or the target exists."""
    of_engine = [name for name, (owner, _) in FORMATS.items() if owner == engine]
    if config.to not in of_engine:
        words = f"--to is {config.to}" if config.to else "--to is missing"
        others = f"; {FORMATS[config.to][0]} writes that of the same weights" if config.to else ""
        raise UserError(f"{words} and {engine} writes {' and '.join(of_engine)}{others}.")
    suffix, path = FORMATS[config.to][1], Path(config.output or "")
    if not config.output or path.suffix != suffix and suffix:
        raise UserError(f"--output is {config.output}, expected a name that ends in {suffix or 'nothing'}; give one.")
    if config.precision not in BOUNDS:
        raise UserError(
            f"--precision is {config.precision} and graphs are written in {' or '.join(BOUNDS)}; choose one."
        )
    taken = [path] + [path.with_suffix(".json")] * bool(suffix)
    for each in taken:
        if each.exists() and not config.overwrite:
            raise UserError(f"{each} exists; give another --output, or --overwrite.")
    if config.overwrite and not suffix and path.exists():
        raise UserError(f"The folder {path} exists; remove it, or give another --output.")


def start(config: ExportConfig) -> weights.Start:
    """The model in --weights, whatever --model is; the published model, or initial values."""
    size = (config.resolution, config.resolution) if config.resolution else None
    model = find_model(config.model)
    if config.weights in ("pretrained", "none"):
        path = weights.choose_file(model, config.weights, config.bit_pretrained_dir)
        pretrained = config.weights == "pretrained"
        return weights.starting_values(
            model, path, image_size=size, patch_size=config.patch_size, pretrained=pretrained, say=note
        )
    source = read_model(weights.choose_file(model, config.weights, config.bit_pretrained_dir))
    changes = {"image_size": size} if size and source.config.image_size else {}
    found = dataclasses.replace(source.config.as_published(model.config()), **changes).with_side(config.patch_size)
    card: Card = source.card
    return weights.Start(found, adapt(source.arrays, source.config, found, note), card)
