"""BiT: fine-tuning by its HyperRule, and training from scratch. Source: Big Transfer (https://arxiv.org/abs/1912.11370)."""

import math

from common.recipes import hyperrule

# What google-research/big_transfer did to images in TensorFlow and JAX: `input_pipeline_tf2_or_jax.py` calls
# `tf.image.flip_left_right` on every training image and `tf.image.resize` without antialias, in evaluation, too. Its
# PyTorch code flips half of them and resizes by Pillow.
COMPAT = {"bit2021": {"flip": 1.0, "resize_kind": "bilinear_aliased"}}


def bit_finetune(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Fine-tune by the BiT-HyperRule (common/recipes/hyperrule.py): SGD with momentum 0.9, no weight decay.

    Source: Big Transfer, section 3.3, and `bit_hyperrule.py` of google-research/big_transfer.
    Expected: BiT-M-R50x1 reaches 97.4 % on CIFAR-10 (the README there); 10,000 steps of 512.
        python -m bit_pytorch.train --model BiT-M-R50x1 --dataset cifar10
    """
    resize, crop = hyperrule.resolution(image_size)
    warmup, *points = hyperrule.schedule(num_examples)
    steps = flags.get("steps", points[-1])
    return {
        "batch": hyperrule.BATCH_SIZE,
        "resize": round(flags.get("crop", crop) * resize / crop),
        "crop": crop,
        "mixup": hyperrule.mixup(num_examples),
        "base_lr": hyperrule.BASE_LR,
        "steps": steps,
        "warmup_steps": round(warmup * steps / points[-1]),  # --steps stretches the whole schedule
        "schedule": "stepwise",
        "schedule_numbers": {"points": tuple(points)},
    }


def bit_pretrain(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train from scratch as BiT was: SGD 0.9, rate 0.03 x batch / 256, weight decay 1e-4, 90 epochs, random boxes.

    Source: Big Transfer, section 3.2, whose decay is stepwise (`bit_pretrain_stepwise`: by ten after 1/3, 2/3 and
    8/9 of the run). Cosine is the default because it suits short runs better.
        python -m bit_pytorch.train --weights none --recipe bit_pretrain --model BiT-S-R50x1 --dataset imagenet2012
    """
    batch = flags.get("batch", 256)
    steps = flags.get("steps", math.ceil(90 * num_examples / batch))
    crop = min(224, *image_size)
    return {
        "batch": batch,
        "resize": flags.get("crop", crop),
        "crop": crop,
        "crop_min_area": 0.08,
        "weight_decay": 1e-4,
        "base_lr": 0.03 * batch / 256,
        "steps": steps,
        "warmup_steps": min(5000, steps // 20),
        "schedule": "cosine",
    }


def bit_pretrain_stepwise(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """`bit_pretrain` with the decay of the paper. Source: Big Transfer, section 3.2."""
    return bit_pretrain(num_examples, image_size, flags) | {"schedule": "stepwise"}


RECIPES = (
    bit_finetune,
    bit_pretrain,
    bit_pretrain_stepwise,
)
