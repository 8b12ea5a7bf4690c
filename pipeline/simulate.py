"""Stage `simulate`: write videos of a simulated world in the layout of a user's own videos."""

import functools
import itertools
from pathlib import Path

from jaxtyping import Float
from numpy import ndarray

from components.datasets import actions
from components.datasets.shards import SPLITS
from components.foundation.config import Config
from components.simulation import kuka, pusher, shapes
from components.simulation.kuka import KukaConfig
from components.simulation.pusher import PusherConfig
from components.simulation.shapes import Episode, ShapesConfig
from components.simulation.worlds import COMMANDS, AnyWorld, World
from components.telemetry.tracking import Run
from components.video import video
from pipeline.runtime import ray_map, stage

EPISODES_PER_TASK = 8


class Params(Config):
    """The simulated world with the number, length and resolution of its episodes."""

    simulation: AnyWorld


def episodes(config: World) -> list[tuple[str, int]]:
    """Return the split and number of every episode."""
    counts = config.episodes
    return [(split, number) for split in SPLITS for number in range(getattr(counts, split))]


def write_videos(config: World, out: Path, part: list[tuple[str, int]]) -> list[Float[ndarray, "f i"] | None]:
    """Write each of these episodes as an mp4 file; return their commands, None for a world without commands."""
    commands = []
    for split, number in part:
        episode = _simulate(config, split, number)
        video.write(out / video_name(split, number), episode.clip, config.fps)
        commands.append(episode.commands)
    return commands


def _simulate(config: World, split: str, number: int) -> Episode:
    match config:
        case PusherConfig():
            return pusher.simulate(config, split, number)
        case ShapesConfig():
            return shapes.simulate(config, split, number)
        case KukaConfig():
            return kuka.simulate(config, split, number)


def video_name(split: str, number: int) -> str:
    """Return the path of an episode's video relative to the output folder."""
    return f"{split}/{number:05d}.mp4"


def main(params: Params, *, out: Path, log: Run) -> dict[str, float]:
    """Write simulated videos to the folders train, val and test, and the command of each frame to actions.csv.

    The files depend on the seed, not on the number of workers. A world without commands has no actions.csv.
    """
    pairs = episodes(params.simulation)
    for split in SPLITS:
        (out / split).mkdir()  # also for a split without episodes
    parts = [pairs[start : start + EPISODES_PER_TASK] for start in range(0, len(pairs), EPISODES_PER_TASK)]
    work = functools.partial(write_videos, params.simulation, out.resolve())
    with ray_map.connect(Path.cwd(), num_cpus=1, use_gpu=False) as parallel:
        unit = f"tasks of {EPISODES_PER_TASK} episodes"
        done = parallel(lambda: work, parts, total=len(parts), label="simulate", unit=unit)
    commands = list(itertools.chain.from_iterable(done))
    if (columns := COMMANDS[params.simulation.kind]) is not None:
        named = [(video_name(*pair), rows) for pair, rows in zip(pairs, commands, strict=True) if rows is not None]
        actions.write_csv(out / actions.CSV, columns, named)
    log.artifact(out / video_name(*pairs[0]), "videos")
    return {"episodes": float(len(commands)), "frames": float(len(commands) * params.simulation.frames)}


if __name__ == "__main__":
    from pipeline.checks import problems  # not above: a Ray worker that imports this file needs no checks

    stage.run(main, rows="simulations", check=problems.before_stage)
