"""CanvasMAR."""
