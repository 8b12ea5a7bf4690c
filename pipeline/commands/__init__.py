"""Subcommands of `canvasmar`: all tasks other than the stages of the pipeline."""
