"""Files that people name as weights and that are none, by their first bytes, their ending, or the names of arrays."""

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

IMPORT = "make safetensors of it with `python -m bit_pytorch.import_weights OLD.pth NEW.safetensors`"
ORBAX = "make safetensors of it with `python -m bit_jax.import_weights FOLDER NEW.safetensors`"
MERGE = "merge it into its model first (peft: `merge_and_unload()`) and save that, or take weights.npz, which a run leaves merged beside its adapter"
OTHER = "choose a BiT, ViT, hybrid or MLP-Mixer"
HEAD_BYTES = 1024
CONTENTS = (  # first bytes -> what it is, what to do
    (rb"version https://git-lfs\.github\.com", "it is a pointer of Git LFS", "fetch the file itself with `git lfs pull`"),
    (rb"\s*<(!doctype html|html|head|\?xml)", "it is a web page, perhaps of an error or a login", "download the file itself"),
    (rb"\x1f\x8b", "it is compressed with gzip", "unpack it with gunzip"),
    (rb"BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf", "it is a compressed archive", "unpack it"),
    (rb"GGUF", "it is GGUF of llama.cpp", OTHER),
    (rb"\x80[\x02-\x05]", "it is a pickle of Python objects, which may run code", "save plain arrays with numpy.savez"),
    (rb"\x89HDF\r\n", "it is an HDF5 file", "give it a name that ends in .h5"),
    (rb"\x93NUMPY", "it is one array", "save named ones with numpy.savez"),
    (rb".{4}TFL3", "it is a model of LiteRT (TensorFlow Lite)", OTHER),
    (rb".{8}\{", "it is a safetensors file", "give it a name that ends in .safetensors"),
)  # fmt: skip
ENDINGS = {  # ending -> what it is, what to do
    ".keras": ("a whole model of Keras, with its configuration", "save its weights with `model.save_weights`"),
    ".onnx": ("a graph of ONNX", "export the weights of the model that it was made of"),
    ".gguf": ("GGUF of llama.cpp", OTHER),
    ".pb": ("a graph of TensorFlow", "save the weights of the model that it was made of"),
    ".tflite": ("a model of LiteRT (TensorFlow Lite)", "save the weights of the model that it was made of"),
    ".pkl": ("a pickle, which may run code", "save plain arrays with numpy.savez"),
    ".npy": ("one array", "save named ones with numpy.savez"),
    ".gz": ("a compressed file", "unpack it"),
    ".zip": ("an archive", "unpack it"),
    ".json": (
        "a description, such as a config.json, a card or a tokenizer",
        "name the folder of a hub, or the file of weights beside",
    ),
    ".model": ("a vocabulary of SentencePiece", "name the model's weights; a vocabulary belongs to --vocabulary"),
    ".txt": ("a text, such as a vocabulary", "name the model's weights; a vocabulary belongs to --vocabulary"),
    ".yaml": ("a description", "name the file of weights beside"),
    **dict.fromkeys(
        (".jpg", ".jpeg", ".png", ".webp"), ("an image", "name the model's weights; `predict` takes images")
    ),
}
OWN = {".safetensors": "it is a safetensors file", ".h5": "it is an HDF5 file", ".hdf5": "it is an HDF5 file"}
FOLDERS = {  # file in a folder without weights -> what to do
    "pytorch_model.bin": f"pytorch_model.bin is a pickle: {IMPORT}",
    "adapter_model.safetensors": f"adapter_model.safetensors changes a model and is none: {MERGE}",
    "_METADATA": f"_METADATA belongs to a checkpoint of orbax: {ORBAX}",
    "saved_model.pb": "a SavedModel is a graph: save the weights of the model that it was made of",
}
NAMES = (  # pattern of an array's name -> what holds such, what to do
    (r"lora_|adapter", "an adapter (LoRA), which changes a model and is none", MERGE),
    (r"(^|[./])(exp_avg|momentum_buffer)|^optimizer/", "the state of an optimizer or of a run", "name the model's weights"),
    (r"\.(qweight|scales|weight_scale|SCB)$|absmax", "quantised weights", "take the ones in 16 or 32 bits"),
    (r"(^|\.)(dist_token|distillation_token|head_dist|cls_classifier)\b",
     "a part of a distilled DeiT, whose two tokens and two heads belong together", "take a whole one"),
    (r"visual\.|vision_model\.|text_model\.|logit_scale|^img/|^txt/",
     "an image-text model of another kind than SigLIP, CLIP and LiT", "take one of a ViT and a text transformer"),
    (r"rope\.freqs$", "a ViT whose rotary positions have learned frequencies, which no ViT here has", OTHER),
    (r"mlp\.(fc1_[gx]|w[12])\.", "a ViT of the kind of EVA-02, whose rotary positions turn other pairs of channels than DINOv3's", OTHER),
    (r"\.attns\.\d+\.", "a ViT with several attentions beside one another in a block, of which blocks here have one", OTHER),
    (r"relative_position_bias_table.*\n(.*\n)*.*downsample|layers\.\d+\.(blocks\.\d+\.attn|downsample)|features\.\d+\.\d+\.attn\.relative|swin",
     "a Swin Transformer, whose attention is within shifted windows, which no family here has", OTHER),
    (r"rel_pos(_[hw]|\.mlp|_bias)|relative_position_bias", "a ViT with relative positions (BEiT, SAM, ...), which no ViT here has", OTHER),
    (r"blocks_token_only|attn\.proj_[lw]\.", "a CaiT, whose class token comes in after the first blocks, and whose heads are mixed", OTHER),
    (r"mlp_channels.*\.(sgu|gate)\b|\.gate\.proj\.", "a gMLP, whose gating over the tokens no MLP-Mixer here has", OTHER),
    (r"linear_tokens", "a ResMLP, whose affine layers and token mixing of one layer no MLP-Mixer here has", OTHER),
    (r"(running_mean|running_var|moving_mean)$", "a network with batch norm, such as a ResNet of torchvision, and no family here has it", OTHER),
    (r"convnext|conv_dw|dwconv|stages\.\d+\.blocks\.\d+\.gamma",
     "a ConvNeXt or its like, whose depthwise convolutions no family here has", OTHER),
    (r"blocks\.\d+\.proj\.weight|stages\.\d+\.(blocks|layers)",
     "a transformer in stages (Hiera, MViT, DaViT), whose grid shrinks between blocks, which no ViT here does", OTHER),
    (r"gamma_[12]$", "a ViT with layer scale in BEiT's names that is no DeiT III and no DINOv3", OTHER),
    (r"lm_head|self_attn|wte\.|word_embeddings|down_blocks|up_blocks|\bh\.\d+\.attn", "a model of language or of another kind", OTHER),
)  # fmt: skip


