#!/usr/bin/env bash
# KerasHub's CLIP: a model that was not converted from another has the number 0 for the position of every patch, and keeps it
# when it is saved; and the last norm of its texts has the epsilon 1e-6, where the original and all its other norms have 1e-5.
# Package and version: keras-hub 0.32.0, with keras 3.15.1 and tensorflow-cpu 2.21.0. Valid input: a CLIPBackbone of two blocks.
# Seen: position_ids [[0 0 0 0 0]], and the outputs do not change when the patches of an image change places; SigLIP counts
# 0, 1, 2 ... The zoo reads the published presets, which were converted, and refuses a file with such numbers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q keras-hub==0.32.0 keras==3.15.1 tensorflow-cpu==2.21.0
KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python - <<'PYTHON'
import numpy as np
from keras_hub import models

sizes = {"hidden_dim": 8, "num_layers": 2, "num_heads": 2, "intermediate_dim": 12}
vision = {"patch_size": 8, "image_shape": (16, 16, 3)}
words = {"vocabulary_size": 19, "embedding_dim": 8, "max_sequence_length": 7}
clip = models.CLIPBackbone(models.CLIPVisionEncoder(**sizes, **vision), models.CLIPTextEncoder(**sizes, **words), 6)
siglip = models.SigLIPVisionEncoder(**sizes, **vision)
ids = np.asarray(clip.vision_encoder.embedding.position_ids)
print("CLIP", ids, "SigLIP", np.asarray(siglip.embedding.position_ids))
images = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype("f4")
turned = np.concatenate([images[:, 8:], images[:, :8]], 1)
same = [np.asarray(clip.get_vision_embeddings(one)) for one in (images, turned)]
print("largest difference", np.abs(same[0] - same[1]).max())
norms = clip.text_encoder.layer_norm.epsilon, clip.vision_encoder.layer_norm.epsilon
print("epsilon of the last norm of texts and of images", norms)
assert not ids.any() and np.abs(same[0] - same[1]).max() < 1e-5 and norms == (1e-6, 1e-5)
PYTHON
