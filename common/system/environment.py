"""The hardware and the versions that a run uses."""

import collections
import importlib.metadata
import os
import platform
from pathlib import Path

ENGINE_PACKAGES = {  # what the extra of the same name installs
    "bit_pytorch": ("torch", "torchvision"),
    "bit_jax": ("jax", "jaxlib", "flax", "optax"),
    "bit_tf2": ("tensorflow", "keras"),
}
CPU_INFO = Path("/proc/cpuinfo")
GPU_INFO = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU of the driver


def environment(engine: str) -> dict[str, str | int]:
    """{what: value} of the engine, the versions of its packages, and the machine; nothing in it names the machine."""
    facts = {"engine": engine, "python": platform.python_version()}
    for package in ("numpy", *ENGINE_PACKAGES.get(engine, ())):
        facts[package] = version(package)
    facts |= {"system": platform.system(), "processor": processor(), "cores": os.cpu_count()}
    return facts | ({"accelerators": found} if (found := accelerators()) else {})


def version(package: str) -> str:
    """The version of a package, under whatever name it was installed: tensorflow is in tensorflow-tpu, too."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        names = importlib.metadata.packages_distributions().get(package, [package])
        return importlib.metadata.version(names[0])


def processor() -> str:
    """The CPU's name, or its kind where the system has no name."""
    return stated("model name") or platform.machine()


def instructions() -> str:
    """What tells processors apart that run one another's programs from those that may not: name, kind and features."""
    return f"{processor()} {platform.machine()} {stated('flags', 'Features')}"


def stated(*names: str) -> str:
    """What Linux says of the first CPU under one of these names; nothing where it says nothing."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")


def accelerators() -> str:
    """The machine's GPUs, such as `2 x NVIDIA H100`, whether the engine uses them or not; empty without NVIDIA's driver."""
    models = [
        line.partition(":")[2].strip()
        for path in sorted(GPU_INFO.glob("*/information"))
        for line in path.read_text().splitlines()
        if line.startswith("Model:")
    ]
    return ", ".join(f"{count} x {model}" for model, count in collections.Counter(models).items())
