"""In training, some input frames are replaced by the canvases that the model itself predicts for them."""

import pytest
import torch

from components.foundation.randomness import Stream
from components.models.canvasmar.model import CanvasMAR
from components.models.layers.embeddings import patchify
from tests.behaviour.conftest import LATENT

GROUPS = 4


def clips(group: int, batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1 + GROUPS * group, *LATENT, generator=generator)


def replaced(model: CanvasMAR, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clips after scheduled sampling, and the canvases of all frames of the true history."""
    draws = model.draw(latents, Stream.of(0, range(len(latents))))
    inputs = model._scheduled_sampling(latents, None, draws)
    z_c = model._canvas_embedding(model._encode_history(latents, None), latents, None, draws, None)
    last = latents[:, : -1 : model.group].repeat_interleave(model.group, dim=1).flatten(0, 1)
    assert model.canvas is not None
    canvas = model.frame(model.canvas.canvas(z_c, patchify(last, 1)))
    return inputs, canvas.unflatten(0, (len(latents), -1))


@pytest.mark.parametrize("choices", [{}, {"history": 2, "change": True, "local": True}, {"group": 2}])
@pytest.mark.parametrize(("own", "count"), [(0.5, 2), (0.3, 1), (0.01, 1), (0.9, 4)])
@torch.no_grad()
def test_as_many_groups_as_the_share_says_are_the_models_own_and_the_rest_is_the_truth(make, choices, own, count):
    model = make(**choices, own=own)
    latents = clips(model.group)
    inputs, canvas = replaced(model, latents)
    assert torch.equal(inputs[:, 0], latents[:, 0])
    true, found = (part[:, 1:].unflatten(1, (GROUPS, -1)) for part in (latents, inputs))
    changed = (found != true).flatten(2).any(dim=2)
    assert changed.sum(dim=1).tolist() == [count] * len(latents)
    expected = torch.where(changed[..., None, None, None, None], canvas.unflatten(1, (GROUPS, -1)), true)
    torch.testing.assert_close(found, expected)


def test_every_frame_is_replaced_equally_often(make) -> None:
    own = make(own=0.5).draw(clips(1, 1).expand(400, -1, -1, -1, -1), Stream.of(0, range(400))).own
    assert own.flatten().bincount().tolist() == pytest.approx([200] * GROUPS, abs=40)  # four standard deviations


def test_validation_sees_the_truth(make) -> None:
    latents = clips(1)
    losses = {}
    for training in (True, False):
        for own in (0.0, 0.9):
            model = make(own=own).train(training)
            draws = model.draw(latents, Stream.of(0, range(len(latents))))
            losses[training, own] = model(latents, draws).terms["canvas"].item()
    assert losses[False, 0.0] == losses[False, 0.9]
    assert losses[True, 0.0] != losses[True, 0.9]
