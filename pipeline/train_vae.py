"""Stage `train_vae`: clips to a video VAE."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from components import checkpoint
from components.autoencoders import interface, trained
from components.autoencoders.causal import CausalVAEConfig
from components.config import Config, fingerprint, plain
from components.data.clips import Clips
from components.data.loading import ReadAhead, sample_ids, share
from components.errors import InputError
from components.metrics import pixels
from components.randomness import derive
from components.reporting import galleries, results
from components.tracking import Run, provenance
from components.training.history import write_history
from components.training.loop import Data, Training
from components.training.optimizer import RecipeConfig
from pipeline import cluster, fitting, stage
from pipeline.fitting import FitJob
from pipeline.workers import Worker

SHOWN = 8  # clips that are kept to be looked at, and scored at a time


class Params(Config):
    """The VAE and its recipe."""

    autoencoder: CausalVAEConfig
    recipe: RecipeConfig


def make(
    config: CausalVAEConfig, recipe: RecipeConfig, clips: Path, weights: Path, worker: Worker
) -> tuple[Training, Data]:
    """One worker's part of the training."""
    torch.manual_seed(derive(recipe.seed, "autoencoder"))
    objective = config.objective.build(config.build(), weights / "lpips.safetensors").to(worker.device)
    train, held = Clips.open(clips, "train"), Clips.open(clips, "val")

    def batches(start: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        def ids(step: int) -> tuple[int, ...]:
            every = sample_ids(step, size=len(train), batch=recipe.batch, seed=recipe.seed)
            return share(every, worker.rank, worker.world)

        with ReadAhead(train.read, ids, range(start, recipe.steps)) as ahead:
            for batch in ahead:
                yield batch.ids, batch.data

    chosen = range(min(recipe.validation_clips, len(held)))
    validation = [
        (tuple(part), held.read(part)) for part in (chosen[i : i + recipe.batch] for i in chosen[:: recipe.batch])
    ]
    return Training(objective, worker.parallel, recipe), Data(batches, validation)


def check(config: CausalVAEConfig, recipe: RecipeConfig, clips: Clips) -> None:
    """Raises InputError if the VAE does not fit the clips, or its recipe is one of a video model."""
    if recipe.start is not None or recipe.phases:
        raise InputError(f"recipe {config.recipe} has a start or phases, which only video models take; use null and []")
    if (config.frames, config.resolution) != (clips.frames, clips.size):
        raise InputError(
            f"the autoencoder is for clips of {config.frames} frames at {config.resolution}, "
            f"but its data set {config.dataset} has clips of {clips.frames} frames at {clips.size}; "
            "change one of them in params.yaml"
        )


def main(params: Params, *, clips: Path, weights: Path, out: Path, log: Run) -> dict[str, float]:
    """A causal video VAE: averaged weights, its description, the loss curves and reconstructions to look at."""
    train = Clips.open(clips, "train")
    check(params.autoencoder, params.recipe, train)
    chosen = {"autoencoder": plain(params.autoencoder), "recipe": params.recipe.lasting()}
    job = FitJob(
        label="train the VAE",
        make=functools.partial(make, params.autoencoder, params.recipe, clips.resolve(), weights.resolve()),
        recipe=params.recipe,
        facts={"params": fingerprint(chosen), "clips": train.hash},
        notes=provenance(Path.cwd()),
    )
    with cluster.connect(Path.cwd()):
        fitted = fitting.fit(job, log.metrics)
    every = checkpoint.read_weights(fitted.weights)
    own = {name.removeprefix("autoencoder."): tensor for name, tensor in every.items()}
    checkpoint.save_weights(out / checkpoint.WEIGHTS, own)
    checkpoint.describe(out, params.autoencoder)
    write_history(out / "history.csv", fitted.history)
    metrics = look(out, Clips.open(clips, "val"))
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    film = galleries.reconstruction_film(results.read_reconstructions(out), 0)
    (out / "reconstruction.png").write_bytes(galleries.sheet(film))
    log.artifact(out, "autoencoder")
    fitting.clear(job)
    return metrics


@torch.no_grad()
def look(out: Path, clips: Clips) -> dict[str, float]:
    """PSNR and SSIM over the validation clips; some of them are written before and after."""
    device = cluster.device()
    vae = trained.load(out, device)
    scores: list[Tensor] = []
    for start in range(0, len(clips), SHOWN):
        truth = clips.read(range(start, min(start + SHOWN, len(clips))))
        moments = vae.encode(interface.to_float(truth.to(device)))
        again = interface.to_uint8(vae.decode(moments.chunk(2, dim=2)[0])).cpu()
        scores.append(torch.stack([pixels.psnr(again, truth), pixels.ssim(again, truth)]))
        if start == 0:
            names = json.dumps([clips.name(index) for index in range(len(truth))])
            pair = {"truth": truth.contiguous(), "reconstruction": again.contiguous()}
            save_file(pair, out / "reconstructions.safetensors", {"names": names})
    psnr, ssim = torch.cat(scores, dim=1).mean(1).tolist()
    return {"psnr": psnr, "ssim": ssim}


if __name__ == "__main__":
    stage.run(main, rows="autoencoders")
