"""The TensorFlow models are models of Keras, as its built-in ones are."""

import dataclasses

import h5py
import numpy as np
import pytest
from engines import INSTALLED

from common.datasets import open_dataset
from common.models import MixerConfig, ResNetConfig, ResNetV1Config, ViTConfig
from common.models.cards import Card, Preprocessing
from common.models.initial import initial_parameters
from common.system.errors import UserError
from common.weights.source import read_model

pytestmark = pytest.mark.skipif("bit_tf2" not in INSTALLED, reason="tensorflow is not installed")
if "bit_tf2" in INSTALLED:
    from bit_tf2 import api, create_model, load_weights, save_weights

    import keras  # isort: skip  bit_tf2 chooses the backend
    import tensorflow as tf  # isort: skip

RESNET = {"num_units": (1, 1), "width_factor": 0.5}
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


@pytest.mark.parametrize("changes", ({"pre_norm": True, "registers": 2}, {"positions": "rotary", "registers": 2}, {}))
def test_parts_of_later_vits_are_read_from_keras_files(changes, tmp_path):
    """The arrays of a model itself bear numbers alone, and of two norms Keras says which was made first."""
    parts = {"registers": 3, "distilled": True, "layer_scale": True, "swiglu": True, "patch_norms": ("pre", "post")}
    config = ViTConfig(**VIT | {"depth": 1}, num_classes=5, **changes or parts, qk_norm=True)
    api.build(config, random_arrays(config)).save_weights(tmp_path / "model.weights.h5")
    found, expected = read_model(tmp_path / "model.weights.h5"), random_arrays(config)
    assert found.config == config and found.arrays.keys() == expected.keys()
    assert all(np.array_equal(found.arrays[name], value) for name, value in expected.items())


def logits(model) -> np.ndarray:
    return np.asarray(model(IMAGES))


def assert_same(model, other) -> None:
    assert type(other) is type(model) and other.config == model.config
    assert other.preprocessing == model.preprocessing == PREPARED
    np.testing.assert_array_equal(logits(other), logits(model))


# The others are told apart in the test of their weights.
DEFAULT = ("bit", "vit_map", "mixer")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow) for name in CONFIGS]
)
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
    model.card = Card(class_names=tuple("abcde"))
    model.save_weights(path)
    found, expected = read_model(path), random_arrays(model.config)
    assert found.config == model.config and found.arrays.keys() == expected.keys()
    assert found.card.preprocessing == PREPARED and found.card.class_names == model.class_names
    for each in expected:
        np.testing.assert_array_equal(found.arrays[each], expected[each], err_msg=each)
    other = type(model).from_config(model.get_config())
    load_weights(other, path)
    assert_same(model, other)
    again = type(model).from_config(model.get_config())
    again.load_weights(path)
    assert_same(model, again)


def test_a_replaced_head_is_saved_with_the_model(tmp_path):
    model = api.build(CONFIGS["mixer"], random_arrays(CONFIGS["mixer"]), preprocessing=PREPARED)
    model.head = keras.layers.Dense(3)
    assert logits(model).shape == (4, 3)
    assert model.count_params() == sum(map(np.size, random_arrays(CONFIGS["mixer"]).values())) - 2 * (16 + 1)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits(keras.saving.load_model(tmp_path / "model.keras")), logits(model))
    model.save_weights(tmp_path / "model.weights.h5")
    assert read_model(tmp_path / "model.weights.h5").config.num_classes == 3
    model.head = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(3)])
    assert logits(model).shape == (4, 3)
    for save in (model.save, lambda path: save_weights(model, path.with_suffix(".npz"))):
        with pytest.raises(UserError, match="parameters are not those of its configuration"):
            save(tmp_path / "other.keras")


def test_a_deeper_file_changes_nothing(models, tmp_path):
    """Keras itself loads what it finds a place for, and says nothing."""
    model, config = models("vit_token"), dataclasses.replace(CONFIGS["vit_token"], depth=4)
    deeper, before = api.build(config, random_arrays(config)), logits(model)
    deeper.save_weights(tmp_path / "deeper.weights.h5")
    for load in (model.load_weights, lambda path: load_weights(model, path)):
        with pytest.raises(UserError, match="depth 4 instead of 3"):
            load(tmp_path / "deeper.weights.h5")
    np.testing.assert_array_equal(logits(model), before)


def test_weights_of_keras_without_a_record(models, tmp_path):
    """As models wrote them that had none: every name and shape is checked, since Keras would not."""
    model, path = models("vit_gap"), tmp_path / "old.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        del file["vars/bit_zoo"]
    with pytest.raises(UserError, match="does not tell which model it holds"):
        model.load_weights(path)
    other = type(model).from_config(model.get_config())
    api.engine_weights.load(other, read_model(path, given={"num_heads": 2}).arrays)
    assert_same(model, other)


def test_a_file_of_keras_with_one_array_too_much_is_refused(models, tmp_path):
    models("bit").save_weights(tmp_path / "more.weights.h5")
    with h5py.File(tmp_path / "more.weights.h5", "r+") as file:
        file.copy("head", "layers/dense")
    with pytest.raises(UserError, match="unexpected: pre_logits/kernel, pre_logits/bias"):
        load_weights(models("bit"), tmp_path / "more.weights.h5")


def test_what_a_layer_is_frozen_stays_frozen():
    model = api.build(CONFIGS["mixer"], random_arrays(CONFIGS["mixer"]))
    model.stem.trainable = model.blocks[0].trainable = model.blocks[1].channel_mixing.fc1.trainable = False
    copy = type(model).from_config(model.get_config())
    assert [value.trainable for value in copy.weights] == [value.trainable for value in model.weights]
    assert len(copy.trainable_variables) == len(model.weights) - 2 - 12 - 2


