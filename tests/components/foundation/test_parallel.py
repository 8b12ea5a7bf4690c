import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.foundation.parallel import cpu_count

COUNT = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
COUNT += "from components.foundation.parallel import cpu_count; print(cpu_count())"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_cpus_that_the_process_may_not_use_do_not_count() -> None:
    done = subprocess.run((sys.executable, "-c", COUNT), capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "100000000 100000\n"}, None),  # more than there are
        ({}, None),
    ],
)
def test_a_containers_quota_counts(tmp_path: Path, files: dict[str, str], count: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_count(tmp_path) == (count or cpu_count(tmp_path / "none"))
