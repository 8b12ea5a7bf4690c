"""Columns of the score tables: label, unit, digits, better direction and explanation of each metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

HIDDEN: Final = (
    "clips",
    "motion",
    "still_change_truth",
    "spread",
)  # not in the score table: the protocol line or a ratio column has the same information
NOTES: Final[Mapping[str, str]] = {
    "fvd_corrected": "corrected: FVD minus its bias of order 1 / N, which is estimated by leaving out clips; the row "
    "real against real shows the bias that remains",
    "kvd": "KVD: kernel distance of the same features; unbiased, so 0 on average for equal distributions of any size, "
    "but noisier than FVD",
    "frame_distance": "frames: Fréchet distance of AlexNet features of single frames; like FID, but on another scale",
    "motion_ratio": "motion, ratio to the truth: 1 means as much motion as the truth; frozen: share of predictions "
    "with less than a tenth of the truth's motion",
    "still_change": "still regions: change between successive frames, in grey levels, at pixels that do not move in "
    "the truth; the row real against real shows the change that noise alone causes",
    "form_distance": "form: sliced Wasserstein distance between moving patches of prediction and truth, regardless of "
    "their position, in the last quarter of the frames; 0 means equal shapes; blur, fading and noise raise it",
    "psnr_best": "best: only the prediction of each context with the best score counts",
    "spread_ratio": "spread, ratio to the error: distance between predictions of one context, divided by their "
    "distance to the truth; 1 if the truth could be one of them, below 1 if predictions are too similar",
}


@dataclass(frozen=True, slots=True)
class Column:
    """Format of the metric `key` in a table, and whether lower or higher is better."""

    key: str
    label: str
    digits: int
    better: Literal["lower", "higher"] | None = None
    unit: str = ""
    scale: float = 1.0


SCORES: Final = (
    Column("fvd", "FVD", 0, "lower"),
    Column("fvd_corrected", "corrected", 0, "lower", "FVD"),
    Column("kvd", "KVD", 1, "lower"),
    Column("frame_distance", "frames", 1, "lower", "distance"),
    Column("clips", "clips", 0),
    Column("psnr", "PSNR", 2, "higher", "dB"),
    Column("psnr_best", "PSNR, best", 2, "higher", "dB"),
    Column("ssim", "SSIM", 3, "higher"),
    Column("ssim_best", "SSIM, best", 3, "higher"),
    Column("lpips", "LPIPS", 3, "lower"),
    Column("lpips_best", "LPIPS, best", 3, "lower"),
    Column("motion", "motion", 1, None, "levels"),
    Column("motion_ratio", "motion", 2, None, "ratio to the truth"),
    Column("frozen", "frozen", 0, "lower", "%", 100.0),
    Column("still_change", "still regions", 2, "lower", "levels/frame"),
    Column("still_change_truth", "still regions of the truth", 2, None, "levels/frame"),
    Column("form_distance", "form", 1, "lower", "levels"),
    Column("spread", "spread", 1, None, "levels"),
    Column("spread_ratio", "spread", 2, None, "ratio to the error"),
    Column("milliseconds_per_frame", "time", 1, "lower", "ms/frame"),
    Column("parameters", "size", 2, None, "M", 1e-6),
)
