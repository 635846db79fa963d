"""What LoRA has learned, as peft's `adapter.safetensors` and `adapter_config.json` for Hugging Face's spelling of a model."""

from pathlib import Path
from typing import Any

from common.models import ModelConfig, TwoTowersConfig
from common.models.family import Arrays
from common.recipes.groups import Groups, trained
from common.recipes.lora import A, B
from common.system.errors import UserError
from common.system.files import write_json
from common.weights import containers
from common.weights.express import choose_table, expressed
from common.weights.rows import Row

FILE, CONFIG = "adapter.safetensors", "adapter_config.json"
# Names of the modules in transformers 5, by which peft finds them: those of image-text models are as in files.
SPELLINGS = {TwoTowersConfig: "huggingface"}
SPELLING = "huggingface_v5"  # of others
PREFIX = "base_model.model."


def write_adapter(folder: Path, arrays: Arrays, config: ModelConfig, groups: Groups) -> str:
    """Write both files, or none where Hugging Face has no such model; returns a line that tells which.

    They hold the matrices of LoRA as lora_A [rank, in] and lora_B [out, rank], and the other parameters that are trained.
    """
    try:
        published, facts = to_peft(arrays, config, groups)
    except UserError:
        return f"No {FILE} for peft, which knows the models of Hugging Face alone"
    containers.write(folder / FILE, published, {"format": "pt"})
    write_json(folder / CONFIG, facts)
    beside = "; copy logit_scale and logit_bias yourself: peft loads modules only"
    return f"Wrote {FILE} and {CONFIG}, what LoRA has learned, for peft{beside if 't' in arrays else ''}"


def to_peft(arrays: Arrays, config: ModelConfig, groups: Groups) -> tuple[Arrays, dict[str, Any]]:
    """(arrays in peft's names, what adapter_config.json says). UserError where Hugging Face has no such model."""
    plain, lora = config.after_training, config.lora
    table = choose_table(SPELLINGS.get(type(plain), SPELLING), plain)
    rows = {name: row for row in table.rows(expressed(plain, table)[0]) for name in row.ours}
    modules, published = [], {}
    for kernel in lora.kernels(plain.parameter_shapes()):
        if len(rows[kernel].ours) > 1:
            raise UserError(f"{kernel} is a part of {rows[kernel].theirs} there.")
        module, layer = module_of(rows[kernel]), kernel.removesuffix("kernel")
        modules.append(module)
        for name, theirs in ((A, "lora_A"), (B, "lora_B")):
            published[f"{PREFIX}{module}.{theirs}.weight"] = arrays[f"{layer}{name}"].T.copy()
    beside = [rows[name] for name in plain.parameter_shapes() if name in trained(groups, plain.parameter_shapes())]
    published |= {f"{PREFIX}{row.theirs}": row.to_there([arrays[name] for name in row.ours]) for row in beside}
    kept = list(dict.fromkeys(filter(None, map(module_of, beside))))  # t and b are of no module
    return published, describe(lora.rank, lora.alpha, modules, kept)


def module_of(row: Row) -> str:
    """The module that has the array of a row."""
    return row.theirs.rpartition(".")[0]


def describe(rank: int, alpha: float, modules: list[str], kept: list[str]) -> dict[str, Any]:
    """What peft's `LoraConfig` reads; the rest of its fields have their defaults."""
    return {
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": modules, "modules_to_save": kept or None,
        "bias": "none", "lora_dropout": 0.0, "fan_in_fan_out": False, "use_rslora": False, "task_type": None,
        "inference_mode": True, "init_lora_weights": True, "base_model_name_or_path": None,
    }  # fmt: skip
