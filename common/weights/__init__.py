"""Read and write weights as canonical arrays {name: numpy array}, in every spelling that circulates (common/weights/spellings/)."""

from common.models.family import Arrays, below
from common.weights.fitting import check_shapes, fitted_config, refuse_unbuilt, refuse_wrapper
from common.weights.starting import (
    Start,
    choose_file,
    find_file,
    of_one_size,
    read_start,
    read_weights,
    starting_values,
)
from common.weights.writing import write_weights

__all__ = [
    "Arrays",
    "Start",
    "below",
    "check_shapes",
    "choose_file",
    "find_file",
    "fitted_config",
    "of_one_size",
    "read_start",
    "read_weights",
    "refuse_unbuilt",
    "refuse_wrapper",
    "starting_values",
    "write_weights",
]
