"""A small run as the stages leave it: two rows, two clips of 1 + 8 frames, 4 latent frames of 2 x 2 tokens."""

import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

ROWS = ("with-canvas", "no-canvas")
REFERENCE_SCORES = (
    {"name": "real against real", "fvd": 340.0, "fvd_low": 310.0, "fvd_high": 370.0, "clips": 64, "psnr": None},
    {"name": "copy last frame", "fvd": 1489.0, "fvd_low": None, "fvd_high": None, "clips": 64, "psnr": 19.125},
)


def write_scores(folder, row, **others):
    own = {"name": row, "fvd": 688.4, "fvd_low": 641.0, "fvd_high": 735.0, "clips": 64, "psnr": 21.4, "lpips": 0.12}
    content = {
        "row": row,
        "protocol": {"dataset": "kuka", "frames": 9, "context_frames": 1},
        "scores": [own | others, *REFERENCE_SCORES],
        "milliseconds_per_frame": 41.2,
        "parameters": 3_213_456,
        "sampler": {"sets": 4},
        "drift": [
            {"name": name, "first": first, "last": first + 3, "clips": 64, "psnr": psnr - first, "fvd": None}
            for name, psnr in ((row, 22.0), ("copy last frame", 20.0))
            for first in (1, 5)
        ],
        "calibration": {
            "canvas_error": 0.25,
            "staticness_error": 0.125,
            "bins": [{"low": 0.1, "high": 0.2, "tokens": 640, "predicted": 0.15, "observed": 0.275}],
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(content))


def write_gallery(folder, drawn=True, names=("a.mp4@0", "b.mp4@13"), **others):
    random = np.random.default_rng(0)
    frames = {
        "context": random.integers(0, 256, (2, 1, 3, 16, 16), np.uint8),
        "truth": random.integers(0, 256, (2, 8, 3, 16, 16), np.uint8),
        "sample": random.integers(0, 256, (2, 8, 3, 16, 16), np.uint8),
        "order": np.arange(32, dtype=np.int32).reshape(2, 4, 2, 2) % 4,
    }
    if drawn:
        frames["canvas"] = frames["sample"] // 2
        frames["staticness"] = np.linspace(0, 1, 32, dtype=np.float32).reshape(2, 4, 2, 2)
    kept = {key: value for key, value in (frames | others).items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    text = {"names": names, "reasons": ["as it comes", "largest error"]}
    save_file(kept, folder / "gallery.safetensors", {"text": json.dumps(text)})


def write_trials(folder, **others):
    trials = pd.DataFrame(
        {
            "trial": ["t0", "t1", "t2", "t3"],
            "canvas_scale": [1.0, 1.0, 2.0, 2.0],
            "temporal_scale": [1.0, 2.0, 1.0, 2.0],
            "sets": [4, 4, 4, 4],
            "fvd": [700.0, 650.0, None, 690.0],
            "milliseconds_per_frame": [30.0, 31.0, None, 40.0],
            "status": ["TERMINATED", "TERMINATED", "ERROR", "TERMINATED"],
        }
        | others
    )
    folder.mkdir(parents=True, exist_ok=True)
    trials.to_csv(folder / "trials.csv", index=False)
    (folder / "best.json").write_text(json.dumps({"trial": "t1", "fvd": 650.0, "sampler": {"canvas_scale": 1.0}}))


@pytest.fixture
def finished(tmp_path):
    """The folder of a whole run."""
    for row, canvas in zip(ROWS, (True, False), strict=True):
        write_scores(tmp_path / row / "evaluation", row, fvd=688.4 if canvas else 860.0)
        write_gallery(tmp_path / row / "evaluation", canvas)
        history = {
            "step": [20, 40, 60],
            "loss": [1.8, 1.2, 0.9],
            "validation_loss": [None, None, 1.0],
            "flow": [1, 0.5, 0.05],
            "validation_flow_visible_000": [None, None, 0.9],
            "validation_flow_visible_002": [None, None, 0.7],
        }
        (tmp_path / row / "training").mkdir()
        pd.DataFrame(history).to_csv(tmp_path / row / "training" / "history.csv", index=False)
    write_trials(tmp_path / "sweep")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "manifest.json").write_text(json.dumps({"counts": {"train": 1536, "val": 64, "test": 64}}))
    rejected = [{"split": "train", "video": "<b>odd</b>.mp4", "reason": "has 9 frames, but a clip needs 17"}]
    told = {"videos": 643, "rejected": rejected, "doubtful": []}
    (tmp_path / "clips" / "rejected.json").write_text(json.dumps(told))
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "metrics.json").write_text(json.dumps({"psnr": 26.81, "kl": 1.2}))
    clips = np.random.default_rng(1).integers(0, 256, (2, 9, 3, 16, 16), np.uint8)
    save_file({"truth": clips, "reconstruction": clips // 2}, tmp_path / "vae" / "reconstructions.safetensors")
    return tmp_path


@pytest.fixture
def builders():
    """The writers of single files, to make odd ones."""
    return {"scores": write_scores, "gallery": write_gallery, "trials": write_trials}
