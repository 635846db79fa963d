"""RandAugment on uint8 RGB images [H, W, 3]: operations drawn at random, all of one strength.

Source: RandAugment (https://arxiv.org/abs/1909.13719), with the operations and numbers of `randaug(layers, magnitude)` in
`pp/archive/autoaugment.py` of google-research/big_vision, which is EfficientNet's: distances are pixels whatever the
image's size, empty pixels become grey (128), coordinates are rounded to the nearest pixel, results are truncated to uint8.
"""

from collections.abc import Callable, Sequence

import numpy as np

MAX_LEVEL = 10  # at which strength is 1; `STRONGEST` of common/recipes/choices.py is twice as much
DRAWS = 3  # numbers in [0, 1) that a layer takes: which operation, its sign or row, its column
GREY = 128
VALUES = np.arange(256, dtype=np.uint8)


def randaugment(image: np.ndarray, level: float, draws: Sequence[np.ndarray]) -> np.ndarray:
    """`image` after one operation for each three numbers in [0, 1) of `draws`; `level` is their strength, 0 to 20."""
    for operation, *place in draws:
        image = OPERATIONS[int(operation * len(OPERATIONS))](image, level / MAX_LEVEL, *place)
    return image


# --- operations: (image, strength in [0, 2], two numbers in [0, 1)) -> image


def autocontrast(image: np.ndarray, *_: float) -> np.ndarray:
    """Every channel stretched to 0 .. 255."""
    tables = []
    for channel in channels(image):
        low, high = int(channel.min()), int(channel.max())
        scale = np.float32(255 / max(high - low, 1))
        tables.append(truncated(VALUES * scale - np.float32(low) * scale) if high > low else VALUES)
    return looked_up(image, np.stack(tables, -1))


