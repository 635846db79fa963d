"""Flags: help without a framework, one sentence for every mistake, and nothing accepted silently."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy_engine
import pytest

from common.config import EvaluateConfig, ExportConfig, PredictConfig, TrainConfig, VtabConfig
from common.flags import changes, check, choices, replacing, scoped
from common.models import published_models
from common.models.cards import Preprocessing
from common.recipes.recipe import Recipe
from common.runs.command import parse, run_command
from common.runs.run import Run
from common.system.environment import ENGINE_PACKAGES
from common.system.errors import UserError, nearest
from common.system.processes import Devices

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {"train": TrainConfig, "evaluate": EvaluateConfig, "predict": PredictConfig}


def parsed(*argv, config=TrainConfig):
    return parse(config, argv, "python -m bit_pytorch.train", "Train.")


def help_of(config, capsys, monkeypatch) -> str:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as caught:
        parsed("--help", config=config)
    assert caught.value.code == 0
    return capsys.readouterr().out


def command(*argv, code: str = "") -> subprocess.CompletedProcess:
    """A command of bit_pytorch as a user starts it; `code` runs in its interpreter before it."""
    run = f"import runpy, sys; sys.argv[1:] = {list(argv[1:])!r}; {code}; "
    run += f"runpy.run_module('bit_pytorch.{argv[0]}', run_name='__main__')"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", run], check=False, env=environment, capture_output=True, text=True, timeout=60
    )


# --- help

REPORT_IMPORTS = (
    "import atexit; atexit.register(lambda: print('IMPORTED', *{'torch', 'jax', 'tensorflow', 'keras', 'matplotlib', "
    "'scipy', 'cv2', 'PIL', 'numpy'} & set(sys.modules), file=sys.stderr))"
)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_heavy(name):
    """A framework alone takes 2 to 7 seconds to import; without one, --help answers in 0.2."""
    done = command(name, "--help", code=REPORT_IMPORTS)
    assert done.returncode == 0 and "usage: " in done.stdout.splitlines()[2]
    assert set(done.stderr.split()) <= {"IMPORTED", "numpy"}


ALL_COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for folder in ("common", *ENGINE_PACKAGES)
    for path in (ROOT / folder).rglob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
HELP_OF_ALL = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        sys.argv = [name, "--help"]
        runpy.run_module(name, run_name="__main__")
    assert "--help" in said.getvalue(), name
    heavy = {"torch", "jax", "tensorflow", "keras", "matplotlib", "scipy", "cv2", "PIL", "sklearn"} & set(sys.modules)
    assert not heavy, (name, heavy)
"""


