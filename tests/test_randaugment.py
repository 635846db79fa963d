"""RandAugment: every operation against TensorFlow's and Pillow's, and by hand on a few pixels."""

import importlib

import numpy as np
import pytest
from engines import Engine
from PIL import Image, ImageEnhance, ImageOps

from common.data import randaugment
from common.data.images import resize
from common.datasets import open_dataset

RNG = np.random.default_rng(0)
LEVELS = (0, 1, 3, 5, 7.5, 9, 10)
SIGNS = ((0.2, -1), (0.7, 1))  # a draw, the sign that it chooses


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Photographs of several sizes, noise, and a plain image."""
    split, sizes = open_dataset("cifar10-sample").splits["train"], ((64, 64), (96, 64), (63, 97), (5, 7), (3, 3))
    real = [resize(split.decode(i), *size) for i, size in enumerate(sizes)]
    return [*real, RNG.integers(0, 256, (64, 64, 3), np.uint8), np.full((8, 9, 3), (255, 0, 77), np.uint8)]


@pytest.fixture(scope="module")
def tf():
    """TensorFlow, as safely as the engine imports it."""
    Engine("bit_tf2")
    return importlib.import_module("tensorflow")


def difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    return int(np.abs(a.astype(int) - b).max())


# --- TensorFlow


def projected(tf, image: np.ndarray, matrix: list) -> np.ndarray:
    """TensorFlow's projective transform to the nearest pixel, grey where it took a pixel from outside."""
    inside = np.concatenate([image, np.ones_like(image[..., :1])], -1)[None]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=inside, transforms=[np.array(matrix, np.float32)], output_shape=image.shape[:2], fill_value=0.0,
        interpolation="NEAREST", fill_mode="CONSTANT",
    ).numpy()[0]  # fmt: skip
    return np.where(moved[..., 3:] == 0, np.uint8(128), moved[..., :3])


def mixed(tf, start, end: np.ndarray, level: float) -> np.ndarray:
    start, end = tf.cast(start, tf.float32), tf.cast(end, tf.float32)
    factor = level / 10 * 1.8 + 0.1
    return tf.cast(tf.clip_by_value(start + factor * (end - start), 0.0, 255.0), tf.uint8).numpy()


def rotation(height: int, width: int, degrees: float) -> list:
    """About the centre, in float32 as TensorFlow Addons computes it."""
    cos, sin = np.float32(np.cos(np.deg2rad(degrees))), np.float32(np.sin(np.deg2rad(degrees)))
    right, down = np.float32(width - 1), np.float32(height - 1)
    x, y = (right - (cos * right - sin * down)) / 2, (down - (sin * right + cos * down)) / 2
    return [cos, -sin, x, sin, cos, y, 0, 0]


MATRICES = {  # operation -> (height, width, level with its sign) -> what is sampled where
    "rotate": lambda h, w, level: rotation(h, w, 3 * level),
    "shear_x": lambda h, w, level: [1, 0.03 * level, 0, 0, 1, 0, 0, 0],
    "shear_y": lambda h, w, level: [1, 0, 0, 0.03 * level, 1, 0, 0, 0],
    "translate_x": lambda h, w, level: [1, 0, 10 * level, 0, 1, 0, 0, 0],
    "translate_y": lambda h, w, level: [1, 0, 0, 0, 1, 10 * level, 0, 0],
}


@pytest.mark.parametrize("name", MATRICES)
def test_moves_are_tensorflows(tf, photos, name):
    for image in photos:
        for level in LEVELS:
            for draw, sign in SIGNS:
                ours = getattr(randaugment, name)(image, level / 10, draw, 0.5)
                matrix = MATRICES[name](*image.shape[:2], sign * level)
                np.testing.assert_array_equal(ours, projected(tf, image, matrix))


