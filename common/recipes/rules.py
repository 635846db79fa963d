"""The published recipes: functions of the facts of a dataset, which name their source, result and cost.

A rule returns fields of a Recipe, and `steps`, `warmup_steps`, `base_lr` and `schedule` (common/recipes/schedules.py, with its
own numbers in `schedule_numbers`), from which the rates follow. A flag replaces what it names, and only that; where a
source makes its rate depend on the batch, `flags` tell the rule which batch it will be.

In all of them mixup differs from its sources on purpose: its partner is the neighbour (rows 2i and 2i + 1) where
big_vision takes the previous row, so that a batch may be cut anywhere; the weight is one for the whole batch, as there.
"""

import math

from common.recipes import hyperrule


def bit_finetune(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Fine-tune by the BiT-HyperRule (common/recipes/hyperrule.py): SGD with momentum 0.9, no weight decay.

    Expected: BiT-M-R50x1 reaches 97.4 % on CIFAR-10 (README of google-research/big_transfer); 10,000 steps of 512.
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
    """`bit_pretrain` with the decay of the paper."""
    return bit_pretrain(num_examples, image_size, flags) | {"schedule": "stepwise"}


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


def big_vision(num_examples: int, flags: dict, epochs: int, batch: int) -> dict:
    """What the configurations of google-research/big_vision for training from scratch have in common.

    Their `resize_small` averages areas (`pp/ops_image.py`).
    """
    batch = flags.get("batch", batch)
    return {
        "batch": batch,
        **boxes(224, flags, eval_resize=256),
        "eval_resize_kind": "area",
        "optimizer": "adam",
        "first_moment": "bfloat16",
        "clip": 1.0,
        "decay": "independent",
        "weight_decay": 1e-4,
        "base_lr": 1e-3,
        "steps": max(1, round(epochs * num_examples / batch)),
        "warmup_steps": 10_000,
        "schedule": "cosine",
    }


def vit_s16_i1k(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train a ViT-S/16 on ImageNet: Adam 0.001, 90 epochs of batch 1,024, mixup 0.2, RandAugment(2, 10).

    Source: "Better plain ViT baselines for ImageNet-1k" (https://arxiv.org/abs/2205.01580), `configs/vit_s16_i1k.py` of
    google-research/big_vision. The rate does not depend on the batch.
    Expected: 76.5 % after 90 epochs, 80.0 % after 300 (`--steps 371590`); 6.5 hours on a TPU v3-8.
        python -m bit_jax.train --weights none --recipe vit_s16_i1k --model ViT-S/16-i1k-90ep --dataset imagenet2012
    """
    numbers = {"mixup": 0.2, "randaugment_layers": 2, "randaugment_magnitude": 10.0}
    return big_vision(num_examples, flags, 90, 1024) | numbers


AUGREG = {  # alpha of mixup, layers and magnitude of RandAugment
    "none": (0.0, 0, 0.0),
    "light1": (0.0, 2, 0.0),
    "light2": (0.2, 2, 10.0),
    "medium1": (0.2, 2, 15.0),
    "medium2": (0.5, 2, 15.0),
    "strong1": (0.5, 2, 20.0),
    "strong2": (0.8, 2, 20.0),
}


def augreg(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train a ViT on ImageNet or ImageNet-21k: Adam 0.001, 300 epochs of batch 4,096, sigmoid loss.

    Source: "How to train your ViT?" (https://arxiv.org/abs/2106.10270), `configs/vit_i1k.py` and `vit_i21k.py` of
    google-research/big_vision. Their grid: `--augmentation` none ... strong2; `--dropout 0.1 --stochastic_depth 0.1`
    or neither; `--weight_decay 1e-4` or 3e-5 (0.1 and 0.03 in the paper, which multiplies by the rate). The default is
    that of B/16: medium2 on ImageNet, light2 on ImageNet-21k; Ti/16 takes light1 and none, S/32 medium1 and none.
        python -m bit_jax.train --weights none --recipe augreg --model ViT-B/16 --dataset imagenet2012
    """
    large = num_examples > 5_000_000  # ImageNet-21k
    alpha, layers, magnitude = AUGREG[flags.get("augmentation", "light2" if large else "medium2")]
    return big_vision(num_examples, flags, 300, 4096) | {
        "loss": "sigmoid",
        "head_bias": -10.0 if large else -6.9,
        "mixup": alpha,
        "randaugment_layers": layers,
        "randaugment_magnitude": magnitude,
    }


def mixer_i1k(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train a Mixer-B/16 on ImageNet: Adam 0.001, linear decay, 300 epochs of batch 4,096, sigmoid loss.

    Source: `configs/mlp_mixer_i1k.py` of google-research/big_vision.
    Expected: 76.3 % after 300 epochs, 70.5 % after 60 (`--steps 18579`); 2.2 hours and 27 minutes on a TPU v3-128.
        python -m bit_jax.train --weights none --recipe mixer_i1k --model imagenet1k/Mixer-B/16 --dataset imagenet2012
    """
    return big_vision(num_examples, flags, 300, 4096) | {
        "loss": "sigmoid",
        "head_bias": -6.9,
        "mixup": 0.5,
        "randaugment_layers": 2,
        "randaugment_magnitude": 15.0,
        "stochastic_depth": 0.1,
        "first_moment": "float32",
        "schedule": "linear",
        "schedule_numbers": {"end": 1e-5},
    }


def bit_i1k(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train big_vision's ResNet-50 V1 on ImageNet: SGD 0.9, 90 epochs of batch 4,096.

    Source: `configs/bit_i1k.py` of google-research/big_vision: rate 0.1 x batch / 256, weight decay 1e-4 x batch / 256.
    Expected: the file states no accuracy; 32 minutes on a TPU v3-128.
        python -m bit_jax.train --weights none --recipe bit_i1k --model R50 --dataset imagenet2012
    """
    recipe = big_vision(num_examples, flags, 90, 4096)
    share = recipe["batch"] / 256
    return recipe | {"optimizer": "sgd", "base_lr": 0.1 * share, "weight_decay": 1e-4 * share, "warmup_steps": 1000}


def bit_i21k(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train a BiT-M on ImageNet-21k: SGD 0.9, 90 epochs of batch 4,096, sigmoid loss.

    Source: `configs/bit_i21k.py` of google-research/big_vision: rate 0.03 x batch / 256, weight decay 3e-5 x batch / 256.
        python -m bit_jax.train --weights none --recipe bit_i21k --model BiT-M-R50x1 --dataset path/to/imagenet21k
    """
    recipe = big_vision(num_examples, flags, 90, 4096)
    share = recipe["batch"] / 256
    return recipe | {
        "optimizer": "sgd",
        "base_lr": 0.03 * share,
        "weight_decay": 3e-5 * share,
        "warmup_steps": 5000,
        "loss": "sigmoid",
        "head_bias": -10.0,
    }


def coyo_pretrain(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train a ViT-L/16 on images with several labels: AdamW 6e-4, 7 epochs of batch 4,096, sigmoid loss, linear decay.

    Source: `configs/trainer/vit_l16_coyo300m.yaml` of kakaobrain/coyo-vit, whose head bias of -10 is never applied (the
    code takes the kernel's initial value), so the head starts at zero here, too. On ImageNet they train a ViT-B/16 with
    `--base_lr 0.003 --weight_decay 0.3 --label_smoothing 1e-4 --dropout 0.1 --schedule cosine`, 300 epochs.
    Expected: fine-tuned on ImageNet by `coyo_finetune`, 86.7 %.
        python -m bit_tf2.train --weights none --recipe coyo_pretrain --model ViT-L/16 --dataset path/to/images
    """
    batch = flags.get("batch", 4096)
    base_lr = flags.get("base_lr", 6e-4)
    return {
        "batch": batch,
        **boxes(224, flags, eval_resize=256),
        "eval_resize_kind": "area",
        "loss": "sigmoid",
        "optimizer": "adam",
        "epsilon": 1e-7,
        "epsilon_hat": True,
        "clip": 1.0,
        "decay": "decoupled",
        "decay_mask": "all",
        "weight_decay": 0.1,
        "base_lr": base_lr,
        "steps": max(1, 7 * (num_examples // batch)),
        "warmup_steps": 10_000,
        "schedule": "linear",
        "schedule_numbers": {"end": 1e-5 / base_lr if base_lr else 0.0},  # 1e-5 whatever the rate
    }


def coyo_finetune(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Fine-tune what `coyo_pretrain` has trained: SGD 0.9 clipped at 1, cosine from 0.06, 8 epochs of batch 512.

    Source: `configs/trainer/vit_l16_i1k_downstream.yaml` of kakaobrain/coyo-vit; `..._ema.yaml` adds `--crop 512 --ema
    0.9999`. Its optimizer is Keras's SGD, whose velocity holds the rate.
    Expected on ImageNet: 86.7 % at 384 pixels, 87.2 % at 512. Cost: 20,000 steps.
        python -m bit_tf2.train --recipe coyo_finetune --model ViT-L/16 --weights coyo.npz --dataset imagenet2012
    """
    batch = flags.get("batch", 512)
    return {
        "batch": batch,
        **boxes(384, flags),
        "clip": 1.0,
        "momentum_rate": "inside",
        "base_lr": 0.06,
        "steps": max(1, 8 * (num_examples // batch)),
        "warmup_steps": 500,
        "schedule": "cosine",
    }


def boxes(crop: int, flags: dict, eval_resize: int = 0) -> dict:
    """Random boxes of at least a twentieth of the image; evaluation at the middle of its smaller side's `eval_resize`.

    Both at `crop` pixels unless a flag gives another crop, with which `eval_resize` grows or shrinks.
    """
    wanted = flags.get("crop", crop)
    return {"resize": wanted, "crop": crop, "crop_min_area": 0.05, "eval_resize": round(eval_resize * wanted / crop)}


RULES = {
    rule.__name__: rule
    for rule in (
        bit_finetune, bit_pretrain, bit_pretrain_stepwise, vit_finetune, vit_s16_i1k, augreg, mixer_i1k, bit_i1k, bit_i21k,
        coyo_pretrain, coyo_finetune,
    )
}  # fmt: skip
