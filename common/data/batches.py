"""Batches as a pure function of (seed, step), and threads that prepare them ahead of the step.

A training batch is {images uint8 [B, H, W, 3], labels int32 [B] or float32 multi-hot [B, K]}, with mixup also
{mixup_weight float64 []}, with stochastic depth {kept_branches bool [B, branches]}, with dropout {dropout_seeds int32
[B, dropouts, 2]}; an evaluation batch is {images, labels, mask bool [B]}. Scaling, mixup and casts happen on the device.
"""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from common.data import images, randaugment
from common.data.split import Split
from common.data.views import model_view
from common.models import ModelConfig
from common.models.cards import Preprocessing
from common.recipes.recipe import Recipe, check_sharing

CHUNK = 64  # images that one thread decodes in a row
PREFETCH_BYTES = 2**28  # bound on the memory of the batches that wait for the device
NOISE = ("kept_branches", "dropout_seeds")  # what a batch holds for the model beside images


class TrainBatches:
    """`batches(step)`, whatever was asked before: the examples, crops, flips and mixup weight of one training step.

    Every epoch is a permutation of all examples, and a batch may straddle two of them. With several processes, each
    takes its contiguous slice of the global batch. The model's config tells how many branches and dropouts there are.
    """

    def __init__(
        self, split: Split, recipe: Recipe, seed: int, process: int = 0, num_processes: int = 1,
        config: ModelConfig | None = None,
    ):  # fmt: skip
        self.split, self.recipe, self.seed, self.config = split, recipe, seed, config
        check_sharing(recipe, num_processes)
        share = recipe.batch // num_processes
        self.rows = slice(process * share, (process + 1) * share)
        self.batch_bytes = share * (recipe.crop**2 * 3 + split.target_bytes)

    def plan(self, step: int) -> dict[str, np.ndarray]:
        """What happens in `step`, before any image is read: `examples` [B], `draws` [B, 5], a weight [], noise.

        `randaugment` [B, layers, 3] is empty where the recipe has no layers.
        """
        first = step * self.recipe.batch
        rng = np.random.default_rng([self.seed, 1, step])
        alpha = self.recipe.mixup
        return (
            {
                "examples": self._examples(np.arange(first, first + self.recipe.batch))[self.rows],
                "draws": rng.random((self.recipe.batch, 5))[self.rows],
                "randaugment": self._randaugment(step),
            }
            | ({"mixup_weight": np.float64(rng.beta(alpha, alpha))} if alpha > 0 else {})
            | self._noise(step)
        )

    def _randaugment(self, step: int) -> np.ndarray:
        """Which operation each layer applies to each example, its sign and its place."""
        shape = (self.recipe.batch, self.recipe.randaugment_layers, randaugment.DRAWS)
        return np.random.default_rng([self.seed, 4, step]).random(shape)[self.rows]

    def _noise(self, step: int) -> dict[str, np.ndarray]:
        """Which residual branches every example keeps, and the seeds of its dropouts."""
        noise, recipe = {}, self.recipe
        if recipe.stochastic_depth > 0:
            rates = branch_drop_rates(self.config.num_branches, recipe.stochastic_depth)
            draws = np.random.default_rng([self.seed, 2, step]).random((recipe.batch, len(rates)))
            noise["kept_branches"] = (draws >= rates)[self.rows]
        if recipe.dropout > 0:
            rng, shape = np.random.default_rng([self.seed, 3, step]), (recipe.batch, self.config.num_dropouts, 2)
            noise["dropout_seeds"] = rng.integers(-(2**31), 2**31, shape, np.int32)[self.rows]
        return noise

    def _examples(self, positions: np.ndarray) -> np.ndarray:
        epochs, places = np.divmod(positions, len(self.split))
        examples = np.empty_like(positions)
        for epoch in np.unique(epochs):
            order = epoch_order(self.seed, int(epoch), len(self.split))
            examples[epochs == epoch] = order[places[epochs == epoch]]
        return examples

    def jobs(self, step: int) -> tuple[dict[str, np.ndarray], list[Callable[[], None]]]:
        """(batch, jobs): the batch is complete once every job has run, in any thread and order."""
        plan, size = self.plan(step), self.recipe.crop
        batch = {
            "images": np.empty((len(plan["examples"]), size, size, 3), np.uint8),
            "labels": self.split.targets(plan["examples"]),
        }
        batch |= {name: plan[name] for name in ("mixup_weight", *NOISE) if name in plan}

        def fill(rows: range) -> None:
            for row in rows:
                draws = plan["draws"][row].tolist(), plan["randaugment"][row]  # Python's own numbers are quicker singly
                batch["images"][row] = self.split.view(plan["examples"][row], augment, self.recipe, *draws)

        return batch, [lambda rows=rows: fill(rows) for rows in chunks(len(batch["images"]))]


