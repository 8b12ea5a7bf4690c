"""From videos to scores."""
