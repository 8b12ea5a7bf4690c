"""Every kind of model, told apart by `kind`; nothing but this list knows how many there are."""

from typing import Annotated

from pydantic import Field

from components.models.canvasmar import CanvasMAR, CanvasMARConfig
from components.models.full_frame import FullFrame, FullFrameConfig
from components.models.magi import MAGI, MAGIConfig
from components.models.videomar import VideoMAR, VideoMARConfig

ModelConfig = Annotated[CanvasMARConfig | VideoMARConfig | MAGIConfig | FullFrameConfig, Field(discriminator="kind")]
Model = CanvasMAR | VideoMAR | MAGI | FullFrame
