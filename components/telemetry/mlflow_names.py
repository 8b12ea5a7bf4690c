"""Names of parameters, metrics and tags that MLflow accepts."""

import hashlib
import posixpath
import re
from typing import Final

LONGEST: Final = 250  # characters, MLflow's limit
DIGITS: Final = 8  # of the hash in a name that MLflow would not have accepted


def accepted(name: str) -> str:
    """Return `name` if MLflow accepts it, else a similar name with a hash, so that different names stay different."""
    legal = re.sub(r"[^/\w.\- :]", "_", name)
    if legal == name and len(name) <= LONGEST and _is_relative_path(name):
        return name
    stem = "/".join(part for part in legal.split("/") if part.strip(".")).lstrip(".")
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:DIGITS]
    return f"{stem[: LONGEST - DIGITS - 1]}-{digest}"


def _is_relative_path(name: str) -> bool:
    """Return whether the name is also a normalised path below a folder, which MLflow requires."""
    return posixpath.normpath(name) == name and name != "." and not name.startswith(("..", "/"))
