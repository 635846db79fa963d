#!/usr/bin/env bash
# The image processors of transformers 5 resize by torchvision where it is installed: on a photograph that shrinks by bicubic
# interpolation, pixels differ from those of version 4's default, Pillow, by up to 4 of 255 levels, and the key `use_fast: false` of a
# preprocessor_config.json, which asked version 4 for Pillow, is read over in silence. Only from_pretrained(..., backend="pil")
# gives Pillow's pixels. Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.23.0 torch==2.15.0 torchvision==0.29.2 pillow==13.0.0 scikit-learn==1.9.1
mkdir model
cat > model/config.json <<'JSON'
{"model_type": "vit"}
JSON
cat > model/preprocessor_config.json <<'JSON'
{"image_processor_type": "ViTImageProcessor", "use_fast": false, "do_resize": true, "size": {"height": 64, "width": 64},
 "resample": 3, "do_rescale": false, "do_normalize": false}
JSON
venv/bin/python - <<'PYTHON'
import numpy as np
import PIL
import torchvision
import transformers
from PIL import Image
from sklearn.datasets import load_sample_image

print("transformers", transformers.__version__, "torchvision", torchvision.__version__, "Pillow", PIL.__version__)
photo = Image.fromarray(load_sample_image("china.jpg")[7:, :181])
pillow = np.asarray(photo.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1).astype(int)
levels = {}
for name, options in (("as the file says", {}), ("backend='pil'", {"backend": "pil"})):
    processor = transformers.AutoImageProcessor.from_pretrained("model", **options)
    pixels = np.asarray(processor(photo, return_tensors="np")["pixel_values"][0]).astype(int)
    levels[name] = int(np.abs(pixels - pillow).max())
    print(f"{name}: {type(processor).__name__}, up to {levels[name]} levels from Pillow")
raise SystemExit(levels != {"as the file says": 4, "backend='pil'": 0})
PYTHON
