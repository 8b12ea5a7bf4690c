"""Model code that MLflow runs to serve a registered model ("models from code"): it continues videos."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

from components.foundation.config import parse
from components.foundation.files import read_json
from components.foundation.randomness import Stream
from components.sampling.frame import SamplerConfig
from components.sampling.predictor import Predictor


class Continuation(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """MLflow model that returns the context frames followed by predicted frames, "b f c h w", integers 0 to 255."""

    def load_context(self, context: Any) -> None:
        """Load model, VAE and sampler settings from the artifacts of the registered model."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, autoencoder, best = (Path(context.artifacts[name]) for name in ("model", "autoencoder", "sampler"))
        self.predictor = Predictor.load(model, autoencoder, device)
        self.sampler = parse(SamplerConfig, read_json(best)["sampler"], where=str(best))

    # no type hints: MLflow would derive the model's signature from them instead of using the registered one
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return the context and the predicted frames; `params` may hold `frames` (default 16) and `seed` (0)."""
        options = params or {}
        videos = torch.from_numpy(np.array(model_input, dtype=np.uint8))
        stream = Stream.of(int(options.get("seed", 0)), range(len(videos)), self.predictor.device)
        return self.predictor.predict(videos, int(options.get("frames", 16)), stream, self.sampler).clips.cpu().numpy()


mlflow.models.set_model(Continuation())
