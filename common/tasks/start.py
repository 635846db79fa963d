"""What a model of a run starts from."""

from typing import Any, NamedTuple

from common.models import ModelConfig
from common.models.cards import Card, Preprocessing
from common.models.initial import draw_some
from common.models.low_rank import with_lora
from common.recipes.choices import Exif
from common.recipes.groups import FROZEN
from common.recipes.per_step import lengths
from common.weights import Arrays


class Start(NamedTuple):
    """A model before its first step."""

    config: ModelConfig
    arrays: Arrays
    card: Card  # of the file that its arrays are from
    preprocessing: Preprocessing  # how it sees images in this run
    frozen: bool = False  # neither trained nor in checkpoints
    digest: str = ""  # of the file of a frozen model, which a run keeps from its first step to its last

    def to_build(self, config: Any, recipe: Any) -> tuple[tuple, dict[str, Any]]:
        """((configuration, arrays), options) for an engine's `build`, by the flags and the recipe of a run."""
        trained = {"remat": config.remat, "groups": recipe.groups}
        options = {"precision": config.precision, "preprocessing": self.preprocessing}
        return (self.config, self.arrays), options | ({"groups": FROZEN} if self.frozen else trained)


def adapted(start: Start, plan: Any) -> Start:
    """The same with the matrices of the recipe's LoRA, if any. Raises UserError where the model has no kernels for them."""
    if not plan.recipe.lora:
        return start
    config = with_lora(start.config, plan.recipe.lora, plan.config.model)
    return start._replace(
        config=config, arrays=start.arrays | draw_some(plan.config.seed, config, config.lora_shapes())
    )


def prepared(recipe: Any, card: Card, exif: Exif, tokens: int | None = None) -> Preprocessing:
    """How a model that is trained sees images: as the recipe evaluates, in the scale of the file that it starts from.

    With --token_lengths, at their own aspect ratio, of `tokens` patches, or as many as in the longest training step.
    """
    scale = card.preprocessing
    if recipe.token_lengths:
        most = tokens or max(lengths(recipe.token_lengths))
        kind = recipe.eval_resize_kind
        return Preprocessing(resize_kind=kind, mean=scale.mean, std=scale.std, exif=exif, tokens=most)
    return Preprocessing(recipe.crop, recipe.eval_resize, recipe.eval_resize_kind, scale.mean, scale.std, exif)
