#!/usr/bin/env bash
# Train on all GPUs of this machine.
#
#   scripts/launch/local.sh [--dry_run] ENGINE --name NAME [FLAGS of python -m ENGINE.train]
#
#   ENGINE           bit_pytorch: torchrun starts one process for each GPU; bit_jax, bit_tf2: one process uses them all
#   --dry_run        print the command instead
#
# Environment: NUM_PROCESSES (bit_pytorch only; default: as many as there are GPUs, at least one), PYTHON (default: python).
# SIGTERM and Ctrl-C save first; torchrun gives them 30 seconds. The same command resumes, on any number of GPUs.
#
#   scripts/launch/local.sh bit_pytorch --name pets --model BiT-M-R50x1 --dataset oxford_iiit_pet --shard_parameters

set -euo pipefail
python=${PYTHON:-python}
run() { exec "$@"; }
if [[ ${1:-} == --dry_run ]]; then
  run() { local words; printf -v words " %q" "$@"; echo "${words:1}"; }
  shift
fi
check_number() {  # NAME: within $((...)) the shell would run what else a variable may hold
  [[ ${!1} =~ ^[1-9][0-9]{0,4}$ ]] || { echo "error: $1 is '${!1}', expected a number from 1 on; correct the variable." >&2; exit 2; }
}
engine=${1:-}
shift || true
case $engine in
bit_pytorch)
  num_gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || num_gpus=0
  NUM_PROCESSES=${NUM_PROCESSES:-$((num_gpus > 0 ? num_gpus : 1))}
  check_number NUM_PROCESSES
  threads=${OMP_NUM_THREADS:-$(($(nproc) >= NUM_PROCESSES ? $(nproc) / NUM_PROCESSES : 1))}
  run env OMP_NUM_THREADS="$threads" "$python" -m torch.distributed.run --standalone --nproc_per_node "$NUM_PROCESSES" -m bit_pytorch.train "$@"
  ;;
bit_jax | bit_tf2) run "$python" -m "$engine.train" "$@" ;;
*)
  echo "error: '$engine' is no engine; give bit_pytorch, bit_jax or bit_tf2." >&2
  exit 2
  ;;
esac
