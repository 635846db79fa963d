"""Print how far the three engines are from one another, for any model of the manifest.

Every parameter is random and non-zero (or read with --weights), the images are random bytes. Reported are the largest
differences of logits, relative to the largest logit, and of the losses of a few training steps, relative to PyTorch in
float64. A random network multiplies rounding from step to step: read float32's losses beside PyTorch's own distance.
"""

import argparse
import importlib
import time

import numpy as np

import bit_tf2
from common import weights
from common.models import DEFAULT_MODEL, find_model
from common.recipes.recipe import Recipe
from common.system.errors import exit_with_sentence

ENGINES = ("bit_pytorch", "bit_jax", "bit_tf2")


def random_parameters(shapes: dict[str, tuple[int, ...]], seed: int) -> weights.Arrays:
    """Scales around one, biases around zero, kernels of unit gain: nothing is zero, nothing is equal."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, np.float32)
        if name.endswith("kernel"):
            arrays[name] = values / np.float32(np.sqrt(np.prod(shape[:-1])))
        else:
            arrays[name] = np.float32(0.1) * values + np.float32(name.endswith("scale"))
    return arrays


def outputs(engine: str, config, arrays: weights.Arrays, images: np.ndarray, precision: str) -> np.ndarray:
    """Logits [B, K] of uint8 images [B, H, W, 3]."""
    api, inference = (importlib.import_module(f"{engine}.{part}") for part in ("api", "inference"))
    model = api.build(config, arrays, precision=precision)
    batch = {"images": images, "labels": np.zeros(len(images), np.int32), "mask": np.ones(len(images), bool)}
    return next(iter(inference.predict(model, iter([batch]))))[1]


def training_losses(engine: str, config, arrays: weights.Arrays, images: np.ndarray, args) -> list[float]:
    """Losses of `args.steps` updates on the same images."""
    api, loop, optim = (importlib.import_module(f"{engine}.{part}") for part in ("api", "loop", "optim"))
    model = api.build(config, arrays, precision=args.precision)
    recipe = Recipe(
        name="parity", batch=len(images), batch_split=1, batch_eval=len(images), lrs=(args.base_lr,) * args.steps,
        resize=args.resolution, crop=args.resolution, crop_min_area=1.0, mixup=0.0, momentum=0.9, weight_decay=1e-4,
    )  # fmt: skip
    optimizer = optim.create_optimizer(model, recipe)
    batch = {"images": images, "labels": np.arange(len(images), dtype=np.int32) % config.num_classes}
    batches = loop.to_device(iter([batch] * args.steps), model.devices)
    return [
        float(loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"])
        for step, batch in enumerate(batches)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="published name")
    parser.add_argument("--weights", help="an .npz or .h5 file instead of random parameters")
    parser.add_argument("--num_classes", type=int, help="size of the random head; the published one by default")
    parser.add_argument("--resolution", type=int, default=64, help="pixels")
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--steps", type=int, default=4, help="training steps; 0: logits only")
    parser.add_argument("--base_lr", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = find_model(args.model).config(args.num_classes)
    if args.weights:
        arrays = weights.read_weights(args.weights, config)
        config = weights.with_classes(config, arrays["head/bias"].size)
    else:
        arrays = random_parameters(config.parameter_shapes(), args.seed)
    shape = (args.batch, args.resolution, args.resolution, 3)
    images = np.random.default_rng(args.seed).integers(0, 256, shape, np.uint8)
    print(
        f"{args.model}, {config.num_classes} classes, {args.batch} images of {args.resolution} px, {args.steps} steps"
    )
    print(f"{'engine':<12} {'precision':<9} {'logits':>9} {'losses':>9} {'seconds':>8}")
    reference = None
    for precision in ("float64", "float32"):
        for engine in ENGINES:
            started = time.monotonic()
            if engine == "bit_tf2":  # not before PyTorch: their copies of LLVM abort in the other order
                bit_tf2.import_tensorflow()
            args.precision = precision
            found = (
                outputs(engine, config, arrays, images, precision),
                training_losses(engine, config, arrays, images, args),
            )
            reference = reference or found
            gap = np.abs(found[0] - reference[0]).max() / np.abs(reference[0]).max()
            loss_gap = max((abs(a - b) / abs(b) for a, b in zip(found[1], reference[1])), default=float("nan"))
            print(
                f"{engine:<12} {precision:<9} {gap:>9.1e} {loss_gap:>9.1e} {time.monotonic() - started:>8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    with exit_with_sentence():
        main()
