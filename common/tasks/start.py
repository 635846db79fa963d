"""What a model of a run starts from."""

from typing import NamedTuple

from common.models import ModelConfig
from common.models.cards import Card, Preprocessing
from common.weights import Arrays


class Start(NamedTuple):
    """A model before its first step."""

    config: ModelConfig
    arrays: Arrays
    card: Card  # of the file that its arrays are from
    preprocessing: Preprocessing  # how it sees images in this run
    frozen: bool = False  # neither trained nor in checkpoints
    digest: str = ""  # of the file of a frozen model, which a run keeps from its first step to its last
