"""BiT-HyperRule: the fine-tuning hyper-parameters as pure functions of dataset facts.

Source: Big Transfer, section 3.3 (https://arxiv.org/abs/1912.11370), and `bit_hyperrule.py` of
google-research/big_transfer.
"""

BATCH_SIZE = 512
BASE_LR = 0.003


def resolution(image_size: tuple[int, int]) -> tuple[int, int]:
    """(resize_px, crop_px) for images of (height, width): small below an area of 96 x 96."""
    height, width = image_size
    return (160, 128) if height * width < 96 * 96 else (512, 480)


def mixup(num_examples: int) -> float:
    """The alpha of mixup's Beta(alpha, alpha): none for small data sets."""
    return 0.0 if num_examples < 20_000 else 0.1


def schedule(num_examples: int) -> tuple[int, ...]:
    """Steps at which warm-up ends, the rate falls by ten (three times), and training ends."""
    if num_examples < 20_000:
        return (100, 200, 300, 400, 500)
    if num_examples < 500_000:
        return (500, 3000, 6000, 9000, 10_000)
    return (500, 6000, 12_000, 18_000, 20_000)


def learning_rate(step: int, schedule: tuple[int, ...], base_lr: float = BASE_LR) -> float | None:
    """The rate of the update that follows `step` completed ones, or None once the schedule has ended."""
    warmup, *decays, end = schedule
    if step < warmup:
        return base_lr * step / warmup
    if step >= end:
        return None
    for decay in decays:
        if step > decay:
            base_lr /= 10
    return base_lr
