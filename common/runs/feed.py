"""The images of a run: decoded once, where there is room, and made into batches by threads or by processes."""

import contextlib
from collections.abc import Sequence

from common.data.columns import Column
from common.data.decoded import Room, kept_splits, room_of_machine
from common.data.makers import Makers, can_fork
from common.data.split import Split
from common.runs.plan import Plan
from common.system.processes import Devices, own_cores
from common.tasks.seen import shrinks

MANY = 50_000  # images that a run decodes, from which on processes pay


class Feed:
    """What feeds a run of this plan."""

    def __init__(self, plan: Plan):
        self.plan, self.makers = plan, None
        self._splits = plan.splits  # until there is room
        self.workers = plan.config.workers or own_cores()

    def fork_makers(self) -> None:
        """Let processes make the training batches, see makers.py, where there are many, and nothing forbids to fork."""
        is_long = self.plan.recipe.num_steps * self.plan.recipe.batch >= MANY
        if is_long and self.plan.splits["train"].forks and can_fork():
            self.makers = Makers(self.workers, self._prepare)

    def open(self, devices: Devices, stack: contextlib.ExitStack) -> None:
        """Make room for decoded images, in every process of a run at once; `stack` ends what works for it."""
        room = room_of_machine(self.plan.config.cache_gib, devices)
        self._keep_in(room)
        if self.makers:
            stack.callback(self.makers.close)
            self.makers.begin(room.descriptor)

    def decoded(self, split: Split) -> Split:
        """The same images, decoded once where the split is one of the plan's."""
        own = next((name for name, known in self.plan.splits.items() if known is split), None)
        return self._splits[own] if own else split

    def training(self) -> tuple[Split, Sequence[Column]]:
        """The training images, and what batches are made of."""
        split = self.decoded(self.plan.splits["train"])
        return split, self.plan.task.columns(self.plan, split, train=True)

    def _keep_in(self, room: Room) -> None:
        self._splits = kept_splits(self.plan.splits, room, shrinks(self.plan, room))

    def _prepare(self, descriptor: int) -> tuple[Split, Sequence[Column]]:
        """`training` in another process, which has this room and needs no weights."""
        self.plan.models = {name: start._replace(arrays={}) for name, start in self.plan.models.items()}
        self._keep_in(Room.of(descriptor))
        return self.training()
