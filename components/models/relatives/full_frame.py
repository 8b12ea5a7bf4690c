"""Full-frame diffusion similar to DFoT (arXiv 2502.06764): all blocks denoise all tokens of the next frame together.

Every frame of a training clip has its own noise level, which conditions the blocks (diffusion forcing); finished
frames have level zero. The first frame of a clip is denoised without history. The same weights therefore also give the
poorer condition of history guidance. `group` frames are denoised together, as DFoT does with all frames of a clip.
Unlike in DFoT, attention is frame-causal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.foundation.settings.ranges import Count
from components.models import flow
from components.models.flow import ConditionedField
from components.models.layers.attention import Attention, KeyValueCache, frame_causal
from components.models.layers.blocks import MLP_RATIO, ViTConfig
from components.models.layers.embeddings import FREQUENCIES, patchify, sinusoid
from components.models.relatives.frame_by_frame import FrameByFrame, FrameByFrameConfig, Proposal, require_frames
from components.models.relatives.video_transformer import Memory
from components.nn.from_timm import mlp
from components.nn.losses import Losses


class FullFrameConfig(FrameByFrameConfig):
    """Full-frame diffusion: a transformer without masks and without a flow head."""

    kind: Literal["full_frame"]
    group: Count  # frames denoised together in sampling; training does not depend on it

    def build(self) -> "FullFrame":
        """Build the model with newly initialised weights. Raises InputError if parts of the config do not fit."""
        return FullFrame(self)


class ModulatedBlock(nn.Module):
    """Transformer block whose scales, shifts and gates come from the noise level of each frame (DiT's adaLN-Zero)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention = Attention(config.width, config.heads)
        self.mlp = mlp(config.width, MLP_RATIO * config.width)
        self.norm1 = nn.LayerNorm(config.width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(config.width, elementwise_affine=False)
        self.activation = nn.SiLU()
        self.modulation = nn.Linear(config.width, 6 * config.width)

    def extend(
        self,
        x: Float[Tensor, "b k d"],
        past: KeyValueCache | None,
        mask: Bool[Tensor, "k l"] | None,
        angle: Float[Tensor, "... k o"],
        level: Float[Tensor, "b t d"],
    ) -> tuple[Float[Tensor, "b k d"], KeyValueCache]:
        """Apply the block to the tokens of t frames; `level` holds the embedded noise level of each frame.

        Returns the output of these tokens and the extended cache; see `Attention.extend` for the other arguments.
        """
        tokens = x.shape[1] // level.shape[1]
        modulation = self.modulation(self.activation(level)).repeat_interleave(tokens, dim=1)
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = modulation.chunk(6, dim=-1)
        attended, memory = self.attention.extend(torch.addcmul(shift, self.norm1(x), 1 + scale), past, mask, angle)
        x = x + gate * attended
        return x + mlp_gate * self.mlp(torch.addcmul(mlp_shift, self.norm2(x), 1 + mlp_scale)), memory


@dataclass(frozen=True, slots=True)
class Draws:
    """Random draws of one training step."""

    time: Float[Tensor, "b t"]  # noise level of every frame, uniform, so that levels near zero are not rare
    noise: Float[Tensor, "b t n p"]


@dataclass(frozen=True, slots=True)
class VelocityInputs:
    """Inputs of the velocity that do not depend on the flow time."""

    memory: Memory
    angle: Float[Tensor, "b 1 k o"]  # rotary positions of the tokens
    mask: Bool[Tensor, "k l"]  # frame-causal within the group, as in training


class FullFrame(FrameByFrame):
    """p(next frames | past frames) as one flow over all their tokens, sampled in one set."""

    config: FullFrameConfig

    def __init__(self, config: FullFrameConfig) -> None:
        super().__init__(config, ModulatedBlock)
        width = config.decoder.width
        self.level = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.out = nn.Linear(width, self.channels)
        for part in self.level:
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
        gates = [block.modulation for block in self.decoder.blocks if isinstance(block, ModulatedBlock)]
        for layer in (*gates, self.out):  # before training every block is the identity, and the velocity is zero
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def group(self) -> int:
        """Number of frames that are predicted together."""
        return self.config.group

    @property
    def most_sets(self) -> int:
        """Largest number of sets of a frame: one, because all tokens are denoised together."""
        return 1

    def draw(self, latents: Float[Tensor, "b t c h w"], stream: Stream) -> Draws:
        """Draw noise and a noise level for every frame. Raises InputError if a clip has fewer than two frames."""
        frames = require_frames(latents)
        noise = stream.fork("noise").normal(frames, self.tokens, self.channels)
        return Draws(stream.fork("time").uniform(frames), noise)

    def supervised_tokens(self, draws: Draws) -> int:
        """Return the number of tokens with a loss in a training step with these draws."""
        return draws.time.numel() * self.tokens

    def forward(self, latents: Float[Tensor, "b t c h w"], draws: Draws) -> Losses:
        """Return the flow-matching loss of all frames, the mean over tokens and channels."""
        x, frames = patchify(latents, 1), latents.shape[1]
        noised = flow.interpolate(x, draws.noise, draws.time[..., None].expand(x.shape[:-1]))
        angle = self.decoder.angles(0, frames).flatten(0, 1)
        mask = frame_causal(frames, self.tokens, x.device)
        z = self.decoder(self.decoder.embed(noised).flatten(1, 2), angle, mask, self._level(draws.time))
        predicted = self.out(z).unflatten(1, (frames, -1)).float()
        loss = (predicted - flow.velocity(x, draws.noise)).square().mean()
        return Losses.weighted({"flow": loss}, {"flow": 1.0})

    def _level(self, time: Float[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        return self.level(sinusoid(1000 * time, FREQUENCIES))

    def extend_cache(self, x: Float[Tensor, "b n p"], memory: Memory) -> tuple[KeyValueCache, ...]:
        """Return the cache of all layers, extended by the tokens of the next finished frame at noise level zero."""
        angle = self.decoder.angles(memory.frames, 1)[0]
        return self.decoder.extend(self.decoder.embed(x), angle, memory, self._level(x.new_zeros(len(x), 1)))[1]

    def propose(self, memory: Memory, stream: Stream, *, frame_noise: float, canvas_noise: float) -> Proposal:
        """Return two conditions, no history and the history; the noise strengths of Eq. 11 and 12 are not used."""
        no_history = Memory(memory.frames, self.decoder.initial_memory().layers)
        constant = torch.ones(len(stream.samples) * self.group, self.tokens, device=self.out.weight.device)
        return Proposal((no_history, memory), constant)

    def embed(
        self, known: Float[Tensor, "r v p"], order: Int[Tensor, "r n"], conditions: tuple[Memory, ...], count: int
    ) -> tuple[VelocityInputs, ...]:
        """Return the inputs of `velocity_field` for each condition. Raises InputError if `count` is not all tokens."""
        if count != self.tokens:
            raise InputError("this model denoises all tokens of a frame at once; set sampler.sets to 1")
        order = order.unflatten(0, (-1, self.group))
        causal = frame_causal(self.group, self.tokens, order.device)
        inputs = []
        for memory in conditions:
            angle = self.decoder.angles_of(order, memory.frames).flatten(1, 2)[:, None]
            past = causal.new_ones(len(causal), memory.tokens)
            inputs.append(VelocityInputs(memory, angle, torch.cat([past, causal], dim=1)))
        return tuple(inputs)

    def velocity_field(self, embeddings: tuple[VelocityInputs, ...], times: Sequence[float]) -> ConditionedField:
        """Return the velocity of tokens under each condition as a function of tokens and flow time."""
        return lambda x, time: self._velocities(x, time, embeddings)

    def _velocities(
        self, x: Float[Tensor, "r n p"], time: float, embeddings: tuple[VelocityInputs, ...]
    ) -> tuple[Float[Tensor, "r n p"], ...]:
        """Return the velocity of all tokens under each condition, with one pass through all blocks for each."""
        tokens = self.decoder.embed(x.unflatten(0, (-1, self.group)).flatten(1, 2))
        level = self._level(torch.full((len(tokens), self.group), time, device=x.device))
        velocities = []
        for inputs in embeddings:
            z, _ = self.decoder.extend(tokens, inputs.angle, inputs.memory, level, mask=inputs.mask)
            velocities.append(self.out(z).unflatten(1, (self.group, -1)).flatten(0, 1))
        return tuple(velocities)
