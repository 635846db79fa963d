"""Runs on several processes, here threads that agree as processes do: one writes, all decide alike, all end together."""

import collections
import itertools
import json
import signal
import threading
from pathlib import Path

import numpy as np
import numpy_engine
import pytest
from PIL import Image

from common.config import TrainConfig
from common.models import DEFAULT_MODEL, ResNetConfig, find_model
from common.reports import curves
from common.runs.checkpoint import CURRENT, Checkpoints, read
from common.runs.command import parse
from common.runs.due import Due
from common.runs.run import Run
from common.system import processes as devices
from common.system.errors import UserError, exit_with_sentence
from common.system.interruption import Interruption
from common.system.processes import MOST, Devices, together

FLAGS = ("--dataset", "images", "--weights", "none", "--batch", 4, "--resize", 32, "--crop", 32, "--steps", 6, "--warmup_steps", 1, "--workers", 1,
         "--val_fraction", 0.2, "--batch_eval", 3, "--eval_every", 2, "--log_every", 2,
         "--checkpoint_every", 1)  # fmt: skip
PARSING = threading.Lock()  # Python 3.11 does not parse in several threads at once


class Team:
    """Some processes, each a thread."""

    def __init__(self, size: int):
        self.rounds, self.has_died, self.news = collections.defaultdict(dict), False, threading.Condition()
        self.size = size
        self.members = [Member(process, self) for process in range(size)]

    def do(self, function) -> list:
        """What `function(member)` gives or raises, for each member."""
        outcomes = [None] * len(self.members)

        def work(member: Member) -> None:
            try:
                outcomes[member.process] = function(member)
            except BaseException as error:  # noqa: BLE001
                outcomes[member.process] = error
                if not isinstance(error, SystemExit):
                    with self.news:
                        self.has_died = True
                        self.news.notify_all()

        threads = [threading.Thread(target=work, args=(member,)) for member in self.members]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes

    def agree(self, process: int, number: int, value: int) -> int:
        """The largest value of the `number`-th time that the members are asked."""
        with self.news:
            answers = self.rounds[number]
            answers[process] = value
            self.news.notify_all()
            self.news.wait_for(lambda: self.has_died or len(answers) == self.size, timeout=60)
            if len(answers) < self.size:
                raise ConnectionError("no answer")
            return max(answers.values())


class Member(Devices):
    """One process of a team, with one device."""

    def __init__(self, process: int, team: Team):
        self.process, self.team, self.numbers = process, team, itertools.count()
        self.num_processes = self.num_devices = team.size

    def agree(self, value: int) -> int:
        assert 0 <= value <= MOST
        return self.team.agree(self.process, next(self.numbers), value)

    def has_lost(self, error: BaseException) -> bool:
        return isinstance(error, ConnectionError)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """A model of some thousand parameters, no curves, no waiting for others' sentences."""
    row, tiny = find_model(DEFAULT_MODEL), ResNetConfig((1,), 0.5, 2)
    object.__setattr__(row, "config", lambda num_classes=None: tiny)
    monkeypatch.setattr(curves, "write_png", lambda *_: None)
    monkeypatch.setattr(devices, "SECONDS_FOR_THE_FIRST", 0)
    monkeypatch.chdir(tmp_path)
    for split, name, number in itertools.product(("train", "test"), ("cat", "dog"), range(5)):
        Path(f"images/{split}/{name}").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([number, name == "dog"]).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(f"images/{split}/{name}/{number}.png")
    yield
    object.__delattr__(row, "config")


def train(member: Devices, *flags, disturb=lambda run, step: None, prepared=lambda: None) -> Run:
    """`main` of the engines on `member`, with numpy; `prepared` is called before it begins and `disturb` in every step."""
    run = Run(parse(TrainConfig, [*map(str, (*FLAGS, *flags))], "train", ""), "numpy")
    with PARSING:
        main = numpy_engine.load_main()
    prepared()
    steps = iter(range(run.recipe.num_steps))

    def train_step(*arguments, **options):
        disturb(run, run.step + next(steps) + 1)
        return numpy_engine.train_step(*arguments, **options)

    run.saved = []
    save = run.save
    run.save = lambda step, *arguments: (run.saved.append(step), save(step, *arguments))
    main.__globals__.update({"Devices": lambda shard_parameters: member, "train_step": train_step})
    main(run)
    return run


def metrics(name: str) -> list[tuple]:
    """(step, names of the values) of every line."""
    with open(f"runs/{name}/metrics.jsonl") as file:
        return [(line.pop("step"), *line) for line in map(json.loads, file)]


def test_the_first_that_fails_says_why():
    def work(member: Member) -> None:
        with together(member):
            if member.process in (1, 2):
                raise UserError(f"of {member.process}")

    nothing, first, second, end = Team(4).do(work)
    assert isinstance(first, UserError) and str(first) == "of 1"
    assert [error.code for error in (nothing, second, end)] == [2, 2, 2]


def test_what_succeeds_everywhere_goes_on():
    assert Team(3).do(lambda member: [together(member).__enter__(), member.agree(member.process)][1]) == [2, 2, 2]


