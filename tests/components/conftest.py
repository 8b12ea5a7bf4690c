"""The genuine public weights, downloaded once for all sessions and converted once a session."""

from pathlib import Path

import pytest

from components import weights
from components.foundation.errors import InputError

DOWNLOADS = Path(__file__).parents[2] / ".state" / "downloads"


@pytest.fixture(scope="session")
def downloads() -> Path:
    try:
        for source in (weights.I3D, weights.LPIPS):
            weights.fetch(source, DOWNLOADS)
    except InputError as error:
        if "could not download" in str(error):
            pytest.skip(str(error))
        raise
    return DOWNLOADS


@pytest.fixture(scope="session")
def public_weights(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("weights")
    weights.prepare(out, downloads)
    return out