def test_the_help_of_every_command_imports_nothing_heavy():
    assert len(ALL_COMMANDS) > 18
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-W", "ignore", "-c", HELP_OF_ALL, *ALL_COMMANDS]
    done = subprocess.run(call, check=False, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("config", COMMANDS.values(), ids=COMMANDS)
def test_help_shows_every_flag_with_its_default(config, capsys, monkeypatch):
    text = " ".join(help_of(config, capsys, monkeypatch).split())
    for item in dataclasses.fields(config):
        default = "off" if item.default is False else item.metadata.get("rule", item.default)
        if item.metadata.get("positional"):
            assert item.metadata["help"] in text
        else:
            assert f" --{item.name} " in text and f"{item.metadata['help']} (default: {default})" in text
    assert "None" not in text  # tells a person nothing


def test_every_number_of_a_recipe_has_a_flag():
    assert replacing(TrainConfig) | {"recipe", "batch_split"} <= {item.name for item in dataclasses.fields(TrainConfig)}


def test_evaluate_is_the_same_model_and_data_as_train():
    train = {item.name: item.default for item in dataclasses.fields(TrainConfig)}
    for item in dataclasses.fields(EvaluateConfig):
        if item.name in train and item.name not in ("batch_eval", "exif"):  # which the card of the weights knows
            assert item.default == train[item.name]


# --- values


def test_values_are_typed():
    config = parsed(
        "--batch", "32", "--base_lr", "1e-2", "--keep_best", "--weights", "none", "--seed=5", "--mixup", "0"
    )
    assert (config.batch, config.base_lr, config.keep_best, config.weights) == (32, 0.01, True, "none")
    assert (config.seed, config.mixup, config.steps) == (5, 0.0, None) and isinstance(config.mixup, float)
    assert parsed() == TrainConfig()


def test_predict_takes_many_images():
    config = parsed("a.jpg", "--top", "3", config=PredictConfig)
    assert list(config.images) == ["a.jpg"] and config.top == 3
    with pytest.raises(UserError, match="IMAGE"):
        parsed(config=PredictConfig)


# --- mistakes


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--baselr", "1"], "knows no '--baselr'; did you mean --base_lr"),
        (["--batchsize", "1"], "--batch"),
        (["--evalevery=5"], "did you mean --eval_every"),
        (["--qqqq"], "knows no '--qqqq'. --help lists the flags."),
        (["cifar10"], "knows no 'cifar10'. --help"),
        (["--bat", "5"], "did you mean --batch"),  # no abbreviations: a later flag must not change their meaning
    ],
)
def test_an_unknown_flag_suggests_the_nearest(argv, words):
    with pytest.raises(UserError) as caught:
        parsed(*argv)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "value"),
    [(flag, "0") for flag in ("batch", "batch_eval", "batch_split", "steps", "resize", "crop", "log_every", "workers")]
    + [(flag, "-1") for flag in ("seed", "eval_every", "checkpoint_every", "warmup_steps", "mixup", "base_lr")]
    + [(flag, value) for flag in ("base_lr", "mixup", "val_fraction") for value in ("nan", "-nan", "x", "")]
    + [(flag, value) for flag in ("steps", "batch", "seed") for value in ("1.5", "1e3", "nan", "many")]
    + [("val_fraction", "1"), ("val_fraction", "-0.1"), ("examples_per_class", "0")]
    + [("precision", "float8"), ("recipe", "bit")],
)
def test_a_bad_value_is_refused_and_its_flag_named(flag, value):
    with pytest.raises(UserError, match=f"--{flag}") as caught:
        parsed(f"--{flag}={value}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("mixup", "1e308", "at most 1000"),
        ("clip", "1e-320", "0 or at least 1e-30, since float32 knows no smaller number"),
        ("weight_decay", "1e-300", "0 or at least 1e-30"),
        ("epochs", "0", "at least 1e-30"),
        ("randaugment_layers", "1000000", "at most 16"),
        ("randaugment_magnitude", "20.1", "at most 20"),
        ("workers", "1000000", "at most 1024"),
        ("seed", str(2**63), "at most 9,223,372,036,854,775,807"),
        ("crop_min_area", "1e-9", "at least 0.0001"),
        ("flip", "1.5", "at most 1"),
        ("ema", "1", "less than 1"),
    ],
)
def test_every_number_has_a_range_that_makes_sense(flag, value, expected):
    with pytest.raises(UserError, match=f"--{flag} is .*, expected {expected}"):
        parsed(f"--{flag}={value}")


