"""Models that CanvasMAR is compared with."""
