#!/usr/bin/env bash
# CLIP_benchmark 1.6.2 makes a Python number of an array of one element, which NumPy refuses since 2.4: every zero-shot evaluation
# ends with a TypeError after all images have been computed. With NumPy 2.3 it works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet clip-benchmark==1.6.2
cat > case.py <<'PYTHON'
import numpy
import torch
from clip_benchmark.metrics.zeroshot_classification import accuracy

print("numpy", numpy.__version__, accuracy(torch.eye(6), torch.arange(6), topk=(1, 5)), "expected [1.0, 1.0]")
PYTHON
for version in 2.3.5 2.4.6; do
  venv/bin/pip install --quiet "numpy==$version"
  venv/bin/python case.py 2>&1 | tail -n 1
done
