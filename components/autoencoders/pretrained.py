"""The only door to diffusers: its published video VAEs (AutoencoderKLWan, -Cosmos, -LTXVideo, -CogVideoX ...).

What comes out are their raw latents: the pipeline standardises every channel by its own statistics, so the scaling
factors that come with a model are not needed.
"""

import inspect
from typing import Annotated, Any, Final, Literal

import torch
from jaxtyping import Float
from pydantic import Field, JsonValue, model_validator
from torch import Tensor, nn

from components.autoencoders.interface import Precision
from components.autoencoders.objective import ObjectiveConfig
from components.config import Config
from components.errors import InputError

Count = Annotated[int, Field(ge=1)]

# no latent frame of these knows of later pixel frames, nor a decoded one of later latents, bit for bit; others look
# ahead: CogVideoX and Hunyuan by norms over several frames, the decoder of LTX by its convolutions
CAUSAL: Final = frozenset({"AutoencoderKLWan", "AutoencoderKLCosmos"})
LOG_VARIANCE: Final = (-30.0, 20.0)  # as diffusers clamps them; the least stands for a VAE without a posterior
LOADED: Final = {"torch_dtype": torch.float32, "use_safetensors": True, "low_cpu_mem_usage": False}
PROBED: Final = (1, 9, 17), (64, 64)  # clips by which the strides are found: frames; height and width
INSTALL: Final = "pip install 'canvasmar-pipeline[pretrained]'"


class DiffusersVAEConfig(Config):
    """A published video VAE for clips of one length and size."""

    kind: Literal["diffusers"]
    dataset: str
    recipe: str  # of the training; named, though not followed, where there is none
    frames: Count
    resolution: tuple[Count, Count]  # height, width
    precision: Precision  # of encoding and decoding; the training has its recipe's
    path: str  # a local folder or a name on the hub
    subfolder: str | None  # such as `vae`, where the folder holds a whole pipeline
    revision: str | None  # on the hub: a commit, so that it is the same VAE tomorrow
    network: dict[str, JsonValue] | None  # class and sizes; null reads them from `path`, a trained VAE states them
    objective: ObjectiveConfig | None  # null takes the VAE as it is; else it is trained on from there

    @model_validator(mode="after")
    def _fits(self) -> "DiffusersVAEConfig":
        if self.objective is not None:
            self.objective.fit(self.frames)
        return self

    @property
    def latent(self) -> tuple[int, int, int, int]:
        """Frames, channels, height and width of the latents of a clip. Raises InputError as `build` does."""
        vae = DiffusersVAE(self, _fresh(self.network if self.network is not None else _described(self)))
        height, width = (side // vae.strides[1] for side in self.resolution)
        return vae.latent_frames(self.frames), vae.channels, height, width

    def build(self) -> "DiffusersVAE":
        """The VAE with the weights of `path`; fresh ones for a `network` that is stated.

        Raises InputError: diffusers is not installed, nothing of use lies at `path`, it is no video VAE.
        """
        if self.network is not None:
            return DiffusersVAE(self, _fresh(self.network))
        network = _described(self)
        kind = _class(network)
        try:
            vae = kind.from_pretrained(self.path, **LOADED, **_place(self))
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"the weights in {self.path} cannot be read ({_line(error)}); get them again") from None
        return DiffusersVAE(self.model_copy(update={"network": network}), vae)


