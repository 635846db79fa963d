"""How a model is judged: metrics, classes matched by name, kept predictions."""
