"""Fine-tuning as in google-research/vision_transformer."""

from common.recipes import hyperrule
from common.recipes.big_vision import boxes


def vit_finetune(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Fine-tune a ViT, hybrid or Mixer as its papers do: SGD 0.9 clipped at 1, cosine, 384 pixels, no weight decay.

    Source: `vit_jax/configs/` of google-research/vision_transformer; Vision Transformer, table 4, whose steps by the
    size of the dataset are the HyperRule's. Its rates are chosen from 0.001, 0.003, 0.01, 0.03 (on ImageNet from 0.003
    to 0.06); 0.03 on ImageNet and 0.01 elsewhere are those of the configurations. Mixers take `--crop 224`.
    Expected: ViT-B/16 of ImageNet-21k reaches 99.0 % on CIFAR-10, 92.1 % on CIFAR-100, 84.5 % on ImageNet; 98.6 % on
    CIFAR-10 already after `--steps 500 --warmup_steps 50` (README of vision_transformer). Cost: 10,000 steps of 512.
        python -m bit_pytorch.train --recipe vit_finetune --model ViT-B/16 --dataset cifar10 --batch_split 8
    """
    steps = hyperrule.schedule(num_examples)[-1]
    return {
        "batch": 512,
        **boxes(384, flags),
        "clip": 1.0,
        "first_moment": "bfloat16",
        "base_lr": 0.03 if num_examples >= 500_000 else 0.01,
        "steps": steps,
        "warmup_steps": 100 if steps == 500 else 500,
        "schedule": "cosine",
    }


RECIPES = (vit_finetune,)
