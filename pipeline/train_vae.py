"""Stage `train_vae`: train a video VAE on clips with Ray Train."""

import functools
import json
from contextlib import nullcontext
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor

from components.datasets.clips import Clips
from components.foundation import checkpoint, devices
from components.foundation.config import Config, fingerprint, plain
from components.foundation.files import write_json
from components.nn import pixels
from components.nn.autoencoders import interface, serialization
from components.nn.autoencoders.coding import Coder
from components.nn.autoencoders.kinds import AutoencoderConfig, with_absolute_path
from components.nn.lpips import LPIPS
from components.telemetry import registry
from components.telemetry.progress import say
from components.telemetry.tracking import Run, provenance
from components.training.history import write_history
from components.training.optimizer import RecipeConfig
from pipeline.fitting import trainer
from pipeline.fitting.vae_training import LPIPS_FILE, check, make
from pipeline.fitting.workers import FitJob
from pipeline.monitoring import nodes
from pipeline.monitoring.reconstructions import log_reconstruction
from pipeline.runtime import cluster, stage

VAE_PREFIX = "autoencoder."  # of the names of the VAE's weights; all others belong to the discriminator
NOT_CAUSAL = "; it is not causal, so the latents of a context differ from those within its clip"
BATCH = 8  # clips that are scored at a time; the first batch is stored to look at


class Params(Config):
    """A VAE and its training recipe."""

    autoencoder: AutoencoderConfig
    recipe: RecipeConfig


def main(params: Params, *, clips: Path, weights: Path, out: Path, log: Run) -> dict[str, float]:
    """Write a VAE's averaged weights, its description, the loss curves and reconstructions; return their scores.

    Raise InputError if the VAE, its recipe and the clips do not match.
    """
    train = Clips.open(clips, "train")
    check(params.autoencoder, params.recipe, train)
    jobs = [] if params.autoencoder.objective is None else [job_of(params, clips, weights, train)]
    fitted = None
    with cluster.connect(Path.cwd()) if jobs else nullcontext():
        for job in jobs:
            with nodes.watched(log.handle):
                fitted = trainer.fit(job, log.metrics)
    vae = params.autoencoder.build()
    state = {f"{VAE_PREFIX}{name}": tensor for name, tensor in vae.state_dict().items()}
    if fitted is not None:
        state = checkpoint.read_weights(fitted.weights)
    own = {name.removeprefix(VAE_PREFIX): tensor for name, tensor in state.items() if name.startswith(VAE_PREFIX)}
    serialization.save(out, vae, own)
    write_history(out / "history.csv", fitted.history if fitted is not None else [])
    metrics = score_reconstructions(out, Clips.open(clips, "val"), weights)
    write_json(out / "metrics.json", metrics)
    registry.log_weights(log, out, data="clips")
    log_reconstruction(out, log)
    for job in jobs:
        trainer.clear(job)
    return metrics


def job_of(params: Params, clips: Path, weights: Path, train: Clips) -> FitJob:
    """Return the job that trains a VAE on these clips."""
    chosen = {"autoencoder": plain(params.autoencoder), "recipe": params.recipe.result_settings()}
    return FitJob(
        label="train the VAE",
        make=functools.partial(
            make, with_absolute_path(params.autoencoder), params.recipe, clips.resolve(), weights.resolve()
        ),
        recipe=params.recipe,
        identity={"params": fingerprint(chosen), "clips": train.hash},
        notes=provenance(Path.cwd()),
    )


@torch.no_grad()
def score_reconstructions(out: Path, clips: Clips, weights: Path) -> dict[str, float]:
    """Return the mean PSNR (dB), SSIM and LPIPS of the reconstructed clips.

    Write the first batch with its reconstructions, and the shape of the latents.
    """
    device = devices.device()
    coder = Coder(serialization.load(out, device), device)
    lpips = LPIPS.load(weights / LPIPS_FILE, "alex").to(device)
    scores: list[dict[str, Tensor]] = []
    for start in range(0, len(clips), BATCH):
        truth = clips.read(range(start, min(start + BATCH, len(clips))))
        moments = torch.cat(list(coder.encode(truth)))
        reconstruction = torch.cat(list(coder.decode(moments.chunk(2, dim=2)[0])))
        scores.append(clip_scores(reconstruction, truth, lpips))
        if start == 0:
            text = json.dumps({"names": [clips.name(index) for index in range(len(truth))]})
            pair = {"truth": truth.contiguous(), "reconstruction": reconstruction.contiguous()}
            save_file(pair, out / "reconstructions.safetensors", {"text": text})
            shape = {"latent": list(moments.chunk(2, dim=2)[0].shape[1:]), "frames": coder.vae.frame_formula}
            say(f"  {coder.vae.frame_formula}{'' if coder.vae.causal else NOT_CAUSAL}")
            write_json(out / "shape.json", shape)
    return {name: float(torch.cat([part[name] for part in scores]).mean()) for name in scores[0]}


def clip_scores(
    reconstruction: UInt8[Tensor, "b f c h w"], truth: UInt8[Tensor, "b f c h w"], lpips: LPIPS
) -> dict[str, Float[Tensor, "b"]]:
    """Return the PSNR (dB), SSIM and LPIPS of each clip, without LPIPS if the frames are too small for its network."""
    scores = {"psnr": pixels.psnr(reconstruction, truth), "ssim": pixels.ssim(reconstruction, truth)}
    if min(truth.shape[-2:]) >= lpips.smallest:
        pair = [interface.to_float(clips.flatten(0, 1).to(lpips.shift.device)) for clips in (reconstruction, truth)]
        scores["lpips"] = lpips(*pair).cpu().unflatten(0, truth.shape[:2]).mean(dim=1)
    return scores


if __name__ == "__main__":
    from pipeline.checks import problems  # not above: a Ray worker that imports this file needs no checks

    stage.run(main, rows="autoencoders", check=problems.before_stage)
