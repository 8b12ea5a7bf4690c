"""Stage `train`: latents to a video model, through Ray Train."""

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from components import checkpoint
from components.config import Config, fingerprint
from components.data.latents import Latents, sample, standardise
from components.data.loading import ReadAhead, sample_ids, share
from components.errors import InputError
from components.models.kinds import ModelConfig
from components.models.trained import Trained
from components.randomness import Stream, derive
from components.tracking import Run
from components.training.history import write_history
from components.training.loop import Data, Training
from components.training.optimizer import RecipeConfig
from pipeline import cluster, fitting, stage
from pipeline.cluster import Worker
from pipeline.fitting import FitJob


class Params(Config):
    """The model and its recipe."""

    model: ModelConfig
    recipe: RecipeConfig


def batch(latents: Latents, moments: Tensor, stream: Stream) -> Tensor:
    """Standardised samples of the posterior: what the model is trained on."""
    noise = stream.fork("posterior").normal(*latents.shape)
    return standardise(sample(moments, noise), latents.mean, latents.std)


def make(config: ModelConfig, recipe: RecipeConfig, folder: Path, worker: Worker) -> tuple[Training, Data]:
    """One worker's part of the training."""
    torch.manual_seed(derive(recipe.seed, "model"))
    model = config.build().to(worker.device)
    train, held = Latents.open(folder, "train", None), Latents.open(folder, "val", None)

    def batches(start: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        def ids(step: int) -> tuple[int, ...]:
            every = sample_ids(step, size=len(train), batch=recipe.batch, seed=recipe.seed)
            return share(every, worker.rank, worker.world)

        with ReadAhead(train.moments, ids, range(start, recipe.steps)) as ahead:
            for read in ahead:
                yield read.ids, batch(train, read.data, Stream.of(recipe.seed, read.ids).fork("step", read.step))

    chosen = range(min(recipe.validation_clips, len(held)))
    parts = [tuple(chosen[start : start + recipe.batch]) for start in chosen[:: recipe.batch]]
    validation = [(ids, batch(held, held.moments(ids), Stream.of(recipe.seed, ids).fork("held"))) for ids in parts]
    return Training(model, worker.parallel, recipe), Data(batches, validation)


def check(config: ModelConfig, latents: Latents, folder: Path) -> None:
    """Raises InputError if the model does not fit the latents."""
    if config.latent != latents.shape[1:]:
        raise InputError(
            f"the model is for latents of (channels, height, width) {config.latent}, "
            f"but {folder} holds {latents.shape[1:]}; set model.latent to these numbers, or train another autoencoder"
        )


def main(params: Params, *, latents: Path, out: Path, log: Run) -> dict[str, float]:
    """Averaged weights, what they are and what they were trained on, and the loss curves."""
    train = Latents.open(latents, "train", None)
    check(params.model, train, latents)
    facts = {"params": fingerprint(params), "latents": train.hash}
    job = FitJob(
        label="train the video model",
        make=functools.partial(make, params.model, params.recipe, latents.resolve()),
        facts=facts,
        workers=params.recipe.workers,
        steps=params.recipe.steps,
    )
    log.dataset(latents.name, str(latents), train.hash, "training")
    with cluster.connect(Path.cwd()):
        fitted = fitting.fit(job, log.metrics)
    weights = checkpoint.read_weights(fitted.weights)
    checkpoint.save_weights(out / checkpoint.WEIGHTS, weights)
    trained = Trained(
        model=params.model,
        autoencoder=train.key.autoencoder,
        clips=train.key.clips,
        mean=tuple(train.mean.tolist()),
        std=tuple(train.std.tolist()),
    )
    checkpoint.describe(out, trained)
    write_history(out / "history.csv", fitted.history)
    log.artifact(out, "model")
    fitting.clear(job)
    last = fitted.history[-1]
    metrics = {name: value for name, value in last.items() if name.startswith("validation_")}
    return {**metrics, "parameters": float(sum(tensor.numel() for tensor in weights.values()))}


if __name__ == "__main__":
    stage.run(main, rows="experiments")
