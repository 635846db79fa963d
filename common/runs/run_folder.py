"""`{logdir}/{name}/`: the folder of a run, on this machine or in a bucket, and its files."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import IO, Any

from common import weights
from common.config import TrainConfig
from common.flags import changes
from common.models import ModelConfig
from common.reports import curves
from common.reports.record import read_record
from common.runs.checkpoint import Checkpoints
from common.runs.mirror import RemoteRun
from common.system import remote
from common.system.environment import environment
from common.system.errors import UserError
from common.system.files import locked_log, read_regular, remove_leftovers, write_json
from common.tasks.frozen import replaced
from common.weights import containers


class Folder:
    """`config.json`, `recipe.json`, `environment.json`, checkpoints, `best.npz`, and at the end what `finish` leaves.

    `path` is where it lies on this machine and `place` what a person calls it. Raises UserError where it holds a finished
    run, or one with other flags.
    """

    def __init__(self, config: TrainConfig, files: dict[str, str] | None = None):
        """`files` are digests of files that a run keeps from its first step to its last, by what the files are."""
        self.config, self.files, self.remote = config, files or {}, None
        self.path = self.place = Path(config.logdir) / config.name
        if remote.is_remote(config.logdir):
            self.remote = RemoteRun(f"{config.logdir.rstrip('/')}/{config.name}")
            self.path, self.place = self.remote.folder, self.remote.url
        else:
            self.claim()  # and once more when it is locked

    def open(self, stack: contextlib.ExitStack) -> IO:
        """Lock the folder until `stack` is left; returns the end of train.log."""
        if self.remote:
            stack.enter_context(self.remote)
        log = stack.enter_context(locked_log(self.path / "train.log"))
        remove_leftovers(self.path)
        self.claim()
        self.checkpoints = Checkpoints(self.path, *([self.remote.publish_checkpoint] if self.remote else []))
        return log

    def follow(self, stack: contextlib.ExitStack, process: int) -> None:
        """Read what the process that writes has in its folder, and leave it as it is."""
        if self.remote:
            self.remote = RemoteRun(self.remote.url, copy=process)
            self.path = stack.enter_context(self.remote).folder
        self.checkpoints = Checkpoints(self.path)

    def claim(self) -> None:
        """Raise UserError where the folder holds a finished run or one with other flags."""
        path = self.path / "config.json"
        if (self.path / "weights.npz").exists():
            raise UserError(f"{self.place} holds a finished run; choose another --name, or remove the folder.")
        if path.exists():
            try:
                old = json.loads(read_regular(path))
                if not isinstance(old, dict) or not isinstance(old.get("files", {}), dict):
                    raise ValueError(f"it holds {old}")  # noqa: TRY004
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{path} cannot be read ({error}); restore it, choose another --name, or remove {self.place}."
                ) from error
            self.check_config(old)

    def check_config(self, old: dict[str, Any]) -> None:
        """Raise UserError where a run with the flags `old` is another one."""
        for name, before, now in changes(old, self.config):
            raise UserError(
                f"{self.place} holds a run with --{name} {before}, not {now}; continue it with the flags in its "
                "config.json, or choose another --name."
            )
        for name, before, now in replaced(old.get("files", {}), self.files):
            raise UserError(
                f"{self.place} holds a run whose {name} was another file ({before}, not {now}); restore that file, or choose "
                "another --name."
            )

    def write_facts(self, recipe: dict[str, Any], engine: str) -> None:
        """What the run was asked to do, by which numbers, and where."""
        write_json(
            self.path / "config.json", dataclasses.asdict(self.config) | ({"files": self.files} if self.files else {})
        )
        write_json(self.path / "recipe.json", recipe)
        write_json(self.path / "environment.json", environment(engine))

    def check_best(self) -> None:
        """Raise UserError where the weights of the best evaluation so far are gone."""
        if not self.remote and not (self.path / "best.npz").exists():
            raise UserError(
                f"{self.path}/best.npz, the weights of the best evaluation so far, is missing; restore it, or start "
                "again under another --name."
            )

    def write_best(self, arrays: weights.Arrays, config: ModelConfig) -> None:
        """Keep the weights of the best evaluation beside the checkpoints; with LoRA under our names, which no other spelling has."""
        if config.lora:
            containers.write(self.path / "best.npz", arrays, {})
        else:
            weights.write_weights(self.path / "best.npz", arrays, config)

    def read_best(self, config: ModelConfig, *, writes: bool) -> weights.Arrays:
        """What `write_best` kept, in this process or the one that writes."""
        if self.remote and not writes:
            self.remote.fetch("best.npz", self.path / "best.npz")
        return read_best(self.path, config)

    def finish(self, arrays: weights.Arrays, config: ModelConfig, card: dict[str, Any]) -> None:
        """The card, the curves and, last, the weights in their published layout."""
        write_json(self.path / "card.json", card)
        curves.write_png([read_record(self.path)], self.path / "curves.png")
        weights.write_weights(self.path / "weights.npz", arrays, config)

    def publish(self) -> None:
        """Bring the results to the bucket, if the folder is in one."""
        if self.remote:
            self.remote.publish()


def read_best(folder: Path, config: ModelConfig) -> weights.Arrays:
    """What `write_best` kept in a folder. Raises UserError where it is damaged, or another model's."""
    path = folder / "best.npz"
    if not config.lora:
        return weights.read_weights(path, config)
    with containers.open_container(path) as file:
        file.check_bytes()
        arrays = {name: file.get(name) for name in file.declared}
    weights.check_shapes(arrays, config.parameter_shapes(), path)
    return arrays