@pytest.mark.parametrize("config", (*COMMANDS.values(), ExportConfig, VtabConfig))
def test_a_word_that_chooses_is_checked_in_python_too(config):
    for flag, allowed in choices(config).items():
        for value in allowed:
            check(config(**{flag: value}))
        with pytest.raises(UserError, match=rf"--{flag} is 'softmx', expected .*\b{allowed[-1]}\."):
            check(config(**{flag: "softmx"}))
    free = {f.name for f in dataclasses.fields(config) if f.type in (str, str | None)} - choices(config).keys()
    assert free <= {
        "model", "weights", "bit_pretrained_dir", "dataset", "datadir", "tfds_data_dir", "name", "logdir", "extend_from",
        "eval_every", "split", "output", "tasks", "teacher", "prompts", "image_weights", "text_weights", "vocabulary",
        "zero_shot", "locked", "third_tower", "patch_sizes", "token_lengths", "lora_targets", "prompt", "class_prompt", "oracle",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"batch": "8"}, "a whole number"), ({"steps": 1.5}, "a whole number"), ({"base_lr": "0.1"}, "a number"),
     ({"seed": None}, "a whole number"), ({"mixup": True}, "a number"), ({"remat": "yes"}, "true or false"),
     ({"model": 5}, "words"), ({"precision": 32}, "words")],
    ids=str,
)  # fmt: skip
def test_a_value_of_another_type_is_refused(flags, expected):
    """Where flags come from Python, or from a damaged config.json of the run that --extend_from names."""
    (flag, value), *_ = flags.items()
    with pytest.raises(UserError, match=re.escape(f"--{flag} is {value!r}, expected {expected}; correct the flag.")):
        check(TrainConfig(**flags))
    check(TrainConfig(batch=np.int64(8), base_lr=1, logdir=Path("runs"), eval_every=5))
    with pytest.raises(UserError, match="The --name 5 is no folder"):
        check(TrainConfig(name=5))


def test_words_of_a_recipe_and_of_a_models_preprocessing_choose_but_for_a_name():
    for cls, free in ((Recipe, {"name", "patch_sizes", "token_lengths"}), (Preprocessing, set())):
        assert {f.name for f in dataclasses.fields(cls) if f.type in (str, str | None)} == free
    with pytest.raises(UserError, match="A model's rounding is 'timm', expected big_vision or torchvision or hugging"):
        Preprocessing(rounding="timm")


def test_what_may_change_when_a_run_goes_on():
    assert scoped(TrainConfig, "machine") == {
        "logdir",
        "bit_pretrained_dir",
        "datadir",
        "tfds_data_dir",
        "workers",
        "cache_gib",
    }
    assert scoped(TrainConfig, "run") == {
        "name", "log_every", "eval_every", "checkpoint_every", "tensorboard", "batch_eval", "batch_split", "remat",
        "shard_parameters", "captions_of", "maps_of",
    }  # fmt: skip
    changed = TrainConfig(name="b", logdir="elsewhere", batch_split=2, base_lr=0.1, seed=1)
    before = dataclasses.asdict(TrainConfig(name="a", seed=1))
    assert changes(before, changed) == [("base_lr", None, 0.1)]
    assert changes({}, changed) == [("seed", 0, 1), ("base_lr", None, 0.1)]  # an older version had fewer flags


def test_every_number_of_every_command_has_a_least_value():
    for config in COMMANDS.values():
        numbers = [f for f in dataclasses.fields(config) if f.type in (int, float, int | None, float | None)]
        assert len(numbers) > 3 and all("least" in f.metadata for f in numbers)


def test_steps_and_epochs_say_the_same():
    assert parsed("--epochs", "1.5").epochs == 1.5
    with pytest.raises(UserError, match="--steps 5 and --epochs 2 both say how long the run is"):
        parsed("--steps", "5", "--epochs", "2")


