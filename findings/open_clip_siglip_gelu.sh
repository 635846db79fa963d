#!/usr/bin/env bash
# open_clip 3.3 computes the published SigLIP models with the exact GELU in both towers, and most of SigLIP 2 so in the image tower;
# big_vision trained them with the approximation by tanh, which transformers computes. Embeddings of random weights of SigLIP-B/16's
# sizes differ by more than rounding. Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet open_clip_torch==3.3.0 timm==1.0.31 transformers==5.23.0
venv/bin/python - <<'PYTHON'
import open_clip
import torch
import transformers

print("transformers:", transformers.SiglipConfig().text_config.hidden_act, transformers.SiglipConfig().vision_config.hidden_act)
assert transformers.SiglipConfig().text_config.hidden_act == "gelu_pytorch_tanh"
seen = {}
for name in ("ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "ViT-B-32-SigLIP2-256"):
    with torch.device("meta"):
        model = open_clip.CustomTextCLIP(**{k: v for k, v in open_clip.get_model_config(name).items() if k != "custom_text"})
    image, text = model.visual.trunk.blocks[0].mlp.act, model.text.transformer.resblocks[0].mlp.gelu
    is_tanh = [getattr(one, "approximate", None) == "tanh" or "Tanh" in type(one).__name__ for one in (image, text)]
    seen[name] = is_tanh
    print(f"{name}: image {image}, text {text}")
assert seen["ViT-B-16-SigLIP"] == [False, False]
assert seen["ViT-B-16-SigLIP2"] == [False, True]
assert seen["ViT-B-32-SigLIP2-256"] == [True, True]

torch.manual_seed(0)
told = {k: v for k, v in open_clip.get_model_config("ViT-B-16-SigLIP").items() if k != "custom_text"}
model, tokens = open_clip.CustomTextCLIP(**told).eval(), torch.randint(0, 32_000, (4, 64))
with torch.no_grad():
    for value in model.text.parameters():
        value.copy_(torch.randn_like(value) / max(4, value[0].numel()) ** 0.5 + (value.ndim == 1))
    exact = model.encode_text(tokens, normalize=True)
    for block in model.text.transformer.resblocks:
        block.mlp.gelu = torch.nn.GELU("tanh")
    difference = float((model.encode_text(tokens, normalize=True) - exact).abs().max() / exact.abs().max())
print(f"largest difference of text embeddings: {difference:.1e} of the largest number; rounding is about 1e-6")
assert difference > 1e-5
PYTHON
