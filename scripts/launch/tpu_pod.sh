#!/usr/bin/env bash
# Train on all hosts of a Cloud TPU VM (a pod slice, or a single host), in JAX.
#
#   scripts/launch/tpu_pod.sh [--dry_run] TPU ZONE bit_jax --name NAME --logdir gs://BUCKET/runs [FLAGS of python -m bit_jax.train]
#
#   TPU, ZONE        as in `gcloud compute tpus tpu-vm list`
#   --dry_run        print the command instead
#
# Every host needs this project in ~/bit with `pip install '.[jax-tpu,cloud]'`, and the images; hosts share no disk, so that
# --logdir must be a bucket. One process for each host finds the others by itself. Not run on hardware yet.
# Environment: FOLDER (default: bit), PYTHON (default: python3), both on the hosts.

set -euo pipefail
run() { exec "$@"; }
if [[ ${1:-} == --dry_run ]]; then
  run() { local words; printf -v words " %q" "$@"; echo "${words:1}"; }
  shift
fi
tpu=${1:-} zone=${2:-} engine=${3:-}
if [[ $engine != bit_jax ]]; then
  echo "error: '$engine' does not run on TPU pods; give TPU, ZONE, and bit_jax." >&2
  exit 2
fi
shift 3
printf -v command 'cd %q && %q -m bit_jax.train' "${FOLDER:-bit}" "${PYTHON:-python3}"
(($# == 0)) || printf -v command '%s%s' "$command" "$(printf ' %q' "$@")"
run gcloud compute tpus tpu-vm ssh "$tpu" --zone "$zone" --worker all --command "$command"
