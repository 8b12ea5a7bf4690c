"""Published video VAEs of diffusers (AutoencoderKLWan, -Cosmos, -LTXVideo, -CogVideoX ...).

No other module imports diffusers. The latents are raw: the pipeline standardises every channel by its own statistics,
so it ignores the scaling factors that come with a model.
"""

import inspect
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from pydantic import JsonValue, model_validator
from torch import Tensor, nn

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count
from components.nn.autoencoders.interface import Precision
from components.nn.autoencoders.objective import ObjectiveConfig

# Classes whose latent frames do not depend on later pixel frames, nor decoded frames on later latents, bit for bit.
# Others look ahead: CogVideoX and Hunyuan in norms over several frames, the decoder of LTX in its convolutions.
CAUSAL: Final = frozenset({"AutoencoderKLWan", "AutoencoderKLCosmos"})
LOG_VARIANCE: Final = (-30.0, 20.0)  # clamp, as in diffusers; a VAE without a posterior gets the lower bound
LOAD_OPTIONS: Final = {"torch_dtype": torch.float32, "use_safetensors": True, "low_cpu_mem_usage": False}
PROBE_SHAPES: Final = (1, 9, 17), (64, 64)  # clips that are encoded to find the strides: frames; height and width
INSTALL: Final = "pip install 'canvasmar-pipeline[pretrained]'"


class DiffusersVAEConfig(Config):
    """Config of a published video VAE for clips of one length and size."""

    kind: Literal["diffusers"]
    dataset: str  # entry of `datasets` whose clips it encodes
    recipe: str  # of its training; required, but unused if `objective` is null
    frames: Count
    resolution: tuple[Count, Count]  # height, width
    precision: Precision  # of encoding and decoding; the training uses the recipe's precision
    path: str  # a local folder or a name on the Hugging Face Hub
    subfolder: str | None  # such as `vae`, if the folder holds a whole diffusers pipeline
    revision: str | None  # a commit on the hub, which pins the weights
    network: dict[str, JsonValue] | None  # class and sizes; null reads them from `path`; set in a saved trained VAE
    objective: ObjectiveConfig | None  # of fine-tuning; null uses the VAE as published

    @model_validator(mode="after")
    def _fits(self) -> "DiffusersVAEConfig":
        if self.objective is not None:
            self.objective.fit(self.frames)
        return self

    @property
    def latent(self) -> tuple[int, int, int, int]:
        """Frames, channels, height and width of the latents of a clip. Raise the same InputErrors as `build`."""
        vae = DiffusersVAE(self, _build_network(self.network if self.network is not None else _network_config(self)))
        height, width = (side // vae.strides[1] for side in self.resolution)
        return vae.latent_frames(self.frames), vae.channels, height, width

    def build(self) -> "DiffusersVAE":
        """Return the VAE with the weights of `path`, or with newly initialised weights if `network` is set.

        Raise InputError if diffusers is not installed, if `path` has no readable VAE, or if that is no video VAE.
        """
        if self.network is not None:
            return DiffusersVAE(self, _build_network(self.network))
        network = _network_config(self)
        vae_class = _class(network)
        try:
            vae = vae_class.from_pretrained(self.path, **LOAD_OPTIONS, **_location(self))
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"the VAE weights in {self.path} cannot be read ({_one_line(error)}); download them again"
            ) from None
        return DiffusersVAE(self.model_copy(update={"network": network}), vae)


