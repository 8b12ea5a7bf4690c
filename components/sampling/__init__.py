"""From a model and a context to a predicted video."""
