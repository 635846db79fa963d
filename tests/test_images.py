"""Images: every format becomes the same uint8 RGB, broken files are refused cheaply, and resizing is Pillow's."""

import importlib
import io
import struct
import tracemalloc
import zlib
from typing import get_args

import cv2
import numpy as np
import pytest
from engines import Engine
from PIL import Image, ImageOps

from common.data import images
from common.recipes.choices import RESIZE_KINDS, Rounding

RNG = np.random.default_rng(0)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Like a photograph: noise of an eighth of the size, enlarged."""
    small = Image.fromarray(noise(-(-height // 8) + 1, -(-width // 8) + 1))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    return int(np.abs(a.astype(int) - b).max())


# --- resize

SIZES = {
    "enlarge": ((32, 32), (160, 160)),
    "enlarge unevenly": ((33, 47), (72, 72)),
    "enlarge by a pixel": ((97, 101), (98, 102)),
    "enlarge one side": ((64, 64), (64, 160)),
    "shrink": ((500, 375), (160, 160)),
    "shrink a photograph": ((1500, 1600), (160, 160)),
    "shrink by a pixel": ((97, 101), (96, 100)),
    "lower and wider": ((300, 100), (128, 480)),
    "higher and narrower": ((100, 300), (160, 160)),
    "from one pixel": ((1, 1), (64, 64)),
    "to one pixel": ((64, 48), (1, 1)),
}


@pytest.mark.parametrize("make", (noise, smooth))
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_bilinear_is_pillows(sizes, make):
    image, (height, width) = make(*sizes[0]), sizes[1]
    expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    # Enlarging is OpenCV's fixed-point arithmetic, which rounds otherwise: 1 at most. So does
    # shrinking without Pillow's rounding between its two passes; photographs it shrinks itself.
    assert difference(images.resize(image, height, width, "bilinear"), expected) <= 1


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_nearest_is_pillows(sizes):
    image, (height, width) = noise(*sizes[0]), sizes[1]
    expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST))
    found = images.resize(image, height, width, "nearest")
    # Where a middle lies on the border of two pixels, Pillow takes either: it adds up steps in floating point.
    rows, columns = (np.arange(1, 2 * new, 2) * old % (2 * new) > 0 for old, new in zip(image.shape, (height, width)))
    np.testing.assert_array_equal(found[rows][:, columns], expected[rows][:, columns])


def test_the_bound_above_would_see_a_missing_antialias():
    image = smooth(500, 375)
    exact, aliased = (images.resize(image, 160, 160, kind) for kind in ("bilinear", "bilinear_aliased"))
    assert difference(exact, aliased) > 5


@pytest.mark.parametrize("kind", RESIZE_KINDS)
def test_the_same_size_returns_the_same_pixels(kind):
    image = noise(17, 23)
    assert images.resize(image, 17, 23, kind) is image


@pytest.mark.parametrize("kind", RESIZE_KINDS)
@pytest.mark.parametrize("side", (8, 40))
def test_every_kind_keeps_a_plain_colour_and_the_orientation(kind, side):
    plain = np.full((20, 20, 3), (10, 200, 90), np.uint8)
    assert (images.resize(plain, side, side, kind) == (10, 200, 90)).all()
    corner = np.zeros((20, 20, 3), np.uint8)
    corner[:10, 10:, 0] = 255  # red at the top right
    red = images.resize(corner, side, side + 4, kind)[..., 0]
    assert red.shape == (side, side + 4) and red[0, -1] > 250 and red[0, 0] < 5 and red[-1, -1] < 5


def test_area_is_the_mean_of_the_pixels_it_covers():
    image = noise(64, 32)
    means = image.reshape(16, 4, 8, 4, 3).mean((1, 3))
    assert np.abs(images.resize(image, 16, 8, "area") - means).max() <= 0.5


@pytest.mark.parametrize(
    ("size", "side_px", "expected"),
    [
        ((500, 375), 256, (341, 256)),
        ((375, 500), 256, (256, 341)),
        ((3, 5), 2, (2, 3)),
        ((4, 5), 2, (2, 2)),
        ((9, 9), 4, (4, 4)),
    ],
)
def test_the_smaller_side_is_resized_and_the_other_rounded_half_to_even(size, side_px, expected):
    """500 x 256 / 375 = 341.3; 5 x 2 / 3 = 3.3; 5 x 2 / 4 = 2.5, which becomes 2."""
    image = noise(*size)
    small = images.resize_small(image, side_px, "area")
    assert small.shape[:2] == expected
    np.testing.assert_array_equal(small, images.resize(image, *expected, "area"))


def test_a_strip_that_would_fill_the_memory_is_refused():
    with pytest.raises(images.BrokenImage, match="would have 25600000 x 256 pixels"):
        images.resize_small(noise(1, 100_000), 256)


def test_sides_and_corners_are_rounded_as_peers_do():
    """At every width: torchvision's `Resize` and `CenterCrop` of Pillow's images, and Hugging Face's two functions."""
    transforms = pytest.importorskip("torchvision.transforms")
    theirs = pytest.importorskip("transformers.image_transforms")
    for width in range(33, 120):
        image = noise(33, width)
        for rounding in get_args(Rounding)[1:]:
            small = images.resize_small(image, 20, "bicubic", rounding)
            found = images.central_crop(small, 16, rounding)
            if rounding == "torchvision":
                picture = transforms.Resize(20, transforms.InterpolationMode.BICUBIC)(Image.fromarray(image))
                expected = np.asarray(transforms.CenterCrop(16)(picture))
            else:
                size = theirs.get_resize_output_image_size(image, 20, default_to_square=False)
                assert small.shape[:2] == size
                expected = theirs.center_crop(small, (16, 16))
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("size", "crop_px", "corner"), [((5, 8), 3, (1, 2)), ((4, 4), 4, (0, 0)), ((6, 7), 3, (1, 2))])
def test_the_central_crop_is_up_and_left_of_the_middle(size, crop_px, corner):
    image, (row, column) = noise(*size), corner
    expected = image[row : row + crop_px, column : column + crop_px]
    np.testing.assert_array_equal(images.central_crop(image, crop_px), expected)


