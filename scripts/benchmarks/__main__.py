"""Measure speed and memory against named peers, and print ratios.

Every contender runs in a process of its own, kept alive. Their repeats are interleaved, so that a change of the
machine's load meets all of them; a row shows the median, the range, and the ratio of medians to the first row.
"""

import argparse
import os
import platform
import time
from importlib.util import find_spec

from common.system.environment import processor, version
from common.system.errors import UserError, exit_with_sentence
from scripts.benchmarks.captions import captions_section
from scripts.benchmarks.commands import overlap_section, startup_section
from scripts.benchmarks.dearer import distillation_section, sharpness_section
from scripts.benchmarks.files import convert_section, load_section
from scripts.benchmarks.gpu import PARTS, gpu_section
from scripts.benchmarks.image_text import image_text_section
from scripts.benchmarks.index import index_section
from scripts.benchmarks.inputs import archives_section, pipeline_section, randaugment_section
from scripts.benchmarks.lora import lora_section
from scripts.benchmarks.measure import ENGINES
from scripts.benchmarks.memory import labels_section, memory_section, predictions_section
from scripts.benchmarks.naflex import naflex_section
from scripts.benchmarks.roofline import roofline_section
from scripts.benchmarks.sharing import sharing_section
from scripts.benchmarks.steps import PEERS, inference_section, train_section
from scripts.benchmarks.text import text_section

SECTIONS = {
    "train": train_section,
    "sharpness": sharpness_section,
    "distillation": distillation_section,
    "naflex": naflex_section,
    "lora": lora_section,
    "roofline": roofline_section,
    "gpu": gpu_section,
    "inference": inference_section,
    "memory": memory_section,
    "labels": labels_section,
    "predictions": predictions_section,
    "pipeline": pipeline_section,
    "archives": archives_section,
    "sharing": sharing_section,
    "randaugment": randaugment_section,
    "index": index_section,
    "load": load_section,
    "convert": convert_section,
    "startup": startup_section,
    "overlap": overlap_section,
    "text": text_section,
    "image_text": image_text_section,
    "captions": captions_section,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--model", choices=tuple(PEERS), default="BiT-S-R50x1")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--resolution", type=int, help="side in pixels; by default 128 for BiT and 224 for the others")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="also time the peer under torch.compile")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved repeats per row")
    parser.add_argument("--steps", type=int, default=2, help="steps per repeat")
    parser.add_argument("--cpu", action="store_true", help="startup: CPU seconds of all threads, for a busy machine")
    parser.add_argument("--index_files", type=int, default=1_281_167, help="images of the indexed sets")
    parser.add_argument("--index_batches", type=int, default=10_000, help="batches of which the memory is measured")
    parser.add_argument("--memory_batch", type=int, default=32, help="images per step where memory is measured")
    parser.add_argument("--pairs", type=int, default=64, help="images and texts per step of an image-text model")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="of the section gpu")
    args = parser.parse_args()
    args.resolution = args.resolution or PEERS[args.model][1]
    unknown = [section for section in args.sections if section not in SECTIONS]
    if unknown:
        raise UserError(f"There is no section {unknown[0]!r}; choose of {', '.join(SECTIONS)}.")
    installed = filter(find_spec, ("torch", "timm", "jax", "tensorflow"))
    versions = ", ".join(f"{name} {version(name)}" for name in installed)
    print(
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    )
    for section in args.sections or SECTIONS:
        SECTIONS[section](args)


if __name__ == "__main__":
    with exit_with_sentence():
        main()
