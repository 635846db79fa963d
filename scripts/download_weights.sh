#!/usr/bin/env bash
# Fetch published weights into weights/ of this checkout: `python -m common.download`, whose --help tells the rest.
#
#   scripts/download_weights.sh [--dir DIR] [--format npz|h5] [--manifest FILE] NAME...
#
# Environment: PYTHON (default: the checkout's .venv where it is there, else python3).

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[[ -x $python ]] || python=python3
python=${PYTHON:-$python}
"$python" -c 'import cv2, numpy, scipy, tqdm' 2>/dev/null || {
  echo "error: $python lacks what the project needs; install it with \`pip install .\`, or set PYTHON." >&2
  exit 2
}
PYTHONPATH=$root exec "$python" -m common.download --dir "$root/weights" "$@"
