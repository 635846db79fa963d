"""Which job `evaluate` and `predict` do: by the model's family and the flags."""

import dataclasses

from common.config import EvaluateConfig, PredictConfig, WritingConfig
from common.data.sources import Opener
from common.flags import given
from common.models import DecoderConfig, TwoTowersConfig, VqVaeConfig, find_model
from common.runs.backbone import Backbone
from common.runs.inference import Evaluation
from common.runs.maps import Maps
from common.runs.predicted import MapEvaluation, Pictures
from common.runs.prediction import Prediction
from common.runs.towers import Comparison, Retrieval, ZeroShot
from common.runs.writers import Captioner, Captions, Likelihood, Scoring
from common.system.errors import UserError

PREDICTIONS = {TwoTowersConfig: Comparison, DecoderConfig: Captioner, VqVaeConfig: Pictures}
EVALUATIONS = {
    "classification": Evaluation,
    "zero_shot": ZeroShot,
    "retrieval": Retrieval,
    "likelihood": Likelihood,
    "scoring": Scoring,
    "captions": Captions,
    "maps": MapEvaluation,
}
USUAL = {TwoTowersConfig: "zero_shot", DecoderConfig: "likelihood", VqVaeConfig: "maps"}
PROMPTED = ("zero_shot", "scoring")
OF_WRITING = tuple(WritingConfig.__dataclass_fields__)  # flags
USED = {"captions": OF_WRITING, "likelihood": ("prompt",), "scoring": ("prompt",)}  # by evaluators


def prediction(config: PredictConfig) -> Prediction:
    """The job of `predict`: by --map, or else by what the model is. Raises UserError."""
    family = type(find_model(config.model).config())
    writes = family is DecoderConfig and not config.map
    check_writing(config, OF_WRITING if writes else (), config.model)
    if config.captions and not writes:
        raise UserError(
            f"--captions is for models that write and {config.model} does not; choose one such as CapPa-B/16."
        )
    if config.oracle and config.map:
        raise UserError(
            f"--oracle makes maps of codes and --map {config.map} pictures of a ViT; leave one of them off."
        )
    if config.oracle and config.captions:
        raise UserError("--captions are texts, and --oracle makes maps of what is written; leave one of them off.")
    usual = Pictures if config.oracle else PREDICTIONS.get(family, Prediction)
    return (Maps if config.map else usual)(config)


def evaluation(config: EvaluateConfig, open_torchvision: Opener | None = None) -> Evaluation:
    """The job of `evaluate`: by --features or --evaluator, or else by what the model is. Raises UserError."""
    if config.features:
        if config.oracle:
            raise UserError("--oracle makes maps of codes for --evaluator maps, not --features; leave one of them off.")
        check_writing(config, (), f"--features {config.features}")
        return Backbone(config, open_torchvision)
    usual = "maps" if config.oracle else USUAL.get(type(find_model(config.model).config()), "classification")
    kind = config.evaluator or usual
    if config.oracle and kind != "maps":
        raise UserError(f"--oracle makes maps of codes for --evaluator maps, not {kind}; leave one of them off.")
    if config.prompts and kind not in PROMPTED:
        raise UserError(f"--prompts are for --evaluator {' and '.join(PROMPTED)}, not {kind}; leave one of them off.")
    check_writing(config, OF_WRITING if config.oracle else USED.get(kind, ()), f"--evaluator {kind}")
    return EVALUATIONS[kind](dataclasses.replace(config, evaluator=kind), open_torchvision)


def check_writing(config: EvaluateConfig | PredictConfig, used: tuple[str, ...], what: str) -> None:
    """Raise UserError for a flag of how texts are written that is not `used`."""
    wrong = [name for name in given(config) if name in OF_WRITING and name not in used]
    if wrong:
        raise UserError(f"--{wrong[0]} is for texts that a model writes, and {what} writes none; leave it out.")
