#!/usr/bin/env bash
#SBATCH --job-name=bit
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#
# Train on the GPUs of several machines of a SLURM cluster.
#
#   sbatch --nodes 2 --gpus-per-node 8 --cpus-per-task 64 scripts/launch/slurm.sh ENGINE --name NAME [FLAGS of python -m ENGINE.train]
#
#   ENGINE           bit_pytorch: torchrun on each machine, one process for each GPU; bit_jax: one task for each GPU;
#                    bit_tf2: one task for each machine
#   --dry_run        before ENGINE: print the command instead; outside of a job with SLURM_NNODES=2 SLURM_GPUS_ON_NODE=8
#                    SLURM_JOB_ID=1 SLURM_JOB_NODELIST=node[1-2] set
#
# --logdir and the images must be on a file system that all machines see; sbatch starts the job in the folder where it is
# called: the project's. Environment: PYTHON (default: python), PORT (default: from the job's number).
# Two minutes before the time limit every process gets SIGTERM and saves; the same command resumes. When one process
# ends with an error, --kill-on-bad-exit ends the others.

set -euo pipefail
python=${PYTHON:-python}
run() { exec "$@"; }
if [[ ${1:-} == --dry_run ]]; then
  run() { local words; printf -v words " %q" "$@"; echo "${words:1}"; }
  shift
fi
check_number() {  # NAME: within $((...)) the shell would run what else a variable may hold
  [[ ${!1:-} =~ ^[1-9][0-9]{0,9}$ ]] || { echo "error: $1 is '${!1:-}', expected a number from 1 on; $2." >&2; exit 2; }
}
engine=${1:-}
shift || true
check_number SLURM_NNODES "submit this file with sbatch"
check_number SLURM_GPUS_ON_NODE "give sbatch --gpus-per-node"
check_number SLURM_JOB_ID "submit this file with sbatch"
nodes=$SLURM_NNODES gpus=$SLURM_GPUS_ON_NODE
srun=(srun --kill-on-bad-exit=1 --nodes "$nodes")
case $engine in
bit_pytorch)
  hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")  # no `head`: it may end before the last name is written
  first=${hosts%%$'\n'*}
  port=${PORT:-$((20000 + SLURM_JOB_ID % 20000))}
  run "${srun[@]}" --ntasks-per-node 1 "$python" -m torch.distributed.run --nnodes "$nodes" --nproc_per_node "$gpus" \
    --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$first:$port" -m bit_pytorch.train "$@"
  ;;
bit_jax) run "${srun[@]}" --ntasks "$((nodes * gpus))" --ntasks-per-node "$gpus" "$python" -m bit_jax.train "$@" ;;
bit_tf2) run "${srun[@]}" --ntasks-per-node 1 "$python" -m bit_tf2.train "$@" ;;
*)
  echo "error: '$engine' is no engine; give bit_pytorch, bit_jax or bit_tf2." >&2
  exit 2
  ;;
esac
