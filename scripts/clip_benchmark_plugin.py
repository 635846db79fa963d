"""Run LAION's CLIP_benchmark on an image-text model in PyTorch: `python scripts/clip_benchmark_plugin.py eval ...`.

    pip install clip-benchmark "numpy<2.4"          # version 1.6.2: findings/clip_benchmark.sh
    python scripts/clip_benchmark_plugin.py eval --model_type bit_pytorch --model SigLIP-B/16-224 --pretrained pretrained \
        --dataset wds/cifar10 --dataset_root PATH --no_amp --output result.json

`--pretrained` is what `create_model` takes as weights, and `--model_cache_dir` the folder of the vocabulary. Source of the
contract: `clip_benchmark/models/__init__.py` of LAION-AI/CLIP_benchmark, where a type of model is a function of these four
arguments that returns the model, the transform of a Pillow image and the tokenizer of a list of texts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bit_pytorch import create_model
from common import zoo
from common.data.text import open_tokenizer
from common.models.published import DOWNLOADS

NAME = "bit_pytorch"


def load(
    model_name: str, pretrained: str, cache_dir: str | None = None, device: str = "cpu"
) -> tuple[Any, Callable, Callable]:
    """(model with encode_image and encode_text, image -> float32 [3, H, W], texts -> int32 [N, L])."""
    model = create_model(model_name, weights=pretrained)
    tokenizer = open_tokenizer(model.card.text, folder=cache_dir or DOWNLOADS)
    seen = model.config, model.preprocessing

    def transform(image: Any) -> Tensor:
        return torch.from_numpy(zoo.preprocess(*seen, [image])[0]).permute(2, 0, 1)

    def tokenize(texts: Sequence[str]) -> Tensor:
        return torch.from_numpy(tokenizer.encode(list(texts)))

    return model.to(device), transform, tokenize


def main() -> None:
    """The command of CLIP_benchmark, with one more type of model."""
    from clip_benchmark import models

    models.TYPE2FUNC[NAME] = load
    models.MODEL_TYPES.append(NAME)  # before the command reads it
    from clip_benchmark.cli import main as command

    command()


if __name__ == "__main__":
    main()
