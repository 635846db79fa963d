"""Model families as frozen configurations, and the names under which models were published."""

from common.models.bert import BertConfig
from common.models.decoder import DecoderConfig
from common.models.families import (
    FAMILIES,
    ModelConfig,
    architecture_name,
    architectures,
    family_name,
    find_architecture,
    has_classes,
    head_classes,
    num_kept,
    num_parameters,
    with_new_head,
    with_noise,
)
from common.models.mixer import MixerConfig
from common.models.published import (
    DEFAULT_MODEL,
    DOWNLOADS,
    PACKAGED_WEIGHTS,
    PublishedModel,
    find_model,
    published_models,
    unpublished_models,
)
from common.models.resnet import ARCHITECTURES, ResNetConfig
from common.models.resnet_v1 import ResNetV1Config
from common.models.text import TextConfig
from common.models.two_towers import TwoTowersConfig
from common.models.vit import ViTConfig
from common.models.vqvae import VqVaeConfig

__all__ = [
    "ARCHITECTURES",
    "DEFAULT_MODEL",
    "DOWNLOADS",
    "FAMILIES",
    "PACKAGED_WEIGHTS",
    "BertConfig",
    "DecoderConfig",
    "MixerConfig",
    "ModelConfig",
    "PublishedModel",
    "ResNetConfig",
    "ResNetV1Config",
    "TextConfig",
    "TwoTowersConfig",
    "ViTConfig",
    "VqVaeConfig",
    "architecture_name",
    "architectures",
    "family_name",
    "find_architecture",
    "find_model",
    "has_classes",
    "head_classes",
    "num_kept",
    "num_parameters",
    "published_models",
    "unpublished_models",
    "with_new_head",
    "with_noise",
]