@pytest.mark.parametrize("name", ("bit", pytest.param("hybrid", marks=pytest.mark.slow)))
def test_a_summary_shows_shapes_and_numbers_of_parameters(name, models):
    lines, model = [], models(name)
    model.summary(print_fn=lines.append, line_length=120)
    text = "\n".join(lines)
    last = "(None, None, None, 256)" if name == "bit" else "(None, 17, 16)"
    assert " ? " not in text and last in text and "(None, 5)" in text and f"{model.count_params():,}" in text
    assert model.compute_output_shape((None, 32, 32, 3)) == (None, 5)


@pytest.mark.parametrize("name", ("vit_token", pytest.param("mixer", marks=pytest.mark.slow)))
def test_a_model_is_built_on_features(name, models, tmp_path):
    zoo, inputs = models(name), keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(zoo.features(inputs)))
    np.testing.assert_array_equal(model.layers[1](IMAGES), zoo.features(IMAGES))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    assert loaded.count_params() == zoo.count_params() + 16 * 3 + 3 and loaded.output_shape == (None, 3)
    assert keras.Model(inputs, zoo(inputs)).output_shape == (None, 5)


@pytest.mark.parametrize("name", ("vit_token", pytest.param("bit", marks=pytest.mark.slow)))
def test_a_model_is_built_on_intermediates(name, models, tmp_path):
    zoo, inputs = models(name), keras.Input((32, 32, 3))
    found, expected = zoo.intermediates(inputs, indices=2), zoo.intermediates(IMAGES, indices=2)
    assert [(each.name, each.stride) for each in found] == [(each.name, each.stride) for each in expected]
    model = keras.Model(inputs, [each.map for each in found])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for given, again, each in zip(model(IMAGES), loaded(IMAGES), expected, strict=True):
        np.testing.assert_array_equal(given, each.map)
        np.testing.assert_array_equal(again, each.map)


@pytest.mark.parametrize(
    ("policy", "parameters", "activations", "error"),
    (("mixed_bfloat16", "float32", "bfloat16", 0.1), ("mixed_float16", "float32", "float16", 0.02),
     ("float64", "float64", "float64", 1e-5)),
)  # fmt: skip
def test_the_dtype_policy_of_keras_is_kept(policy, parameters, activations, error, models, tmp_path, monkeypatch):
    seen, original = [], type(models("vit_token")).normed
    monkeypatch.setattr(
        type(models("vit_token")), "normed", lambda self, x: seen.append(original(self, x).dtype) or original(self, x)
    )
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = create_model("ViT-Ti/16", num_classes=3)
        assert model.dtype_policy.name == policy and keras.config.dtype_policy().name == policy
        model = type(model).from_config(models("vit_token").get_config() | {"dtype": policy})
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model.set_weights(models("vit_token").get_weights())
    found = logits(model)
    assert (
        seen == [activations] and found.dtype == parameters and {value.dtype for value in model.weights} == {parameters}
    )
    assert 0 < np.abs(found - logits(models("vit_token"))).max() < error
    model.save(tmp_path / "model.keras")
    assert_same(model, keras.saving.load_model(tmp_path / "model.keras"))


def test_what_keras_cannot_do_with_a_model_is_refused(models):
    keras.mixed_precision.set_global_policy("float16")
    try:
        with pytest.raises(
            UserError, match="policy is 'float16' and .* choose one of float32, float64, mixed_bfloat16"
        ):
            create_model("ViT-Ti/16")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    with pytest.raises(UserError, match="cannot quantize"):
        models("vit_gap").quantize("int8")
    with pytest.raises(UserError, match="description of the ViT holds no configuration"):
        type(models("vit_gap")).from_config(models("vit_gap").get_config() | {"config": {"family": "ViTConfig"}})


@pytest.mark.parametrize("name", ("vit_gap", pytest.param("bit", marks=pytest.mark.slow)))
def test_a_model_is_exported_without_a_signature(name, models, tmp_path):
    models(name).export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(loaded.serve(IMAGES), logits(models(name)), atol=1e-6)
    assert loaded.serve(IMAGES[:1]).shape == (1, 5)


@pytest.fixture(scope="module")
def photos():
    """(images [64, 32, 32, 3] in [-1, 1], labels [64]) of the sample of CIFAR-10, two of its classes."""
    split = open_dataset("cifar10-sample").splits["train"]
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(split.labels < 2))[:64]
    return np.stack([split.decode(i) for i in chosen]).astype("f4") / 127.5 - 1, split.labels[chosen]


def test_a_model_is_fitted_with_keras(photos, tmp_path):
    """With its callbacks; what they wrote, resumed, is what was fitted."""
    images, labels = photos
    config = dataclasses.replace(CONFIGS["vit_gap"], depth=1)
    model = api.build(config, initial_parameters(0, config))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "loss", save_best_only=True),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.weights.h5", "loss", save_best_only=True, save_weights_only=True
        ),
        keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True, start_from_epoch=1),
    ]
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)
    history = model.fit(batches, epochs=8, verbose=0, shuffle=False, callbacks=callbacks).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert model.evaluate(images, labels, verbose=0)[0] < history["loss"][0]
    loaded = keras.saving.load_model(tmp_path / "best.keras")
    other = type(model).from_config(model.get_config())
    load_weights(other, tmp_path / "best.weights.h5")
    for each in (model, loaded, other):
        np.testing.assert_allclose(each(images), model.predict(images, verbose=0), atol=1e-5)
    assert int(loaded.optimizer.iterations) == 16 and type(loaded.optimizer) is keras.optimizers.Adam
