"""Command line, environment and Ray connection of every stage."""
