"""Data classes of CanvasMAR: the random draws of a training step, a condition, and a proposal."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from components.models.canvasmar.reference import Reference


def select(part: Shaped[Tensor, "_ ..."], rows: Int[Tensor, "b k"]) -> Shaped[Tensor, "_ ..."]:
    """Select k of the rows of each clip; the rows of a clip are adjacent in `part`, and `rows` holds their indices."""
    clips = part.unflatten(0, (len(rows), -1))
    return clips[torch.arange(len(rows), device=part.device)[:, None], rows].flatten(0, 1)


@dataclass(frozen=True, slots=True)
class Draws:
    """Random draws of one training step. A row is a frame that is predicted from the frames before its group."""

    visible: int  # number of visible tokens, the same in every row
    order: Int[Tensor, "b t n"]  # grid indices of the tokens, visible tokens first
    time: Float[Tensor, "b t k a"]  # flow times of the masked tokens and their repeats
    noise: Float[Tensor, "b t k a p"]  # flow noise of the masked tokens and their repeats
    frame_strength: Float[Tensor, "b _"]  # one for each group, in [0, 1), to be scaled to the interval of r, Eq. 11
    frame_noise: Float[Tensor, "b _ i h w"]  # noise of Eq. 11 for the channels of all input frames of the Canvas ViT
    canvas_strength: Float[Tensor, "b _"]  # one for each row with a canvas, in [0, 1), for r' of Eq. 12
    canvas_noise: Float[Tensor, "b _ n d"]  # noise of Eq. 12
    no_history: Bool[Tensor, "b t"]  # rows whose history is dropped
    no_canvas: Bool[Tensor, "b t"]  # rows whose canvas is dropped
    own: Int[Tensor, "b _"]  # indices of the groups whose input frames are replaced by the model's canvas
    no_action: Bool[Tensor, "b"]  # clips whose actions are dropped
    rows: Int[Tensor, "b t"] | None  # indices of the rows with a flow loss; None: all rows

    def select_rows(self, part: Shaped[Tensor, "_ ..."]) -> Shaped[Tensor, "_ ..."]:
        """Select the rows with a flow loss from a tensor of all rows of the batch."""
        return part if self.rows is None else select(part, self.rows)


@dataclass(frozen=True, slots=True)
class Condition:
    """Inputs of the Spatial MAR other than the known tokens."""

    z_t: Float[Tensor, "r m d"]
    mask_tokens: Float[Tensor, "r n d"]
    reference: Reference | None  # origin and scale of the known tokens; None for absolute tokens


@dataclass(frozen=True, slots=True)
class Proposal:
    """Conditions of the next frames, with their canvas and staticness, before the first token is generated.

    Each row is a frame; the frames of a group are adjacent rows.
    """

    conditions: tuple[Condition, ...]  # from poorest to richest: no history; history; history and canvas
    staticness: Float[Tensor, "r n"]  # constant without a canvas
    canvas: Float[Tensor, "r c h w"] | None
    static_scale: float
    reference: Reference | None  # origin and scale of the tokens; None for absolute tokens
