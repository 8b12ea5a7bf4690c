"""Training: loop, recipe, checkpoints, sharding and cost estimates."""
