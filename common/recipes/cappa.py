"""Training models that write: CapPa, and decoders for a locked image tower."""


def captioning(flags: dict, batch: int, steps: int) -> dict:
    """What the recipes have in common: whole images, squashed to 224 pixels, and Adafactor with big_vision's decay."""
    return {
        "task": "captioning",
        "batch": batch,
        "steps": steps,
        "resize": flags.get("crop", 224),
        "crop": 224,
        "flip": 0.0,
        "optimizer": "adafactor",
        "first_moment": "bfloat16",
        "beta2": 0.999,
        "clip": 1.0,
        "decay": "independent",
        "weight_decay": 1e-4,
        "base_lr": 1e-3,
        "schedule": "cosine",
    }


def cappa(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train a captioner, three quarters of whose texts are predicted all at once: Adafactor 0.001, 366,500 steps of 8,192.

    Source: "Image Captioners Are Scalable Vision Learners Too" (https://arxiv.org/abs/2306.07915), `configs/proj/cappa/pretrain.py`
    of google-research/big_vision. `--parallel 0` is Cap, the same without parallel prediction. Expected: the file states
    that no full training was run with it; its COCO captions are a test that everything works.
        python -m bit_jax.train --weights none --recipe cappa --model CapPa-B/16 --dataset "wds:PATH/{000..099}.tar"
    """
    return captioning(flags, 8192, 366_500) | {"warmup_steps": 10_000, "parallel": 0.75, "masking_ratio": 1.0}


def lit_decoder(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train a decoder for a locked image tower, which `--image_weights` names: 20,000 steps of 512, in all else `cappa`'s numbers.

    Source: LiT-decoder of "A Study of Autoregressive Decoders for Multi-Tasking in Computer Vision"
    (https://arxiv.org/abs/2303.17376), by its abstract; the numbers are not the paper's. Expected: nothing that was measured.
        python -m bit_jax.train --weights none --recipe lit_decoder --model Cap-B/16 --image_weights ViT-B_16.npz --dataset coco:PATH
    """
    return captioning(flags, 512, 20_000) | {"warmup_steps": 1000, "locked": "image/.*"}


def task_rewards(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Tune a captioner for CIDEr-D, or what writes the codes of an --oracle for its maps, by REINFORCE: 10,000 steps of 256.

    Source: "Tuning computer vision models with task rewards" (https://arxiv.org/abs/2302.08242), by its method: a reward less that of
    another sample of the image; the numbers are not the paper's. Expected: see docs/captions.md and docs/dense.md.
        python -m bit_jax.train --recipe task_rewards --model CapPa-T/8 --weights runs/captioner --dataset captions-sample
        python -m bit_jax.train --recipe task_rewards --reward psnr --model VTT-T/8 --weights runs/codes --oracle runs/colours
    """
    return captioning(flags, 256, 10_000) | {"task": "rewarded", "warmup_steps": 500, "base_lr": 1e-4, "samples": 2}


RECIPES = (cappa, lit_decoder, task_rewards)
