"""Fixtures that the tests of the models share with those of their behaviour."""

from tests.behaviour.conftest import sampler

__all__ = ["sampler"]
