"""Golden cases of the original code bases as our configurations, parameters and images."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from golden.golden_params import image, param

from common.models import MixerConfig, ModelConfig, ResNetConfig, ResNetV1Config, ViTConfig, find_architecture
from common.weights.express import choose_table

GOLDEN = Path(__file__).parent / "golden"
POOLING = {"token": "token", "tok": "token", "gap": "gap", "map": "map", "0": "first", "none": "none"}


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden file."""

    name: str
    golden: dict
    config: ModelConfig
    names: dict[str, str]  # canonical -> published
    published_shapes: dict[str, tuple[int, ...]]

    def arrays(self) -> dict[str, np.ndarray]:
        """Canonical float32 arrays that hold the golden rule's value of each published name."""
        shapes = self.config.parameter_shapes()
        return {
            ours: param(theirs, self.published_shapes[theirs]).astype(np.float32).reshape(shapes[ours])
            for ours, theirs in self.names.items()
        }

    def images(self) -> np.ndarray:
        """float32 NHWC."""
        return image(self.golden["input"]["shape"], self.golden["input"]["seed"]).astype(np.float32)

    def expected(self, output: str) -> np.ndarray:
        return np.array(self.golden["outputs"][output]["data"])


def names() -> list[str]:
    """Every case of the families, as `folder/file`."""
    folders = ("vit_jax_vit", "vit_jax_mixer", "bv_vit", "bv_bit", "bv_mixer", "coyo_vit")
    files = (path for folder in folders for path in sorted((GOLDEN / folder).glob("*.json")))
    return [f"{path.parent.name}/{path.stem}" for path in files if "config" in json.loads(path.read_text())]


def case(name: str) -> Case:
    """The case called `folder/file`."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    read = {
        "vit_jax_vit": vision_transformer,
        "coyo_vit": coyo,
        "bv_vit": big_vision_vit,
        "vit_jax_mixer": any_mixer,
        "bv_mixer": any_mixer,
        "bv_bit": bit_paper if "bit_paper" in name else big_vision_bit,
        "train_steps": trained,
        "gsam": trained,
    }[name.partition("/")[0]]
    config, spelling = read(golden["config"], tuple(golden["input"]["shape"][1:3]))
    table = choose_table(spelling, config)
    return Case(name, golden, config, published_names(config, spelling), table.published_shapes(config))


def trained(given: dict, size: tuple[int, int]) -> tuple[ModelConfig, str]:
    """The model of a case of training steps."""
    model = given["model"]
    if model == "as vit_jax_vit/tiny_token":
        return vision_transformer(json.loads((GOLDEN / "vit_jax_vit/tiny_token.json").read_text())["config"], size)
    given = {"num_classes": given.get("num_classes")} | model
    read = next(
        read
        for key, read in {
            "tokens_mlp_dim": any_mixer, "hidden_size": coyo, "patch_size": big_vision_vit, "depth": big_vision_bit,
        }.items()
        if key in given
    )  # fmt: skip
    return read(given, size)


def published_names(config: ModelConfig, spelling: str) -> dict[str, str]:
    """{canonical name: published name} in a spelling that joins no parameters."""
    return {name: row.theirs for row in choose_table(spelling, config).rows(config) for name in row.ours}


def vision_transformer(given: dict, size: tuple[int, int]) -> tuple[ModelConfig, str]:
    transformer, resnet = given["transformer"], given.get("resnet")
    config = ViTConfig(
        tuple(given["patches"]),
        given["hidden_size"],
        transformer["num_layers"],
        transformer["num_heads"],
        transformer["mlp_dim"],
        given["num_classes"],
        image_size=size,
        pooling=POOLING[given["classifier"]],
        pre_logits=given["representation_size"],
        backbone=ResNetV1Config(tuple(resnet["num_layers"]), resnet["width_factor"]) if resnet else None,
    )
    return config, "vision_transformer"


def coyo(given: dict, size: tuple[int, int]) -> tuple[ModelConfig, str]:
    config = ViTConfig(
        (given["patch_size"], given["patch_size"]),
        given["hidden_size"],
        given["num_layers"],
        given["num_heads"],
        given["mlp_dim"],
        given["num_classes"],
        image_size=size,
        pre_logits=given["representation_size"] or None,
    )
    return config, "vision_transformer"


def big_vision_vit(given: dict, size: tuple[int, int]) -> tuple[ModelConfig, str]:
    if "variant" in given:
        row = find_architecture(f"ViT-{given['variant']}")
        sizes = (row.patch_size, row.width, row.depth, row.num_heads, row.mlp_dim)
    else:
        width = given["width"]
        mlp_dim = given.get("mlp_dim", 4 * width)
        sizes = (tuple(given["patch_size"]), width, given["depth"], given["num_heads"], mlp_dim)
    pre_logits = given.get("rep_size")
    config = ViTConfig(
        *sizes,
        given["num_classes"],
        image_size=size,
        pooling=POOLING[given["pool_type"]],
        positions={"learn": "learned", "sincos2d": "sincos2d"}[given.get("posemb", "learn")],
        cls_position=False,
        pre_logits=sizes[1] if pre_logits is True else pre_logits or None,
    )
    return config, "big_vision"


def any_mixer(given: dict, size: tuple[int, int]) -> tuple[ModelConfig, str]:
    config = MixerConfig(
        tuple(given.get("patches") or given["patch_size"]),
        given["hidden_dim"],
        given["num_blocks"],
        given["tokens_mlp_dim"],
        given["channels_mlp_dim"],
        given["num_classes"],
        image_size=size,
    )
    return config, "big_vision"


def big_vision_bit(given: dict, size: tuple[int, int]) -> tuple[ModelConfig, str]:
    config = ResNetV1Config(tuple(given["depth"]), given["width"], given["num_classes"])
    return config, "big_vision"


def bit_paper(given: dict, size: tuple[int, int]) -> tuple[ModelConfig, str]:
    units = (3, 4, 6, 3) if given["depth"] == 50 else tuple(given["depth"])
    config = ResNetConfig(units, given["width"], given["num_classes"], max_pool_padding="lowest")
    return config, "big_transfer"
