"""Files of the project's folder that Python would import instead of a module of its own or of a package."""

import os
import sys
from pathlib import Path
from typing import Final

PACKAGES: Final = frozenset(
    {"torch", "torchvision", "numpy", "pandas", "pyarrow", "pydantic", "ray", "mlflow", "timm", "einops", "jaxtyping"}
    | {"dvc", "decord", "av", "rich", "typer", "psutil", "ruamel", "safetensors", "matplotlib", "PIL"}
)


def found(folder: Path) -> list[str]:
    """Return the files of a folder that hide a module, such as types.py and torch.py.

    Python, and Ray's workers, look for modules in the project's folder first.
    """
    try:
        listed = sorted(os.listdir(folder))
    except OSError:
        return []
    hidden = (sys.stdlib_module_names | PACKAGES) - {"test"}  # Python's `test` holds its own tests
    return [name for name in listed if name.endswith(".py") and name.removesuffix(".py") in hidden]
