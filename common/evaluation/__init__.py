"""The evaluation of a model: metrics, classes matched by name, kept predictions."""