def test_other_names_and_the_folder_of_the_user(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = parsed("--lr=0.5", "--logdir=~/runs", "--weights", "~/a.npz", "--name", "a~")
    assert (config.base_lr, config.logdir, config.weights, config.name) == (
        0.5, "/home/me/runs", "/home/me/a.npz", "a~",
    )  # fmt: skip
    assert parsed("~/a.jpg", "--output=~/b.npz", config=PredictConfig).images == ["/home/me/a.jpg"]


@pytest.mark.parametrize("flag", ("base_lr", "mixup"))
def test_infinity_is_refused(flag):
    with pytest.raises(UserError, match=f"--{flag}"):
        parsed(f"--{flag}=inf")


@pytest.mark.parametrize("argv", [("--steps", "0"), ("--steps",), ("--stepz", "5"), ("--precision", "half")])
def test_a_mistake_ends_with_status_2_and_one_line(argv):
    done = command("train", *argv, code="sys.modules['torch'] = None")  # flags are checked before
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and done.stderr.rstrip()[-1] in ".?"


@pytest.mark.parametrize("flag", ("resize", "crop", "eval_resize", "resolution"))
def test_a_side_of_more_pixels_than_an_image_may_have_is_refused(flag):
    config = EvaluateConfig if flag == "resolution" else TrainConfig
    assert getattr(parsed(f"--{flag}=11585", config=config), flag) == 11585
    with pytest.raises(UserError, match=f"--{flag} is 11586, expected at most 11585"):
        parsed(f"--{flag}=11586", config=config)


@pytest.mark.parametrize("config", (TrainConfig, VtabConfig))
def test_a_name_outside_of_logdir_is_refused_in_every_command_that_makes_a_folder(config):
    with pytest.raises(UserError, match="'../a' is no folder below --logdir"):
        parsed("--name=../a", config=config)


def test_too_large_a_batch_ends_with_status_2_and_one_line():
    done = command("train", "--batch", "1000000000", "--steps", "2", code="sys.modules['torch'] = None")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: --batch 1000000000 of 64 px is ") and done.stderr.count("\n") == 1


def test_memory_that_does_not_suffice_is_one_line_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit) as caught:
        run_command("bit_jax", "train", TrainConfig, "Train.", lambda config: np.empty(2**50, np.uint8), None)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    assert error.startswith("error: Memory does not suffice (Unable to allocate 1.00 PiB for an array")


OUT_OF_MEMORY = {  # what frameworks say; their types are their own, of which nothing is known in common/
    "PyTorch, GPU": "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\na total capacity of 1 GiB",
    "PyTorch, CPU": "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
    "XLA": "RESOURCE_EXHAUSTED: Out of memory allocating 400000000000000 bytes.",
    "TensorFlow": "OOM when allocating tensor with shape[9,9] and type float [Op:RandomUniform]",
    "C++": "std::bad_alloc",
}


@pytest.mark.parametrize("text", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
@pytest.mark.parametrize(
    ("config", "flags"), [(TrainConfig, "give --batch_split 8, --remat "), (EvaluateConfig, "--batch_eval")]
)
def test_memory_that_a_framework_lacks_is_one_line(text, config, flags, monkeypatch, capsys):
    def run_out(job):
        raise type("ErrorOfAFramework", (Exception,), {})(text)

    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit) as caught:
        run_command("bit_jax", "train", config, "Train.", lambda config: None, lambda: run_out)
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.count("\n") == 1 and flags in said, said
    assert said.startswith(f"error: Memory does not suffice ({text.splitlines()[0].rstrip('.')[:100]}")


def test_another_error_of_a_framework_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_command("bit_jax", "train", TrainConfig, "", lambda config: int.from_bytes, lambda: raise_it)


def raise_it(job):
    raise RuntimeError("shape mismatch")


def test_a_run_that_lacks_memory_says_what_is_left(monkeypatch, capsys, tmp_path):
    def run_out(*arguments, step, **options):
        if step == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return {"loss": 1.0}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(numpy_engine, "train_step", run_out)
    flags = "--model ViT-mu/16 --weights none --batch 4 --crop 32 --steps 4 --checkpoint_every 1 --name a --workers 1"
    monkeypatch.setattr(sys, "argv", ["train", *flags.split()])
    prepare = functools.partial(Run, engine="numpy")
    with pytest.raises(SystemExit):
        run_command("numpy", "train", TrainConfig, "", prepare, numpy_engine.load_main)
    assert re.search(
        r"error: Memory does not suffice \(CUDA out of memory.*\); give --batch_split 8.*"
        r"The checkpoint of step [12] is intact; the same command continues after it\.\n$", capsys.readouterr().err,
    )  # fmt: skip