def test_blends_are_tensorflows(tf, photos):
    kernel = tf.tile(tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32)[:, :, None, None] / 13, [1, 1, 3, 1])
    for image in photos:
        grey = tf.image.rgb_to_grayscale(image)
        mean = tf.cast(tf.reduce_mean(tf.cast(grey, tf.float32)), tf.uint8)
        smooth = tf.nn.depthwise_conv2d(tf.cast(image, tf.float32)[None], kernel, [1] * 4, "VALID")[0]
        bordered = image.copy()
        bordered[1:-1, 1:-1] = tf.cast(tf.clip_by_value(smooth, 0, 255), tf.uint8).numpy()
        for level in LEVELS:
            starts = {"color": tf.repeat(grey, 3, -1), "contrast": tf.fill(image.shape, mean), "brightness": 0 * image}
            for name, start in starts.items():
                ours = getattr(randaugment, name)(image, level / 10, 0.5, 0.5)
                np.testing.assert_array_equal(ours, mixed(tf, start, image, level), err_msg=name)
            # The sum of a kernel of thirteenths may end just below a whole number; ours divides integers.
            assert difference(randaugment.sharpness(image, level / 10), mixed(tf, bordered, image, level)) <= 1


def test_autocontrast_is_tensorflows(tf, photos):
    for image in photos[:-1]:  # where no channel is plain
        low, high = (tf.cast(bound, tf.float32) for bound in (image.min((0, 1)), image.max((0, 1))))
        scale = 255 / (high - low)
        expected = tf.clip_by_value(tf.cast(image, tf.float32) * scale + -low * scale, 0, 255)
        np.testing.assert_array_equal(randaugment.autocontrast(image), tf.cast(expected, tf.uint8).numpy())


def test_full_solarization_inverts_as_the_originals_threshold_of_256_does(tf, photos):
    @tf.function
    def dark(image):
        return image < 256

    assert not dark(tf.constant(photos[0])).numpy().any()  # the threshold became the uint8 0
    np.testing.assert_array_equal(randaugment.solarize(photos[0], 1.0), 255 - photos[0])


# --- Pillow, whose operations these were modelled on


def test_pillow_agrees(photos):
    for image in photos:
        pillow = Image.fromarray(image)
        np.testing.assert_array_equal(randaugment.equalize(image), np.asarray(ImageOps.equalize(pillow)))
        np.testing.assert_array_equal(randaugment.invert(image), np.asarray(ImageOps.invert(pillow)))
        for level in LEVELS[2:]:
            posterized = np.asarray(ImageOps.posterize(pillow, int(level / 10 * 4)))
            np.testing.assert_array_equal(randaugment.posterize(image, level / 10), posterized)
        for level in LEVELS[:-1]:
            solarized = np.asarray(ImageOps.solarize(pillow, int(level / 10 * 256)))
            np.testing.assert_array_equal(randaugment.solarize(image, level / 10), solarized)
        if min(image.std((0, 1))) > 0:  # Pillow truncates what it computes in double precision
            assert difference(randaugment.autocontrast(image), np.asarray(ImageOps.autocontrast(pillow))) <= 1
        # Pillow's grey differs by 1 (weights of three decimals) and its mean is rounded: 1 and 1, times 0.9, truncated.
        for name, bound in {"color": 2, "contrast": 3, "brightness": 1, "sharpness": 2}.items():
            for level in LEVELS:
                peer = getattr(ImageEnhance, name.capitalize())(pillow).enhance(level / 10 * 1.8 + 0.1)
                assert difference(getattr(randaugment, name)(image, level / 10), np.asarray(peer)) <= bound, name


# --- by hand


def grey_row(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)[None, :, None].repeat(3, -1)


