"""jeonsworld's ViT-pytorch: a model with its names and operations gives our engines' logits; its pickles are imported."""

import numpy as np
import pytest
from test_peers import images, randomise, relative

from common.convert import convert
from common.system.errors import UserError
from common.weights.source import read_model

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
Linear, Norm = torch.nn.Linear, torch.nn.LayerNorm


def modules(**named):
    """A module with these parts, which computes nothing itself."""
    made = torch.nn.Module()
    for name, part in named.items():
        setattr(made, name, part)
    return made


def model(width: int = 32, heads: int = 4, classes: int = 5):
    """Its `VisionTransformer` in names: two blocks, images of 32 pixels, patches of 8."""
    attention = lambda: modules(**{name: Linear(width, width) for name in ("query", "key", "value", "out")})
    block = lambda: modules(
        attention_norm=Norm(width, eps=1e-6), ffn_norm=Norm(width, eps=1e-6), attn=attention(),
        ffn=modules(fc1=Linear(width, 64), fc2=Linear(64, width)),
    )  # fmt: skip
    encoder = modules(layer=torch.nn.ModuleList([block(), block()]), encoder_norm=Norm(width, eps=1e-6))
    embeddings = modules(
        patch_embeddings=torch.nn.Conv2d(3, width, 8, 8), position_embeddings=torch.nn.Parameter(torch.zeros(1, 17, width)),
        cls_token=torch.nn.Parameter(torch.zeros(1, 1, width)),
    )  # fmt: skip
    return modules(transformer=modules(embeddings=embeddings, encoder=encoder), head=Linear(width, classes))


def logits(made, pixels, heads: int = 4):
    """What its forward pass computes."""
    embeddings, encoder = made.transformer.embeddings, made.transformer.encoder
    x = embeddings.patch_embeddings(pixels).flatten(2).transpose(-1, -2)
    x = torch.cat([embeddings.cls_token.expand(len(x), -1, -1), x], 1) + embeddings.position_embeddings
    for block in encoder.layer:
        z = block.attention_norm(x)
        split = lambda part, z=z, block=block: getattr(block.attn, part)(z).unflatten(-1, (heads, -1)).transpose(1, 2)
        scores = split("query") @ split("key").transpose(-1, -2) / split("query").shape[-1] ** 0.5
        x = x + block.attn.out((scores.softmax(-1) @ split("value")).transpose(1, 2).flatten(2))
        x = x + block.ffn.fc2(torch.nn.functional.gelu(block.ffn.fc1(block.ffn_norm(x))))
    return made.head(encoder.encoder_norm(x)[:, 0])


def test_its_names_are_read_and_not_written(engine, tmp_path):
    made = model()
    randomise(made)
    safetensors_torch.save_file(made.state_dict(), tmp_path / "a.safetensors")
    found = read_model(tmp_path / "a.safetensors", given={"num_heads": 4})
    assert found.spelling == "jeonsworld" and not found.unused
    ours = engine.build(found.config, found.arrays, "float64")
    with torch.no_grad():
        expected = logits(made.double(), torch.from_numpy(images()).double().permute(0, 3, 1, 2)).numpy()
    assert relative(engine.logits(ours, images().astype(np.float64)), expected) < 1e-9
    with pytest.raises(UserError, match="Files of jeonsworld are read only"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.npz", "jeonsworld", given={"num_heads": 4})


def test_its_pickle_becomes_safetensors(run, tmp_path):
    """`ViT-B_16_checkpoint.bin` is the state itself."""
    made = model()
    randomise(made)
    torch.save(made.state_dict(), tmp_path / "cifar10_checkpoint.bin")
    with pytest.raises(UserError, match="pickle of PyTorch.*import_weights"):
        read_model(tmp_path / "cifar10_checkpoint.bin")
    run("bit_pytorch.import_weights", tmp_path / "cifar10_checkpoint.bin", tmp_path / "a.safetensors")
    found = read_model(tmp_path / "a.safetensors", given={"num_heads": 4})
    np.testing.assert_array_equal(found.arrays["head/bias"], made.head.bias.detach())