@pytest.mark.parametrize(("recipe", "warmup"), [("bit_finetune", ""), ("coyo_finetune", " --warmup_steps 10")])
def test_a_long_run_is_told_after_two_steps_with_what_makes_it_short(recipe, warmup, monkeypatch, capsys, tmp_path):
    def stop(*arguments, step, **options):
        if step == 2:
            raise UserError("Enough.")
        return {"loss": 1.0}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(numpy_engine, "train_step", stop)
    monkeypatch.setattr("common.runs.log.LONG_SECONDS", 0)
    monkeypatch.setattr("common.runs.log.WORTH_TELLING_SECONDS", 0)
    flags = "--model ViT-mu/16 --weights none --batch 64 --crop 32 --steps 5000 --name a --workers 1"
    flags += f" --recipe {recipe}"
    monkeypatch.setattr(sys, "argv", ["train", *flags.split()])
    with pytest.raises(SystemExit):
        run_command("numpy", "train", TrainConfig, "", functools.partial(Run, engine="numpy"), numpy_engine.load_main)
    first, second = [line for line in capsys.readouterr().out.splitlines() if " took " in line]
    assert re.fullmatch(r"The first step took [\d.]+ s, with what is made once\.", first)
    assert re.fullmatch(
        r"The second took [\d.]+ s: about [\d.]+ (s|min|h) for the 4,998 that are left, besides evaluation\. "
        rf"For a first look, as on a CPU: --steps 100 --batch 32{warmup}", second,
    )  # fmt: skip
    assert second in (tmp_path / "runs" / "a" / "train.log").read_text()


@pytest.mark.parametrize("flags", ((), ("--seed", "1")))
def test_a_folder_that_is_taken_is_told_before_the_framework_is_imported(flags, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    given = ["--model", "ViT-mu/16", "--weights", "none", "--name", "a", "--steps", "20"]
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(parsed(*given))))
    if not flags:
        (folder / "weights.npz").write_bytes(b"")
    with pytest.raises(UserError, match="a holds a (finished run|run with --seed 0, not 1)"):
        Run(parsed(*given, *flags), engine="bit_pytorch")


def test_how_to_resume_names_the_launcher_of_several_processes():
    run = object.__new__(Run)
    run.engine, run.config, run.devices = "bit_pytorch", TrainConfig(name="a b"), Devices()
    assert run.command == "python -m bit_pytorch.train --name 'a b'"
    run.devices.num_processes = 2
    assert run.command == "start 2 processes as before, each as python -m bit_pytorch.train --name 'a b'"


def test_every_command_is_quiet_about_ctrl_c_from_its_first_import():
    files = [path for folder in ("common", *ENGINE_PACKAGES) for path in (ROOT / folder).rglob("*.py")]
    commands = [text for path in files if '__name__ == "__main__"' in (text := path.read_text())]
    assert len(commands) > 12
    for text in commands:
        first = re.search(r"(?m)^(import|from) [^\n]*", text)[0]
        assert first.startswith("import common.system.quiet"), text[:300]


def test_the_list_of_models(monkeypatch, capsys, tmp_path):
    (tmp_path / "BiT-M-R50x1.npz").write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["train", "--model", "list", "--bit_pretrained_dir", str(tmp_path)])
    run_command("bit_jax", "train", TrainConfig, "Train.", None, None)
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert len(rows) > 50 and rows.keys() >= published_models().keys()
    assert re.search(r"21,843 +any +68.3 M +downloaded +ImageNet-21k", rows["BiT-M-R50x1"])
    assert "embedded" in rows["BiT-T-R26x0.5"] and " 224 " in rows["ViT-B/16"] and "to download" in rows["ViT-B/16"]


def test_a_missing_framework_is_one_line_too():
    done = command("train", code="sys.modules['torch'] = None")
    assert (
        done.returncode == 2
        and done.stderr.count("\n") == 1
        and "torch" in done.stderr
        and "pip install" in done.stderr
    )


# --- nearest names


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("cifar-10", "; did you mean cifar10, cifar100?"),
        ("CIFAR10", "; did you mean cifar10, cifar100?"),
        ("zzz", "."),
        ("", "."),
    ],
)
def test_nearest(word, expected):
    """What it returns ends the sentence that it is put into."""
    assert nearest(word, ["cifar10", "cifar100", "imagenet2012"]) == expected
