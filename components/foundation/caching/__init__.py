"""Cache of partial results of stages, and of results that several stages share."""