def equalize(image: np.ndarray, *_: float) -> np.ndarray:
    """Every channel with about as many pixels of each value."""
    tables = []
    for channel in channels(image):
        counts = np.bincount(channel.ravel(), minlength=256)
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        below = np.cumsum(counts) - counts
        tables.append(np.minimum((below + step // 2) // step, 255).astype(np.uint8) if step else VALUES)
    return looked_up(image, np.stack(tables, -1))


def invert(image: np.ndarray, *_: float) -> np.ndarray:
    """Every level v as 255 - v."""
    return 255 - image


def rotate(image: np.ndarray, strength: float, sign: float, _: float) -> np.ndarray:
    """By up to 30 degrees about the centre."""
    height, width = image.shape[:2]
    angle = np.deg2rad(signed(strength * 30, sign))
    right, down, cos, sin = (np.float32(number) for number in (width - 1, height - 1, np.cos(angle), np.sin(angle)))
    left = (right - (cos * right - sin * down)) / 2
    top = (down - (sin * right + cos * down)) / 2
    return transformed(image, (cos, -sin, left), (sin, cos, top))


def posterize(image: np.ndarray, strength: float, *_: float) -> np.ndarray:
    """The highest bits kept: at most 4, and more the stronger; one at least, as TensorFlow shifts by 7 at most."""
    shift = 8 - max(1, int(strength * 4))
    return image >> shift << shift


def solarize(image: np.ndarray, strength: float, *_: float) -> np.ndarray:
    """Inverted from a threshold on. Full strength inverts everything: 256, as a uint8, is the threshold 0."""
    return looked_up(image, np.where(int(strength * 256) % 256 > VALUES, VALUES, 255 - VALUES))


def color(image: np.ndarray, strength: float, *_: float) -> np.ndarray:
    """From grey to more than its own colours."""
    return blended(grey(image)[..., None], image, strength)


def contrast(image: np.ndarray, strength: float, *_: float) -> np.ndarray:
    """From the mean grey level to more than its own contrast."""
    levels = grey(image)
    mean = np.full(256, levels.sum(dtype=np.int64) // levels.size, np.uint8)
    return looked_up(image, blended(mean, VALUES, strength))


def brightness(image: np.ndarray, strength: float, *_: float) -> np.ndarray:
    """From black to brighter than it was."""
    return looked_up(image, blended(np.zeros_like(VALUES), VALUES, strength))


def sharpness(image: np.ndarray, strength: float, *_: float) -> np.ndarray:
    """From smoothed by a 3 x 3 kernel, but for the border, to sharpened."""
    import cv2

    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32)
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, cv2.CV_16S, kernel)[1:-1, 1:-1] // 13
    return blended(smooth, image, strength)


def shear_x(image: np.ndarray, strength: float, sign: float, _: float) -> np.ndarray:
    """Rows pushed sideways by up to 0.3 of their distance from the top."""
    return transformed(image, (1, signed(strength * 0.3, sign), 0), (0, 1, 0))


def shear_y(image: np.ndarray, strength: float, sign: float, _: float) -> np.ndarray:
    """Columns pushed up or down by up to 0.3 of their distance from the left."""
    return transformed(image, (1, 0, 0), (signed(strength * 0.3, sign), 1, 0))


def translate_x(image: np.ndarray, strength: float, sign: float, _: float) -> np.ndarray:
    """By up to 100 pixels sideways."""
    return transformed(image, (1, 0, signed(strength * 100, sign)), (0, 1, 0))


def translate_y(image: np.ndarray, strength: float, sign: float, _: float) -> np.ndarray:
    """By up to 100 pixels up or down."""
    return transformed(image, (1, 0, 0), (0, 1, signed(strength * 100, sign)))


def cutout(image: np.ndarray, strength: float, top: float, left: float) -> np.ndarray:
    """A grey square of up to 80 pixels, its centre anywhere in the image."""
    half, covered = int(strength * 40), image.copy()
    row, column = int(top * image.shape[0]), int(left * image.shape[1])
    covered[max(0, row - half) : row + half, max(0, column - half) : column + half] = GREY
    return covered


def solarize_add(image: np.ndarray, strength: float, *_: float) -> np.ndarray:
    """The dark half made lighter by up to 110."""
    lighter = np.minimum(VALUES.astype(int) + int(strength * 110), 255).astype(np.uint8)
    return looked_up(image, np.where(VALUES < 128, lighter, VALUES))


OPERATIONS: tuple[Callable[..., np.ndarray], ...] = (
    autocontrast, equalize, invert, rotate, posterize, solarize, color, contrast, brightness, sharpness, shear_x, shear_y,
    translate_x, translate_y, cutout, solarize_add,
)  # fmt: skip


# --- what they are made of


def signed(amount: float, draw: float) -> float:
    """`amount` with a random sign: `draw` is a number in [0, 1)."""
    return amount if draw >= 0.5 else -amount


def truncated(values: np.ndarray) -> np.ndarray:
    """float32 to uint8 without rounding."""
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def channels(image: np.ndarray) -> tuple[np.ndarray, ...]:
    """The three channels uint8 [H, W], each in one piece: numpy is slow on every third byte."""
    import cv2

    return cv2.split(image)


def looked_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`image` with its values replaced by those of `table`, uint8 [256], or [256, 3] for each channel."""
    import cv2

    return cv2.LUT(image, table[None])


def grey(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W]: the brightness of every pixel, rounded as `tf.image.rgb_to_grayscale` does."""
    red, green, blue = (channel * np.float32(1 / 255) for channel in channels(image))
    brightness = red * np.float32(0.2989) + green * np.float32(0.587) + blue * np.float32(0.114)
    return (brightness * np.float32(255.5)).astype(np.uint8)


def blended(start: np.ndarray, end: np.ndarray, strength: float) -> np.ndarray:
    """From a tenth of the way from `start` to `end` (0), through `end` (0.5), to 1.9 of it (1)."""
    values = np.subtract(end, start, dtype=np.float32)
    values *= np.float32(strength * 1.8 + 0.1)
    values += start
    return truncated(values)


def transformed(image: np.ndarray, x: tuple[float, ...], y: tuple[float, ...]) -> np.ndarray:
    """Every pixel (column, row) taken from where x0 column + x1 row + x2, and the same of `y`, say; grey from outside.

    In float32 and to the nearest pixel, halves away from zero, as in TensorFlow's `ImageProjectiveTransform`.
    """
    import cv2

    column, row = np.arange(image.shape[1], dtype=np.float32), np.arange(image.shape[0], dtype=np.float32)[:, None]
    places = [
        np.float32(to_column) * column + np.float32(to_row) * row + np.float32(offset)
        for to_column, to_row, offset in (x, y)
    ]
    nearest = [np.trunc(place + np.copysign(np.float32(0.5), place)) for place in places]
    return cv2.remap(image, *nearest, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=(GREY,) * 3)
