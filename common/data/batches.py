"""Batches as a pure function of (seed, step), and threads that prepare them ahead of the step.

A training batch is {images uint8 [B, H, W, 3], labels int32 [B], or [B, N] filled up with -1}, with mixup also
{mixup_weight float64 []}, with stochastic depth {kept_branches bool [B, branches]}, with dropout {dropout_seeds int32
[B, dropouts, 2]}, for a model that renews a part of itself {renewal_seed int32 []}, with patch dropout {kept_patches int32 [B, kept]}, for a FlexiViT {patch_size: Static (height, width)};
an evaluation batch is {images, labels, mask bool [B]}. Both have, for a NaFlex, {coordinates, patch_mask} (naflex.py), of as
many patches as a training step draws. Scaling, mixup and casts happen on the device.
Losses also take labels that are dense already, float [B, K].
"""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from common.data.blocks import Blocks
from common.data.columns import VIEW, Arrays, Column, Stream, empty, eval_images, jobs, labels, train_images
from common.data.makers import Makers, rows_at_once
from common.data.split import Split
from common.models import ModelConfig, num_kept
from common.models.cards import Preprocessing
from common.recipes.per_step import drawn
from common.recipes.recipe import Recipe, check_sharing
from common.system.processes import Devices

PREFETCH_BYTES = 2**28  # bound on the memory of the batches that wait for the device
# What a batch holds for the model beside images.
NOISE = ("kept_branches", "dropout_seeds", "kept_patches", "patch_size", "coordinates", "patch_mask")


class Static(tuple):
    """Whole numbers in a batch that are no array: a step is compiled for each of their values."""

    ndim = 0  # as of a number: parts of a batch all have the whole


class TrainBatches:
    """`batches(step)`, whatever was asked before: the examples, crops, flips and mixup weight of one training step.

    Every epoch is a permutation of all examples, and a batch may straddle two of them. With several processes, each
    takes its slice of the global batch (`rows_of`). The model's config gives the number of branches and dropouts. `makers`
    are processes that make the rows of these columns, in place of threads.
    """

    def __init__(
        self, split: Split, recipe: Recipe, seed: int, process: int = 0, num_processes: int = 1,
        config: ModelConfig | None = None, columns: Sequence[Column] | None = None, num_devices: int | None = None,
        makers: Makers | None = None,
    ):  # fmt: skip
        self.split, self.recipe, self.seed, self.config, self.makers = split, recipe, seed, config, makers
        self.columns = columns or (train_images(recipe), labels(split))
        check_sharing(recipe, num_devices or num_processes)
        self.rows = rows_of(recipe, process, num_processes, num_devices or num_processes)
        self.batch_bytes = len(self.rows) * sum(column.row_bytes for column in self.columns)

    def plan(self, step: int) -> Arrays:
        """What happens in `step`, before any example is read: `examples` [B], the numbers of every stream, a weight, noise."""
        first = step * self.recipe.batch
        examples = self._examples(np.arange(first, first + self.recipe.batch))[self.rows]
        streams = dict.fromkeys(stream for column in self.columns for stream in column.streams)
        draws = {stream.name: self._draws(stream, step)[0][self.rows] for stream in streams}
        return {"examples": examples} | draws | self._mixup_weight(step) | self._renewal(step) | self._noise(step)

    def _draws(self, stream: Stream, step: int) -> tuple[np.ndarray, np.random.Generator]:
        """(its numbers for the global batch, the generator after them)."""
        rng = np.random.default_rng([self.seed, stream.number, step])
        return rng.random((self.recipe.batch, *stream.shape)), rng

    def _mixup_weight(self, step: int) -> Arrays:
        """{mixup_weight: float64 []}, drawn after the numbers of VIEW; nothing without mixup."""
        alpha = self.recipe.mixup
        return {"mixup_weight": np.float64(self._draws(VIEW, step)[1].beta(alpha, alpha))} if alpha > 0 else {}

    def _renewal(self, step: int) -> Arrays:
        """{renewal_seed: int32 []} of what a model draws that renews a part of itself after the step; else nothing."""
        if self.config is None or not self.config.renews:
            return {}
        rng = np.random.default_rng([self.seed, 13, step])
        return {"renewal_seed": np.int32(rng.integers(-(2**31), 2**31, dtype=np.int32))}

    def _noise(self, step: int) -> Arrays:
        """The residual branches that every example keeps, the seeds of its dropouts, and the patches that it keeps."""
        noise, recipe, config = {}, self.recipe, self.config
        if recipe.patch_sizes:
            noise["patch_size"] = Static([drawn(recipe.patch_sizes, self.seed, step)] * 2)
            config = config.at_patch(noise["patch_size"])
        if recipe.stochastic_depth > 0:
            rates = branch_drop_rates(self.config.num_branches, recipe.stochastic_depth)
            draws = np.random.default_rng([self.seed, 2, step]).random((recipe.batch, len(rates)))
            noise["kept_branches"] = (draws >= rates)[self.rows]
        if recipe.dropout > 0:
            rng, shape = np.random.default_rng([self.seed, 3, step]), (recipe.batch, self.config.num_dropouts, 2)
            noise["dropout_seeds"] = rng.integers(-(2**31), 2**31, shape, np.int32)[self.rows]
        if recipe.patch_dropout > 0:
            draws = self._draws(Stream("patches", 8, (config.num_patches,)), step)[0][self.rows]
            noise["kept_patches"] = kept_patches(draws, num_kept(config.num_patches, recipe.patch_dropout))
        return noise

    def tokens(self, step: int) -> int | None:
        """The most patches of an image in a step, for a NaFlex: one number for the whole batch."""
        words = self.recipe.token_lengths
        return drawn(words, self.seed, step) if words else None

    def _examples(self, positions: np.ndarray) -> np.ndarray:
        epochs, places = np.divmod(positions, len(self.split))
        examples = np.empty_like(positions)
        for epoch in np.unique(epochs):
            order = epoch_order(self.seed, int(epoch), len(self.split), self.split.blocks)
            examples[epochs == epoch] = order[places[epochs == epoch]]
        return examples

    def jobs(self, step: int) -> tuple[Arrays, list[Callable[[], None]]]:
        """(batch, jobs): the batch is complete once every job has run, in any thread and order."""
        plan, tokens = self.plan(step), self.tokens(step)
        columns, examples = [column.at(tokens) for column in self.columns], plan["examples"].tolist()
        batch = empty(columns, len(examples))
        if self.makers and rows_at_once(columns):
            work = self.makers.jobs(columns, batch, examples, plan, tokens)
        else:
            work = jobs(columns, batch, self.split, examples, plan)
        return batch | {name: plan[name] for name in ("mixup_weight", "renewal_seed", *NOISE) if name in plan}, work


