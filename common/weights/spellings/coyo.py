"""The spelling of kakaobrain/coyo-vit: the names of TensorFlow's object graph in its checkpoints.

They are read where TensorFlow left them (tensor_bundle.py), or from an `.npz` of the same names, which is what is
written: `tf.train.Checkpoint` restores by objects, not by names.

Sources: `backbones/vit/vit_model.py`, `models/classification.py`, `trainer.py`.
"""

from common.models import ViTConfig
from common.weights.rows import slashed
from common.weights.spellings.google import CLASS_TOKEN, TANH
from common.weights.table import Table

VALUE = ".ATTRIBUTES/VARIABLE_VALUE"
NORM = (("scale", "gamma"), ("bias", "beta"))
DENSE = (("kernel", "kernel"), ("bias", "bias"))
BLOCK = (
    *slashed("attn/query", "att/query_dense", DENSE),
    *slashed("attn/key", "att/key_dense", DENSE),
    *slashed("attn/value", "att/value_dense", DENSE),
    *slashed("attn/out", "att/combine_heads", DENSE),
    *slashed("mlp/fc1", "mlp/layer_with_weights-0", DENSE),
    *slashed("mlp/fc2", "mlp/layer_with_weights-1", DENSE),
    *slashed("norm1", "layernorm1", NORM),
    *slashed("norm2", "layernorm2", NORM),
)
ROWS = (
    *slashed("stem", "backbone/embedding", DENSE),
    ("cls", "backbone/class_emb"),
    ("pos_embedding", "backbone/pos_emb"),
    *slashed("blocks/{block}", "backbone/enc_layers/{block}", BLOCK),
    *slashed("norm", "backbone/norm", NORM),
    *slashed("pre_logits", "backbone/representation", DENSE),
    *slashed("head", "model/layer_with_weights-1", DENSE),
)
TABLES = (
    Table(
        "coyo",
        ViTConfig,
        tuple((ours, f"{theirs}/{VALUE}") for ours, theirs in ROWS),
        holds=CLASS_TOKEN | {"square": (True,)},
        computes=TANH,
        ignored=r"OPTIMIZER_SLOT|^optimizer/|^save_counter/|^ckpt_saved_iterations/|^_CHECKPOINTABLE_OBJECT_GRAPH$",
    ),
)