@pytest.mark.parametrize(
    ("name", "level", "draws", "before", "after"),
    [
        ("invert", 5, (0, 0), (0, 100, 255), (255, 155, 0)),
        ("posterize", 10, (0, 0), (15, 16, 255), (0, 16, 240)),
        ("posterize", 0, (0, 0), (127, 128, 255), (0, 128, 128)),
        ("solarize", 5, (0, 0), (127, 128, 255), (127, 127, 0)),
        ("solarize_add", 10, (0, 0), (0, 127, 128, 255), (110, 237, 128, 255)),
        ("solarize_add", 5, (0, 0), (0, 127, 128, 255), (55, 182, 128, 255)),
        ("autocontrast", 3, (0, 0), (100, 110, 150), (0, 51, 255)),
        ("autocontrast", 3, (0, 0), (9, 9), (9, 9)),
        ("brightness", 10, (0, 0), (10, 100, 200), (19, 190, 255)),
        ("brightness", 0, (0, 0), (10, 100, 200), (1, 10, 20)),
        ("contrast", 10, (0, 0), (80, 120), (62, 138)),  # their mean is 100: 100 - 1.9 x 20
        ("translate_x", 0.1, (0.9, 0), (1, 2, 3), (2, 3, 128)),
        ("translate_x", 0.1, (0.1, 0), (1, 2, 3), (128, 1, 2)),
        ("translate_x", 10, (0.1, 0), (1, 2, 3), (128, 128, 128)),
        ("translate_y", 0.1, (0.9, 0), (1, 2, 3), (128, 128, 128)),
        ("rotate", 0, (0.9, 0), (1, 2, 3), (1, 2, 3)),
        ("cutout", 0.25, (0, 0.5), (1, 2, 3, 4), (1, 128, 128, 4)),
        ("cutout", 10, (0, 0.5), (1, 2, 3, 4), (128, 128, 128, 128)),
        ("cutout", 0, (0, 0.5), (1, 2, 3, 4), (1, 2, 3, 4)),
    ],
)
def test_by_hand(name, level, draws, before, after):
    image = grey_row(*before)
    result = getattr(randaugment, name)(image, level / 10, *draws)
    assert result[0, :, 0].tolist() == result[0, :, 2].tolist() == list(after)
    assert result.dtype == np.uint8 and (image == grey_row(*before)).all()  # the image itself is left alone


def test_sharpness_by_hand():
    """A white pixel in black: smoothed to 255 x 5 / 13 = 98, and its neighbours on the inside to 255 / 13 = 19."""
    image = np.zeros((5, 5, 3), np.uint8)
    image[2, 2] = 255
    smoothed = randaugment.sharpness(image, 0)[..., 0]  # a tenth of the way from smooth to sharp
    assert smoothed[2].tolist() == [0, 17, 113, 17, 0] and not smoothed[0].any()
    sharp = randaugment.sharpness(image, 1.0)[..., 0]
    assert sharp[2].tolist() == [0, 0, 255, 0, 0]


def test_rotation_turns_the_top_to_the_right_for_a_negative_angle():
    image = np.zeros((41, 41, 3), np.uint8)
    image[:5, 20] = 255
    for draw, bright, dark in ((0.2, slice(21, None), slice(20)), (0.7, slice(20), slice(21, None))):
        turned = randaugment.rotate(image, 1.0, draw, 0)[:20]
        assert (turned[:, bright] == 255).any() and not (turned[:, dark] == 255).any()


# --- the draw


def test_operations_are_equally_likely_and_all_of_one_strength(monkeypatch):
    calls = []
    operations = [lambda image, *rest, k=k: calls.append((k, *rest)) or image for k in range(16)]
    monkeypatch.setattr(randaugment, "OPERATIONS", tuple(operations))
    draws = np.stack([(np.arange(1600) + 0.5) / 1600, np.linspace(0, 0.9, 1600), np.linspace(0.9, 0, 1600)], -1)
    randaugment.randaugment(np.zeros((2, 2, 3), np.uint8), 7.5, draws)
    assert np.bincount([call[0] for call in calls]).tolist() == [100] * 16
    assert {call[1] for call in calls} == {0.75} and [call[2:] for call in calls] == [tuple(row[1:]) for row in draws]


def test_layers_follow_one_another(photos):
    image, place = photos[0], (0.3, 0.6)
    number = {operation.__name__: k / 16 for k, operation in enumerate(randaugment.OPERATIONS)}
    draws = np.array([(number["shear_x"], *place), (number["equalize"], *place)])
    expected = randaugment.equalize(randaugment.shear_x(image, 1.0, *place))
    np.testing.assert_array_equal(randaugment.randaugment(image, 10, draws), expected)
    assert (randaugment.randaugment(image, 10, draws[::-1]) != expected).any()
    assert randaugment.randaugment(image, 10, draws[:0]) is image


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (7, 5)])
def test_small_images_stay_images(size):
    image = RNG.integers(0, 256, (*size, 3), np.uint8)
    for operation in randaugment.OPERATIONS:
        for strength in (0, 0.5, 1.0):
            result = operation(image, strength, 0.7, 0.2)
            assert result.shape == image.shape and result.dtype == np.uint8
