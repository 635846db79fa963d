"""The launchers, as far as a machine without GPUs, SLURM and TPUs can test them: what they would run."""

import os
import subprocess

import pytest
from conftest import ROOT

LAUNCHERS = ROOT / "scripts" / "launch"
SLURM = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[1-2]"}
SRUN = "srun --kill-on-bad-exit=1 --nodes 2 "


def dry_run(tmp_path, launcher: str, *words: str, **environment: str) -> str:
    """What a launcher would run, with 8 GPUs here and SLURM's own command that names the machines of a job."""
    for name, text in (
        ("nvidia-smi", "seq 8"),
        ("scontrol", "echo node1; sleep 0.1; echo node2"),
        ("nproc", "echo 64"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    command = [LAUNCHERS / launcher, "--dry_run", *words]
    return subprocess.run(
        command,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("path", sorted(LAUNCHERS.iterdir()), ids=lambda path: path.name)
def test_the_shell_understands_it(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize(
    ("engine", "environment", "expected"),
    [
        ("bit_pytorch", {}, "env OMP_NUM_THREADS=8 python -m torch.distributed.run --standalone --nproc_per_node 8 -m "),
        ("bit_pytorch", {"NUM_PROCESSES": "2", "PYTHON": "p"},
         "env OMP_NUM_THREADS=32 p -m torch.distributed.run --standalone --nproc_per_node 2 -m "),
        ("bit_jax", {}, "python -m "),
        ("bit_tf2", {}, "python -m "),
    ],
)  # fmt: skip
def test_local(engine, environment, expected, tmp_path):
    found = dry_run(tmp_path, "local.sh", engine, "--name", "a b", **environment)
    assert found == f"{expected}{engine}.train --name a\\ b\n"


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("bit_pytorch", "--ntasks-per-node 1 python -m torch.distributed.run --nnodes 2 --nproc_per_node 8 "
                        + "--rdzv_backend c10d --rdzv_id 4711 --rdzv_endpoint node1:24711 -m "),
        ("bit_jax", "--ntasks 16 --ntasks-per-node 8 python -m "),
        ("bit_tf2", "--ntasks-per-node 1 python -m "),
    ],
)  # fmt: skip
def test_slurm(engine, expected, tmp_path):
    found = dry_run(tmp_path, "slurm.sh", engine, "--name", "a", **SLURM)
    assert found == f"{SRUN}{expected}{engine}.train --name a\n"


@pytest.mark.parametrize(
    ("engine", "workers", "start"),
    [
        ("bit_pytorch", "0", "eval \"$(p -m torch.tpu.distributed | sed 's/^/export /')\" && "
                             + 'p -m torch.distributed.run --standalone --nproc_per_node "$WORLD_SIZE"'),
        ("bit_jax", "all", "p"),
        ("bit_tf2", "0", "TPU_NAME=local p"),
    ],
)  # fmt: skip
def test_tpu_pod(engine, workers, start, tmp_path):
    """The command passes two shells: this one and the hosts'."""
    found = dry_run(tmp_path, "tpu_pod.sh", "pod", "us-central2-b", engine, "--name", "a b", PYTHON="p")
    ssh = f"gcloud compute tpus tpu-vm ssh pod --zone us-central2-b --worker {workers} --command "
    assert found.startswith(ssh)
    command = subprocess.run(
        ["bash", "-c", f"printf %s {found.removeprefix(ssh)}"], capture_output=True, text=True, check=True
    ).stdout
    assert command == f"cd bit && {start} -m {engine}.train --name a\\ b"


def test_tpu_pod_starts_a_process_for_each_chip(tmp_path):
    """The host's shell takes over what torch_tpu prints, here a stand-in for it."""
    python = tmp_path / "p"
    python.write_text("""#!/bin/sh
case $2 in torch.tpu.distributed) echo 'TORCH_TPU_TOPOLOGY="2,2,1"'; echo WORLD_SIZE=4 ;; *) echo "$TORCH_TPU_TOPOLOGY: $*" ;; esac
""")
    python.chmod(0o755)
    places = {"FOLDER": str(tmp_path), "PYTHON": str(python)}
    found = dry_run(tmp_path, "tpu_pod.sh", "pod", "zone", "bit_pytorch", "--name", "a b", **places)
    done = subprocess.run(
        ["bash", "-c", f"bash -c {found.partition(' --command ')[2]}"], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "2,2,1: -m torch.distributed.run --standalone --nproc_per_node 4 -m bit_pytorch.train --name a b\n"
    )


@pytest.mark.parametrize(
    ("launcher", "words", "said"),
    [
        ("local.sh", ("bit_torch",), "error: 'bit_torch' is no engine; give bit_pytorch, bit_jax or bit_tf2.\n"),
        ("slurm.sh", (), "error: '' is no engine; give bit_pytorch, bit_jax or bit_tf2.\n"),
        ("tpu_pod.sh", ("pod", "zone", "bit_torch"), "error: 'bit_torch' is no engine; give TPU, ZONE, and bit_pytorch, bit_jax or bit_tf2.\n"),
    ],
)  # fmt: skip
def test_what_they_do_not_know(launcher, words, said):
    done = subprocess.run(
        [LAUNCHERS / launcher, *words], env=os.environ | SLURM, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr == said


@pytest.mark.parametrize(
    ("launcher", "name"),
    [
        ("local.sh", "NUM_PROCESSES"),
        ("slurm.sh", "SLURM_NNODES"),
        ("slurm.sh", "SLURM_GPUS_ON_NODE"),
        ("slurm.sh", "SLURM_JOB_ID"),
    ],
)
@pytest.mark.parametrize("value", ["a[$(touch ran)]", "0", "08", "2 + 2", "-1", "PATH", "9" * 30])
def test_a_variable_that_is_no_number_is_refused_and_not_run(launcher, name, value, tmp_path):
    """Within its arithmetic, the shell would take it for an expression."""
    done = subprocess.run(
        [LAUNCHERS / launcher, "--dry_run", "bit_pytorch"], env=os.environ | SLURM | {name: value}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith(f"error: {name} is '{value}', expected a number")
    assert done.stderr.count("\n") == 1 and not [*tmp_path.iterdir()]


def test_a_job_that_was_not_submitted_is_one_sentence():
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SLURM")}
    done = subprocess.run(
        [LAUNCHERS / "slurm.sh", "bit_jax"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "SLURM_NNODES is ''" in done.stderr and "sbatch" in done.stderr
