"""Stage `weights`: the public networks that score and guide, out of pinned packages."""

from pathlib import Path

from components import weights
from components.config import Config
from pipeline import stage


class Params(Config):
    """Nothing to choose: the weights are pinned by their hash."""


def main(params: Params, *, out: Path) -> dict[str, float]:
    """I3D of Kinetics-400 for FVD and LPIPS's trunks, as safetensors; downloaded once, checked by sha256."""
    return weights.prepare(out, Path(".state") / "downloads")


if __name__ == "__main__":
    stage.run(main, rows=None)
