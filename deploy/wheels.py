"""`python deploy/wheels.py`: on which platforms and Pythons every package of constraints.txt has a wheel.

Asks pip for each platform and Python, and prints a table in Markdown. Nothing is installed.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
PYTHONS = ("3.11", "3.12", "3.13")
GLIBC = (
    17,
    24,
    26,
    27,
    28,
    31,
    34,
    35,
)  # minor versions of glibc 2 that wheels name; Debian 12 and Ubuntu 22.04 have 2.35
PLATFORMS = {
    "Linux, x86-64": ["manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in GLIBC)],
    "Linux, aarch64": ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in GLIBC)],
    "macOS 14, arm64": ["macosx_14_0_arm64"],
}
MISSING = re.compile(r"No matching distribution found for ([\w.-]+)==")


def without_wheel(packages: list[str], platforms: list[str], python: str) -> list[str]:
    """Return the names of the packages that have no wheel for these platform tags and this Python."""
    missing: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        target = ("--target", folder, "--implementation", "cp", "--python-version", python)
        tags = [word for platform in platforms for word in ("--platform", platform)]
        options = ("--dry-run", "--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check")
        while True:
            wanted = [package for package in packages if package.partition("==")[0] not in missing]
            command = (sys.executable, "-m", "pip", "install", *options, *target, *tags, *wanted)
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                return missing
            found = MISSING.search(done.stderr)
            if found is None:
                sys.exit(f"error: pip failed for Python {python} on {platforms[0]}: {done.stderr.strip()[-500:]}")
            missing.append(found[1])


def main() -> None:
    """Print the table."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    packages = [line.split("+")[0] for line in lines if "==" in line and not line.startswith("#")]
    print(f"| {len(packages)} packages | {' | '.join(f'Python {python}' for python in PYTHONS)} |")
    print(f"|---|{'---|' * len(PYTHONS)}")
    for name, tags in PLATFORMS.items():
        cells = [", ".join(without_wheel(packages, tags, python)) or "all" for python in PYTHONS]
        print(f"| {name} | {' | '.join(f'all but {cell}' if cell != 'all' else cell for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
