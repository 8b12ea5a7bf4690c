"""The union of all simulated worlds, discriminated by `kind`, and the names of their commands."""

from typing import Annotated, Final

from pydantic import Field

from components.simulation import kuka, pusher
from components.simulation.kuka import KukaConfig
from components.simulation.pusher import PusherConfig
from components.simulation.shapes import ShapesConfig

World = KukaConfig | ShapesConfig | PusherConfig
AnyWorld = Annotated[World, Field(discriminator="kind")]  # for fields of parameters
# names of the numbers of a command; None: the world has no commands
COMMANDS: Final = {"pusher": pusher.COMMANDS, "kuka": kuka.COMMANDS, "shapes": None}
