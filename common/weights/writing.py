"""Weights as files in the published layout of their family."""

import contextlib
import json
from pathlib import Path

from common.models import FAMILIES, ModelConfig
from common.models.cards import FACTS, Card
from common.models.families import dump_config
from common.models.family import Arrays
from common.system.errors import UserError
from common.system.files import write_json
from common.weights import containers
from common.weights.express import choose_table, express, expressed
from common.weights.source import card_path


def write_weights(path: str | Path, arrays: Arrays, config: ModelConfig, card: Card | None = None) -> None:
    """Write canonical `arrays` and read them back: `.npz` in the published layout of the family, BiT's `.h5` in Keras's,
    else in our own names.

    What a layout cannot say of a model (GELU, epsilons), and the facts of its card, go into the record within the file, or
    of an `.npz` or BiT's `.h5` into the card beside it, in place of what that one told; without a `card`, its facts stay. Names of other
    classes than the head has, which a user has replaced, are left out.
    """
    path, card = Path(path), card and card.of_classes(config.num_classes)
    spelling = published_spelling(config, path.suffix)
    table = choose_table(spelling, config)
    there, _ = expressed(config, table)
    record = (card.facts() if card else {}) | {"config": dump_config(config)}
    published = table.to_published(dict(express(arrays, config, there)), there)
    keras = config if spelling == "big_transfer_h5" else None
    containers.write(path, published, {"format": "pt", containers.RECORD: json.dumps(record)}, keras)
    beside = card_path(path)
    if (path.suffix == ".npz" or keras) and (
        len(record) > 1 or FAMILIES[type(config)].needs_record(config) or card and beside.is_file()
    ):
        facts = containers.read_json(beside) if beside.is_file() else {}
        kept = {name: value for name, value in facts.items() if card is None or name not in FACTS}
        write_json(beside, kept | record)


def published_spelling(config: ModelConfig, suffix: str) -> str:
    """The spelling in which a family's files were published, for a kind of file. UserError for an unknown kind."""
    if suffix not in containers.SUFFIXES:
        raise UserError(
            f"Cannot write weights as {suffix or 'a'} file: expected a name that ends in {containers.KNOWN}."
        )
    for spelling in FAMILIES[type(config)].spellings.get(suffix, ()):
        with contextlib.suppress(UserError):
            if not expressed(config, choose_table(spelling, config))[1]:
                return spelling
    return "ours"
