"""Distillation as in "Knowledge distillation: A good teacher is patient and consistent" (https://arxiv.org/abs/2106.05237).

The student sees what the teacher sees, in mixed random boxes, for very many epochs. Sources: `configs/proj/distill/` of
google-research/big_vision. There mixup's alpha is 1; temperature, rate, decay and epochs were chosen on a tenth of the
training images.
"""

from common.recipes.big_vision import big_vision, boxes

# variant -> (epochs, temperature, rate, weight decay)
FLOWERS = {
    "fast": (10_000, 10.0, 0.003, 3e-4),
    "medium": (100_000, 1.0, 0.001, 1e-4),
    "long": (1_000_000, 1.0, 0.0003, 1e-5),
}
PETS = {"fast": (1000, 5.0, 0.01, 1e-3), "medium": (3000, 10.0, 0.003, 3e-4), "long": (30_000, 2.0, 0.003, 1e-5)}
FOOD = {"fast": (100, 10.0, 0.01, 1e-3), "medium": (1000, 10.0, 0.001, 3e-4), "long": (3000, 5.0, 0.01, 1e-4)}
SUN = {"fast": (100, 10.0, 0.01, 1e-3), "medium": (1000, 10.0, 0.001, 1e-4), "long": (3000, 10.0, 0.01, 3e-5)}
VARIANTS = tuple(FLOWERS)


def distill(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Distil any teachers into any student: Adam 0.003, 300 epochs of batch 512 at 128 pixels, mixup 1.

    Source: the common numbers of the recipes below, with the distance and temperature of ImageNet's and the middle one of their
    rates. No source has tried these numbers together. Accuracy still grows with many more `--epochs`.
        python -m bit_jax.train --weights none --recipe distill --model BiT-S-R50x1 --dataset cifar10 --teacher runs/teacher
    """
    recipe = at_128(num_examples, flags, {"medium": (300, 1.0, 0.003, 3e-4)})
    return recipe | {"warmup_steps": min(1500, flags.get("steps", recipe["steps"]) // 10)}


def distill_flowers(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Distil the published BiT-M-R152x2 of Oxford Flowers-102; `--variant` fast, medium or long: 10,000 to 1,000,000 epochs.

    Source: `bigsweep_flowers_pet.py`, which takes medium by default. Its fast variant takes 70 minutes on a TPU v2-8, its long one
    25 hours on a v3-32.
        python -m bit_jax.train --weights none --recipe distill_flowers --model BiT-S-R50x1 --dataset oxford_flowers102
    """
    return at_128(num_examples, flags, FLOWERS) | {"teacher": "R152x2_T_flowers128"}


def distill_pets(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Distil the published BiT-M-R152x2 of Oxford-IIIT Pets; `--variant` fast, medium or long: 1,000 to 30,000 epochs.

    Source: `bigsweep_flowers_pet.py`, which trains on 90 % of the images. Its fast variant takes 28 minutes on a TPU v2-8, its
    long one 11 hours.
        python -m bit_jax.train --weights none --recipe distill_pets --model BiT-S-R50x1 --dataset oxford_iiit_pet --val_fraction 0.1
    """
    return at_128(num_examples, flags, PETS) | {"teacher": "R152x2_T_pet128"}


def distill_food(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Distil the published BiT-M-R152x2 of Food-101; `--variant` fast, medium or long: 100 to 3,000 epochs.

    Source: `bigsweep_food_sun.py`, which trains on 90 % of the images.
        python -m bit_jax.train --weights none --recipe distill_food --model BiT-S-R50x1 --dataset tfds:food101 --val_fraction 0.1
    """
    return at_128(num_examples, flags, FOOD) | {"teacher": "R152x2_T_food128"}


def distill_sun(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Distil the published BiT-M-R152x2 of SUN397; `--variant` fast, medium or long: 100 to 3,000 epochs.

    Source: `bigsweep_food_sun.py`.
        python -m bit_jax.train --weights none --recipe distill_sun --model BiT-S-R50x1 --dataset tfds:sun397
    """
    return at_128(num_examples, flags, SUN) | {"teacher": "R152x2_T_sun128"}


def distill_i1k(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Distil the published BiT-M-R152x2 of ImageNet into a ResNet-50: Adam 0.03, 1,200 epochs of batch 4,096 at 224 pixels.

    Source: `bit_i1k.py`, which trains on 98 % of the images. Expected: the published student `R50x1_224` reaches 82.8 % (README.md
    beside it), after the paper's longest run; 300 epochs take 15 hours on a TPU v3-32.
        python -m bit_jax.train --weights none --recipe distill_i1k --model BiT-S-R50x1 --dataset imagenet2012 --val_fraction 0.02
    """
    return big_vision(num_examples, flags, 1200, 4096) | {
        "task": "distillation",
        "teacher": "R152x2_T_224",
        "mixup": 1.0,
        "base_lr": 0.03,
        "weight_decay": 3e-4,
        "warmup_steps": 5000,
    }


def at_128(num_examples: int, flags: dict, variants: dict[str, tuple[int, float, float, float]]) -> dict:
    """What the configurations of the small data sets have in common, and the numbers of the wanted variant."""
    epochs, temperature, base_lr, weight_decay = variants[flags.get("variant", "medium")]
    return big_vision(num_examples, flags, epochs, 512) | {
        **boxes(128, flags, eval_resize=160),
        "task": "distillation",
        "temperature": temperature,
        "mixup": 1.0,
        "base_lr": base_lr,
        "weight_decay": weight_decay,
        "warmup_steps": 1500,
    }


RECIPES = (distill, distill_flowers, distill_pets, distill_food, distill_sun, distill_i1k)
