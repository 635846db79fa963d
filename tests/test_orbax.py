"""Checkpoints of orbax: trees of linen's names and NNX states become safetensors that the zoo reads."""

import numpy as np
import pytest
from format_cases import CASES, SMALL, random_arrays

from common.models import ViTConfig
from common.system.errors import UserError
from common.weights.express import choose_table
from common.weights.source import read_model

orbax = pytest.importorskip("orbax.checkpoint")
nnx = pytest.importorskip("flax.nnx")


def nested(arrays: dict[str, np.ndarray]) -> dict:
    """A tree of names with slashes."""
    tree = {}
    for name, array in arrays.items():
        *path, leaf = name.split("/")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[leaf] = array
    return tree


def save(folder, tree) -> None:
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, tree)


@pytest.mark.parametrize(
    ("case", "spelling"),
    [("vit_token", "vision_transformer_linen"), ("vit_map", "big_vision"), ("mixer", "big_vision")],
)
def test_trees_of_linen_are_read(case, spelling, tmp_path):
    """Below `params`, with an optimizer's state and a step beside."""
    from bit_jax.import_weights import import_weights

    config, lines = CASES[case][0], []
    arrays = random_arrays(config)
    tree = nested(choose_table(spelling, config).to_published(dict(arrays), config))
    save(tmp_path / "saved", {"params": tree, "opt_state": {"0": {"mu": tree}}, "step": np.int64(3)})
    import_weights(tmp_path / "saved", tmp_path / "a.safetensors", say=lines.append)
    found = read_model(tmp_path / "a.safetensors", given={"num_heads": 4, "gelu": config.gelu})
    assert found.spelling in (spelling, "vision_transformer") and not found.unused and "opt_state" in lines[0]
    assert all(np.array_equal(found.arrays[name], array) for name, array in arrays.items())


@pytest.mark.parametrize("managed", (False, True))
def test_a_state_of_nnx_is_read(managed, tmp_path, run):
    """Of this engine's own model; of a manager's folder, the last step."""
    from bit_jax import weights
    from bit_jax.api import build

    config = ViTConfig(**SMALL, registers=2, layer_scale=True)
    arrays = random_arrays(config)
    model = build(config, arrays)
    assert weights.dump(model).keys() == arrays.keys()
    if managed:
        with orbax.CheckpointManager(tmp_path / "saved") as manager:
            for step, state in ((3, nnx.state(build(config, random_arrays(config, seed=1)))), (20, nnx.state(model))):
                manager.save(step, args=orbax.args.StandardSave(state))
    else:
        save(tmp_path / "saved", nnx.state(model))
    done = run("bit_jax.import_weights", "saved", "a.safetensors")
    assert "read back and equal" in done.stdout
    found = read_model(tmp_path / "a.safetensors", given={"num_heads": 4})
    assert found.spelling == "ours" and found.config.registers == 2 and found.config.layer_scale
    assert all(np.array_equal(found.arrays[name], array) for name, array in arrays.items())


def test_what_is_no_checkpoint_is_refused_in_a_sentence(tmp_path):
    from bit_jax.import_weights import import_weights

    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint of orbax"):
        import_weights(tmp_path / "empty", tmp_path / "a.safetensors")
    save(tmp_path / "saved", {"opt_state": {"mu": np.ones(3, "f4")}})
    with pytest.raises(UserError, match="holds no arrays of a model, but opt_state/mu"):
        import_weights(tmp_path / "saved", tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="_METADATA belongs to a checkpoint of orbax: make safetensors of it"):
        read_model(tmp_path / "saved")
    (tmp_path / "saved" / "_METADATA").write_text("{")
    with pytest.raises(UserError, match="no readable checkpoint of orbax"):
        import_weights(tmp_path / "saved", tmp_path / "a.safetensors")
