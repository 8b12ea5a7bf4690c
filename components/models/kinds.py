"""Union of all model configs, discriminated by `kind`; a new kind of model is registered only here."""

from typing import Annotated

from pydantic import Field

from components.models.canvasmar.model import CanvasMAR, CanvasMARConfig
from components.models.relatives.full_frame import FullFrame, FullFrameConfig
from components.models.relatives.magi import MAGI, MAGIConfig
from components.models.relatives.videomar import VideoMAR, VideoMARConfig

ModelConfig = Annotated[CanvasMARConfig | VideoMARConfig | MAGIConfig | FullFrameConfig, Field(discriminator="kind")]
Model = CanvasMAR | VideoMAR | MAGI | FullFrame
