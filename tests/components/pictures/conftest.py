"""Fixtures that the tests of pictures share with those of the report."""

from tests.components.reporting.conftest import finished

__all__ = ["finished"]
