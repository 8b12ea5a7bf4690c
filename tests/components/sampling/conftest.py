"""Fixtures that the tests of sampling share with those of the models' behaviour."""

from tests.behaviour.conftest import make, sampler

__all__ = ["make", "sampler"]
