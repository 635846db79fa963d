#!/usr/bin/env bash
# A Keras 3 layer inside a tf.Module, written by tf.saved_model.save, is correct when TensorFlow loads it and wrong once
# TFLiteConverter.from_saved_model has converted it: the numbers are not the layer's, and nothing is said. A bare tf.Variable
# in its place converts well, and so does what Keras itself writes by Model.export. What helps: freeze the function first
# (convert_variables_to_constants_v2) and give it to from_concrete_functions, and compare the outputs of what was written.
# Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q tensorflow-cpu==2.21.0 keras==3.15.1 numpy==2.4.6
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python - 2>/dev/null <<'PYTHON'
import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

print("tensorflow", tf.__version__, "keras", keras.__version__)


class Module(tf.Module):
    """y = x w, with w a bare variable or a Keras layer's."""

    def __init__(self, layer):
        super().__init__()
        self.inner = keras.layers.Dense(4, use_bias=False) if layer else tf.Variable(tf.random.normal((3, 4)))
        if layer:
            self.inner.build((None, 3))

    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def __call__(self, x):
        return self.inner(x) if isinstance(self.inner, keras.Layer) else x @ self.inner


x = np.ones((2, 3), np.float32)


def interpreted(data):
    interpreter = tf.lite.Interpreter(model_content=data)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def is_right(found, module):
    return bool(np.allclose(found, module(x), atol=1e-5))


found = {}
for name, layer in (("variable", False), ("layer", True)):
    module = Module(layer)
    function = module.__call__.get_concrete_function()
    tf.saved_model.save(module, name, signatures=function)
    loaded = tf.saved_model.load(name).signatures["serving_default"](x=tf.constant(x))["output_0"].numpy()
    found[name, "loaded by TensorFlow"] = is_right(loaded, module)
    lite = tf.lite.TFLiteConverter.from_saved_model(name).convert()
    found[name, "from_saved_model"] = is_right(interpreted(lite), module)
    frozen = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(function)]).convert()
    found[name, "frozen, from_concrete_functions"] = is_right(interpreted(frozen), module)
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
model.export("exported", verbose=False)
lite = tf.lite.TFLiteConverter.from_saved_model("exported").convert()
found["layer", "Model.export, from_saved_model"] = is_right(interpreted(lite), model)
for (what, how), right in found.items():
    print(f"{what}: {how}: {'right' if right else 'WRONG'}")
raise SystemExit([key for key, right in found.items() if not right] != [("layer", "from_saved_model")])
PYTHON
