"""The VAEs that this pipeline trains: blocks of pixels are folded into channels, then convolved.

Most of the work happens at the height and width of the latents and in 2D convolutions, which is fast on a CPU.

The causal VAE is time-causal: a latent frame depends only on its own pixel frames and on earlier ones. The chunked VAE
encodes each chunk of frames alone: non-causal within a chunk, independent of other chunks. This is DFoT's scheme for
Kinetics-600 with chunks of four. Three frames of zeros are put before the first frame, so that 17 frames make five
chunks and five latent frames. Each latent frame decodes alone into one chunk. Only the last frame of the first decoded
chunk is kept.
"""

from collections.abc import Iterable
from typing import Final, Literal

from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, cat, nn

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count
from components.nn.autoencoders.interface import Precision
from components.nn.autoencoders.linear import LinearConfig, LinearPath
from components.nn.autoencoders.objective import ObjectiveConfig
from components.nn.conv3d import (
    Block,
    Downsample,
    FrameBlock,
    FrameConv,
    Padding,
    ResidualBlock,
    Upsample,
    fold_blocks,
    unfold_blocks,
)

LOG_VARIANCE: Final = (-20.0, 10.0)  # clamp of the posterior's log variance, so that its exponential stays finite
FIRST_LOG_VARIANCE: Final = -6.0  # at initialisation; with more noise the decoder learns nothing for a hundred steps


