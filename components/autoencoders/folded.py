"""What the VAEs that are trained here share: pixels fold into channels, convolutions work on what is left.

That is what makes them fast on a CPU: most of the work is done at the latents' sides, and in two dimensions.
"""

from typing import Annotated, Final, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, cat, nn

from components.autoencoders.interface import Precision
from components.autoencoders.objective import ObjectiveConfig
from components.config import Config
from components.errors import InputError
from components.nn.conv3d import Block, Down, First, FrameConv, Up, merge, split

Count = Annotated[int, Field(ge=1)]

LOG_VARIANCE: Final = (-20.0, 10.0)  # of the posterior, clamped: its exponential stays finite in float32
FIRST_LOG_VARIANCE: Final = -6.0  # before training; with more noise the decoder would learn nothing for a hundred steps


class FoldedVAEConfig(Config):
    """A VAE of clips of one length and size, compressed {1, stride_time} x stride_space x stride_space."""

    dataset: str
    recipe: str
    frames: Count
    resolution: tuple[Count, Count]  # height, width
    precision: Precision  # of encoding and decoding once it is trained; the training has its recipe's
    stride_time: Literal[1, 2, 4]
    stride_space: Literal[4, 8, 16]
    channels: Count  # of a latent frame
    width: Count  # channels of the blocks at twice the latents' sides; the blocks at their sides have twice as many
    depth: Count  # blocks of each of the two, in the encoder and in the decoder
    objective: ObjectiveConfig

    @model_validator(mode="after")
    def _divides(self) -> "FoldedVAEConfig":
        if (self.frames - 1) % self.stride_time:
            raise ValueError(f"frames is {self.frames}; with stride_time {self.stride_time} take 1 + a multiple of it")
        if any(side % self.stride_space for side in self.resolution):
            raise ValueError(
                f"resolution is {list(self.resolution)}; with stride_space {self.stride_space} take multiples of it"
            )
        self.objective.fit(self.frames)
        return self

    @property
    def latent(self) -> tuple[int, int, int, int]:
        """Frames, channels, height and width of the latents of a clip."""
        height, width = (side // self.stride_space for side in self.resolution)
        return 1 + (self.frames - 1) // self.stride_time, self.channels, height, width


class FoldedVAE(nn.Module):
    """Encoder and decoder mirror each other: `depth` blocks at twice the latents' sides, `depth` at their sides.

    Latent frame 0 stands for pixel frame 0, every later one for the next stride_time frames.
    Blocks start as the identity and nothing else bends: training starts from a linear autoencoder, which learns fast.
    """

    def __init__(self, config: FoldedVAEConfig, block: Block, first: First) -> None:
        """`first` says what stands for the frames before the first one, which is a block of its own."""
        super().__init__()
        self.settings, self.first = config, first
        self.patch = config.stride_space // 2
        pixels = 3 * config.stride_time * self.patch**2
        fine, coarse, depth = config.width, 2 * config.width, config.depth
        moments = FrameConv(coarse, 2 * config.channels, 1)
        nn.init.constant_(moments.conv.get_parameter("bias")[config.channels :], FIRST_LOG_VARIANCE)
        self.encoder = nn.Sequential(
            FrameConv(pixels, fine, 3),
            *(block(fine) for _ in range(depth)),
            Down(fine, coarse),
            *(block(coarse) for _ in range(depth)),
            moments,
        )
        self.decoder = nn.Sequential(
            FrameConv(config.channels, coarse, 3),
            *(block(coarse) for _ in range(depth)),
            Up(coarse, fine),
            *(block(fine) for _ in range(depth)),
            FrameConv(fine, pixels, 3),
        )

    @property
    def strides(self) -> tuple[int, int]:
        """Pixel frames of a latent frame, and pixels of a latent's side."""
        return self.settings.stride_time, self.settings.stride_space

    @property
    def channels(self) -> int:
        """Channels of a latent frame."""
        return self.settings.channels

    @property
    def causal(self) -> bool:
        """No latent frame knows of pixel frames after its own."""
        return True

    def latent_frames(self, frames: int) -> int:
        """1 + (frames - 1) / stride_time. Raises InputError where that is no whole number."""
        if frames < 1 or (frames - 1) % self.settings.stride_time:
            stride = self.settings.stride_time
            raise InputError(f"clips of {frames} frames do not fit this VAE; take 1 + a multiple of {stride} frames")
        return 1 + (frames - 1) // self.settings.stride_time

    def pixel_frames(self, latent_frames: int) -> int:
        """1 + (latent_frames - 1) stride_time."""
        return 1 + (latent_frames - 1) * self.settings.stride_time

    def encode(self, clips: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b t i _ _"]:
        """Means and log variances, float32, of clips in [-1, 1] of any length and size that the strides divide.

        Raises InputError for other clips.
        """
        self.latent_frames(clips.shape[1])
        if any(side % self.settings.stride_space for side in clips.shape[3:]) or clips.shape[2] != 3:
            raise InputError(
                f"clips of {clips.shape[2]} x {clips.shape[3]} x {clips.shape[4]} do not fit this VAE; "
                f"take RGB frames whose sides are multiples of {self.settings.stride_space}"
            )
        x = self.encoder(merge(clips, self.settings.stride_time, self.patch, self.first)).float()
        mean, log_variance = x.chunk(2, dim=2)
        return cat([mean, log_variance.clamp(*LOG_VARIANCE)], dim=2)

    def decode(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b f o _ _"]:
        """Clips, float32, about [-1, 1]. Raises InputError for latents with other channels than this VAE's."""
        if latents.shape[2] != self.settings.channels:
            raise InputError(
                f"latents of {latents.shape[2]} channels do not fit this VAE of {self.settings.channels}; "
                "encode the clips with this VAE again"
            )
        return split(self.decoder(latents).float(), self.settings.stride_time, self.patch)
