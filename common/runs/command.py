"""A command of an engine, from its words to its end: the flags are checked before a framework is imported."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import flags
from common.config import MEMORY_FLAGS, ModelConfig, TrainConfig
from common.models.listing import listed
from common.runs.extend import taken_over
from common.system.environment import ENGINE_PACKAGES
from common.system.errors import UserError, exit_with_sentence, is_out_of_memory, of_memory
from common.weights.source import stated_model


def parse(config_class: type, argv: Sequence[str], prog: str, description: str) -> Any:
    """The config that the command line describes. Raises UserError for an unknown flag or a bad value.

    With --extend_from, other flags are those of the run that it names; without --model, a run's weights name theirs.
    """
    given = flags.read(config_class, argv, prog, description)
    if "extend_from" in given:
        given = taken_over(given["extend_from"], given)
    if "weights" in given and "model" not in given and issubclass(config_class, ModelConfig):
        given |= stated_model(given["weights"])
    config = config_class(**given)
    flags.check(config)
    return config


def run_command(
    engine: str, command: str, config_class: type, description: str, prepare: Callable, load_main: Callable
) -> None:
    """Parse the flags, `prepare(config)` the job, which checks its files, and only then import the engine and run it.

    A UserError ends with exit status 2.
    """
    with exit_with_sentence():
        try:
            config = parse(config_class, sys.argv[1:], f"python -m {engine}.{command}", description)
            if config.model == "list":
                return print(listed([], Path(config.bit_pretrained_dir)))
            job = prepare(config)
            load_main()(job)
        except ModuleNotFoundError as error:
            if error.name.partition(".")[0] not in ENGINE_PACKAGES[engine]:
                raise
            extra = engine.removeprefix("bit_")
            raise UserError(
                f"{error.name} is not installed; install the engine with `pip install '.[{extra}]'`."
            ) from error
        except Exception as error:
            if isinstance(error, UserError) or not is_out_of_memory(error):
                raise
            raise of_memory(error, MEMORY_FLAGS if config_class is TrainConfig else "a smaller --batch_eval") from error
