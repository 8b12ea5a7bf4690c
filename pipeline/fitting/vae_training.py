"""Set up the training of a VAE on one worker: the VAE, its objective, and its batches of clips."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from components.datasets.clips import Clips
from components.datasets.loading import ReadAhead, sample_ids, share
from components.foundation.errors import InputError
from components.foundation.randomness import derive
from components.nn.autoencoders import interface
from components.nn.autoencoders.folded import FoldedVAE
from components.nn.autoencoders.kinds import VAE, AutoencoderConfig
from components.training.loop import Data, Training, Worker
from components.training.optimizer import RecipeConfig

LPIPS_FILE: Final = "lpips.safetensors"  # in the folder of public weights


def make(
    autoencoder: AutoencoderConfig, recipe: RecipeConfig, clips: Path, weights: Path, worker: Worker
) -> tuple[Training, Data]:
    """Return the training state and the data of one worker."""
    torch.manual_seed(derive(recipe.seed, "autoencoder"))
    assert autoencoder.objective is not None
    train, val = Clips.open(clips, "train"), Clips.open(clips, "val")
    vae = autoencoder.build()
    initialise(vae, train)
    objective = autoencoder.objective.build(vae, weights / LPIPS_FILE).to(worker.device)

    def batches(start: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        def ids(step: int) -> tuple[int, ...]:
            batch_ids = sample_ids(step, size=len(train), batch=recipe.batch, seed=recipe.seed)
            return share(batch_ids, worker.rank, worker.world_size)

        with ReadAhead(train.read, ids, range(start, recipe.steps)) as ahead:
            for batch in ahead:
                yield batch.ids, batch.data

    chosen = range(min(recipe.validation_clips, len(val)))
    validation = [
        (tuple(part), val.read(part)) for part in (chosen[i : i + recipe.batch] for i in chosen[:: recipe.batch])
    ]
    return Training(objective, worker.parallel, recipe), Data(batches, validation)


def initialise(vae: VAE, clips: Clips) -> None:
    """Initialise the linear path of a VAE, if it has one, to the PCA of clips spread evenly over the split.

    All workers compute the same weights from the same clips. Raise InputError if the clips have too few blocks.
    """
    if not isinstance(vae, FoldedVAE) or vae.settings.linear is None:
        return
    count = min(vae.settings.linear.clips, len(clips))
    vae.initialise_pca(interface.to_float(clips.read([index * len(clips) // count])) for index in range(count))


def check(autoencoder: AutoencoderConfig, recipe: RecipeConfig, clips: Clips) -> None:
    """Raise InputError if the VAE does not fit the clips, or its recipe has settings of video models."""
    if recipe.new_weights or recipe.phases:
        raise InputError(
            f"recipe {autoencoder.recipe} has new_weights or phases, which only video models support; set both to []"
        )
    if (autoencoder.frames, autoencoder.resolution) != (clips.frames, clips.size):
        raise InputError(
            f"the autoencoder expects clips of {autoencoder.frames} frames at {autoencoder.resolution}, "
            f"but its data set {autoencoder.dataset} has clips of {clips.frames} frames at {clips.size}; "
            "change one of them in params.yaml"
        )
