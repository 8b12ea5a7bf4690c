"""Metrics of predicted videos."""
