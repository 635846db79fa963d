"""Training UViM (https://arxiv.org/abs/2205.10337): maps of images through codes."""

from common.recipes.big_vision import boxes


def first_stage(target: str, num_examples: int, flags: dict, epochs: int) -> dict:
    """What the recipes of the first stage have in common: boxes of at least a twentieth of 512 pixels, and Adafactor."""
    batch = flags.get("batch", 1024)
    return {
        "task": "dense",
        "target": target,
        "batch": batch,
        **boxes(512, flags),
        "optimizer": "adafactor",
        "first_moment": "bfloat16",
        "beta2": 0.95,
        "clip": 1.0,
        "decay": "independent",
        "weight_decay": 4e-5,
        "base_lr": 4e-4,
        "steps": max(1, round(epochs * num_examples / batch)),
        "warmup_steps": 4000,
        "schedule": "cosine",
        "commitment_weight": 0.0,
        "code_dropout": "random",
    }


def uvim_color(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train a VQ-VAE of the colours of images: Adafactor 0.0004, 100 epochs of batch 1,024.

    Source: `configs/proj/uvim/vqvae_imagenet2012_colorization.py` of google-research/big_vision. Expected: a FID of 15.59, as the
    README beside it states; it is not built.
        python -m bit_jax.train --weights none --recipe uvim_color --model UViM-B/16-colorization --dataset imagenet2012
    """
    return first_stage("colorization", num_examples, flags, 100)


def uvim_depth(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train a VQ-VAE of depth: Adafactor 0.001, 200 epochs of batch 1,024.

    Source: `configs/proj/uvim/vqvae_nyu_depth.py` of google-research/big_vision, which lacks a quotation mark and does not run:
    its numbers were read. Expected: an RMSE of 0.155, as the README beside it states.
        python -m bit_jax.train --weights none --recipe uvim_depth --model UViM-B/16-depth --dataset tfds:nyu_depth_v2
    """
    return first_stage("depth", num_examples, flags, 200) | {"base_lr": 1e-3, "weight_decay": 1e-5}


def uvim_panoptic(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train a VQ-VAE of panoptic segmentations: Adafactor 0.0004, 1,000 epochs of batch 1,024.

    Source: `configs/proj/uvim/vqvae_coco_panoptic.py` of google-research/big_vision. Expected: a PQ of 75.8, as the README beside
    it states.
        python -m bit_jax.train --weights none --recipe uvim_panoptic --model UViM-B/16-panoptic --dataset coco_panoptic:PATH
    """
    return first_stage("panoptic", num_examples, flags, 1000)


def uvim_codes(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train what writes the codes of an --oracle: Adafactor 0.001, a tenth of it for the image tower, 50 epochs of batch 512.

    Source: `configs/proj/uvim/train_imagenet2012_colorization_pretrained.py` of google-research/big_vision, whose image tower is
    a ViT-L/16 of ImageNet-21k. Depth takes as many epochs there, and segmentations 200. Expected, as the README beside it states: a
    FID of 16.99, which is not built; of depth an RMSE of 0.463; of segmentations a PQ of 43.1.
        python -m bit_jax.train --weights none --recipe uvim_codes --model VTT-L/16 --oracle runs/colours --dataset imagenet2012
    """
    batch = flags.get("batch", 512)
    return {
        "task": "coded",
        "batch": batch,
        **boxes(512, flags),
        "optimizer": "adafactor",
        "first_moment": "bfloat16",
        "beta2": 0.95,
        "decay": "independent",
        "weight_decay": 1e-6,
        "base_lr": 1e-3,
        "rates": {"image/.*": 0.1},
        "steps": max(1, round(50 * num_examples / batch)),
        "warmup_steps": 4000,
        "schedule": "cosine",
    }


RECIPES = (uvim_color, uvim_depth, uvim_panoptic, uvim_codes)
