"""The stages write the same bytes with MLflow, progress and registered models as without them."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.pipeline.conftest import run

pytestmark = pytest.mark.faults
MEASURED = re.compile(r"second|memory|tera|share_of|began|ended|time|wait|front")  # a front includes measured times
SILENT = {
    "tracking.py": """

@dataclass(frozen=True)
class SilentHandle:
    uri: str = ""

    def open(self):
        return Silent()

    @contextmanager
    def child(self, *_, **__):
        yield Silent()


class Silent:
    id, link, handle = "", "", SilentHandle()

    def __getattr__(self, name):
        return lambda *_, **__: True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@contextmanager
def run(*_, **__):
    yield Silent()
""",
    "registry.py": "\n\ndef register(*_, **__):\n    return None\n\n\nlog_weights = register\n",
    "progress.py": "\n\ndef say(*_, **__):\n    pass\n",
}


def unmeasured(content: Any) -> Any:
    """JSON-like data without the values that are measured, such as times."""
    if isinstance(content, dict):
        return {key: unmeasured(value) for key, value in content.items() if not MEASURED.search(key)}
    return [unmeasured(value) for value in content] if isinstance(content, list) else content


def digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        content = json.dumps(unmeasured(json.loads(content))).encode()
    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str)
        content = table[[name for name in table if not MEASURED.search(name)]].to_csv(index=False).encode()
    return hashlib.sha256(content).hexdigest()


def outputs(project: Path) -> dict[str, str]:
    """The digests of all files that stages wrote, apart from what only records how they ran."""
    files = (path for path in (project / "data").rglob("*") if path.is_file() and path.suffix != ".png")
    names = {path.relative_to(project).as_posix(): path for path in files}
    records = re.compile(r"^data/usage/|\.provenance\.json$|\.gitignore$|/front\.csv$")
    return {name: digest(path) for name, path in sorted(names.items()) if not records.search(name)}


def test_every_output_is_the_same_without_telemetry(journey, tmp_path):
    silent = Path(shutil.copytree(journey, tmp_path / "silent", symlinks=True))
    for name, code in SILENT.items():
        with (silent / "components" / "telemetry" / name).open("a", encoding="utf-8") as file:
            file.write(code)
    shutil.rmtree(silent / "mlruns")
    assert "up to date" in run(silent, "dvc", "status").stdout  # no stage depends on telemetry
    run(silent, "dvc", "repro", "--force")
    assert not (silent / "mlruns").exists()
    before, after = outputs(journey), outputs(silent)
    assert len(before) > 40
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == []
