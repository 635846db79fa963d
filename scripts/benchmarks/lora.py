"""Fine-tuning with LoRA against fine-tuning of all parameters: the time of a step, and the memory of a run."""

import argparse
import dataclasses
import os

from common.models.low_rank import with_lora
from common.recipes.groups import create_groups
from common.recipes.lora import TARGETS, Lora
from scripts.benchmarks.measure import EXACT_MALLOC, Work, in_fresh_process, measure, peak_growth_bytes, show
from scripts.benchmarks.steps import RECIPE, describe, model_config, stepping, training_batch

RANK = 8


def training(args: argparse.Namespace, engine: str, adapts: bool) -> Work:
    """Training steps of one engine with Adam, of the matrices and the head or of everything."""
    config, numbers = (
        model_config(args),
        {"optimizer": "adam", "decay": "decoupled", "lrs": (1e-4,), "weight_decay": 1e-4},
    )
    if adapts:
        config = with_lora(config, Lora(RANK, float(RANK), TARGETS), args.model)
    recipe = dataclasses.replace(RECIPE, groups=create_groups(lora=adapts), **numbers)
    return stepping(args, engine, config, training_batch(args, args.batch), recipe)


def peak_of_run(args: argparse.Namespace, engine: str, adapts: bool) -> Work:
    """MiB by which memory grows from before the model is made to the highest point of a step, each time in a fresh process."""
    return lambda: in_fresh_process(growth_of_run, args, engine, adapts) / 2**20


def growth_of_run(args: argparse.Namespace, engine: str, adapts: bool) -> float:
    """The same in bytes, in this process, after the framework has been imported and has compiled a small model."""
    small = argparse.Namespace(**vars(args) | {"model": "ViT-mu/16", "batch": 1})
    training(small, engine, adapts)()
    return peak_growth_bytes("the process", lambda: training(args, engine, adapts)())


def lora_section(args: argparse.Namespace) -> None:
    """One table of time and one of memory for each engine; of ViT-S/16 where the model has no kernels for LoRA."""
    if "ViT" not in args.model:
        args = argparse.Namespace(**vars(args) | {"model": "ViT-S/16", "resolution": 224})
    for engine in args.engines:
        rows = {f"{engine}, all parameters": (training, args, engine, False)}
        rows |= {f"{engine}, --lora_rank {RANK}": (training, args, engine, True)}
        show(f"Training step with Adam, {describe(args)}", measure(rows, args.repeats), "ms", 1000 / args.steps)
    os.environ |= EXACT_MALLOC
    once = argparse.Namespace(**vars(args) | {"steps": 1})
    for engine in args.engines:
        rows = {f"{engine}, all parameters": (peak_of_run, once, engine, False)}
        rows |= {f"{engine}, --lora_rank {RANK}": (peak_of_run, once, engine, True)}
        show(f"Growth of memory of a run with Adam, {describe(args)}", measure(rows, 3), "MiB")
