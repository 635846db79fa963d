"""What is due after which step: log lines, evaluations, checkpoints; and whether the run has been asked to end."""

from common.runs.plan import Plan
from common.system.interruption import Interruption
from common.system.processes import Devices


class Due:
    """Asked once after every step, in the order of its methods. All processes must ask alike, and are answered alike."""

    def __init__(self, plan: Plan, devices: Devices, interruption: Interruption):
        self.plan, self.devices, self.interruption = plan, devices, interruption
        self.waits, self.signal = False, 0  # whether a checkpoint that was due is not yet made; what asks for the end

    def is_last(self, step: int) -> bool:
        """Whether `step` is the number of updates of the whole run."""
        return step == self.plan.recipe.num_steps

    def log(self, step: int) -> bool:
        """Whether losses are read after `step` completed updates."""
        return step % self.plan.config.log_every == 0 or self.is_last(step)

    def evaluation(self, step: int, name: str) -> bool:
        """Whether an evaluator is due after `step` completed updates; the end of the run asks all of them anyway."""
        period = self.plan.periods.get(name)
        is_due = bool(period) and step % period == 0
        return is_due and (not self.is_last(step) or (name == self.plan.best[0] and self.plan.config.keep_best))

    def checkpoint(self, step: int, *, is_writing: bool) -> bool:
        """Whether a checkpoint follows `step` completed updates: one is due, the run ends, or a signal asks for it.

        One that is due while the one before `is_writing` waits for a later step, not the step for it. Several processes ask one
        another for signals only where they wait for losses anyway, and never how far the one that writes has come.
        """
        if self.plan.checkpoint_every and step % self.plan.checkpoint_every == 0:
            self.waits = True
        alone = self.devices.num_processes == 1
        if alone or self.log(step):
            self.listen()
        must = self.is_last(step) or self.signal
        return bool(must or (self.waits and not (alone and is_writing)))

    def saved(self) -> None:
        """A checkpoint has been made."""
        self.waits = False

    def listen(self) -> None:
        """Learn of a signal that any process has received."""
        self.signal = self.devices.agree(self.interruption.signal or 0)