class DiffusersVAE(nn.Module):
    """Adapts a VAE of diffusers to the Autoencoder interface: order of axes, moments and error messages."""

    def __init__(self, config: DiffusersVAEConfig, vae: nn.Module) -> None:
        """Raise InputError for a VAE whose first latent frame does not encode the first pixel frame alone."""
        super().__init__()
        self.config, self.vae = config, vae
        self._strides, self._channels = _probe(config, vae)

    @property
    def strides(self) -> tuple[int, int]:
        """Pixel frames per latent frame, and pixels per latent pixel along height and width."""
        return self._strides

    @property
    def channels(self) -> int:
        """Channels of a latent frame."""
        return self._channels

    @property
    def causal(self) -> bool:
        """Whether no latent frame depends on later pixel frames, and no decoded frame on later latent frames."""
        return type(self.vae).__name__ in CAUSAL

    @property
    def frame_formula(self) -> str:
        """The number of latent frames of f pixel frames, and the pixel frames that each depends on, as text."""
        stride, context = self.strides[0], "all before them" if self.causal else "others around them"
        return f"1 + (f - 1) / {stride} latent frames, each of its own {stride} pixel frames and {context}"

    def latent_frames(self, frames: int) -> int:
        """Return 1 + (frames - 1) / stride. Raise InputError if that is not a whole number."""
        stride = self.strides[0]
        if frames < 1 or (frames - 1) % stride:
            raise InputError(
                f"clips of {frames} frames do not fit this VAE; use clips of 1 + a multiple of {stride} frames"
            )
        return 1 + (frames - 1) // stride

    def pixel_frames(self, latent_frames: int) -> int:
        """Return 1 + (latent_frames - 1) stride."""
        return 1 + (latent_frames - 1) * self.strides[0]

    def encode(self, clips: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b t i _ _"]:
        """Return means and log variances (float32) of clips in [-1, 1]. Raise InputError for clips that do not fit."""
        self.latent_frames(clips.shape[1])
        if any(side % self.strides[1] for side in clips.shape[3:]) or clips.shape[2] != 3:
            raise InputError(
                f"frames of {clips.shape[2]} x {clips.shape[3]} x {clips.shape[4]} do not fit this VAE; "
                f"use RGB frames whose height and width are multiples of {self.strides[1]}"
            )
        return _moments(self.vae, clips)

    def decode(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b f o _ _"]:
        """Return decoded clips (float32, about [-1, 1]). Raise InputError for a wrong number of channels."""
        if latents.shape[2] != self.channels:
            raise InputError(
                f"latents of {latents.shape[2]} channels do not fit this VAE of {self.channels} channels; "
                "encode the clips again with this VAE"
            )
        decoded = self.vae.decode(latents.transpose(1, 2).contiguous()).sample  # type: ignore[operator]
        return decoded.transpose(1, 2).float()


def _moments(vae: Any, clips: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b t i _ _"]:
    posterior = vae.encode(clips.transpose(1, 2).contiguous()).latent_dist
    mean = posterior.mode().float()
    # Cosmos is deterministic: it has no posterior and no log variance
    log_variance = getattr(posterior, "logvar", None)
    log_variance = torch.full_like(mean, LOG_VARIANCE[0]) if log_variance is None else log_variance.float()
    return torch.cat([mean, log_variance.expand_as(mean).clamp(*LOG_VARIANCE)], dim=1).transpose(1, 2)


@torch.no_grad()
def _probe(config: DiffusersVAEConfig, vae: nn.Module) -> tuple[tuple[int, int], int]:
    """Return ((time stride, space stride), channels), found by encoding small clips.

    The classes of diffusers have different names for these numbers. Raise InputError if the VAE takes no videos, or if
    its first latent frame does not encode the first pixel frame alone.
    """
    name = type(vae).__name__
    lengths, (height, width) = PROBE_SHAPES
    try:
        shapes = [_moments(vae, torch.zeros(1, length, 3, height, width)).shape for length in lengths]
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        problem = f"holds {name}, which cannot encode videos ({_one_line(error)})"
        raise InputError(f"{config.path} {problem}; set the autoencoder's path to a video VAE") from None
    counts = [shape[1] for shape in shapes]
    stride = (lengths[2] - lengths[0]) // max(1, counts[2] - counts[0])
    if counts != [1 + (length - 1) // stride for length in lengths]:
        counted = f"{lengths[0]}, {lengths[1]} and {lengths[2]} frames are encoded to {counts} latent frames"
        raise InputError(
            f"{config.path} holds {name}, which does not encode f frames to 1 + (f - 1) / stride latent frames "
            f"({counted}); use a VAE whose first latent frame encodes the first frame alone"
        )
    return (stride, height // shapes[0][3]), shapes[0][2] // 2


def _network_config(config: DiffusersVAEConfig) -> dict[str, Any]:
    """Return class and sizes of the VAE at `path`, as in its config.json. Raise InputError if there is none."""
    diffusers = _diffusers()
    try:
        network = diffusers.AutoModel.load_config(config.path, **_location(config))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{config.path} is neither a folder with a VAE of diffusers nor a model on the Hugging Face Hub "
            f"({_one_line(error)}); correct the autoencoder's path"
        ) from None
    return {name: value for name, value in network.items() if name != "_name_or_path"}


def _location(config: DiffusersVAEConfig) -> dict[str, str]:
    options = {"subfolder": config.subfolder, "revision": config.revision}
    return {name: value for name, value in options.items() if value is not None}


def _class(network: dict[str, JsonValue]) -> Any:
    name = str(network.get("_class_name"))
    vae_class = getattr(_diffusers(), name, None)
    if not name.startswith("AutoencoderKL") or not inspect.isclass(vae_class):
        raise InputError(
            f"{name} is not an AutoencoderKL class of the installed diffusers; set the autoencoder's path to a VAE of "
            "such a class"
        )
    return vae_class


def _build_network(network: dict[str, JsonValue]) -> Any:
    return _class(network).from_config(dict(network))


def _diffusers() -> Any:
    """Return the module diffusers, imported late: it takes seconds, and other kinds of VAE do not need it."""
    from components.nn import from_timm  # noqa: F401  declares operators of torchvision, which diffusers imports

    try:
        import diffusers
    except ModuleNotFoundError:
        raise InputError(
            f"an autoencoder of kind diffusers needs the package diffusers; install it: {INSTALL}"
        ) from None
    return diffusers


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
