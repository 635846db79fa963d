"""The published models as a table for a person."""

from pathlib import Path

from common.models.families import num_parameters
from common.models.published import PACKAGED_WEIGHTS, PublishedModel, published_models
from common.system.errors import UserError


def listed(words: list[str], folder: Path) -> str:
    """A table of the models whose name holds each of `words`. Raises UserError where there is none."""
    models = [m for m in published_models().values() if all(word.lower() in m.name.lower() for word in words)]
    if not models:
        raise UserError(f"No published model's name holds {' '.join(words)}; leave the words out to see all of them.")
    rows = [("name", "classes", "px", "parameters", "weights", "trained on")] + [row(m, folder) for m in models]
    widths = [max(len(line[i]) for line in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in rows)


def row(model: PublishedModel, folder: Path) -> tuple[str, ...]:
    """The facts by which a person chooses."""
    config = model.config()
    size = str(config.image_size[0]) if config.image_size else str(model.resolution or "any")
    millions = f"{num_parameters(config) / 1e6:,.1f} M"
    classes = f"{model.num_classes:,}" if model.num_classes else "none"
    return model.name, classes, size, millions, state(model, folder), model.source


def state(model: PublishedModel, folder: Path) -> str:
    """Whether the weights are on this machine."""
    if (PACKAGED_WEIGHTS / model.file).is_file() and model.url is None:
        return "embedded"
    here = any((folder / name).is_file() for name in (model.file, f"{model.name}.h5"))
    return "downloaded" if here else "to download" if model.url else "none"
