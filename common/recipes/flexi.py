"""FlexiViT: patches of a size that every step draws (https://arxiv.org/abs/2212.08013).

Sources: `configs/proj/flexivit/` of google-research/big_vision. Images of 240 pixels have 5 to 30 patches on a side: of 48, 40, 30, 24,
20, 16, 15, 12, 10 and 8 pixels, each as often. Evaluation is at one size; `evaluate --patch_size` shows the others.
"""

from common.recipes.big_vision import big_vision, boxes

COUNTS = (5, 6, 8, 10, 12, 15, 16, 20, 24, 30)  # patches on a side, in the order in which they are drawn


def flexivit_i1k(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Distil DeiT III into a FlexiViT on ImageNet: Adam 0.0001, 90 epochs of batch 1,024, mixup 1, the teacher at 384 pixels.

    Source: `i1k_deit3_distill.py`, which trains on 99 % of the images and starts from the teacher, whose kernel keeps its 16 pixels.
    It squashes images to 272 pixels for evaluation; here that is the smaller side.
    Expected: the file states no accuracy; the published ones are `FlexiViT-B-i1k-90ep` and those of 300, 600 and 1,200 epochs. It took
    10 hours for the S on a TPU v3-32, half of them for evaluation, and would take 16 for the B.
        python -m bit_jax.train --weights weights/deit3/ViT-B_16-384.npz --recipe flexivit_i1k --model FlexiViT-B --dataset imagenet2012 --val_fraction 0.01
    """
    return big_vision(num_examples, flags, 90, 1024) | distilled(flags) | {"teacher": "deit3/ViT-B/16-384"}


def flexivit_i21k(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train a FlexiViT on ImageNet-21k: Adam 0.001, 90 epochs of batch 4,096, sigmoid loss, mixup 0.2, RandAugment(2, 10).

    Source: `i21k_sup.py`, whose kernel has 8 pixels; the paper's and that of the command has 32. It was never run in public: neither
    accuracy nor cost are stated.
        python -m bit_jax.train --weights none --recipe flexivit_i21k --model FlexiViT-B --dataset path/to/imagenet21k
    """
    augmented = {"mixup": 0.2, "randaugment_layers": 2, "randaugment_magnitude": 10.0}
    return (
        big_vision(num_examples, flags, 90, 4096)
        | flexible(flags)
        | {"loss": "sigmoid", "head_bias": -10.0}
        | augmented
    )


def flexivit_i21k_distill(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Distil the published ViT-B/8 of ImageNet-21k into a FlexiViT: Adam 0.0001, 90 epochs of batch 4,096, mixup 1.

    Source: `i21k_distill.py`, which starts from the teacher, whose kernel keeps its 8 pixels. It was never run in public; the
    published `FlexiViT-B-i21k-90ep` and those of 300 and 1,000 epochs have no stated accuracy.
        python -m bit_jax.train --weights weights/ViT-B_8.npz --recipe flexivit_i21k_distill --model FlexiViT-B --dataset path/to/imagenet21k
    """
    return big_vision(num_examples, flags, 90, 4096) | distilled(flags) | {"teacher": "ViT-B/8"}


def flexible(flags: dict) -> dict:
    """The views and sizes of all three."""
    crop = flags.get("crop", 240)
    patch_sizes = ",".join(str(max(1, crop // count)) for count in COUNTS)
    return {**boxes(240, flags, eval_resize=272), "patch_sizes": patch_sizes}


def distilled(flags: dict) -> dict:
    """What those with a teacher have in common."""
    numbers = {"mixup": 1.0, "base_lr": 1e-4, "weight_decay": 1e-5, "warmup_steps": 5000}
    return flexible(flags) | {"task": "distillation"} | numbers


RECIPES = (flexivit_i1k, flexivit_i21k, flexivit_i21k_distill)
