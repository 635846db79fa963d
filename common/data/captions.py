"""The texts of images: one or several for each."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np

from common.system.errors import UserError, printable, shortened


@dataclasses.dataclass(frozen=True)
class Captions:
    """A sequence: `captions[i]` are the texts of example i, at least one. They may lie in a file that is read when asked."""

    text: np.ndarray  # uint8: all texts in UTF-8, one after another
    ends: np.ndarray  # int64 [M]: where each of them ends
    first: np.ndarray  # int64 [N]: the first text of each example
    counts: np.ndarray  # int64 [N]: how many follow

    @classmethod
    def pack(cls, texts: Iterable[Sequence[str]]) -> Self:
        """Those of all examples, in their order."""
        encoded, counts = [], []
        for own in texts:
            encoded += [text.encode() for text in own]
            counts.append(len(own))
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        counts = np.array(counts, np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends, np.cumsum(counts) - counts, counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, i: int) -> tuple[str, ...]:
        """Raises IndexError behind the last example."""
        first, ends = int(self.first[i]), self.ends
        starts = range(first, first + int(self.counts[i]))
        return tuple(self.text[ends[j - 1] if j else 0 : ends[j]].tobytes().decode() for j in starts)

    def take(self, examples: np.ndarray) -> Self:
        """Those of these examples, in this order."""
        return dataclasses.replace(self, first=self.first[examples], counts=self.counts[examples])

    def each(self) -> Self:
        """Those of `take(images_of)`, of which example j has the j-th of all texts and no other."""
        places = np.arange(self.counts.sum()) - np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        return dataclasses.replace(self, first=np.repeat(self.first, self.counts) + places, counts=np.ones_like(places))

    @property
    def images_of(self) -> np.ndarray:
        """int32 [M]: the example of each text, where the texts of all examples follow one another."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.counts)

    def dump(self) -> dict[str, np.ndarray]:
        """Arrays for an index, which `load` reads."""
        return {f"captions/{field.name}": getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def load(cls, arrays: dict[str, np.ndarray]) -> Self | None:
        """From arrays of an index; None where it holds none."""
        names = {field.name: f"captions/{field.name}" for field in dataclasses.fields(cls)}
        return cls(**{field: arrays[name] for field, name in names.items()}) if names["text"] in arrays else None


def cleaned(texts: Sequence[str], where: str) -> tuple[str, ...]:
    """The texts without blanks at their ends and without empty ones.

    UserError, which begins with `where`, for texts that Unicode has not: bytes of another encoding, half a pair of surrogates.
    """
    found = tuple(text for text in map(str.strip, texts) if text)
    try:
        "".join(found).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} holds captions that are not in UTF-8, such as {shortened(printable(' '.join(found)))}; save it again, as "
            "text in UTF-8."
        ) from error
    return found
