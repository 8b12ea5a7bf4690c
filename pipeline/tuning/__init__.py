"""Searches and ablations with Ray Tune."""