class EvalBatches:
    """Every example of a split once, in order; the last batch is padded, and `mask` is False on its padding.

    With several processes, each takes its contiguous slice of the global batch, which they must divide.
    """

    def __init__(
        self, split: Split, preprocessing: Preprocessing, batch: int, process: int = 0, num_processes: int = 1
    ):
        self.split, self.preprocessing, self.batch = split, preprocessing, batch
        self.share = batch // num_processes
        self.first_row = process * self.share
        self.batch_bytes = self.share * (preprocessing.resolution**2 * 3 + split.target_bytes)

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch)

    def jobs(self, step: int) -> tuple[dict[str, np.ndarray], list[Callable[[], None]]]:
        """(batch, jobs): the batch is complete once every job has run, in any thread and order."""
        first = step * self.batch + self.first_row
        count = max(0, min(self.share, len(self.split) - first))
        labels = self.split.targets(slice(first, first + count))
        batch = {
            "images": np.zeros((self.share, *2 * (self.preprocessing.resolution,), 3), np.uint8),
            "labels": np.zeros((self.share, *labels.shape[1:]), labels.dtype),
            "mask": np.arange(self.share) < count,
        }
        batch["labels"][:count] = labels

        def fill(rows: range) -> None:
            for row in rows:
                batch["images"][row] = self.split.view(first + row, model_view, self.preprocessing)

        return batch, [lambda rows=rows: fill(rows) for rows in chunks(count)]


def branch_drop_rates(num_branches: int, rate: float) -> np.ndarray:
    """How often each residual branch is skipped: two per block, linear in depth from 0 to `rate`.

    Source: `models/mlp_mixer.py` of google-research/big_vision, where kept branches are not scaled up either.
    """
    blocks = np.arange(num_branches) // 2
    return rate * blocks / max(blocks[-1], 1)


@functools.lru_cache(maxsize=2)  # a batch may straddle two epochs; of a million examples, each takes 8 MB
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The permutation of `count` examples in which an epoch sees them."""
    return np.random.default_rng([seed, 0, epoch]).permutation(count)


def augment(
    image: np.ndarray, recipe: Recipe, draws: np.ndarray, randaugment_draws: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """uint8 [crop, crop, 3]: the training view of `image` that five numbers in [0, 1) choose; the last one flips.

    RandAugment follows, by a row of numbers for each layer.
    """
    if recipe.crop_min_area < 1:
        box = images.inception_crop(image, recipe.crop_min_area, draws[:4])
        view = images.resize(box, recipe.crop, recipe.crop, recipe.resize_kind)
    else:
        if recipe.resize_mode == "small_side":
            view = images.resize_small(image, recipe.resize, recipe.resize_kind)
        else:
            view = images.resize(image, recipe.resize, recipe.resize, recipe.resize_kind)
        view = images.crop(view, recipe.crop, draws[0], draws[1])
    view = images.flip(view) if draws[4] < recipe.flip else view
    if recipe.randaugment_layers:
        view = randaugment.randaugment(view, recipe.randaugment_magnitude, randaugment_draws)
    return view


def chunks(count: int) -> list[range]:
    """range(count) in pieces of at most CHUNK."""
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


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
