"""What the commands that predict share: which weights, what is read from a video, and what is shown."""
