"""Decode a video from its middle."""
