"""Full-frame diffusion in the manner of DFoT (arXiv 2502.06764): the next frame is denoised as a whole, by all blocks.

Every frame of a training clip has a noise level of its own, which its blocks are told (diffusion forcing); a finished
frame is one of level zero. The first frame of a clip is denoised without any history, and so the same weights give the
poorer condition of history guidance. `group` frames are denoised together, as DFoT does with all frames of a clip;
unlike DFoT's, attention is causal from frame to frame.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from components import flow
from components.errors import InputError
from components.models.frame_by_frame import FrameByFrame, FrameByFrameConfig, Proposal, require_frames
from components.models.video_transformer import Memory
from components.nn.attention import Attention, KeysValues, frame_causal
from components.nn.blocks import MLP_RATIO, ViTConfig
from components.nn.embeddings import FREQUENCIES, patchify, sinusoid
from components.nn.from_timm import mlp
from components.nn.losses import Losses
from components.randomness import Stream


class FullFrameConfig(FrameByFrameConfig):
    """The transformer is all there is: no masks, no head."""

    kind: Literal["full_frame"]
    group: int  # frames that are denoised together in sampling, which training does not ask for

    def build(self) -> "FullFrame":
        """The model with fresh weights. Raises InputError if its parts do not fit one another."""
        if self.group < 1:
            raise InputError(f"model.group is {self.group}; it must be at least 1")
        return FullFrame(self)


class ModulatedBlock(nn.Module):
    """A block whose scales, shifts and gates come from the noise level of each frame (DiT's adaLN-Zero)."""

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
        past: KeysValues | None,
        mask: Bool[Tensor, "k l"] | None,
        angle: Float[Tensor, "... k o"],
        level: Float[Tensor, "b t d"],
    ) -> tuple[Float[Tensor, "b k d"], KeysValues]:
        """The block for the tokens of t frames, whose levels of noise are embedded in `level`."""
        tokens = x.shape[1] // level.shape[1]
        modulation = self.modulation(self.activation(level)).repeat_interleave(tokens, dim=1)
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = modulation.chunk(6, dim=-1)
        attended, memory = self.attention.extend(torch.addcmul(shift, self.norm1(x), 1 + scale), past, mask, angle)
        x = x + gate * attended
        return x + mlp_gate * self.mlp(torch.addcmul(mlp_shift, self.norm2(x), 1 + mlp_scale)), memory


@dataclass(frozen=True, slots=True)
class Draws:
    """The chance of one training step."""

    time: Float[Tensor, "b t"]  # the noise level of every frame, uniform: a finished frame is not out of the way
    noise: Float[Tensor, "b t n p"]


@dataclass(frozen=True, slots=True)
class Under:
    """What a frame is denoised under: the finished frames, and the places of its tokens."""

    memory: Memory
    angle: Float[Tensor, "b 1 k o"]
    mask: Bool[Tensor, "k l"]  # frames that are denoised together see those before them, as in training


class FullFrame(FrameByFrame):
    """p(next frame | frames so far) as the flow of all its tokens together; sampled in one set."""

    config: FullFrameConfig

    def __init__(self, config: FullFrameConfig) -> None:
        super().__init__(config, ModulatedBlock)
        width = config.decoder.width
        self.level = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.out = nn.Linear(width, self.numbers)
        for part in self.level:
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
        gates = [block.modulation for block in self.decoder.blocks if isinstance(block, ModulatedBlock)]
        for layer in (*gates, self.out):  # every block begins as the identity, and the first velocity is zero
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def group(self) -> int:
        """Frames that are predicted together."""
        return self.config.group

    @property
    def most_sets(self) -> int:
        """All tokens are denoised at once."""
        return 1

    def draw(self, latents: Float[Tensor, "b t c h w"], stream: Stream) -> Draws:
        """Noise and its level for every frame."""
        frames = require_frames(latents)
        noise = stream.fork("noise").normal(frames, self.tokens, self.numbers)
        return Draws(stream.fork("time").uniform(frames), noise)

    def supervised(self, draws: Draws) -> int:
        """Tokens whose prediction is learned in a step with these draws."""
        return draws.time.numel() * self.tokens

    def forward(self, latents: Float[Tensor, "b t c h w"], draws: Draws) -> Losses:
        """The flow-matching loss of every frame, the mean over tokens and channels."""
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

    def read(self, x: Float[Tensor, "b n p"], memory: Memory) -> tuple[KeysValues, ...]:
        """What the layers know once they have seen the next finished frame, at level zero."""
        angle = self.decoder.angles(memory.frames, 1)[0]
        return self.decoder.extend(self.decoder.embed(x), angle, memory, self._level(x.new_zeros(len(x), 1)))[1]

    def propose(self, memory: Memory, stream: Stream, *, frame_noise: float, canvas_noise: float) -> Proposal:
        """No history, and the history; the noises of Eq. 11 and 12 have nothing to act on."""
        nothing = Memory(memory.frames, self.decoder.begin().layers)
        constant = torch.ones(len(stream.samples) * self.group, self.tokens, device=self.out.weight.device)
        return Proposal((nothing, memory), constant)

    def embed(
        self, known: Float[Tensor, "r v p"], order: Int[Tensor, "r n"], conditions: tuple[Memory, ...], count: int
    ) -> tuple[Under, ...]:
        """What the frames are denoised under. Raises InputError if only a part of them is asked for."""
        if count != self.tokens:
            raise InputError("this model denoises all tokens of a frame at once; set sampler.sets to 1")
        places = order.unflatten(0, (-1, self.group))
        causal = frame_causal(self.group, self.tokens, order.device)
        unders = []
        for memory in conditions:
            angle = self.decoder.angles_of(places, memory.frames).flatten(1, 2)[:, None]
            past = causal.new_ones(len(causal), memory.tokens)
            unders.append(Under(memory, angle, torch.cat([past, causal], dim=1)))
        return tuple(unders)

    def velocity(
        self, x: Float[Tensor, "r n p"], time: float, embeddings: tuple[Under, ...]
    ) -> tuple[Float[Tensor, "r n p"], ...]:
        """The velocity of all tokens under each condition: a pass through all blocks for each."""
        tokens = self.decoder.embed(x.unflatten(0, (-1, self.group)).flatten(1, 2))
        level = self._level(torch.full((len(tokens), self.group), time, device=x.device))
        velocities = []
        for under in embeddings:
            z, _ = self.decoder.extend(tokens, under.angle, under.memory, level, mask=under.mask)
            velocities.append(self.out(z).unflatten(1, (self.group, -1)).flatten(0, 1))
        return tuple(velocities)
