"""The TensorFlow models are models of Keras, as its built-in ones are."""

import numpy as np
import pytest
from engines import INSTALLED

from common.cards import Preprocessing
from common.formats.source import read_model
from common.models import MixerConfig, ResNetConfig, ResNetV1Config, ViTConfig

pytestmark = pytest.mark.skipif("bit_tf2" not in INSTALLED, reason="tensorflow is not installed")
if "bit_tf2" in INSTALLED:
    from bit_tf2 import api, load_weights

    import keras  # isort: skip  bit_tf2 chooses the backend

RESNET = {"num_units": (1, 1), "width_factor": 0.25, "num_groups": 4}
VIT = {"patch_size": (8, 8), "width": 16, "depth": 3, "num_heads": 2, "mlp_dim": 24, "image_size": (32, 32)}
CONFIGS = {
    "bit": ResNetConfig(**RESNET, num_classes=5),
    "resnet_v1": ResNetV1Config(**RESNET, num_classes=5),
    "vit_token": ViTConfig(**VIT, num_classes=5, gelu="erf", layer_norm_epsilon=1e-12),
    "vit_gap": ViTConfig(**VIT, num_classes=5, pooling="gap", cls_position=False),
    "vit_map": ViTConfig(**VIT, num_classes=5, pooling="map", cls_position=False, pre_logits=8),
    "vit_fixed": ViTConfig(**VIT, num_classes=None, positions="sincos2d", cls_position=False),
    "hybrid": ViTConfig(**VIT | {"patch_size": (1, 1), "depth": 1}, num_classes=5, backbone=ResNetV1Config(**RESNET)),
    "mixer": MixerConfig((8, 8), 16, 3, 8, 32, 5, image_size=(32, 32)),
}
IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
PREPARED = Preprocessing(32, 40, "bicubic", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def random_arrays(config, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.3, shape).astype("f4") for name, shape in config.parameter_shapes().items()}


@pytest.fixture(scope="module")
def models():
    """models("bit"): a tiny model of random parameters, one for all tests."""
    built = {}

    def model_of(name: str):
        if name not in built:
            built[name] = api.build(CONFIGS[name], random_arrays(CONFIGS[name]), preprocessing=PREPARED)
        return built[name]

    return model_of


def logits(model) -> np.ndarray:
    return np.asarray(model(IMAGES))


def assert_same(model, other) -> None:
    assert type(other) is type(model) and other.config == model.config
    assert other.preprocessing == model.preprocessing == PREPARED
    np.testing.assert_array_equal(logits(other), logits(model))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_is_saved_loaded_and_cloned(name, models, tmp_path):
    model = models(name)
    model.save(tmp_path / "model.keras")
    assert_same(model, keras.saving.load_model(tmp_path / "model.keras"))
    clone = keras.models.clone_model(model)
    assert np.isfinite(logits(clone)).all() and not np.array_equal(logits(clone), logits(model))
    clone.set_weights(model.get_weights())
    assert_same(model, clone)
    assert keras.models.model_from_json(model.to_json()).config == model.config


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_that_keras_writes_are_read(name, models, tmp_path):
    """Its names depend on the classes of layers and on their order; the record beside them says what the model computes."""
    model, path = models(name), tmp_path / "model.weights.h5"
    model.save_weights(path)
    found, expected = read_model(path), random_arrays(model.config)
    assert found.config == model.config and found.arrays.keys() == expected.keys()
    for each in expected:
        np.testing.assert_array_equal(found.arrays[each], expected[each], err_msg=each)
    other = type(model).from_config(model.get_config())
    load_weights(other, path)
    assert_same(model, other)
    again = type(model).from_config(model.get_config())
    again.load_weights(path)
    assert_same(model, again)