def contents(path: Path) -> tuple[str, str] | None:
    """(the kind of a file by its first bytes, what to do), or None for an unknown kind."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        return "it is empty", "download it again"
    if head.startswith(b"PK\3\4"):
        return archive(path)
    answer = next((answer for pattern, *answer in CONTENTS if re.match(pattern, head, re.IGNORECASE | re.DOTALL)), None)
    return answer if answer and answer[0] != OWN.get(path.suffix) else None


def archive(path: Path) -> tuple[str, str] | None:
    """The same of a zip archive, by the names in it; None for an `.npz` or a damaged one."""
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except Exception:  # the caller reports what is wrong with it
        return None
    if any(name.endswith("data.pkl") for name in names):
        return "it is a file of PyTorch, a pickle in an archive", IMPORT
    if "model.weights.h5" in names:
        return "it is a whole model of Keras", ENDINGS[".keras"][1]
    if names and all(name.endswith(".npy") for name in names):
        return None if path.suffix == ".npz" else ("it is an .npz file", "give it a name that ends in .npz")
    return "it is an archive of other files", "unpack it"


def model(names: Iterable[str]) -> str | None:
    """The end of a sentence on a file with arrays of these names, where they are those of a known kind of model."""
    text = "\n".join(names)
    for pattern, what, advice in NAMES:
        if re.search(pattern, text, re.MULTILINE):
            return f"holds {what}; {advice}."
    return None
