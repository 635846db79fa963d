"""Every command of README, CONTRIBUTING and docs/ runs to its end, page by page, in a folder with what they speak of.

What must be downloaded is replaced by what travels with the project, and training takes two steps on small images.
ELSEWHERE lists the commands that need more than a test has; test_docs.py tries those, too, up to the end of parsing.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from engines import INSTALLED, NAMES
from test_docs import PAGES, blocks
from test_suites import CLASSES, write_imagenet

from common.data.sources.folder import SAMPLE
from common.models import DEFAULT_MODEL, find_model
from common.models.initial import initial_parameters
from common.weights import write_weights

ELSEWHERE = {  # the beginning of a command -> what it needs, and who runs it
    "pip install": "a network; test_install.py builds and installs the wheel",
    "./scripts/test": "it would run this test; what it calls, pytest, is running",
    "python -m common.download": "a network; test_download.py runs it with a server of its own",
    "python -m common.datasets prepare": "a network; test_prepare.py runs it with archives of its own",
    "scripts/launch/": "several GPUs, or a TPU; test_launch.py runs the launchers' --dry_run",
    "sbatch": "a SLURM cluster; test_launch.py runs the launcher's --dry_run",
    ".venv/bin/python scripts/make_colabs.py": "it rewrites the notebooks; test_colabs.py runs them from top to bottom",
    "python -m common.vtab": "data that TFDS prepares; test_vtab.py runs it on some of its own",
    "python -m bit_tf2.train --recipe siglip_lit --model LiT-B16B": "published towers and COCO; test_image_text_runs.py",
    "python -m bit_jax.train --weights none --recipe lit_decoder": "a published tower and COCO; test_captioning_runs.py",
    "python -m common.convert weights/FlexiViT": "a published file; test_flexivit_files.py converts one like it",
    "python -m bit_jax.evaluate --model CLIP-B/32": "real classes of ImageNet; test_zero_shot.py has their names",
    "python -m bit_jax.evaluate --model vtab/": "a download and TFDS's data; test_vtab.py reads such data",
}
OURS = {  # what must be downloaded -> what takes its place
    "cifar10": ["cifar10-sample"],
    "BiT-M-R50x1": [DEFAULT_MODEL],
    "SigLIP-B/16-224": ["SigLIP-T/8"],
    "ViT-B/16": ["ViT-mu/16", "--weights", "none"],
    "ViT-B/16-ILSVRC2012": ["ViT-mu/16", "--weights", "imagenet.npz"],
    "weights/SigLIP-T_8.npz": [str(ROOT / "weights" / "SigLIP-T_8.npz")],
    "FlexiViT-S-i1k-1200ep": ["ViT-mu/16", "--weights", "imagenet.npz"],
}
SHORT = {
    r"bit_\w+\.train|scripts/demo\.py": "--steps 2 --warmup_steps 1 --batch 16 --batch_eval 250 --workers 1",
    r"^(?!.*--token).*(bit_\w+\.train|scripts/demo\.py)": "--resize 36 --crop 32",
    r"bit_\w+\.(evaluate|predict)": "--workers 1",
    r"^(?!.*(--tokens|runs/photos)).*bit_\w+\.(evaluate|predict)": "--resolution 32",
    r"scripts/parity\.py": "--steps 0 --resolution 32",
    r"--sam_group": "--sam_group 8",
    r"--patch_size ": "--patch_size 8",
    r"--patch_sizes": "--crop 48 --resize 52",
}


def commands(page: Path) -> list[str]:
    """The commands of a page, without their comments."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [text for text in (shlex.join(shlex.split(line, comments=True)) for line in lines) if text]


def runs_elsewhere(command: str) -> bool:
    return any(command.startswith(beginning) for beginning in ELSEWHERE)


def to_run() -> dict[Path, list[str]]:
    """{page: what runs for it}; training that an earlier page shows, too, takes time enough there."""
    found, seen = {}, set()
    for page in PAGES:
        chosen = [
            text for text in commands(page) if not runs_elsewhere(text) and not (".train" in text and text in seen)
        ]
        seen.update(chosen)
        if chosen:
            found[page] = chosen
    return found


def translated(command: str) -> list[str]:
    """What is run: the words with OURS in their place, in this Python, shortened."""
    program, *words = (word for text in shlex.split(command) for word in OURS.get(text, [text]))
    if program.startswith(("scripts/", "./scripts/")):  # a wrapper that makes .venv and calls this
        program, words = "python", [f"{program.removeprefix('./')}.py", *words]
    if program == ".venv/bin/ruff":
        return [sys.executable, "-m", "ruff", *words]
    assert program == "python", f"No rule says how to run {program}: add one"
    named = " ".join(words)
    words = [str(ROOT / word) if word.startswith("scripts/") else word for word in words]
    flags = [word for what, added in SHORT.items() if re.search(what, named) for word in added.split()]
    end = words.index("--") if "--" in words else len(words)  # behind it are files
    return [sys.executable, *words[:end], *flags, *words[end:]]


def run(words: list[str], folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, check=False, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    """A folder with images, weights and finished runs under the names that the documents use."""
    root = tmp_path_factory.mktemp("stage")
    with zipfile.ZipFile(SAMPLE) as archive:
        archive.extractall(root / "path" / "to" / "images")
    photo = root / "path" / "to" / "images" / "test" / "cat" / "0000.jpg"
    captions = root / "path" / "to" / "captions"
    for split in ("train", "test"):
        (captions / split).mkdir(parents=True)
        shutil.copy(photo, captions / split)
        (captions / split / "captions.tsv").write_text("0000.jpg\ta cat\ta photo of a cat\n")
    for name in ("siglip.npz", "siglip.json", "c4_en.model"):
        shutil.copy(ROOT / "weights" / f"SigLIP-T_8{Path(name).suffix}", root / name)
    (root / "mine.txt").write_text("a photo of a {}.\n")
    (root / "folder").mkdir()
    shutil.copy(photo, root / "photo.jpg"), shutil.copy(photo, root / "folder")
    write_imagenet(root / "data" / "imagenet2012")
    for path, classes in (("weights/ViT-B_16.npz", 1000), ("imagenet.npz", len(CLASSES))):
        config = find_model("ViT-mu/16").config(classes)
        (root / path).parent.mkdir(exist_ok=True)
        write_weights(root / path, initial_parameters(0, config), config)
    run([sys.executable, "-c", "import torch; torch.save({'weight': torch.ones(2, 3)}, 'OLD.pth')"], root)
    run(translated("python -m bit_pytorch.train --name NAME"), root)
    for name in ("A", "B", "C", "teacher"):
        shutil.copytree(root / "runs" / "NAME", root / "runs" / name)
    return root


@pytest.mark.slow
@pytest.mark.skipif(len(INSTALLED) < len(NAMES), reason="an engine that the documents speak of is not installed")
@pytest.mark.parametrize("page", to_run(), ids=lambda page: page.name)
def test_every_command_of_a_page_runs(page, stage):
    for command in to_run()[page]:
        run(words := translated(command), stage)
        for flag, value in zip(words, words[1:], strict=False):
            assert flag != "--output" or (stage / value).exists(), f"{command} has left no {value}"


def test_commands_that_run_elsewhere_are_in_the_documents_and_few():
    known = [command for page in PAGES for command in commands(page)]
    assert all(any(command.startswith(beginning) for command in known) for beginning in ELSEWHERE)
    assert sum(not runs_elsewhere(command) for command in known) > 20
    for command in known:
        assert runs_elsewhere(command) or translated(command)
