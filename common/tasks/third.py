"""A third tower: a frozen model of images, to which both towers of an image-text model are drawn in training.

Three Towers (3T, https://arxiv.org/abs/2305.16999). Of an image x and its text y, f(x) and g(y) are the embeddings of the
towers that are trained, and h(x) the features of the frozen one, of its classifier without the head. Each pair of towers has
projections of its own, and a projection's output is made of length 1:

    f_h = F f(x),  h_f = H_f h(x),  g_h = G g(y),  h_g = H_g h(x)
    L = (L(f, g) + L(f_h, h_f) + L(g_h, h_g)) / 3

L(u, v) is the loss of the recipe over all pairs of a batch, softmax or sigmoid, chunked or not. Once training has ended, the
third tower and the four projections are of no use: `weights.npz` is a model of two towers, and evaluation sees these only.

The abstract and the introduction of the paper were read, which say that a third tower holds the frozen embeddings and that
training aligns it with both others, not its sections on method and experiments. The sum above is as this project's authors
know it. Chosen here: projections are linear, without bias (so it changes nothing that f and g have length 1) and as wide as
the embeddings; all three losses share t and b; the third tower is shown the box and flip of the model that is trained, at its
own resolution and in its own scale.
"""

import dataclasses
from typing import Any

from common.data.columns import Column
from common.models import TwoTowersConfig
from common.models.cards import Preprocessing
from common.models.families import some
from common.models.family import Arrays, below
from common.models.initial import draw_some
from common.system.errors import UserError
from common.tasks.frozen import read_frozen, training_view
from common.tasks.start import Start

NAME = "third"  # of the model in a run, and of the projections within the one that is trained


def third_tower(plan: Any, given: str, student: Preprocessing) -> Start:
    """The frozen model that --third_tower names, without its head; of an image-text model, the tower for images.

    Raises UserError where there is none, and for one without features of whole images.
    """
    found = read_frozen(plan, given, "--third_tower", student)
    config, arrays = found.config, found.arrays
    if isinstance(config, TwoTowersConfig):
        config, arrays = config.image, below(arrays, "image")
    if config.image_kernel is None or config.pooling == "none":
        raise UserError(
            f"The --third_tower {given} is {some(config)} that gives no features of a whole image; name a model that does."
        )
    config = config.with_classes(None)
    arrays = {name: arrays[name] for name in config.parameter_shapes()}
    plan.notes.append(f"The third tower {given} sees the boxes of the model at {found.preprocessing.resolution} px.")
    return found._replace(config=config, arrays=arrays)


def with_projections(start: Start, third: Start, seed: int) -> Start:
    """An image-text model with new projections beside a third tower."""
    config = dataclasses.replace(start.config, third=third.config.feature_width)
    return start._replace(config=config, arrays=start.arrays | projections(config, seed))


def projections(config: TwoTowersConfig, seed: int) -> Arrays:
    """Initial values of what the model has for a third tower."""
    return draw_some(seed, config, [name for name in config.own_shapes() if name.startswith(f"{NAME}/")])


def columns(plan: Any) -> list[Column]:
    """The third tower's own images of a training batch, where it sees other pixels than the model."""
    if NAME not in plan.models:
        return []
    return training_view(plan.recipe, plan.models[NAME].preprocessing, f"{NAME}_images", "same")
