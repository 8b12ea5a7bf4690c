"""Stage `train`: train a video model on latents with Ray Train."""

import functools
from pathlib import Path
from typing import Final

from components.datasets.conditions import Conditions
from components.datasets.latents import Latents
from components.foundation import checkpoint, devices
from components.foundation.caching.cache import Cache
from components.foundation.config import Config, fingerprint, plain
from components.foundation.errors import InputError
from components.models.conditions import encoders
from components.models.kinds import ModelConfig
from components.models.latent_training import InitialWeights, TrainingSource, check, make, phase_model
from components.models.serialization import ModelDescription
from components.nn.autoencoders import serialization as autoencoders
from components.telemetry import registry
from components.telemetry.tracking import Run, provenance
from components.training.history import write_history
from components.training.optimizer import Phase, RecipeConfig
from pipeline.encoding import resolutions
from pipeline.fitting import trainer
from pipeline.fitting.workers import FitJob
from pipeline.monitoring import nodes
from pipeline.monitoring.previews import Previews
from pipeline.runtime import cluster, stage

HEADLINES: Final = ("validation_flow", "validation_canvas")  # for `dvc metrics`


class Params(Config):
    """A row's model and training recipe."""

    model: ModelConfig
    recipe: RecipeConfig


def job_of(
    model: ModelConfig,
    phase: Phase,
    source: TrainingSource,
    start: InitialWeights | None,
    previews: Previews | None = None,
) -> FitJob:
    """Return the job that trains one phase from the weights `start`, or from random weights if it is None."""
    train = source.open("train")
    model = phase_model(model, phase, train.latents.shape[1:])
    chosen = {"model": plain(model), "recipe": phase.recipe.result_settings(), "frames": phase.frames}
    return FitJob(
        label=f"train the video model {phase.name}".strip(),
        make=functools.partial(make, model, phase, source, start, previews),
        recipe=phase.recipe,
        identity={
            "params": fingerprint(chosen),
            "latents": train.latents.hash,
            "autoencoder": train.latents.key.autoencoder,
            "conditions": None if train.conditions is None else train.conditions.hash,
            "start": None if start is None else start.identity,
        },
        notes=provenance(Path.cwd()),
    )


def main(
    params: Params, *, clips: Path, latents: Path, autoencoder: Path, start: Path, out: Path, log: Run
) -> dict[str, float]:
    """Write the averaged weights, their description and the loss curves; return the last validation losses.

    Raise InputError if the model, the recipe, the latents and the VAE do not match.
    """
    model, recipe = params.model, params.recipe
    train = Latents.open(latents, "train", None)
    check(model, recipe, train, latents)
    if (identity := checkpoint.identity(autoencoder)) != train.key.autoencoder:
        raise InputError(
            f"{latents} holds latents of the VAE {train.key.autoencoder}, but {autoencoder} holds the VAE {identity}; "
            "run `dvc repro` to encode the latents again"
        )
    if (dataset := autoencoders.description(autoencoder).dataset) != clips.name:
        raise InputError(
            f"the autoencoder {autoencoder.name} encodes the data set {dataset}, but the row has {clips.name}; "
            f"set the row's dataset to {dataset}"
        )
    log.dataset(latents.name, str(latents), train.hash, "training")
    conditions = encoders.prepare(model, latents, autoencoder, devices.device())
    phases = recipe.resolved_phases()
    sources = [TrainingSource(source_folder(phase, clips, autoencoder, latents), conditions) for phase in phases]
    initial = InitialWeights.of(start, recipe.new_weights)
    pictures = Cache.here().entry("previews", plain(params), "none: no result depends on pictures").path
    previews = Previews(pictures, autoencoder.resolve(), steps_before=0)
    jobs: list[FitJob] = []
    history: list[dict[str, float]] = []
    with cluster.connect(Path.cwd()), nodes.watched(log.handle):
        for phase, source in zip(phases, sources, strict=True):
            jobs.append(job_of(model, phase, source, initial, previews))
            fitted = trainer.fit(jobs[-1], functools.partial(previews.log_metrics, log))
            history += [{**row, "step": previews.steps_before + row["step"]} for row in fitted.history]
            initial, previews = InitialWeights(fitted.weights, ()), previews.next_phase(phase.recipe.steps)
        previews.close(log)
    weights = checkpoint.read_weights(fitted.weights)
    checkpoint.save_weights(out / checkpoint.WEIGHTS, weights)
    checkpoint.describe(out, description(model, train, latents, conditions))
    write_history(out / "history.csv", history)
    registry.log_weights(log, out, data="latents")
    for job in jobs:
        trainer.clear(job)
    metrics = {name: value for name, value in history[-1].items() if name.startswith("validation_")}
    return {**metrics, "parameters": float(sum(tensor.numel() for tensor in weights.values()))}


def source_folder(phase: Phase, clips: Path, autoencoder: Path, latents: Path) -> Path:
    """Return the folder of a phase's latents; encode them first if the phase has its own resolution."""
    return latents.resolve() if phase.resolution is None else resolutions.resized(phase, clips, autoencoder, latents)


def description(model: ModelConfig, train: Latents, latents: Path, conditions: Path | None) -> ModelDescription:
    """Return the description of a trained model, which sampling needs besides the weights."""
    return ModelDescription(
        model=model,
        autoencoder=train.key.autoencoder,
        clips=train.key.clips,
        encoder=None if conditions is None else Conditions.open(conditions, "train", None).key.encoder,
        actions=encoders.scale_of(model, latents),
        mean=tuple(train.mean.tolist()),
        std=tuple(train.std.tolist()),
    )


if __name__ == "__main__":
    from pipeline.checks import problems  # not above: a Ray worker that imports this file needs no checks

    stage.run(main, rows="experiments", check=problems.before_stage, headlines=HEADLINES)
