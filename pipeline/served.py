"""What MLflow runs to serve a registered model: videos in, their continuations out. The model is the file itself."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

from components.config import parse
from components.randomness import Stream
from components.reporting.results import read_json
from components.sampling.frame import SamplerConfig
from pipeline.predictor import Predictor


class Continuation(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """Frames that are given, "b f c h w" of whole numbers 0 to 255, and after them those that are predicted."""

    def load_context(self, context: Any) -> None:
        """Loads the parts that were registered."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, autoencoder, chosen = (Path(context.artifacts[name]) for name in ("model", "autoencoder", "sampler"))
        self.predictor = Predictor.load(model, autoencoder, device)
        self.sampler = parse(SamplerConfig, read_json(chosen)["sampler"], where=str(chosen))

    # without types: mlflow would read a schema out of them, and not the one that it is given
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """So many `frames` after the given ones; another `seed`, another future."""
        chosen = params or {}
        videos = torch.from_numpy(np.array(model_input, dtype=np.uint8))
        stream = Stream.of(int(chosen.get("seed", 0)), range(len(videos)), self.predictor.device)
        return self.predictor.predict(videos, int(chosen.get("frames", 16)), stream, self.sampler).clips.cpu().numpy()


mlflow.models.set_model(Continuation())