def test_other_processes_wait_with_their_sentence(monkeypatch, capsys):
    """Process 0 has mostly the same to say, and is heard once."""
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as end, exit_with_sentence():
            raise UserError("Wrong.")
        assert end.value.code == 2 and capsys.readouterr().err == "error: Wrong.\n"
    assert waited == [10]


def test_one_writes_and_all_decide_alike(monkeypatch):
    """Even while the disk of the one that writes is slow."""
    train(Devices(), "--name", "alone")
    monkeypatch.setattr(Checkpoints, "is_writing", lambda self: bool(self._pending))
    first, second = Team(2).do(lambda member: train(member, "--name", "two"))
    assert first.saved == second.saved == [1, 2, 3, 4, 5, 6]
    assert metrics("two") == metrics("alone")
    assert first.state.results.keys() == second.state.results.keys() == {"val", "test"}


def test_a_signal_to_any_process_stops_all_after_the_same_step():
    def disturb(run: Run, step: int) -> None:
        if run.devices.process == 1 and step == 3:
            run.due.interruption.signal = signal.SIGTERM

    team = Team(2)
    ends = team.do(lambda member: train(member, "--name", "stop", "--checkpoint_every", 0, disturb=disturb))
    assert [end.code for end in ends] == [143, 143]
    assert read(f"runs/stop/{CURRENT}").step == 4  # where losses are read: the first step at which they talk
    runs = team.do(lambda member: train(member, "--name", "stop", "--checkpoint_every", 0))
    assert [run.step for run in runs] == [4, 4]
    steps = [step for step, *names in metrics("stop") if "train/loss" in names]
    assert steps == [2, 4, 6]


def test_a_process_that_ends_ends_the_others():
    def disturb(run: Run, step: int) -> None:
        if run.devices.process == 1 and step == 4:
            raise RuntimeError("died")

    first, second = Team(2).do(lambda member: train(member, "--name", "died", disturb=disturb))
    assert str(second) == "died" and isinstance(first, UserError), (first, second)
    assert "Another process of this run has ended" in str(first)
    assert "checkpoint of step 3 is intact" in str(first)


def test_what_goes_wrong_at_the_end_ends_all(monkeypatch):
    def fail(*_) -> None:
        raise UserError("Cannot write.")

    monkeypatch.setattr(curves, "write_png", fail)
    first, second = Team(2).do(lambda member: train(member, "--name", "end"))
    assert "Cannot write. The checkpoint of step 6 is intact" in str(first) and second.code == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "need one folder; give it a --name"),
        (("--name", "a", "--batch", 5), "2 devices cannot share a batch of 5"),
        (("--name", "b", "--batch", 6, "--batch_split", 2), "does not divide the batch of 3 on each device"),
        (("--name", "c", "--batch", 12, "--batch_split", 2, "--mixup", 0.1), "has 3 images"),
    ],
)
def test_what_processes_cannot_share_is_one_sentence(flags, words, tmp_path):
    first, second = Team(2).do(lambda member: train(member, *flags))
    assert isinstance(first, UserError) and words in str(first) and second.code == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("flag", ("--seed", "--log_every", "--checkpoint_every"))
def test_processes_with_different_flags_are_refused(flag):
    """Also with those that may change from one start to the next: they say when processes talk to one another."""
    both = threading.Barrier(2)  # or else the second one finds the first one's folder, and refuses to go on in it
    first, second = Team(2).do(
        lambda member: train(member, "--name", "flags", flag, 2 + member.process, prepared=both.wait)
    )
    assert "do not see the same images, flags and checkpoint" in str(first) and second.code == 2


def test_a_process_without_the_checkpoint_is_refused():
    """It has a disk of its own."""
    train(Devices(), "--name", "here")
    Path("runs/here/weights.npz").unlink()
    first, second = Team(2).do(
        lambda member: train(member, "--name", "here", "--logdir", ("runs", "elsewhere")[member.process])
    )
    assert "process 0 is at step 6" in str(first) and second.code == 2


def evaluated(run: Run) -> list[dict]:
    """The batches on which a run is judged by its val split."""
    run.due = Due(run.plan, run.devices, Interruption())
    evaluator = next(each for each in run.final_evaluators() if each.name == "val")
    return [batch for _, batches in evaluator.passes() for batch in batches]


def test_the_shares_of_an_evaluation_are_every_example_once():
    """A batch that is too small for the processes grows; every process has the same number of batches."""
    alone = Run(parse(TrainConfig, [*map(str, FLAGS)], "train", ""), "numpy")
    expected = evaluated(alone)
    size, shares = 4, []
    for process in range(size):
        run = Run(parse(TrainConfig, [*map(str, FLAGS)], "train", ""), "numpy").on(Member(process, Team(size)))
        shares.append(evaluated(run))
    seen = [
        np.concatenate([share[step]["images"][share[step]["mask"]] for share in shares])
        for step in range(len(shares[0]))
    ]
    np.testing.assert_array_equal(
        np.concatenate(seen), np.concatenate([batch["images"][batch["mask"]] for batch in expected])
    )
    assert len({len(share) for share in shares}) == 1
    assert len({batch["images"].shape for share in shares for batch in share}) == 1