# --- decode

PHOTO = smooth(37, 53)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_return_the_pixels(kind, options):
    assert difference(images.decode(encoded(PHOTO, kind, **options)), PHOTO) == 0


@pytest.mark.parametrize("size", [(37, 53), (64, 64), (1, 1), (3, 500)])
@pytest.mark.parametrize("quality", (40, 95))
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str
)
def test_the_fast_jpeg_decoder_equals_pillow(size, quality, options):
    data = encoded(smooth(*size), "JPEG", quality=quality, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert difference(images.decode(data), expected) == 0  # both are libjpeg-turbo with its exact DCT


def test_grey_jpeg_and_png():
    grey = Image.fromarray(PHOTO).convert("L")
    expected = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    assert difference(images.decode(encoded(grey, "PNG")), expected) == 0
    found = images.decode(encoded(grey, "JPEG", quality=100))
    assert (found[..., 0] == found[..., 2]).all() and difference(found, expected) <= 3  # quality 100 is lossy, barely


@pytest.mark.parametrize("kind", ("PNG", "WEBP", "TIFF"))
def test_transparency_is_dropped_and_its_colour_stays(kind):
    rgba = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 1, np.uint8)])
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert difference(images.decode(encoded(rgba, kind, **options)), PHOTO) == 0


@pytest.mark.parametrize("kind", ("PNG", "GIF", "BMP", "TIFF"))
def test_palettes(kind):
    palette = Image.fromarray(PHOTO).quantize(16)
    assert difference(images.decode(encoded(palette, kind)), np.asarray(palette.convert("RGB"))) == 0


def test_a_bilevel_image_is_black_and_white():
    bilevel = Image.fromarray(PHOTO).convert("1")
    assert set(np.unique(images.decode(encoded(bilevel, "PNG")))) == {0, 255}


