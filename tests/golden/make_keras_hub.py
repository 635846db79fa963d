"""Write the presets of golden/keras_hub/ and what KerasHub makes of them: `python tests/golden/make_keras_hub.py`, with keras-hub 0.32.0.

Random weights, none at its initial value; outputs in float64.
"""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "keras_hub"
IMAGES = np.random.default_rng(7).uniform(-1, 1, (3, 16, 16, 3)).astype("f4")
TOKENS = np.array([[1, 3, 5, 7, 9, 18, 0], [2, 4, 18, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 18]])
TOWER = {"hidden_dim": 8, "num_layers": 2, "num_heads": 2, "intermediate_dim": 12}
VISION, WORDS = (
    {"patch_size": 8, "image_shape": (16, 16, 3)},
    {"vocabulary_size": 19, "embedding_dim": 8, "max_sequence_length": 7},
)


def randomise(model) -> None:
    """Values of the same kind for every float parameter."""
    rng = np.random.default_rng(3)
    for variable in model.weights:
        if "float" in str(variable.dtype):
            noise = rng.normal(size=variable.shape) / max(1, np.prod(variable.shape[:-1])) ** 0.5
            variable.assign(noise + ("gamma" in variable.path))
        elif variable.path.endswith("position_ids"):  # which a CLIP that was not converted leaves at 0
            variable.assign(np.arange(variable.shape[1])[None])


def outputs(model) -> dict[str, np.ndarray]:
    """What a preset computes of IMAGES and TOKENS."""
    if hasattr(model, "get_text_embeddings"):
        found = {"image": model.get_vision_embeddings(IMAGES.astype("f8")), "text": model.get_text_embeddings(TOKENS)}
    else:
        found = {"logits": model(IMAGES.astype("f8"))}
    return {name: np.asarray(value) for name, value in found.items()}


def built() -> dict:
    """{name: preset} in the type that Keras computes in."""
    import keras_hub
    from keras_hub import models

    sizes = {"image_shape": (16, 16, 3), "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12}
    std = (0.229, 0.224, 0.225)
    scale, offset = [1 / (255 * one) for one in std], [-mean / one for mean, one in zip((0.485, 0.456, 0.406), std)]
    made = {
        "backbone": models.ViTBackbone(**sizes, use_mha_bias=False),
        "siglip": models.SigLIPBackbone(
            models.SigLIPVisionEncoder(**TOWER, **VISION), models.SigLIPTextEncoder(**TOWER, **WORDS)
        ),
        "clip": models.CLIPBackbone(
            models.CLIPVisionEncoder(**TOWER, **VISION), models.CLIPTextEncoder(**TOWER, **WORDS), 6
        ),
    }
    for pooling in ("token", "gap"):
        backbone = models.ViTBackbone(**sizes, use_class_token=pooling == "token", layer_norm_epsilon=1e-5)
        converter = keras_hub.layers.ViTImageConverter(image_size=(16, 16), scale=scale, offset=offset, antialias=True)
        prepared = models.ViTImageClassifierPreprocessor(converter)
        more = {"intermediate_dim": 6} if pooling == "gap" else {}
        made[f"vit_{pooling}"] = models.ViTImageClassifier(
            backbone=backbone, num_classes=5, preprocessor=prepared, pooling=pooling, activation=None, **more
        )
    return made


def main() -> None:
    import keras

    made = built()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    for name, again in built().items():
        model = made[name]
        randomise(model)
        model.save_to_preset(str(HERE / name))
        (HERE / name / "preprocessor.json").unlink(missing_ok=True)
        for file in (HERE / name).glob("*.json"):
            file.write_text(json.dumps(json.loads(file.read_text()), indent=1))
        again.set_weights(model.get_weights())
        if name == "clip":  # whose last norm of texts has another epsilon than the 1e-5 of the original and its other norms
            again.text_encoder.layer_norm.epsilon = 1e-5
        facts = {"images": IMAGES.astype("f8")} | outputs(again)
        assert all(value.dtype == "float64" for value in facts.values())
        if name in ("siglip", "clip"):
            head = model.siglip_head if name == "siglip" else model.clip_head
            facts |= {"tokens": TOKENS, "t": np.asarray(head.logit_scale).reshape(1)}
            facts |= {"b": np.asarray(head.logit_bias).reshape(1)} if name == "siglip" else {}
        np.savez(HERE / f"{name}.npz", **facts)


if __name__ == "__main__":
    main()
