"""Stage `train_vae`: clips to a video VAE."""

import functools
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from components import checkpoint
from components.autoencoders import interface, trained
from components.autoencoders.coding import Coder
from components.autoencoders.kinds import AutoencoderConfig, located
from components.config import Config, fingerprint, plain
from components.data.clips import Clips
from components.data.loading import ReadAhead, sample_ids, share
from components.errors import InputError
from components.metrics import pixels
from components.nn.lpips import LPIPS
from components.randomness import derive
from components.reporting import galleries, results
from components.tracking import Run, provenance
from components.training.history import write_history
from components.training.loop import Data, Training
from components.training.optimizer import RecipeConfig
from pipeline import cluster, fitting, stage
from pipeline.fitting import FitJob
from pipeline.progress import say
from pipeline.workers import Worker

OWN = "autoencoder."  # how the names of the VAE's own weights begin; the rest is its adversary's
AHEAD = "; it looks ahead, so a context alone has other latents than within its clip"
SHOWN = 8  # clips that are kept to be looked at, and scored at a time
JUDGE = "lpips.safetensors"  # of the public weights


class Params(Config):
    """The VAE and its recipe."""

    autoencoder: AutoencoderConfig
    recipe: RecipeConfig


def make(
    config: AutoencoderConfig, recipe: RecipeConfig, clips: Path, weights: Path, worker: Worker
) -> tuple[Training, Data]:
    """One worker's part of the training."""
    torch.manual_seed(derive(recipe.seed, "autoencoder"))
    assert config.objective is not None
    objective = config.objective.build(config.build(), weights / JUDGE).to(worker.device)
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


def check(config: AutoencoderConfig, recipe: RecipeConfig, clips: Clips) -> None:
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
    """A video VAE: averaged weights, its description, the loss curves and reconstructions to look at."""
    train = Clips.open(clips, "train")
    check(params.autoencoder, params.recipe, train)
    jobs = [] if params.autoencoder.objective is None else [job_of(params, clips, weights, train)]
    fitted = None
    with cluster.connect(Path.cwd()) if jobs else nullcontext():
        for job in jobs:
            fitted = fitting.fit(job, log.metrics)
    vae = params.autoencoder.build()
    every = {f"{OWN}{name}": tensor for name, tensor in vae.state_dict().items()}
    if fitted is not None:
        every = checkpoint.read_weights(fitted.weights)
    own = {name.removeprefix(OWN): tensor for name, tensor in every.items() if name.startswith(OWN)}
    trained.save(out, vae, own)
    write_history(out / "history.csv", fitted.history if fitted is not None else [])
    metrics = look(out, Clips.open(clips, "val"), weights)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    film = galleries.reconstruction_film(results.read_reconstructions(out), 0)
    (out / "reconstruction.png").write_bytes(galleries.sheet(film))
    log.artifact(out, "autoencoder")
    for job in jobs:
        fitting.clear(job)
    return metrics


def job_of(params: Params, clips: Path, weights: Path, train: Clips) -> FitJob:
    """The training of a VAE on these clips."""
    chosen = {"autoencoder": plain(params.autoencoder), "recipe": params.recipe.lasting()}
    return FitJob(
        label="train the VAE",
        make=functools.partial(make, located(params.autoencoder), params.recipe, clips.resolve(), weights.resolve()),
        recipe=params.recipe,
        facts={"params": fingerprint(chosen), "clips": train.hash},
        notes=provenance(Path.cwd()),
    )


@torch.no_grad()
def look(out: Path, clips: Clips, weights: Path) -> dict[str, float]:
    """PSNR, SSIM and LPIPS over the validation clips; some of them are written before and after."""
    device = cluster.device()
    coder = Coder(trained.load(out, device), device)
    judge = LPIPS.load(weights / JUDGE, "alex").to(device)
    scores: list[dict[str, Tensor]] = []
    for start in range(0, len(clips), SHOWN):
        truth = clips.read(range(start, min(start + SHOWN, len(clips))))
        moments = torch.cat(list(coder.encode(truth)))
        again = torch.cat(list(coder.decode(moments.chunk(2, dim=2)[0])))
        scores.append(likeness(again, truth, judge))
        if start == 0:
            names = json.dumps([clips.name(index) for index in range(len(truth))])
            pair = {"truth": truth.contiguous(), "reconstruction": again.contiguous()}
            save_file(pair, out / "reconstructions.safetensors", {"names": names})
            shape = {"latent": list(moments.chunk(2, dim=2)[0].shape[1:]), "frames": coder.vae.frame_formula}
            say(f"  {coder.vae.frame_formula}{'' if coder.vae.causal else AHEAD}")
            (out / "shape.json").write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")
    return {name: float(torch.cat([part[name] for part in scores]).mean()) for name in scores[0]}


def likeness(again: Tensor, truth: Tensor, judge: LPIPS) -> dict[str, Tensor]:
    """PSNR, SSIM and LPIPS of each clip; frames too small for LPIPS go without it."""
    found = {"psnr": pixels.psnr(again, truth), "ssim": pixels.ssim(again, truth)}
    if min(truth.shape[-2:]) >= judge.smallest:
        pairs = [interface.to_float(clips.flatten(0, 1).to(judge.shift.device)) for clips in (again, truth)]
        found["lpips"] = judge(*pairs).cpu().unflatten(0, truth.shape[:2]).mean(dim=1)
    return found


if __name__ == "__main__":
    stage.run(main, rows="autoencoders")
