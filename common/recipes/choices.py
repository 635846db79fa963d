"""What recipes, cards of models and flags choose among, and how large an image may be."""

import math
from typing import Literal, get_args

Precision = Literal["float32", "bfloat16", "float64"]
TrainOnly = Literal["all", "norm", "head"]
Optimizer = Literal["sgd", "adam", "adafactor"]
Loss = Literal["softmax", "sigmoid"]
Distance = Literal["kl", "euclidean", "l2", "hard", "logsoftmax_euclidean"]  # DISTANCES of every engine
RewardName = Literal["cider", "psnr", "rmse", "pq"]  # REWARDS of common/tasks/rewarded.py
Features = Literal["pooled", "class", "patches", "both"]
Map = Literal["attention", "pca"]
CodeDropout = Literal["none", "last", "random"]
Target = Literal[
    "colorization", "depth", "panoptic"
]  # what is predicted of every pixel: TARGETS of common/data/targets.py
TeacherView = Literal["same", "own", "fixed"]

# --- images

Exif = Literal["ignore", "apply"]
OnBrokenImage = Literal["stop", "skip"]
ResizeMode = Literal["squash", "small_side", "whole"]
ResizeKind = Literal["bilinear", "bicubic", "area", "bilinear_aliased", "nearest"]
# By whom the sides of a resized image and the corner of a central crop are rounded to whole pixels. The originals of
# this project's models round the longer side to the nearest pixel and the corner down; torchvision, and so timm, rounds the side
# down and the corner to the nearest, halves to even (`_compute_resized_output_size`, `center_crop` of its
# `transforms/functional.py`); Hugging Face rounds both down (`image_transforms.py`).
Rounding = Literal["big_vision", "torchvision", "huggingface"]
RESIZE_KINDS = get_args(ResizeKind)
MAX_PIXELS = 2**27  # a larger image is taken for a decompression bomb
LONGEST_SIDE = math.isqrt(MAX_PIXELS)  # a view has no more pixels than an image file may declare
STRONGEST = 20  # level of RandAugment: twice that of its paper, as AugReg (https://arxiv.org/abs/2106.10270) has it
