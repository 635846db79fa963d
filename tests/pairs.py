"""Losses of image-text pairs on some devices of each engine; as a command, `pairs ENGINE COUNT FILE.npz CHUNK...`, on several."""

import importlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np
from golden.golden_params import image

GOLDEN = Path(__file__).parent / "golden" / "siglip"
LOSSES, CHUNKS = ("sigmoid", "softmax"), (0, 2)
SLOPES = ("zimg", "ztxt", "t", "b")
Values = dict[str, np.ndarray]  # zimg and ztxt [B, E], t and b [1]; or the loss and what it changes with them


def golden(name: str) -> Values:
    """{output: its numbers} of a golden file."""
    outputs = json.loads((GOLDEN / f"{name}.json").read_text())["outputs"]
    return {name: np.array(value["data"]) for name, value in outputs.items()}


def golden_values() -> Values:
    """The embeddings, t and b of the golden losses."""
    drawn = (image((8, 16), seed).astype(np.float32).astype(float) for seed in (31, 32))
    zimg, ztxt = (z / (np.linalg.norm(z, axis=1, keepdims=True) + 1e-8) for z in drawn)
    return {"zimg": zimg, "ztxt": ztxt, "t": np.array([2.3]), "b": np.array([-1.5])}


def in_pytorch(devices, loss: str, chunk: int, values: Values) -> Values:
    """The loss of all processes and its gradients for what `values` hold, of which each process takes its share."""
    import torch

    from bit_pytorch.similarity import SIMILARITIES

    own = lambda value: np.split(value, devices.num_processes)[devices.process] if value.ndim == 2 else value
    given = {name: torch.tensor(own(value), requires_grad=True) for name, value in values.items()}
    found = SIMILARITIES[loss](*given.values(), devices, chunk)
    found.backward()
    none = torch.zeros(1)
    slopes = {name: value.grad if value.grad is not None else none for name, value in given.items()}
    means = {"loss": found.detach()[None]} | {name: slopes[name] for name in ("t", "b")}
    rows = {name: devices.gather(slopes[name][None])[0] for name in ("zimg", "ztxt")}
    sums = rows | {name: devices.sum(value) for name, value in means.items()}
    return {name: (value / devices.num_processes).numpy() for name, value in sums.items()}


def in_jax(devices, loss: str, chunk: int, values: Values) -> Values:
    """The same in JAX."""
    import jax

    from bit_jax.similarity import SIMILARITIES

    given = [jax.device_put(v, devices.place("devices") if v.ndim == 2 else devices.place()) for v in values.values()]
    function = lambda *values: SIMILARITIES[loss](*values, devices, chunk)
    value, slopes = jax.jit(jax.value_and_grad(function, (0, 1, 2, 3)))(*given)
    return {"loss": np.array([value])} | {name: np.asarray(slope) for name, slope in zip(SLOPES, slopes)}


def in_tensorflow(devices, loss: str, chunk: int, values: Values) -> Values:
    """The same in TensorFlow."""
    import tensorflow as tf

    from bit_tf2.similarity import SIMILARITIES

    def slopes(batch: dict) -> dict:
        given = [batch["zimg"], batch["ztxt"], *map(tf.constant, (values["t"], values["b"]))]
        with tf.GradientTape() as tape:
            tape.watch(given)
            found = SIMILARITIES[loss](*given, devices, chunk)
        return dict(zip(("loss", *SLOPES), (found[None], *tape.gradient(found, given, unconnected_gradients="zero"))))

    @tf.function(autograph=False)
    def of_each(batch: dict) -> list[dict]:
        found = devices.each(slopes, batch)
        return [devices.local(found, number) for number in range(devices.num_devices)]

    shares = of_each(devices.put({name: values[name] for name in ("zimg", "ztxt")}))
    found = {name: np.stack([share[name].numpy() for share in shares]) for name in shares[0]}
    rows = {name: np.concatenate(found[name]) / devices.num_devices for name in ("zimg", "ztxt")}
    return {name: value.mean(0) for name, value in found.items()} | rows


ENGINES = {"bit_pytorch": in_pytorch, "bit_jax": in_jax, "bit_tf2": in_tensorflow}


def on_first(engine: str, loss: str, chunk: int, values: Values) -> Values:
    """The loss and its gradients on one device."""
    return ENGINES[engine](importlib.import_module(f"{engine}.devices").FirstDevice(), loss, chunk, values)


def in_processes(count: int, shards: bool = False):
    """Devices of one process among some of PyTorch."""
    return importlib.import_module("bit_pytorch.devices").Devices(shards)


def in_a_mesh(count: int, shards: bool = False):
    """Some devices of JAX that a CPU plays."""
    jax = importlib.import_module("jax")
    jax.config.update("jax_num_cpu_devices", count)
    jax.config.update("jax_enable_x64", True)
    return importlib.import_module("bit_jax.devices").Devices(shards)


def of_a_strategy(count: int, shards: bool = False):
    """Some devices of TensorFlow that a CPU plays."""
    config = importlib.import_module("tensorflow").config
    parts = [config.LogicalDeviceConfiguration()] * count
    config.set_logical_device_configuration(config.list_physical_devices("CPU")[0], parts)
    return importlib.import_module("bit_tf2.devices").Devices(shards)


SEVERAL = {"bit_pytorch": in_processes, "bit_jax": in_a_mesh, "bit_tf2": of_a_strategy}


def write(engine: str, count: int, path: Path, *chunks: int) -> None:
    """A file of {"sigmoid 2 zimg": gradient, ...} of the golden values on some devices."""
    found = {}
    with SEVERAL[engine](count) as devices:
        assert devices.num_devices == count
        for loss, chunk in itertools.product(LOSSES, chunks):
            values = ENGINES[engine](devices, loss, chunk, golden_values())
            found |= {f"{loss} {chunk} {name}": value for name, value in values.items()}
        if devices.process == 0:
            np.savez(path, **found)


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))
