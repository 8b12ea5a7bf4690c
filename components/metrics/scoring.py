"""A line of the table of scores: what clips are worth beside the real ones, as a whole and window by window."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from components.errors import InputError
from components.metrics import futures, fvd, i3d, kernel, motion, pictures
from components.metrics.comparison import compare
from components.metrics.fvd import ProtocolConfig
from components.nn.lpips import LPIPS

Features = Callable[[Tensor, str], Tensor]  # clips and what they are -> a row of features for each


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of some clips; `windows` hold the same of parts of them, with their first and last predicted frame."""

    line: dict[str, Any]
    windows: tuple[dict[str, Any], ...]
    errors: Float64[Tensor, "n"] | None  # mean squared error of each clip, where it has a truth of its own


@dataclass(frozen=True)
class Judge:
    """Scores predicted frames against the truth by a protocol."""

    protocol: ProtocolConfig
    context: UInt8[Tensor, "b ... c h w"]
    truth: UInt8[Tensor, "b f c h w"]  # the frames to predict
    features: Features
    lpips: LPIPS

    def score(self, name: str, clips: UInt8[Tensor, "n f c h w"]) -> Scored:
        """Predictions of each context, neighbours of one another, in the order of the contexts."""
        self._check(name, clips)
        each = len(clips) // len(self.truth)
        if each * len(self.truth) != len(clips):
            raise InputError(
                f"{name}: {len(clips)} predictions of {len(self.truth)} contexts; give each the same number"
            )
        seen = pictures.embeddings(clips, self.lpips)
        compared = compare(clips, self.truth, self.lpips)
        line = self._distances(name, fvd.scored(self.context, clips, self.protocol)) | compared.numbers(each)
        line["frame_distance"] = pictures.distance(self._truth_seen, seen)
        line |= self._motion(clips, self.truth) | (futures.diversity(clips, self.truth) if each > 1 else {})
        windows = tuple(
            self._of_window(name, clips, seen, window)
            | compared.window(window).numbers(each)
            | self._motion(clips[:, window], self.truth[:, window])
            for window in self.protocol.windows
        )
        return Scored(line, windows, compared.squared_errors.mean(dim=1))

    def score_others(
        self, name: str, context: UInt8[Tensor, "n ... c h w"], clips: UInt8[Tensor, "n f c h w"]
    ) -> Scored:
        """Clips that have nothing to do with the truth, such as other real ones."""
        self._check(name, clips)
        seen = pictures.embeddings(clips, self.lpips)
        line = self._distances(name, fvd.scored(context, clips, self.protocol))
        line["frame_distance"] = pictures.distance(self._truth_seen, seen)
        windows = tuple(
            self._of_window(name, clips, seen, window) | {"motion": float(motion.motion(clips[:, window]).mean())}
            for window in self.protocol.windows
        )
        return Scored(line | {"motion": float(motion.motion(clips).mean())}, windows, None)

    @functools.cached_property
    def _truth_seen(self) -> Float[Tensor, "b f d"]:
        return pictures.embeddings(self.truth, self.lpips)

    def _check(self, name: str, clips: Tensor) -> None:
        if clips.shape[1:] != self.truth.shape[1:]:
            raise InputError(
                f"{name}: clips of (frames, channels, height, width) {tuple(clips.shape[1:])} cannot be scored against "
                f"real ones of {tuple(self.truth.shape[1:])}; bring both to one shape first"
            )

    def _of_window(
        self, name: str, clips: UInt8[Tensor, "n f c h w"], seen: Float[Tensor, "n f d"], window: slice
    ) -> dict[str, Any]:
        place: dict[str, Any] = {"name": name, "first": window.start + 1, "last": window.stop}
        place["frame_distance"] = pictures.distance(self._truth_seen[:, window], seen[:, window])
        long_enough = window.stop - window.start >= i3d.SHORTEST
        return place | (self._distances(name, clips[:, window], window) if long_enough else {})

    def _distances(self, name: str, clips: UInt8[Tensor, "n ... c h w"], window: slice | None = None) -> dict[str, Any]:
        """FVD and KVD from real clips: of a window of both, or of whole ones with what the protocol adds to them."""
        truth = fvd.scored(self.context, self.truth, self.protocol) if window is None else self.truth[:, window]
        part = "" if window is None else f", frames {window.start + 1} to {window.stop}"
        real, fake = self.features(truth, f"truth{part}"), self.features(clips, f"{name}{part}")
        distances = {
            "fvd": fvd.score(real, fake, self.protocol.resamples),
            "kvd": kernel.score(real, fake, self.protocol.resamples),
        }
        line: dict[str, Any] = {"name": name, "clips": len(clips), "fvd_corrected": distances["fvd"].corrected}
        for key, found in distances.items():
            line |= {key: found.value, f"{key}_low": found.low, f"{key}_high": found.high}
        return line

    def _motion(self, clips: UInt8[Tensor, "n f c h w"], truth: UInt8[Tensor, "b f c h w"]) -> dict[str, float]:
        own = motion.motion(clips)
        each = len(clips) // len(truth)
        return {"motion": float(own.mean())} | motion.against(own, motion.motion(truth).repeat_interleave(each))
