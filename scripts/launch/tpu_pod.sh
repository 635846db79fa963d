#!/usr/bin/env bash
# Train on a Cloud TPU VM: in JAX on all hosts of a pod slice, in PyTorch and TensorFlow on a TPU with one host. Not run on
# hardware yet.
#
#   scripts/launch/tpu_pod.sh [--dry_run] TPU ZONE ENGINE --name NAME --logdir gs://BUCKET/runs [FLAGS of python -m ENGINE.train]
#
#   TPU, ZONE        as in `gcloud compute tpus tpu-vm list`
#   ENGINE           bit_jax: one process for each host, which find one another; bit_pytorch: torchrun starts one process for
#                    each chip of one host; bit_tf2: one process on one host
#   --dry_run        print the command instead
#
# Every host needs the images and this project in ~/bit, installed with the extras `cloud` and `jax-tpu`, `pytorch-tpu` or
# `tf2-tpu` (docs/devices.md). Hosts share no disk, so that --logdir must be a bucket.
# Environment: FOLDER (default: bit), PYTHON (default: python3), both on the hosts.

set -euo pipefail
run() { exec "$@"; }
if [[ ${1:-} == --dry_run ]]; then
  run() { local words; printf -v words " %q" "$@"; echo "${words:1}"; }
  shift
fi
tpu=${1:-} zone=${2:-} engine=${3:-}
printf -v python %q "${PYTHON:-python3}"
case $engine in
bit_jax) workers=all start="$python" ;;
bit_pytorch) # torch_tpu tells how many chips there are, and each process how to find the others
  workers=0 start="eval \"\$($python -m torch.tpu.distributed | sed 's/^/export /')\" && "
  start+="$python -m torch.distributed.run --standalone --nproc_per_node \"\$WORLD_SIZE\""
  ;;
bit_tf2) workers=0 start="TPU_NAME=local $python" ;;
*)
  echo "error: '$engine' is no engine; give TPU, ZONE, and bit_pytorch, bit_jax or bit_tf2." >&2
  exit 2
  ;;
esac
shift 3
printf -v command 'cd %q && %s -m %s.train' "${FOLDER:-bit}" "$start" "$engine"
(($# == 0)) || printf -v command '%s%s' "$command" "$(printf ' %q' "$@")"
run gcloud compute tpus tpu-vm ssh "$tpu" --zone "$zone" --worker "$workers" --command "$command"
