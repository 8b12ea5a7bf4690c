"""The stages of the pipeline; each is a function from input folders to one output folder."""

import os
import sys
from importlib.machinery import PathFinder


def hiding(folder: str) -> list[str]:
    """Return the files of a folder that hide a module of Python or of a package, such as types.py and torch.py.

    Python, and Ray's workers, look for modules in the project's folder first.
    """
    try:
        listed = sorted(os.listdir(folder))
    except OSError:
        return []
    elsewhere = [path for path in sys.path if os.path.realpath(path or ".") != os.path.realpath(folder)]
    modules = [name.removesuffix(".py") for name in listed if name.endswith(".py")]
    found = [name for name in modules if name in sys.stdlib_module_names or PathFinder.find_spec(name, elsewhere)]
    return [f"{name}.py" for name in found if name != "test"]  # that of Python holds its own tests


# at the import, because a later import would already fail
if _files := hiding("."):
    print(f"error: {', '.join(_files)} in {os.getcwd()} hides Python's module of this name; rename it", file=sys.stderr)
    sys.exit(2)
