"""Stage `train`: latents to a video model, through Ray Train."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from components import checkpoint
from components.config import Config, fingerprint, plain
from components.data.conditions import Conditions
from components.data.latents import Latents
from components.errors import InputError
from components.models.kinds import ModelConfig
from components.models.trained import Trained
from components.tracking import Run, provenance
from components.training.history import write_history
from components.training.optimizer import Phase, RecipeConfig
from pipeline import cluster, conditioning, encoding, fitting, stage
from pipeline.fitting import FitJob, Fitted
from pipeline.latent_training import Source, Start, check, make, model_of
from pipeline.previews import Album

STATE = Path(".state") / "previews"  # pictures on their way from the first worker to the run


class Params(Config):
    """The model and its recipe."""

    model: ModelConfig
    recipe: RecipeConfig


def job_of(params: Params, phase: Phase, source: Source, start: Start | None, album: Album | None = None) -> FitJob:
    """The training of a phase, given the weights that it begins with."""
    train = source.open("train")
    model = model_of(params.model, phase, train.latents.shape[1:])
    chosen = {"model": plain(model), "recipe": phase.recipe.lasting(), "frames": phase.frames}
    return FitJob(
        label=f"train the video model {phase.name}".strip(),
        make=functools.partial(make, model, phase, source, start, album),
        recipe=phase.recipe,
        facts={
            "params": fingerprint(chosen),
            "latents": train.latents.hash,
            "autoencoder": train.latents.key.autoencoder,
            "conditions": None if train.conditions is None else train.conditions.hash,
            "start": None if start is None else checkpoint.identity(start.path.parent),
        },
        notes=provenance(Path.cwd()),
    )


def train_in_phases(
    params: Params, sources: Sequence[Source], autoencoder: Path, log: Run
) -> tuple[list[FitJob], Fitted]:
    """Trains phase after phase, each on its source; the trainings, and the last one's weights with the history of all.

    Losses, and what the model makes of a few validation clips, go into the run as they come.
    """
    given, pictures = params.recipe.start, STATE.resolve() / fingerprint(plain(params))
    start = None if given is None else Start(Path(given.folder).resolve() / checkpoint.WEIGHTS, given.new)
    jobs: list[FitJob] = []
    history: list[dict[str, float]] = []
    for phase, source in zip(params.recipe.parts(), sources, strict=True):
        album = Album(pictures, autoencoder, sum(job.recipe.steps for job in jobs))
        job = job_of(params, phase, source, start, album)

        def told(values: Mapping[str, float], step: int, album: Album = album) -> None:
            log.metrics(values, album.before + step)
            album.log(step, log)

        fitted = fitting.fit(job, told)
        history += [{**row, "step": album.before + row["step"]} for row in fitted.history]
        jobs.append(job)
        start = Start(fitted.weights, ())
    album.close(log)
    return jobs, Fitted(fitted.weights, history)


def main(params: Params, *, latents: Path, autoencoder: Path, out: Path, log: Run) -> dict[str, float]:
    """Averaged weights, what they are and what they were trained on, and the loss curves."""
    train = Latents.open(latents, "train", None)
    check(params.model, params.recipe, train, latents)
    if (identity := checkpoint.identity(autoencoder)) != train.key.autoencoder:
        raise InputError(
            f"{latents} holds latents of the VAE {train.key.autoencoder}, but {autoencoder} holds {identity}; "
            "run `dvc repro` to make the latents again"
        )
    log.dataset(latents.name, str(latents), train.hash, "training")
    given = conditioning.prepare(params.model, latents, cluster.device())
    whole = Source(latents.resolve(), given)
    sources = [
        whole if phase.resolution is None else Source(encoding.resized(phase, autoencoder, latents), given)
        for phase in params.recipe.parts()
    ]
    with cluster.connect(Path.cwd()):
        jobs, fitted = train_in_phases(params, sources, autoencoder.resolve(), log)
    weights = checkpoint.read_weights(fitted.weights)
    checkpoint.save_weights(out / checkpoint.WEIGHTS, weights)
    trained = Trained(
        model=params.model,
        autoencoder=train.key.autoencoder,
        clips=train.key.clips,
        encoder=None if given is None else Conditions.open(given, "train", None).key.encoder,
        mean=tuple(train.mean.tolist()),
        std=tuple(train.std.tolist()),
    )
    checkpoint.describe(out, trained)
    write_history(out / "history.csv", fitted.history)
    log.artifact(out, "model")
    for job in jobs:
        fitting.clear(job)
    last = fitted.history[-1]
    metrics = {name: value for name, value in last.items() if name.startswith("validation_")}
    return {**metrics, "parameters": float(sum(tensor.numel() for tensor in weights.values()))}


if __name__ == "__main__":
    stage.run(main, rows="experiments")
