"""Conditions of a model: class labels, texts or actions."""
