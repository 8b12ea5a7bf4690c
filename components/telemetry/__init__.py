"""What is recorded of a run; it can never change an output."""
