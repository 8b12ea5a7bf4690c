"""Stage `simulate`: videos of a simulated world, as a user's own videos would lie there."""

import functools
from pathlib import Path
from typing import Annotated

from pydantic import Field

from components.config import Config
from components.data import kuka, shapes, video
from components.data.kuka import KukaConfig
from components.data.shapes import ShapesConfig
from components.data.shards import SPLITS
from components.tracking import Run
from pipeline import cluster, stage

Simulation = Annotated[KukaConfig | ShapesConfig, Field(discriminator="kind")]
EPISODES_PER_TASK = 8


class Params(Config):
    """Of which world, how many episodes, how long and how large."""

    simulation: Simulation


def episodes(config: KukaConfig | ShapesConfig) -> list[tuple[str, int]]:
    """Split and number of every episode."""
    counts = config.episodes
    return [(split, number) for split in SPLITS for number in range(getattr(counts, split))]


def write(config: KukaConfig | ShapesConfig, out: Path, part: list[tuple[str, int]]) -> int:
    """Simulates these episodes and writes each as an mp4 file; returns how many."""
    simulate = kuka.simulate if isinstance(config, KukaConfig) else shapes.simulate
    for split, number in part:
        clip = simulate(config, split, number)  # type: ignore[arg-type]
        video.write(out / split / f"{number:05d}.mp4", clip, config.fps)
    return len(part)


def main(params: Params, *, out: Path, log: Run) -> dict[str, float]:
    """Simulated videos in the folders train, val and test; the same for the same seed on any number of workers."""
    every = episodes(params.simulation)
    for split in SPLITS:
        (out / split).mkdir()  # the folders are there even where a split has no episodes
    parts = [every[start : start + EPISODES_PER_TASK] for start in range(0, len(every), EPISODES_PER_TASK)]
    work = functools.partial(write, params.simulation, out.resolve())
    with cluster.connect(Path.cwd()):
        done = cluster.map_tasks(work, parts, label="simulate", unit=f"tasks of {EPISODES_PER_TASK} episodes")
    first = out / every[0][0] / f"{every[0][1]:05d}.mp4"
    log.artifact(first, "videos")
    return {"episodes": float(sum(done)), "frames": float(sum(done) * params.simulation.frames)}


if __name__ == "__main__":
    stage.run(main, rows="simulations")
