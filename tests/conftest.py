"""Shapes are checked while the tests run: every jaxtyping annotation in components/ is enforced by beartype."""

import pytest
from jaxtyping import install_import_hook

install_import_hook("components", "beartype.beartype")


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing Ray's door names a tracking store for the whole process; a test's runs belong to its own folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
