"""Training from scratch as in google-research/big_vision."""


def big_vision(num_examples: int, flags: dict, epochs: int, batch: int) -> dict:
    """The common part of google-research/big_vision's configurations for training from scratch.

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


def boxes(crop: int, flags: dict, eval_resize: int = 0) -> dict:
    """Random boxes of at least a twentieth of the image; evaluation at the middle of its smaller side's `eval_resize`.

    Both at `crop` pixels unless a flag gives another crop, with which `eval_resize` grows or shrinks.
    """
    wanted = flags.get("crop", crop)
    return {"resize": wanted, "crop": crop, "crop_min_area": 0.05, "eval_resize": round(eval_resize * wanted / crop)}


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


def gsam_i1k(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train a ViT-B/32 on ImageNet by GSAM: Adam 0.003, linear decay, 300 epochs of batch 4,096, boxes and flips alone.

    Source: `configs/proj/gsam/vit_i1k_gsam_no_aug.py` of google-research/big_vision; it averages all tokens (`gap`),
    and the ViT-B/32 of the command takes the class token, as all published ones do. Its way uphill is that of each device's
    images; with `--sam_group 64` it is that of 64 images, whatever the devices, and by default that of the whole batch.
    Expected: the file states no accuracy; the abstract of the paper (https://arxiv.org/abs/2203.08065), 5.4 points more
    than AdamW and 3.2 more than SAM on ImageNet. A step takes the time of two.
        python -m bit_jax.train --weights none --recipe gsam_i1k --model ViT-B/32 --dataset imagenet2012 --sam_group 64
    """
    return big_vision(num_examples, flags, 300, 4096) | {
        "loss": "sigmoid",
        "head_bias": -10.0,
        "first_moment": "float32",
        "weight_decay": 1e-3,
        "base_lr": 3e-3,
        "schedule": "linear",
        "schedule_numbers": {"end": 0.01},
        "rho": 0.6,
        "rho_min": 0.1,
        "gsam_alpha": 0.6,
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


RECIPES = (
    vit_s16_i1k,
    augreg,
    mixer_i1k,
    gsam_i1k,
    bit_i1k,
    bit_i21k,
)
