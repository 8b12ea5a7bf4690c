"""Of `make setup`, before anything is installed: `check` refuses an interpreter, `download` says what pip will fetch.

`lock`, of `make lock`, prints the newest versions of all packages that pyproject.toml allows.

Imports the standard library only, and runs on Python 3.6 and later.
"""

import json
import platform
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 13)  # of the tests
TORCH = ("--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-", "--constraint", "constraints.txt")
LOCK = ("--dry-run", "--ignore-installed", "--quiet", "--disable-pip-version-check", "--report", "-", ".[dev]")
CPU_SIZE, GPU_SIZE = "3.3 GB", "6.7 GB"  # of the environment on Linux, x86-64
NAME_IT = "make PYTHON=python3.13"


def problem(system, version):
    """Return why an interpreter cannot be used, or None."""
    if system == "Windows":
        return "Windows is not supported, because the pipeline locks files with fcntl; use Linux, macOS or WSL"
    if version < OLDEST:
        return f"Python {_text(version)} is older than {_text(OLDEST)}; install a newer one and name it: {NAME_IT}"
    return None


def note(version):
    """Return what to know about an interpreter that is newer than those of the tests, or None."""
    if version <= NEWEST:
        return None
    tested = f"{_text(OLDEST)} to {_text(NEWEST)} have"
    return f"Python {_text(version)} has not been tested, {tested}; if pip finds no wheels, name another: {NAME_IT}"


def download(report, gpu):
    """Return what pip will install, from its report on torch: the build for CPUs, or the one for GPUs."""
    torch = report["install"][0]["metadata"]
    for_gpus = any(need.startswith(("nvidia-", "cuda-")) for need in torch.get("requires_dist", []))
    build, size = ("GPUs", GPU_SIZE) if for_gpus else ("CPUs", CPU_SIZE)
    text = f"installing torch {torch['version']} for {build}, Ray, MLflow and others: up to {size} in .venv"
    if not for_gpus or gpu:
        return text
    return (
        f"{text}; there is no GPU, but pip knows no build for CPUs, which takes {CPU_SIZE}: to use one, stop, set "
        "PIP_EXTRA_INDEX_URL to the CPU index of https://pytorch.org/get-started/locally, and run `make setup` again"
    )


def constraints(report):
    """Return the lines of constraints.txt from pip's report: every package but the project, without builds (`+cpu`)."""
    packages = [item["metadata"] for item in report["install"] if "dir_info" not in item.get("download_info", {})]
    lines = {"{}=={}".format(package["name"].lower(), package["version"].partition("+")[0]) for package in packages}
    return "\n".join(sorted(lines))


def _text(version):
    return ".".join(map(str, version))


def main(task):
    """Print a sentence on stderr, or for `lock` the versions on stdout; return the exit status, 2 if refused."""
    if task == "lock":
        done = subprocess.run((sys.executable, "-m", "pip", "install", *LOCK), stdout=subprocess.PIPE)
        if done.returncode == 0:
            print(constraints(json.loads(done.stdout.decode())))
        return done.returncode
    version = sys.version_info[:2]
    refused = problem(platform.system(), version) if task == "check" else None
    text = refused or note(version) if task == "check" else download_of_pip()
    if text:
        print(f"error: {refused}" if refused else text, file=sys.stderr)
    return 2 if refused else 0


def download_of_pip():
    """Return what the pip of this interpreter will install, or None if it cannot tell; its error comes later."""
    command = (sys.executable, "-m", "pip", "install", *TORCH, "torch")
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return None if done.returncode else download(json.loads(done.stdout.decode()), shutil.which("nvidia-smi"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
