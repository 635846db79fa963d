"""Training models of images and texts: SigLIP, LiT, CLIP, CLIPPO and Three Towers.

Not built of SigLIP 2: its losses of captioning, self-distillation and masked prediction.
"""


def contrastive(flags: dict, batch: int, steps: int) -> dict:
    """What the recipes have in common: whole images, squashed to 224 pixels, and Adam with big_vision's decay."""
    return {
        "task": "contrastive",
        "loss": "sigmoid",
        "batch": batch,
        "steps": steps,
        "resize": flags.get("crop", 224),
        "crop": 224,
        "flip": 0.0,
        "optimizer": "adam",
        "clip": 1.0,
        "decay": "independent",
        "weight_decay": 1e-4,
        "base_lr": 1e-3,
        "schedule": "cosine",
    }


def siglip(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train both towers with the sigmoid loss: Adam 0.001, 40 billion pairs by 32,768, 20,000 steps of warm-up, cosine decay.

    Source: SigLIP 2 (https://arxiv.org/abs/2502.14786), whose other losses are not built; beta2, t and b of SigLIP
    (https://arxiv.org/abs/2303.15343). Expected: 78.2 % zero-shot on ImageNet for B/16 at 224 pixels with all losses of SigLIP 2
    and images that are not public (`configs/proj/image_text/README_siglip2.md` of google-research/big_vision).
        python -m bit_jax.train --weights none --recipe siglip --model SigLIP-B/16-224 --dataset "wds:PATH/{000..099}.tar"
    """
    return contrastive(flags, 32_768, 1_220_703) | {"warmup_steps": 20_000, "beta2": 0.95, "first_bias": -10.0}


def siglip_lit(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train the text tower for a locked image tower with the sigmoid loss: Adam 0.001, 5,000 steps of 512, RandAugment(2, 10).

    Source: `configs/proj/image_text/siglip_lit_coco.py` of google-research/big_vision, on COCO's captions; LiT
    (https://arxiv.org/abs/2111.07991). Expected: the file states nothing; big_vision's table gives 20.7 % zero-shot on
    ImageNet for the model that the softmax loss made of the same data (README_lit.md).
        python -m bit_jax.train --recipe siglip_lit --model SigLIP-T/8 --dataset captions-sample
    """
    return contrastive(flags, 512, 5000) | {
        "flip": 0.5,
        "randaugment_layers": 2,
        "randaugment_magnitude": 10.0,
        "weight_decay": 0.01,
        "warmup_steps": 150,
        "first_bias": -2.71,
        "locked": "image/.*",
    }


def lit(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train the text tower for a locked image tower with the softmax loss: in all else `siglip_lit`.

    Source: LiT (https://arxiv.org/abs/2111.07991), `configs/proj/image_text/README_lit.md` of google-research/big_vision.
    Expected: 20.7 % zero-shot on ImageNet after COCO's captions with a BERT as the text tower (`coco_B16B`).
        python -m bit_jax.train --recipe lit --model LiT-B16B --dataset coco:PATH
    """
    return siglip_lit(num_examples, image_size, flags) | {"loss": "softmax"}


def clip(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train both towers with the softmax loss: Adam 0.0005, 32 epochs of batch 32,768, 2,000 steps of warm-up.

    Source: CLIP (https://arxiv.org/abs/2103.00020, section 2.5, tables 18 and 20, ViT-B/32), which keeps exp(t) below 100. It also
    decays embeddings, which is not built. Expected: 63.2 % zero-shot on ImageNet, after 400 million pairs that are not public.
        python -m bit_jax.train --weights none --recipe clip --model CLIP-B/32 --dataset "wds:PATH/{000..099}.tar"
    """
    batch = flags.get("batch", 32_768)
    return contrastive(flags, batch, max(1, 32 * num_examples // batch)) | {
        "resize_mode": "small_side",
        "loss": "softmax",
        "first_temperature": 1 / 0.07,
        "most_temperature": 100.0,
        "decay": "decoupled",
        "weight_decay": 0.2,
        "clip": 0.0,
        "base_lr": 5e-4,
        "beta2": 0.98,
        "epsilon": 1e-6,
        "warmup_steps": 2000,
    }


def clippo(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train one tower for images and for drawn texts with the softmax loss: 0.0001, 400 steps of 4,000, RandAugment(2, 10).

    Source: `configs/proj/clippo/train_clippo.py` of google-research/big_vision, on COCO's captions, from a ViT-B/16 of
    ImageNet-21k (`--image_weights`). Adafactor keeps its first moment in bfloat16. Expected: the file states nothing.
        python -m bit_jax.train --weights none --recipe clippo --model CLIPPO-B/16 --dataset coco:PATH
    """
    return contrastive(flags, 4000, 400) | {
        "flip": 0.5,
        "randaugment_layers": 2,
        "randaugment_magnitude": 10.0,
        "loss": "softmax",
        "optimizer": "adafactor",
        "first_moment": "bfloat16",
        "weight_decay": 3e-4,
        "base_lr": 1e-4,
        "schedule": "rsqrt",
        "schedule_numbers": {"timescale": 100, "cooldown": 100},
        "warmup_steps": 100,
    }


def three_towers(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Train both towers with the softmax loss beside a frozen third one, which `--third_tower` names: in all else `siglip`.

    Source: Three Towers (https://arxiv.org/abs/2305.16999), by its abstract; the formulas are in common/tasks/third.py. The
    numbers are not the paper's. Expected, by the abstract: retrieval better than by LiT and from scratch; zero-shot
    classification better than from scratch, and than by LiT where the third tower learnt ImageNet-21k or Places365, not JFT.
        python -m bit_jax.train --weights none --recipe three_towers --model SigLIP-B/16-224 --third_tower ViT-B/16 --dataset coco:PATH
    """
    return siglip(num_examples, image_size, flags) | {"loss": "softmax", "third_tower": ""}


RECIPES = (siglip, siglip_lit, lit, clip, clippo, three_towers)
