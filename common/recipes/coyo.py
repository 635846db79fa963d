"""Training and fine-tuning as in kakaobrain/coyo-vit."""

from common.recipes.big_vision import boxes


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


RECIPES = (
    coyo_pretrain,
    coyo_finetune,
)