def test_cmyk_jpeg():
    """The fast decoder knows no CMYK; Pillow takes over. Pure cyan is (0, 255, 255)."""
    cyan = Image.new("CMYK", (16, 8), (255, 0, 0, 0))
    assert difference(images.decode(encoded(cyan, "JPEG")), np.full((8, 16, 3), (0, 255, 255), np.uint8)) <= 2


@pytest.mark.parametrize("kind", ("PNG", "TIFF"))
def test_sixteen_bits_become_the_upper_eight(kind):
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # 0x0000, 0x0101, ... 0xffff
    found = images.decode(encoded(Image.fromarray(values), kind))
    assert difference(found, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)) == 0


def tiff(data: bytes, size: tuple[int, int], bits: int, sample_format: int = 1, photometric: int = 1) -> bytes:
    """A TIFF of one grey channel; sample formats: 1 unsigned, 2 signed, 3 floating-point; photometric 0: white is zero."""
    tags = {256: size[1], 257: size[0], 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: size[0]}
    tags |= {279: len(data), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


GREY = noise(6, 8, 1)[..., 0]
GREY[0, :2] = 0, 255
IN_RGB = np.repeat(GREY[..., None], 3, axis=2)


def test_floating_point_numbers_count_from_0_to_1():
    for values in (GREY / 255, GREY / 255 * (1 + 1e-6) - 1e-7):  # what arithmetic leaves beyond 0 and 1 is rounded
        found = images.decode(tiff(values.astype("<f4").tobytes(), GREY.shape, 32, 3))
        assert difference(found, IN_RGB) == 0  # the very image of which they were made
    assert difference(images.decode(encoded(Image.fromarray((GREY / 255).astype("f4")), "TIFF")), IN_RGB) == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (GREY.astype("f4"), f"from {GREY.min()} to {GREY.max()}, expected 0 to 1"),
        (GREY / 255.0 - 0.5, "from -0.5 to 0.5"),
        (np.where(GREY > 100, np.nan, GREY / 255.0), "from nan to nan"),
        (np.where(GREY > 100, np.inf, GREY / 255.0), "to inf"),
        (np.array([[0, 1.01]]), "from 0 to 1.01, expected"),
    ],
    ids=("0 to 255", "negative", "nan", "inf", "a little more"),
)
def test_floating_point_numbers_beyond_are_refused(values, words):
    data = tiff(np.asarray(values, "<f4").tobytes(), values.shape, 32, 3)
    with pytest.raises(images.BrokenImage, match=f"holds floating-point numbers .mode F. .*{words}"):
        images.decode(data)


@pytest.mark.parametrize(("dtype", "sample_format"), [("<i4", 2), ("<u4", 1), ("<i2", 2)])
def test_integers_whose_white_is_not_known_are_refused(dtype, sample_format):
    data = tiff(GREY.astype(dtype).tobytes(), GREY.shape, 8 * np.dtype(dtype).itemsize, sample_format)
    with pytest.raises(images.BrokenImage, match="holds integers of 32 bits or with a sign .mode I., whose white"):
        images.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        tiff((GREY / 255).astype("<f8").tobytes(), GREY.shape, 64, 3),
        cv2.imencode(".tiff", RNG.random((4, 5, 3)).astype(np.float32))[1].tobytes(),
    ],
    ids=("64 bits", "colours in floating point"),
)
def test_pixels_that_pillow_does_not_know_are_named(data):
    with pytest.raises(images.BrokenImage, match="Pillow reads no TIFF with such pixels"):
        images.decode(data)