class FoldedVAEConfig(Config):
    """Config of a VAE for clips of one length and size.

    It compresses clips {1, stride_time} x stride_space x stride_space: the first latent frame encodes one pixel frame,
    each other latent frame encodes stride_time pixel frames.
    """

    dataset: str  # entry of `datasets` whose clips it is trained on
    recipe: str  # entry of `recipes`
    frames: Count  # pixel frames of a clip
    resolution: tuple[Count, Count]  # height, width
    precision: Precision  # of encoding and decoding with the trained VAE; its training uses the recipe's precision
    stride_time: Literal[1, 2, 4]  # pixel frames per latent frame, except for the first one
    stride_space: Literal[4, 8, 16]  # pixels per latent pixel, in height and in width
    channels: Count  # of a latent frame
    width: Count  # channels of the blocks at twice the latents' height and width; at the latents' size twice as many
    depth: Count  # blocks at each of these two sizes, in the encoder and in the decoder
    linear: LinearConfig | None  # null: no linear path, the network starts from random weights
    objective: ObjectiveConfig

    @model_validator(mode="after")
    def _divides(self) -> "FoldedVAEConfig":
        if (self.frames - 1) % self.stride_time:
            raise ValueError(f"frames is {self.frames}; use 1 + a multiple of stride_time, which is {self.stride_time}")
        if any(side % self.stride_space for side in self.resolution):
            raise ValueError(
                f"resolution is {list(self.resolution)}; use multiples of stride_space, which is {self.stride_space}"
            )
        values = 3 * self.stride_time * self.stride_space**2
        if self.linear and self.channels > values:
            raise ValueError(
                f"channels is {self.channels}, but the PCA of `linear` has at most {values} components, one for each "
                f"value of a block of pixels; use at most {values} channels, or set linear to null"
            )
        self.objective.fit(self.frames)
        return self

    @property
    def latent(self) -> tuple[int, int, int, int]:
        """Frames, channels, height and width of the latents of a clip."""
        height, width = (side // self.stride_space for side in self.resolution)
        return 1 + (self.frames - 1) // self.stride_time, self.channels, height, width


class FoldedVAE(nn.Module):
    """Video VAE of residual blocks at two resolutions; the decoder mirrors the encoder.

    The encoder has `depth` blocks at twice the latents' height and width, then `depth` blocks at the size of the
    latents. Latent frame 0 encodes pixel frame 0; each later latent frame encodes the next stride_time pixel frames.

    Blocks are initialised to the identity and all other layers are linear. Training therefore starts from a linear
    autoencoder, which learns fast. With `linear`, a linear path is added to the network, whose output is initially
    zero. Then `initialise_pca` initialises the VAE to a PCA.
    """

    def __init__(self, config: FoldedVAEConfig, block: Block, padding: Padding) -> None:
        """`padding` selects the padding before pixel frame 0, which fills the first block up to stride_time frames."""
        super().__init__()
        self.settings, self.padding = config, padding
        self.patch = config.stride_space // 2
        pixels = 3 * config.stride_time * self.patch**2
        fine, coarse, depth = config.width, 2 * config.width, config.depth
        moments = FrameConv(coarse, 2 * config.channels, 1)
        nn.init.constant_(moments.conv.get_parameter("bias")[config.channels :], FIRST_LOG_VARIANCE)
        self.encoder = nn.Sequential(
            FrameConv(pixels, fine, 3),
            *(block(fine) for _ in range(depth)),
            Downsample(fine, coarse),
            *(block(coarse) for _ in range(depth)),
            moments,
        )
        self.decoder = nn.Sequential(
            FrameConv(config.channels, coarse, 3),
            *(block(coarse) for _ in range(depth)),
            Upsample(coarse, fine),
            *(block(fine) for _ in range(depth)),
            FrameConv(fine, pixels, 3),
        )
        self.linear: LinearPath | None = None
        if config.linear:
            self.linear = LinearPath(
                *self.strides, config.channels, padding, FIRST_LOG_VARIANCE, config.linear.whitening
            )
            for last in (self.encoder[-1], self.decoder[-1]):
                for parameter in last.parameters():
                    nn.init.zeros_(parameter)

    def initialise_pca(self, clips: Iterable[Float[Tensor, "_ f c h w"]]) -> None:
        """Initialise the linear path to the PCA of these clips in [-1, 1].

        Raise InputError if the clips have fewer blocks than the latents have channels.
        """
        assert self.linear is not None
        self.linear.initialise_pca(clips)

    @property
    def strides(self) -> tuple[int, int]:
        """Pixel frames per latent frame, and pixels per latent pixel along height and width."""
        return self.settings.stride_time, self.settings.stride_space

    @property
    def channels(self) -> int:
        """Channels of a latent frame."""
        return self.settings.channels

    @property
    def causal(self) -> bool:
        """True: no latent frame depends on pixel frames after its own."""
        return True

    def latent_frames(self, frames: int) -> int:
        """Return 1 + (frames - 1) / stride_time. Raise InputError if that is not a whole number."""
        if frames < 1 or (frames - 1) % self.settings.stride_time:
            stride = self.settings.stride_time
            raise InputError(
                f"clips of {frames} frames do not fit this VAE; use clips of 1 + a multiple of {stride} frames"
            )
        return 1 + (frames - 1) // self.settings.stride_time

    def pixel_frames(self, latent_frames: int) -> int:
        """Return 1 + (latent_frames - 1) stride_time."""
        return 1 + (latent_frames - 1) * self.settings.stride_time

    def encode(self, clips: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b t i _ _"]:
        """Return means and log variances (float32) of clips in [-1, 1], of any length and size that fit the strides.

        Raise InputError for other clips.
        """
        self.latent_frames(clips.shape[1])
        if any(side % self.settings.stride_space for side in clips.shape[3:]) or clips.shape[2] != 3:
            raise InputError(
                f"frames of {clips.shape[2]} x {clips.shape[3]} x {clips.shape[4]} do not fit this VAE; "
                f"use RGB frames whose height and width are multiples of {self.settings.stride_space}"
            )
        x = self.encoder(fold_blocks(clips, self.settings.stride_time, self.patch, self.padding)).float()
        if self.linear is not None:
            x = x + self.linear.encode(clips)
        mean, log_variance = x.chunk(2, dim=2)
        return cat([mean, log_variance.clamp(*LOG_VARIANCE)], dim=2)

    def decode(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b f o _ _"]:
        """Return decoded clips (float32, about [-1, 1]). Raise InputError for a wrong number of channels."""
        if latents.shape[2] != self.settings.channels:
            raise InputError(
                f"latents of {latents.shape[2]} channels do not fit this VAE of {self.settings.channels} channels; "
                "encode the clips again with this VAE"
            )
        clips = unfold_blocks(self.decoder(latents).float(), self.settings.stride_time, self.patch)
        return clips if self.linear is None else clips + self.linear.decode(latents)


class CausalVAEConfig(FoldedVAEConfig):
    """Config of the time-causal VAE. For BAIR, it compresses clips {1, 2} x 4 x 4 (time x height x width)."""

    kind: Literal["causal"]

    def build(self) -> "CausalVAE":
        """Return the VAE with newly initialised weights."""
        return CausalVAE(self)


class CausalVAE(FoldedVAE):
    """Each block convolves within a frame, then over this frame and the two before it."""

    def __init__(self, config: CausalVAEConfig) -> None:
        super().__init__(config, ResidualBlock, "repeated")
        self.config = config

    @property
    def frame_formula(self) -> str:
        """The number of latent frames of f pixel frames, and the pixel frames that each depends on, as text."""
        stride = self.config.stride_time
        return f"1 + (f - 1) / {stride} latent frames, each of its own {stride} pixel frames and all before them"


class ChunkedVAEConfig(FoldedVAEConfig):
    """Config of the chunked VAE; `stride_time` is the chunk length.

    For Kinetics, the first frame is compressed by 1 x 8 x 8 and each chunk of four frames by 4 x 8 x 8.
    """

    kind: Literal["chunked"]

    def build(self) -> "ChunkedVAE":
        """Return the VAE with newly initialised weights."""
        return ChunkedVAE(self)


class ChunkedVAE(FoldedVAE):
    """The frames of a chunk are stacked as channels, so every convolution covers exactly the frames of its chunk."""

    def __init__(self, config: ChunkedVAEConfig) -> None:
        super().__init__(config, FrameBlock, "zeros")
        self.config = config

    @property
    def frame_formula(self) -> str:
        """The number of latent frames of f pixel frames, and the pixel frames that each depends on, as text."""
        stride = self.config.stride_time
        return f"1 + (f - 1) / {stride} latent frames, each of its own {stride} pixel frames alone"