class EvalBatches:
    """Every example of a split once, in order; the last batch is padded, and `mask` is False on its padding.

    With several processes, each takes its contiguous slice of the global batch, which they must divide.
    """

    def __init__(
        self, split: Split, preprocessing: Preprocessing | None, batch: int, process: int = 0, num_processes: int = 1,
        columns: Sequence[Column] | None = None, examples: range | None = None,
    ):  # fmt: skip
        """Of the `examples` alone, which follow one another, where they are given."""
        self.split, self.batch, self.examples = split, batch, range(len(split)) if examples is None else examples
        self.columns = columns or (eval_images(preprocessing), labels(split))
        self.share = batch // num_processes
        self.first_row = process * self.share
        self.batch_bytes = self.share * sum(column.row_bytes for column in self.columns)

    def on(self, devices: Devices, split: Split | None = None) -> "EvalBatches":
        """This process's share of the same batches, made larger where the devices do not divide them.

        `split` has the same examples, where it is given.
        """
        batch = -(-self.batch // devices.num_devices) * devices.num_devices  # what is too much is masked
        share = devices.process, devices.num_processes
        return EvalBatches(split or self.split, None, batch, *share, self.columns, self.examples)

    def parts(self, count: int) -> "list[EvalBatches]":
        """The same batches, `count` at a time."""
        starts = range(0, len(self.examples), count * self.batch)
        parts = [self.examples[start : start + count * self.batch] for start in starts]
        return [EvalBatches(self.split, None, self.batch, columns=self.columns, examples=part) for part in parts]

    def __len__(self) -> int:
        return -(-len(self.examples) // self.batch)

    def jobs(self, step: int) -> tuple[Arrays, list[Callable[[], None]]]:
        """(batch, jobs): the batch is complete once every job has run, in any thread and order."""
        first = self.examples.start + step * self.batch + self.first_row
        count = max(0, min(self.share, self.examples.stop - first))
        batch = empty(self.columns, self.share)
        for array in batch.values():
            array[count:] = 0  # the padding
        work = jobs(self.columns, batch, self.split, range(first, first + count), {})
        return batch | {"mask": np.arange(self.share) < count}, work


def rows_of(recipe: Recipe, process: int, num_processes: int, num_devices: int) -> np.ndarray:
    """The rows of the global batch that a process holds: its share of each `sam_group`, for one device after the other.

    Without groups, that is a contiguous slice.
    """
    rows = np.arange(recipe.batch).reshape(recipe.num_ascents, num_processes, num_devices // num_processes, -1)
    return rows[:, process].swapaxes(0, 1).ravel()


def branch_drop_rates(num_branches: int, rate: float) -> np.ndarray:
    """The rate at which each residual branch is skipped: two per block, linear in depth from 0 to `rate`.

    Source: `models/mlp_mixer.py` of google-research/big_vision, where kept branches are not scaled up either.
    """
    blocks = np.arange(num_branches) // 2
    return rate * blocks / max(blocks[-1], 1)


def kept_patches(draws: np.ndarray, count: int) -> np.ndarray:
    """int32 [B, count]: the patches of the `count` lowest draws [B, L], in their order. FLIP (https://arxiv.org/abs/2212.00794)."""
    return np.sort(draws.argsort(1)[:, :count], 1).astype(np.int32)


@functools.lru_cache(maxsize=2)  # a batch may straddle two epochs; of a million examples, each takes 8 MB
def epoch_order(seed: int, epoch: int, count: int, blocks: Blocks | None = None) -> np.ndarray:
    """The permutation of `count` examples in which an epoch sees them, block by block where they lie in blocks."""
    rng = np.random.default_rng([seed, 0, epoch])
    return rng.permutation(count) if blocks is None else blocks.permutation(rng)


def prefetch(batches: TrainBatches | EvalBatches, steps: range, num_workers: int) -> Iterator[dict[str, np.ndarray]]:
    """The batches of `steps` in order, prepared by `num_workers` threads ahead of the consumer.

    The look-ahead is bounded in bytes; the first error of a worker is raised here, in the place of its batch.
    """
    ahead = max(1, min(2 * num_workers, PREFETCH_BYTES // batches.batch_bytes))
    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(num_workers, "batches") as pool:
        try:
            for step in steps:
                batch, jobs = batches.jobs(step)
                waiting.append((batch, [pool.submit(job) for job in jobs]))
                if len(waiting) > ahead:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _finished(batch: dict[str, np.ndarray], futures: list) -> dict[str, np.ndarray]:
    for future in futures:
        future.result()
    return batch