def twelve_bits(values: np.ndarray) -> bytes:
    """Two numbers in three bytes, the upper bits first."""
    first, second = values.astype(int).reshape(-1, 2).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        tiff((GREY * np.uint16(257)).astype("<u2").tobytes(), GREY.shape, 16),
        tiff(((255 - GREY) * np.uint16(257)).astype("<u2").tobytes(), GREY.shape, 16, photometric=0),
        tiff((1 - GREY / 255).astype("<f4").tobytes(), GREY.shape, 32, 3, photometric=0),
        tiff(twelve_bits(GREY * 16.0), GREY.shape, 12),
        tiff((255 - GREY).tobytes(), GREY.shape, 8, photometric=0),
        encoded(Image.fromarray(GREY * np.uint16(257)), "PPM"),  # Pillow calls it mode I
        encoded(Image.fromarray(GREY * np.uint16(257)), "PNG"),
        encoded(Image.fromarray(GREY * np.uint16(257)), "JPEG2000"),
        encoded(Image.fromarray(np.dstack([GREY, GREY // 2]), "LA"), "PNG"),
        encoded(Image.fromarray(GREY), "TIFF"),
    ],
    ids=(
        "16 bits",
        "white is zero",
        "F, white is zero",
        "12 bits",
        "8 bits, white is zero",
        "PPM",
        "PNG",
        "J2K",
        "LA",
        "L",
    ),
)
def test_grey_of_every_depth_is_the_same_image(data):
    assert difference(images.decode(data), IN_RGB) == 0


@pytest.mark.parametrize("kind", (".png", ".tiff", ".ppm"))
def test_colours_of_sixteen_bits(kind):
    deep = RNG.integers(0, 65536, (6, 8, 3)).astype(np.uint16)
    data = cv2.imencode(kind, deep[..., ::-1])[1].tobytes()
    assert difference(images.decode(data), (deep >> 8).astype(np.uint8)) <= 1  # Pillow rounds those of PPM


@pytest.mark.parametrize(
    "mode", ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
)
def test_every_mode_of_pillow_becomes_rgb(mode):
    """Black stays black: no mode is taken for another."""
    image = Image.new("RGB", (3, 2), "black").convert({"La": "LA", "RGBa": "RGBA", "LAB": "RGB"}.get(mode, mode))
    image = Image.new("LAB", (3, 2), (0, 128, 128)) if mode == "LAB" else image.convert(mode)
    assert difference(images.to_rgb(image), np.zeros((2, 3, 3), np.uint8)) <= 1


def test_nothing_but_pictures_is_decoded():
    """PostScript would start Ghostscript."""
    with pytest.raises(images.BrokenImage, match="cannot identify"):
        images.decode(encoded(PHOTO, "EPS"))


def test_the_endings_are_those_of_what_is_decoded():
    Image.init()
    known = {kind: {e for e, k in Image.registered_extensions().items() if k == kind} for kind in images.FORMATS}
    known["JPEG"].add(".mpo")  # two JPEGs in one file
    assert {kind: set(endings) for kind, endings in images.FORMATS.items()} == known
    assert {kind for kind in images.FORMATS if kind in Image.OPEN} == set(images.FORMATS)


@pytest.mark.parametrize(
    "kind", [kind for kind in images.FORMATS if kind not in ("PSD", "MPO")]
)  # Pillow writes no PSD
def test_every_format_is_decoded(kind):
    options = {
        "ICO": {"sizes": [(53, 37)]},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    lossy = {"JPEG": 40, "AVIF": 12, "GIF": 255, "JPEG2000": 0}.get(kind, 0)
    assert difference(images.decode(encoded(PHOTO, kind, **options.get(kind, {}))), PHOTO) <= lossy


@pytest.mark.parametrize("kind", ("GIF", "PNG", "WEBP", "TIFF"))
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("red", "blue")]
    found = images.decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert difference(found, np.full((10, 12, 3), (255, 0, 0), np.uint8)) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_ignored_by_decode_and_size_alike(orientation):
    """As in the original code (and in TensorFlow's and torchvision's decoders): the pixels are those of the file."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain, rotated = encoded(PHOTO, "JPEG"), encoded(PHOTO, "JPEG", exif=exif)
    assert difference(images.decode(rotated), images.decode(plain)) == 0
    assert images.size(rotated) == PHOTO.shape[:2]


@pytest.mark.parametrize("kind", ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"))
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_applied_as_pillow_does(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PHOTO, kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    found = images.decode(data, "apply")
    assert difference(found, expected) == 0 and found.flags.c_contiguous
    if kind == "TIFF":  # there it is a tag of the format, which every reader applies
        assert difference(images.decode(data), expected) == 0


@pytest.mark.parametrize(
    "exif", (b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff")
)
def test_a_damaged_exif_leaves_the_image_as_it_is(exif):
    data = encoded(PHOTO, "JPEG", exif=exif)
    assert difference(images.decode(data, "apply"), images.decode(data)) == 0


@pytest.mark.parametrize("kind", ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"))
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (37, 53)])
def test_size_and_decode_agree(kind, size):
    data = encoded(smooth(*size), kind)
    assert images.size(data) == size == images.decode(data).shape[:2]


def test_an_array_counts_as_decoded():
    assert images.decode(PHOTO) is PHOTO and images.size(PHOTO) == (37, 53)


def test_stray_bytes_after_a_jpeg_do_not_matter():
    data = encoded(PHOTO, "JPEG")
    assert difference(images.decode(data + b"\0" * 100), images.decode(data)) == 0


# --- broken files

JPEG, PNG = encoded(smooth(200, 200), "JPEG"), encoded(noise(200, 200), "PNG")
BROKEN = {
    "empty": b"",
    "one byte": b"\xff",
    "text": b"this is no image\n",
    "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
    "JPEG start only": JPEG[:2],
    "JPEG header only": JPEG[:200],
    "JPEG without its second half": JPEG[: len(JPEG) // 2],
    "PNG signature only": PNG[:8],
    "PNG without its second half": PNG[: len(PNG) // 2],
    "WebP without its second half": encoded(PHOTO, "WEBP")[:400],
    "GIF header only": encoded(PHOTO, "GIF")[:20],
    "BMP without its second half": encoded(PHOTO, "BMP")[:1000],
    "TIFF without its second half": encoded(PHOTO, "TIFF")[:1000],
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_files_are_refused(data):
    with pytest.raises(images.BrokenImage, match="cannot be decoded") as caught:
        images.decode(data)
    assert "object at" not in str(caught.value)  # the file's name is the caller's to add


@pytest.mark.parametrize("data", [JPEG, PNG, encoded(PHOTO, "WEBP"), encoded(PHOTO, "GIF"), encoded(PHOTO, "TIFF")])
def test_damage_anywhere_raises_nothing_but_broken_image(data):
    """A flipped byte may still decode; it must never raise anything else."""
    for position in RNG.integers(0, len(data), 150):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(RNG.integers(8))
        for read in (images.decode, images.size):
            try:
                read(bytes(damaged))
            except images.BrokenImage:
                pass


def bomb_png(side: int) -> bytes:
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def bomb_jpeg(side: int) -> bytes:
    data, frame = bytearray(JPEG), JPEG.index(b"\xff\xc0")  # start of frame: length, precision, height, width
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(data)


@pytest.mark.parametrize("side", (12_000, 40_000))  # beyond our bound, and beyond Pillow's own
@pytest.mark.parametrize("bomb", (bomb_png, bomb_jpeg))
def test_a_decompression_bomb_is_refused_before_memory_is_taken(bomb, side):
    tracemalloc.start()
    with pytest.raises(images.BrokenImage, match="pixels"):
        images.decode(bomb(side))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # the pixels would be 432 MB


# --- crop and random boxes


@pytest.mark.parametrize("crop_px", (1, 13, 20))
def test_crops_reach_every_corner_and_no_further(crop_px):
    image = noise(20, 24)
    last = np.nextafter(1, 0)  # the largest number below 1
    first_crop, last_crop = images.crop(image, crop_px, 0, 0), images.crop(image, crop_px, last, last)
    np.testing.assert_array_equal(first_crop, image[:crop_px, :crop_px])
    np.testing.assert_array_equal(last_crop, image[-crop_px:, -crop_px:])


def test_every_crop_is_equally_likely():
    image = np.arange(8, dtype=np.uint8).repeat(3).reshape(1, 8, 3)
    starts = [int(images.crop(image, 1, 0, draw)[0, 0, 0]) for draw in (np.arange(800) + 0.5) / 800]
    assert np.bincount(starts).tolist() == [100] * 8


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (1, 1), (1, 200), (7, 5)])
def test_random_boxes_have_the_area_and_ratio_asked_for(size):
    image = noise(*size)
    for draws in RNG.random((500, 4)):
        box = images.inception_crop(image, 0.08, draws)
        assert box.size and box.shape[0] <= size[0] and box.shape[1] <= size[1]
        if min(size) >= 48:  # each side is rounded by half a pixel
            assert (
                0.72 < box.shape[1] / box.shape[0] < 1.38 and box.shape[0] * box.shape[1] > 0.073 * image[..., 0].size
            )
    if size == (1, 200):  # no box of this shape has 0.08 of the area
        assert box.shape == (1, 200, 3)


@pytest.mark.parametrize(("size", "min_area"), [((64, 64), 0.05), ((48, 96), 0.5), ((300, 20), 0.05)])
def test_random_boxes_are_distributed_as_tensorflows(size, min_area):
    Engine("bit_tf2")
    sample = importlib.import_module("tensorflow").raw_ops.SampleDistortedBoundingBoxV2
    options = {"aspect_ratio_range": (0.75, 1.33), "area_range": (min_area, 1.0), "max_attempts": 100}
    options |= {"bounding_boxes": np.zeros((1, 0, 4), np.float32), "use_image_if_no_bounding_boxes": True, "seed": 1}
    theirs, ours, places = [], [], np.arange(size[0] * size[1]).reshape(size)
    for number, draws in enumerate(np.random.default_rng(0).random((400, 4))):
        begin, extent, _ = sample(image_size=[*size, 3], min_object_covered=0.0, seed2=number, **options)
        theirs.append((*extent.numpy()[:2], *begin.numpy()[:2]))
        box = images.inception_crop(places, min_area, draws)
        ours.append((*box.shape, *divmod(int(box[0, 0]), size[1])))
    theirs, ours = np.array(theirs, float), np.array(ours, float)
    # Height, width, top, left: five deviations of a difference of means, and half a pixel, since a box of ours may also
    # lie at the last row and column.
    bound = 5 * ((theirs.var(0) + ours.var(0)) / 400) ** 0.5 + 0.5
    assert (np.abs(theirs.mean(0) - ours.mean(0)) < bound).all(), (theirs.mean(0), ours.mean(0), bound)
    assert (np.abs(theirs.std(0) - ours.std(0)) < bound).all(), (theirs.std(0), ours.std(0), bound)


def test_random_boxes_touch_every_edge():
    image = noise(40, 40)
    last = np.nextafter(1, 0)
    for draws, edge in (((0, 0.431, 0, 0), image[0, 0]), ((0, 0.431, last, last), image[-1, -1])):  # 0.75 + 0.25 = 1
        box = images.inception_crop(image, 0.25, np.array(draws))
        assert box.shape == (20, 20, 3) and any((corner == edge).all() for corner in (box[0, 0], box[-1, -1]))


@pytest.mark.parametrize("size", [(375, 500), (1200, 900), (200, 260)], ids=str)
@pytest.mark.parametrize(
    ("kind", "options"),
    [("area", {"method": "area"}), ("bilinear_aliased", {}), ("bilinear", {"antialias": True})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_smaller_side_is_resized_as_tensorflow_does(size, kind, options):
    """As the originals evaluate: `area` is big_vision's `resize_small`, `bilinear_aliased` what `tf.image.resize` does."""
    Engine("bit_tf2")
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    found = images.resize_small(image, 256, kind)
    expected = importlib.import_module("tensorflow").image.resize(image, found.shape[:2], **options).numpy()
    assert np.abs(found - expected).max() <= 1.01  # of 255: half for rounding, the rest is fixed-point arithmetic
