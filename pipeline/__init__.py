"""The stages of the pipeline; each is a function from input folders to one output folder."""

import os
import sys
from typing import Final

PACKAGES: Final = frozenset(
    {
        "torch",
        "torchvision",
        "numpy",
        "pandas",
        "pyarrow",
        "pydantic",
        "ray",
        "mlflow",
        "dvc",
        "timm",
        "einops",
        "decord",
    }
    | {"dvc", "decord", "av", "rich", "typer", "psutil", "ruamel", "safetensors", "jaxtyping", "matplotlib", "PIL"}
)


def hiding(folder: str) -> list[str]:
    """Return the files of a folder that hide a module of Python or of a package, such as types.py and torch.py.

    Python, and Ray's workers, look for modules in the project's folder first.
    """
    try:
        listed = sorted(os.listdir(folder))
    except OSError:
        return []
    modules = [name.removesuffix(".py") for name in listed if name.endswith(".py")]
    hidden = (sys.stdlib_module_names | PACKAGES) - {"test"}  # Python's `test` holds its own tests
    return [f"{name}.py" for name in modules if name in hidden]


# at the import, because a later import would already fail
if _files := hiding("."):
    print(f"error: {', '.join(_files)} in {os.getcwd()} hides Python's module of this name; rename it", file=sys.stderr)
    sys.exit(2)