class DiffusersVAE(nn.Module):
    """diffusers' VAE with our order of axes, moments and sentences."""

    def __init__(self, config: DiffusersVAEConfig, vae: nn.Module) -> None:
        """Raises InputError for a VAE that does not give one latent frame for the first frame alone."""
        super().__init__()
        self.config, self.vae = config, vae
        self._strides, self._channels = _probe(config, vae)

    @property
    def strides(self) -> tuple[int, int]:
        """Pixel frames of a latent frame, and pixels of a latent's side."""
        return self._strides

    @property
    def channels(self) -> int:
        """Channels of a latent frame."""
        return self._channels

    @property
    def causal(self) -> bool:
        """Whether no latent frame knows of later pixel frames, and no decoded one of later latents."""
        return type(self.vae).__name__ in CAUSAL

    @property
    def frame_formula(self) -> str:
        """How frames are counted, and what a latent frame is made of."""
        known = "all before them" if self.causal else "others around them"
        return (
            f"1 + (f - 1) / {self.strides[0]} latent frames, each of its own {self.strides[0]} pixel frames and {known}"
        )

    def latent_frames(self, frames: int) -> int:
        """1 + (frames - 1) / stride. Raises InputError where that is no whole number."""
        stride = self.strides[0]
        if frames < 1 or (frames - 1) % stride:
            raise InputError(f"clips of {frames} frames do not fit this VAE; take 1 + a multiple of {stride} frames")
        return 1 + (frames - 1) // stride

    def pixel_frames(self, latent_frames: int) -> int:
        """1 + (latent_frames - 1) stride."""
        return 1 + (latent_frames - 1) * self.strides[0]

    def encode(self, clips: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b t i _ _"]:
        """Means and log variances, float32, of clips in [-1, 1]. Raises InputError for clips that do not fit."""
        self.latent_frames(clips.shape[1])
        if any(side % self.strides[1] for side in clips.shape[3:]) or clips.shape[2] != 3:
            raise InputError(
                f"clips of {clips.shape[2]} x {clips.shape[3]} x {clips.shape[4]} do not fit this VAE; "
                f"take RGB frames whose sides are multiples of {self.strides[1]}"
            )
        return _moments(self.vae, clips)

    def decode(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b f o _ _"]:
        """Clips, float32, about [-1, 1]. Raises InputError for latents with other channels than this VAE's."""
        if latents.shape[2] != self.channels:
            raise InputError(
                f"latents of {latents.shape[2]} channels do not fit this VAE of {self.channels}; "
                "encode the clips with this VAE again"
            )
        decoded = self.vae.decode(latents.transpose(1, 2).contiguous()).sample  # type: ignore[operator]
        return decoded.transpose(1, 2).float()


def _moments(vae: Any, clips: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b t i _ _"]:
    posterior = vae.encode(clips.transpose(1, 2).contiguous()).latent_dist
    mean = posterior.mode().float()
    # Cosmos has no posterior: its latents are what they are
    log_variance = getattr(posterior, "logvar", None)
    log_variance = torch.full_like(mean, LOG_VARIANCE[0]) if log_variance is None else log_variance.float()
    return torch.cat([mean, log_variance.expand_as(mean).clamp(*LOG_VARIANCE)], dim=1).transpose(1, 2)


@torch.no_grad()
def _probe(config: DiffusersVAEConfig, vae: nn.Module) -> tuple[tuple[int, int], int]:
    """Strides and channels, found by encoding small clips: every class has its own names for them."""
    name = type(vae).__name__
    lengths, (height, width) = PROBED
    try:
        shapes = [_moments(vae, torch.zeros(1, length, 3, height, width)).shape for length in lengths]
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        why = f"holds {name}, which takes no videos ({_line(error)})"
        raise InputError(f"{config.path} {why}; name a video VAE") from None
    counts = [shape[1] for shape in shapes]
    stride = (lengths[2] - lengths[0]) // max(1, counts[2] - counts[0])
    if counts != [1 + (length - 1) // stride for length in lengths]:
        told = f"{lengths[0]}, {lengths[1]} and {lengths[2]} frames become {counts} latent ones"
        raise InputError(
            f"{config.path} holds {name}, which does not count frames as 1 + (f - 1) / stride ({told}); "
            "name a VAE whose first latent frame is the first frame alone"
        )
    return (stride, height // shapes[0][3]), shapes[0][2] // 2


def _described(config: DiffusersVAEConfig) -> dict[str, Any]:
    """Class and sizes of the VAE at `path`, as plain data."""
    diffusers = _diffusers()
    try:
        found = diffusers.AutoModel.load_config(config.path, **_place(config))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{config.path} holds no VAE of diffusers and is no such name on the hub ({_line(error)}); "
            "correct the autoencoder's path"
        ) from None
    return {name: value for name, value in found.items() if name != "_name_or_path"}


def _place(config: DiffusersVAEConfig) -> dict[str, str]:
    given = {"subfolder": config.subfolder, "revision": config.revision}
    return {name: value for name, value in given.items() if value is not None}


def _class(network: dict[str, JsonValue]) -> Any:
    name = str(network.get("_class_name"))
    kind = getattr(_diffusers(), name, None)
    if not name.startswith("AutoencoderKL") or not inspect.isclass(kind):
        raise InputError(f"{name} is no AutoencoderKL of this version of diffusers; name a video VAE of such a class")
    return kind


def _fresh(network: dict[str, JsonValue]) -> Any:
    return _class(network).from_config(dict(network))


def _diffusers() -> Any:
    """diffusers, which is a matter of seconds to import and not needed by the other kinds."""
    from components.nn import from_timm  # noqa: F401  diffusers imports torchvision, whose operators this declares

    try:
        import diffusers
    except ModuleNotFoundError:
        raise InputError(f"a VAE of kind diffusers needs the package diffusers; {INSTALL}") from None
    return diffusers


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
