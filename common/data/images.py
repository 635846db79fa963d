"""Decode, resize, crop and flip images: uint8 RGB arrays [H, W, 3]."""

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from common.recipes.choices import MAX_PIXELS

FORMATS = {  # Pillow's name -> endings of its files: what is decoded. Others, such as PostScript, run other programs.
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "DIB": (".dib",),
    "ICO": (".ico",),
    "PCX": (".pcx",),
    "PSD": (".psd",),
    "QOI": (".qoi",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
EXTENSIONS = tuple(ending for endings in FORMATS.values() for ending in endings)
SPARSE_PIXELS = 2**21  # of larger images a copy in float32 takes as long as Pillow does
JPEG_START, TIFF_STARTS = b"\xff\xd8", (b"II*\0", b"MM\0*")
RATIOS = (0.75, 1.33)  # of width to height, of a random box
Box = tuple[int, int, int, int]  # top, left, height and width in pixels
ORIENTATION, PHOTOMETRIC, BITS_PER_SAMPLE, WHITE_IS_ZERO = 0x112, 262, 258, 0  # tags of TIFF and EXIF, and a value
UPRIGHT = {  # orientation in EXIF -> the image as it was seen
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


class BrokenImage(ValueError):
    """The bytes are no image; the caller adds the file's name."""


def decode(encoded: bytes | np.ndarray, exif: str = "ignore") -> np.ndarray:
    """uint8 RGB [H, W, 3] of an image file's bytes; an array is taken as already decoded.

    The file's contents, not its name, decide which of FORMATS it is. Of an animation the first frame is read; `to_rgb`
    converts the pixels. The orientation in a photograph's EXIF is not applied, as in the pipelines of the
    originals, unless `exif` is `apply`; that of a TIFF, a tag of its format, always is. Raises BrokenImage.
    """
    if isinstance(encoded, np.ndarray):
        return encoded
    image = _decode(encoded)
    turn = UPRIGHT.get(_orientation(encoded)) if exif == "apply" else None
    return np.ascontiguousarray(turn(image)) if turn else image


def _decode(encoded: bytes) -> np.ndarray:
    try:
        if encoded[:2] == JPEG_START:
            import simplejpeg

            height, width, *_ = simplejpeg.decode_jpeg_header(encoded, strict=True)
            check_size(height, width)
            return simplejpeg.decode_jpeg(encoded, colorspace="RGB", strict=True)
    except ValueError as error:
        if isinstance(error, BrokenImage):
            raise
        # libjpeg's fast interface lacks CMYK and is strict about stray bytes; Pillow then decides.
    with _opened(encoded) as image:
        check_size(image.height, image.width)
        return to_rgb(image)


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[Any]:
    """Pillow's view of a file, of which only the header is read. Whatever it raises becomes BrokenImage."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here, before any pixel is read
            with Image.open(io.BytesIO(encoded), formats=_formats()) as image:
                yield image
    except BrokenImage:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
        unread = isinstance(error, UnidentifiedImageError) and encoded[:4] in TIFF_STARTS
        why = (
            "Pillow reads no TIFF with such pixels, as of 64 bits or of colours in floating point"
            if unread
            else _reason(error)
        )
        raise BrokenImage(f"cannot be decoded ({why})") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that the installed Pillow has."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def to_rgb(image: Any) -> np.ndarray:
    """uint8 [H, W, 3] of Pillow's image, whatever its mode.

    Grey, palette, CMYK, YCbCr and Lab become RGB as Pillow converts them, transparency is dropped, and of 12 or 16 bits
    the upper 8 are kept. Floating-point numbers count from 0, black, to 1, white. Others, and integers of 32 bits or with
    a sign, define no white and raise BrokenImage: Pillow would clip them to 0 to 255.
    """
    if image.mode.startswith("I;16") or image.mode == "I" and image.format in ("PPM", "PNG"):
        bits = _tag(image, BITS_PER_SAMPLE, (16,))[0]
        return _grey(image, (np.asarray(image) >> (bits - 8)).astype(np.uint8))
    if image.mode == "I":
        raise BrokenImage(
            "holds integers of 32 bits or with a sign (mode I), whose white is not known, expected 8 or 16 bits"
        )
    if image.mode == "F":
        values = np.asarray(image)
        levels = np.rint(values * 255)
        if not (levels.min() >= 0 and levels.max() <= 255):  # refuses nan, too
            span = f"from {values.min():g} to {values.max():g}"
            raise BrokenImage(f"holds floating-point numbers (mode F) {span}, expected 0 to 1")
        return _grey(image, levels.astype(np.uint8))
    if image.mode == "La":  # which Pillow converts to its like only
        image = image.convert("LA")
    return np.asarray(image.convert("RGB"))


def _grey(image: Any, values: np.ndarray) -> np.ndarray:
    """[H, W, 3] of grey [H, W], with the white of a TIFF that has it at zero; that of 8 bits Pillow turns itself."""
    values = 255 - values if _tag(image, PHOTOMETRIC, 1) == WHITE_IS_ZERO else values
    return np.repeat(values[..., None], 3, axis=2)


def _tag(image: Any, number: int, default: Any) -> Any:
    return image.tag_v2.get(number, default) if image.format == "TIFF" else default


def _orientation(encoded: bytes) -> Any:
    """The orientation in a photograph's EXIF; 1, upright, where it cannot be read. Pillow has already turned a TIFF."""
    try:
        with _opened(encoded) as image:
            return 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION, 1)
    except BrokenImage:
        return 1


def check_size(height: int, width: int) -> None:
    """Raise BrokenImage when an image declares more than MAX_PIXELS pixels."""
    if height * width > MAX_PIXELS:
        raise BrokenImage(f"declares {width} x {height} pixels, more than the {MAX_PIXELS:,} allowed")


def size(encoded: bytes | np.ndarray) -> tuple[int, int]:
    """(height, width) from the header alone."""
    if isinstance(encoded, np.ndarray):
        return encoded.shape[0], encoded.shape[1]
    with _opened(encoded) as image:
        return image.height, image.width


def _reason(error: Exception) -> str:
    """The message of Pillow without the address of our buffer, which it takes for a file's name."""
    return re.sub(r" ?<_io.BytesIO object at \w+>", "", str(error))


def resize(image: np.ndarray, height: int, width: int, kind: str = "bilinear") -> np.ndarray:
    """`image` at another size; the same array when it has that size already.

    `bilinear` and `bicubic` are antialiased as in Pillow, `area` averages, `bilinear_aliased` samples four pixels
    however far the image shrinks (as the original TF2 and JAX code did), and `nearest` takes one, of arrays of any type.
    """
    import cv2

    if image.shape[:2] == (height, width):
        return image
    if kind == "nearest":
        rows, columns = (nearest_pixels(old, new) for old, new in zip(image.shape, (height, width)))
        return image[rows[:, None], columns]
    if kind == "bilinear" and height >= image.shape[0] and width >= image.shape[1]:
        # Nothing shrinks, so there is nothing to antialias: within 1/255 of Pillow, several times faster.
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if kind == "bilinear" and max(height, image.shape[0]) * image.shape[1] <= SPARSE_PIXELS:
        return _shrink(image, height, width)
    if kind in ("bilinear", "bicubic"):
        from PIL import Image

        resample = Image.Resampling.BILINEAR if kind == "bilinear" else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(image).resize((width, height), resample))
    interpolation = {"area": cv2.INTER_AREA, "bilinear_aliased": cv2.INTER_LINEAR}[kind]
    return cv2.resize(image, (width, height), interpolation=interpolation)


def nearest_pixels(old: int, new: int) -> np.ndarray:
    """int64 [new]: which pixel in a row of `old` lies at the middle of each of `new`, as in `tf.image.resize`, but for its float32."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bilinear as two products with sparse matrices: within 1/255 of Pillow, in half of its time."""
    import cv2

    old_height, old_width, channels = image.shape
    rows = _triangles(old_height, height) @ image.reshape(old_height, -1).astype(np.float32)
    columns = cv2.transpose(rows.reshape(height, old_width, channels))
    resized = _triangles(old_width, width) @ columns.reshape(old_width, -1)
    rounded = cv2.convertScaleAbs(resized)  # nothing is negative
    return cv2.transpose(rounded.reshape(width, height, channels))


@functools.lru_cache(maxsize=1024)  # random crops have many sizes
def _triangles(old: int, new: int) -> Any:
    """A sparse matrix float32 [new, old]: by which weights pixels in a row of `old` make each of `new`.

    The weights fall linearly with the distance, to zero at the width of a new pixel, or of an old one if that is larger.
    """
    import scipy.sparse

    centers = (np.arange(new) + 0.5) * old / new - 0.5
    reach = max(old / new, 1)
    taps = np.ceil(centers - reach).astype(int)[:, None] + np.arange(int(2 * reach) + 1)
    weights = np.maximum(1 - np.abs(taps - centers[:, None]) / reach, 0) * ((taps >= 0) & (taps < old))
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    first_of_row = np.arange(0, weights.size + 1, weights.shape[1])
    return scipy.sparse.csr_array((weights.ravel(), taps.clip(0, old - 1).ravel(), first_of_row), (new, old))


def nearest_side(side: int, side_px: int, smallest: int) -> int:
    """What a side becomes where the smallest one becomes `side_px`: the nearest pixel, in float32 and half to even."""
    return int(np.rint(np.float32(side) * (np.float32(side_px) / np.float32(smallest))))


def lower_side(side: int, side_px: int, smallest: int) -> int:
    """The same, rounded down."""
    return int(side_px * side / smallest)


# by whom pixels are rounded -> of the sides of a resized image, of the corner of a central crop
SIDES = {"big_vision": nearest_side, "torchvision": lower_side, "huggingface": lower_side}
CORNERS = {
    "big_vision": lambda px: px // 2,
    "torchvision": lambda px: round(px / 2),
    "huggingface": lambda px: px // 2,
}


def resize_small(image: np.ndarray, side_px: int, kind: str = "bilinear", rounding: str = "big_vision") -> np.ndarray:
    """`image` with its smaller side at `side_px`, its aspect ratio kept, and whole pixels as `Rounding` names them.

    Source: `resize_small` in `pp/ops_image.py` of google-research/big_vision: the other side is rounded in float32, half
    to even (its pixels are truncated to uint8, here they are rounded). Raises BrokenImage for a strip so long that the
    result would have more than MAX_PIXELS pixels.
    """
    height, width = (SIDES[rounding](side, side_px, min(image.shape[:2])) for side in image.shape[:2])
    if height * width > MAX_PIXELS:
        raise BrokenImage(f"would have {width} x {height} pixels with its smaller side at {side_px}, more than allowed")
    return resize(image, height, width, kind)


def central_crop(image: np.ndarray, crop_px: int, rounding: str = "big_vision") -> np.ndarray:
    """The square of `crop_px` in the middle; where it cannot lie evenly, half a pixel up or left, or by `rounding`."""
    spare = [side - crop_px for side in image.shape[:2]]
    row, column = (CORNERS[rounding](px) for px in spare)
    return image[row : row + crop_px, column : column + crop_px]


def crop(image: np.ndarray, crop_px: int, top: float, left: float) -> np.ndarray:
    """A square of `crop_px` whose corner lies at the fractions `top` and `left`, in [0, 1), of where it can lie."""
    row = int(top * (image.shape[0] - crop_px + 1))
    column = int(left * (image.shape[1] - crop_px + 1))
    return image[row : row + crop_px, column : column + crop_px]


def flip(image: np.ndarray) -> np.ndarray:
    """`image` with left and right exchanged, twenty times faster than by negative strides."""
    import cv2

    return cv2.flip(image, 1)


GREY = np.array([0.2989, 0.5870, 0.1140], np.float32)  # shares of red, green and blue


def grey(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: RGB without its colours, as `rgb_to_grayscale` and `grayscale_to_rgb` of `tf.image` compute it."""
    red, green, blue = (image[..., channel] / np.float32(255) * share for channel, share in enumerate(GREY))
    light = red + green + blue
    return np.repeat((light * np.float32(255.5)).astype(np.uint8)[..., None], 3, axis=2)


def inception_crop(image: np.ndarray, min_area: float, draws: np.ndarray) -> np.ndarray:
    """The part of `image` in its `inception_box`."""
    return cut(image, inception_box(image.shape[:2], min_area, draws))


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """The part of `image` in a box."""
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def inception_box(
    size: tuple[int, int], min_area: float, draws: np.ndarray, ratios: tuple[float, float] = RATIOS
) -> Box:
    """A box that covers between `min_area` and all of an image of `size`, its width within `ratios` of its height.

    `draws` holds four numbers in [0, 1): height, aspect ratio, top, left. As in `tf.image.sample_distorted_bounding_box`,
    which the originals call, the ratio is uniform, and then the height, among those that fit; torchvision draws area and
    logarithm of the ratio. TensorFlow draws again, up to a hundred times, where no height fits a ratio: here the ratio is
    drawn among those that some height fits, which gives the same boxes at once. Without any, it is the whole image. A box
    may lie at the last row and column, which TensorFlow leaves out.
    """
    height, width = size
    narrowest, widest = max(ratios[0], min_area * width / height), min(ratios[1], width / (min_area * height))
    if narrowest > widest:
        return 0, 0, height, width
    ratio = narrowest + draws[1] * (widest - narrowest)
    highest = max(1, min(height, int((width + 0.5) / ratio)))
    lowest = min(highest, max(1, round((min_area * height * width / ratio) ** 0.5)))
    box_height = lowest + int(draws[0] * (highest - lowest + 1))
    box_width = min(width, max(1, round(box_height * ratio)))
    top = int(draws[2] * (height - box_height + 1))
    left = int(draws[3] * (width - box_width + 1))
    return top, left, box_height, box_width
