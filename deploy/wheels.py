"""`python deploy/wheels.py`: for which platforms and Pythons every package of constraints.txt has a wheel.

Run it in the environment of `make setup`. A package installed from a wheel without compiled code has one for all
platforms; the script asks pip about the others, and prints a table in Markdown. Nothing is installed.
"""

import contextlib
import io
from importlib import metadata
from pathlib import Path

from pip._internal.cli.main import main as pip  # in this process: a thousand questions take minutes, not hours

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
PYTHONS = ("3.11", "3.12", "3.13")
GLIBC = (17, 24, 26, 27, 28, 31, 34, 35)  # minor versions of glibc 2 up to that of Ubuntu 22.04; Debian 12 has 2.36
PLATFORMS = {
    "Linux, aarch64": ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in GLIBC)],
    "macOS 14, arm64": ["macosx_14_0_arm64"],
}


def compiled(lines: list[str]) -> dict[str, str]:
    """Return the packages whose installed wheel is for one platform, and those without a wheel, with their versions."""
    pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    found = {}
    for name, version in pinned.items():
        try:
            wheel = metadata.distribution(name).read_text("WHEEL") or ""
        except metadata.PackageNotFoundError:
            wheel = ""
        if "-none-any" not in wheel:
            found[name] = version.split("+")[0].strip()
    return found


def has_wheel(name: str, version: str, tags: list[str], python: str) -> bool:
    """Ask pip whether this version has a wheel for these platform tags and this Python."""
    chosen = [word for tag in tags for word in ("--platform", tag)]
    options = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        status = pip(["index", "versions", name, "--disable-pip-version-check", "--pre", *options, *chosen])
    found = said.getvalue().partition("Available versions: ")[2].partition("\n")[0]  # the installed version comes after
    return status == 0 and version in found.split(", ")


def main() -> None:
    """Print the table."""
    asked = compiled(CONSTRAINTS.read_text(encoding="utf-8").splitlines())
    print(f"| {len(asked)} packages with compiled code | {' | '.join(f'Python {python}' for python in PYTHONS)} |")
    print(f"|---|{'---|' * len(PYTHONS)}", flush=True)
    for platform, tags in PLATFORMS.items():
        print(f"| {platform} |", end="", flush=True)
        for python in PYTHONS:
            missing = [name for name, version in asked.items() if not has_wheel(name, version, tags, python)]
            print(f" {'all but ' + ', '.join(missing) if missing else 'all'} |", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
