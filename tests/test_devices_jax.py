"""Runs on several devices and in several processes in JAX, against the same run on one device."""

import functools
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from engines import INSTALLED
from jobs import Job, assert_close, make_images, stop_one_of_two

pytestmark = pytest.mark.skipif("bit_jax" not in INSTALLED, reason="jax is not installed")


@pytest.fixture
def job(server, tmp_path):
    """job("name", *flags): a run of JAX on two classes of images."""
    make_images(tmp_path)
    return functools.partial(Job, server("bit_jax"), tmp_path)


def test_stopped_killed_and_resumed_by_fewer(job, tmp_path):
    """SIGTERM to one process saves in all; kill -9 of one ends all; one goes on where two ended, with other places."""
    job("alone").finish()
    step = stop_one_of_two(job)
    with job("two", "--shard_parameters", num_processes=2) as two:
        two.wait_for_line(step + 4)
        two.processes[1].kill()
        started = time.monotonic()
        status, output = two.ends()[0]
    assert status == 2 and time.monotonic() - started < 60, output
    assert "error: Another process of this run has ended" in output and "the same command continues after" in output
    job("two").finish()
    assert_close(tmp_path, "two", "alone", 1e-9)


EIGHT = """
import jax, numpy as np
from bit_jax import api, loop, optim, weights
from bit_jax.devices import Devices, FirstDevice, to_device
from common.evaluation.classification import ClassificationEvaluator
from common.models import ResNetConfig
from common.recipes.recipe import Recipe

config, rng = ResNetConfig((1,), 0.5, 10), np.random.default_rng(0)
arrays = {name: rng.normal(size=shape) / 10 for name, shape in config.parameter_shapes().items()}
batches = [{"images": rng.integers(0, 256, (32, 32, 32, 3), np.uint8), "labels": rng.integers(0, 10, 32, np.int32),
            "mixup_weight": np.float64(0.3)} for _ in range(3)]
recipe = Recipe(
    name="test", batch=32, batch_split=2, batch_eval=32, lrs=(0.05,) * 3, resize=32, crop=32, crop_min_area=1.0, mixup=0.1,
    momentum=0.9, weight_decay=1e-4, decay="decoupled", clip=1.0, ema=0.5,
)
test = batches[0] | {"mask": np.arange(32) < 29}
del test["mixup_weight"]

def train(devices, precision):
    model = api.build(config, arrays, precision=precision, devices=devices)
    optimizer = optim.create_optimizer(model, recipe)
    losses, compiled = [], []
    for step, batch in enumerate(to_device(iter(batches), devices)):
        losses.append(float(loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"]))
        compiled.append(loop.add_gradients._cache_size() + optim.compiled_update._cache_size())
    assert compiled[0] == compiled[-1], compiled
    for kernel in (model.head.kernel.get_value(), optimizer.state["first"]["head", "kernel"]):  # [128, 10]
        assert kernel.sharding.shard_shape(kernel.shape) == (16 if devices.shard_parameters else 128, 10)
    optim.swap_average(optimizer)
    models = {"model": model}
    evaluation = loop.evaluate(models, ClassificationEvaluator("test", [test]), recipe.task)
    batch = next(to_device(iter([test]), devices))
    rows = loop.eval_step(models, batch, "scores", recipe.task)  # in the order of the images
    results = {"losses": np.array(losses), "evaluation": np.array(list(evaluation.values()))}
    results |= {f"rows {name}": np.asarray(values, np.float64) for name, values in rows.items()}
    return results | weights.dump(model) | {f"v {n}": v for n, v in weights.dump_optimizer(model, optimizer).items()}

for precision, bound, shard_parameters in (("float32", 1e-5, False), ("float64", 1e-9, True)):
    devices = Devices(shard_parameters)
    assert (devices.num_devices, devices.num_processes) == (8, 1)
    expected, found = (train(each, precision) for each in (FirstDevice(), devices))
    worst = max((np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max(), name) for name in expected)
    print(precision, worst)
    assert worst[0] < bound, worst
"""


def test_eight_devices_of_one_process():
    """Whole and sharded parameters, micro-batches, mixup and a masked evaluation; nothing is compiled after a step."""
    variables = {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    subprocess.run([sys.executable, "-c", EIGHT], check=True, env=os.environ | variables)


def test_a_batch_that_devices_cannot_share(job):
    variables = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    with job("odd", "--batch", 12, variables=variables) as two:
        assert two.ends() == [(2, "error: 8 devices cannot share a batch of 12; choose a multiple.\n")]


def test_shards_need_several_devices(run):
    done = run("bit_jax.train", "--weights", "none", "--shard_parameters", status=2)
    assert "--shard_parameters needs several devices" in done.stderr


@pytest.mark.slow
def test_two_processes_of_two_devices_each_from_first_to_last(job, tmp_path):
    variables = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    flags = ("--precision", "float32", "--mixup", 0, "--steps", 6)
    job("alone", *flags).finish()
    for flag in ((), ("--shard_parameters",)):
        name = f"four{len(flag)}"
        job(name, *flags, *flag, num_processes=2, variables=variables).finish()
        assert_close(tmp_path, name, "alone", 1e-5)


@pytest.mark.slow
def test_the_first_process_is_killed(job):
    """It coordinates the others, which JAX ends with a message of its own."""
    with job("two", "--steps", 10_000, num_processes=2) as two:
        two.wait_for_line(4)
        two.processes[0].kill()
        started = time.monotonic()
        status, output = two.ends()[1]
    assert status != 0 and time.monotonic() - started < 60, output
    assert "another task died" in output or "Another process of this run has ended" in output, output
