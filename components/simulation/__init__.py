"""Simulated videos: a pusher, a robot arm and moving shapes."""
