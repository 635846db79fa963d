"""Steps that cost more than plain ones: those of SAM, which take two gradients, and those that look at a teacher."""

import argparse
import dataclasses
import functools

from common.recipes.task import Distillation
from scripts.benchmarks.measure import Work, measure, median, show
from scripts.benchmarks.steps import (
    RECIPE,
    describe,
    engine_inference,
    engine_training,
    model_config,
    stepping,
    training_batch,
)


def sharpness_section(args: argparse.Namespace) -> None:
    """A step of SAM and of GSAM against a plain one, in each engine."""
    numbers = {"plain": {}, "SAM": {"rho": 0.05, "rho_min": 0.05}, "GSAM": {"rho": 0.05, "gsam_alpha": 0.4}}
    for engine in args.engines:
        rows = {
            f"{engine}, {name}": (functools.partial(engine_training, **changes), args, engine, args.batch)
            for name, changes in numbers.items()
        }
        show(f"Training step, {describe(args)}", measure(rows, args.repeats), "ms", 1000 / args.steps)


def distilling(args: argparse.Namespace, engine: str) -> Work:
    """Training steps of a student that gives the answers of a teacher of its own kind, which sees the same pixels."""
    recipe = dataclasses.replace(RECIPE, lrs=(1e-4,), weight_decay=1e-4, task=Distillation(teacher=args.model))
    config = model_config(args)
    return stepping(args, engine, config, training_batch(args, args.batch), recipe, frozen={"teacher": config})


def distillation_section(args: argparse.Namespace) -> None:
    """A step with a teacher as large as the student against a plain step and the teacher's inference, in each engine."""
    for engine in args.engines:
        names = {"plain": engine_training, "teacher's inference": engine_inference, "distilled": distilling}
        rows = {
            f"{engine}, {name}": (work, args, engine, *[args.batch] * (name == "plain")) for name, work in names.items()
        }
        found = measure(rows, args.repeats)
        show(f"Training step with a teacher, {describe(args)}", found, "ms", 1000 / args.steps)
        if len(found) < len(rows):
            continue  # a process ended without a figure, and said so
        plain, inference, distilled = map(median, found.values())
        wall, cpu = (distilled[i] / (plain[i] + inference[i]) for i in range(2))
        print(f"  distilled / (plain + teacher's inference): {wall:.2f}, of CPU time {cpu:.2f}", flush=True)
