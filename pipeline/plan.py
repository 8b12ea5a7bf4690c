"""Command `plan`: what a training will take, before anything is spent."""

import argparse
from pathlib import Path

from components.autoencoders.kinds import AutoencoderConfig
from components.config import Config, read_yaml
from components.models.conditions import blank
from components.models.kinds import ModelConfig
from components.training.optimizer import RecipeConfig
from components.training.plan import Plan, plan
from pipeline import stage
from pipeline.progress import say


class Params(Config):
    """What is trained, on latents of which shape, and how."""

    autoencoder: AutoencoderConfig
    model: ModelConfig
    recipe: RecipeConfig


def main() -> None:
    """Prints weights, tokens, work, memory and hours of a training; needs params.yaml alone."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.plan", description=main.__doc__)
    parser.add_argument("--row", required=True, metavar="NAME", help="an entry of the table experiments in params.yaml")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default: params.yaml")
    rate = "TFLOP/s of a worker, for the hours (default: 1 10 100); a run logs its own as teraflops_per_second"
    parser.add_argument("--rate", type=float, nargs="+", default=[1.0, 10.0, 100.0], metavar="RATE", help=rate)
    arguments = parser.parse_args()
    with stage.command():
        params: Params = stage.resolve(Params, read_yaml(arguments.params), "experiments", arguments.row)
        params.recipe.check()
        say(report(params, arguments.rate))


def report(params: Params, rates: list[float]) -> str:
    """The plan of every phase."""
    frames, *whole = params.autoencoder.latent
    parts = []
    for phase in params.recipe.parts():
        latent = phase.latent((whole[0], whole[1], whole[2]), params.autoencoder.resolution)
        model, shape = params.model.model_copy(update={"latent": latent}), (phase.frames or frames, *latent)
        planned = plan(model.build, blank(model, shape), phase.recipe)
        parts.append(text(phase.name, phase.recipe, shape, planned, rates))
    return "\n".join(parts)


def text(name: str, recipe: RecipeConfig, shape: tuple[int, ...], planned: Plan, rates: list[float]) -> str:
    """The plan of one phase as lines for a person."""
    frames, _, height, width = shape
    tokens = (frames - 1) * height * width * recipe.batch
    memory = sum(planned.memory.values())
    lines = [
        ("parameters", _list({name: f"{count / 1e6:.2f} M" for name, count in planned.parameters.items()})),
        ("", f"{sum(planned.parameters.values()) / 1e6:.2f} M in all"),
        ("tokens", f"{height * width} a frame, {tokens} predicted in a step, {tokens * recipe.steps:.3g} in all"),
        ("a step", f"{planned.flops / 1e12:.3g} TFLOP over {planned.workers} workers, the mean over random masks"),
        ("", f"{_mib(2 * planned.read)} read (means and variances), {_mib(planned.exchanged)} sent by each worker"),
        ("memory", f"{_mib(memory)} on each worker with {planned.clips} clips at once, besides torch itself"),
        ("", _list({name: _mib(size) for name, size in planned.memory.items() if size})),
        ("steps", f"{recipe.steps}, and a checkpoint of {_mib(planned.checkpoint)} every {recipe.checkpoint_every}"),
        ("hours", _list({f"at {rate:g} TFLOP/s a worker": _hours(planned, recipe, rate) for rate in rates})),
    ]
    title = [f"{name}:"] if name else []
    return "\n".join([*title, *(f"  {word:<12}{words}" for word, words in lines)])


def _list(parts: dict[str, str]) -> str:
    return ", ".join(f"{name} {words}" for name, words in parts.items())


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _hours(planned: Plan, recipe: RecipeConfig, rate: float) -> str:
    return f"{planned.hours(recipe, rate * 1e12):.3g}"


if __name__ == "__main__":
    main()
