"""All scores of a set of clips against the real clips, for whole clips and window by window: a row of the table."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from components.foundation.errors import InputError
from components.metrics import form, futures, motion
from components.metrics.comparison import compare
from components.metrics.distances import frechet, fvd, i3d, kernel
from components.metrics.distances.fvd import ProtocolConfig
from components.nn.lpips import LPIPS

ExtractFeatures = Callable[[Tensor, str], Tensor]  # clips and a description of them -> one row of features per clip


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a set of clips: `line` for whole clips, `windows` for windows of the predicted frames."""

    line: dict[str, Any]
    windows: tuple[dict[str, Any], ...]  # each with its `first` and `last` predicted frame, counted from 1
    errors: Float64[Tensor, "n"] | None  # mean squared error of each clip; None for clips without a truth


@dataclass(frozen=True)
class Scorer:
    """Scores predicted frames against the truth under a protocol."""

    protocol: ProtocolConfig
    context: UInt8[Tensor, "b ... c h w"]
    truth: UInt8[Tensor, "b f c h w"]  # the frames to predict
    features: ExtractFeatures
    lpips: LPIPS

    def score(self, name: str, clips: UInt8[Tensor, "n f c h w"]) -> Scores:
        """Return the scores of predictions, n / b consecutive ones per context, in the order of the contexts.

        Raise InputError if the shape or the number of the clips does not match the truth.
        """
        self._check(name, clips)
        samples = len(clips) // len(self.truth)
        if samples * len(self.truth) != len(clips):
            raise InputError(
                f"{name}: {len(clips)} predictions of {len(self.truth)} contexts; provide equally many for each context"
            )
        embeddings = frechet.frame_embeddings(clips, self.lpips)
        compared = compare(clips, self.truth, self.lpips)
        line = self._distances(name, fvd.scored(self.context, clips, self.protocol)) | compared.means(samples)
        line["frame_distance"] = frechet.frame_distance(self._truth_embeddings, embeddings)
        moving_pixels = motion.moving(self.context[:, -1].repeat_interleave(samples, dim=0), clips)
        line |= self._motion(clips, moving_pixels, self._all_frames) | (
            futures.diversity(clips, self.truth) if samples > 1 else {}
        )
        windows = tuple(
            self._score_window(name, clips, embeddings, window)
            | compared.window(window).means(samples)
            | self._motion(clips, moving_pixels, window)
            for window in self.protocol.windows
        )
        return Scores(line, windows, compared.squared_errors.mean(dim=1))

    def score_others(
        self, name: str, context: UInt8[Tensor, "n ... c h w"], clips: UInt8[Tensor, "n f c h w"]
    ) -> Scores:
        """Return the scores of clips that predict no true clip, such as other real clips.

        Raise InputError if the shape of the clips does not match the truth.
        """
        self._check(name, clips)
        embeddings = frechet.frame_embeddings(clips, self.lpips)
        line = self._distances(name, fvd.scored(context, clips, self.protocol))
        line["frame_distance"] = frechet.frame_distance(self._truth_embeddings, embeddings)
        last = context[:, -1]
        still_pixels = ~motion.moving(last, clips)
        windows = tuple(
            self._score_window(name, clips, embeddings, window) | _real_motion(last, clips, still_pixels, window)
            for window in self.protocol.windows
        )
        return Scores(line | _real_motion(last, clips, still_pixels, self._all_frames), windows, None)

    @property
    def _all_frames(self) -> slice:
        return slice(0, self.truth.shape[1])

    @functools.cached_property
    def _truth_moving(self) -> Bool[Tensor, "b h w"]:
        return motion.moving(self.context[:, -1], self.truth)

    @functools.cached_property
    def _truth_embeddings(self) -> Float[Tensor, "b f d"]:
        return frechet.frame_embeddings(self.truth, self.lpips)

    def _check(self, name: str, clips: Tensor) -> None:
        if clips.shape[1:] != self.truth.shape[1:]:
            raise InputError(
                f"{name}: clips of (frames, channels, height, width) {tuple(clips.shape[1:])} cannot be scored against "
                f"real clips of {tuple(self.truth.shape[1:])}; bring both to one shape first"
            )

    def _score_window(
        self, name: str, clips: UInt8[Tensor, "n f c h w"], embeddings: Float[Tensor, "n f d"], window: slice
    ) -> dict[str, Any]:
        line: dict[str, Any] = {"name": name, "first": window.start + 1, "last": window.stop}
        line["frame_distance"] = frechet.frame_distance(self._truth_embeddings[:, window], embeddings[:, window])
        long_enough = window.stop - window.start >= i3d.SHORTEST
        return line | (self._distances(name, clips[:, window], window) if long_enough else {})

    def _distances(self, name: str, clips: UInt8[Tensor, "n ... c h w"], window: slice | None = None) -> dict[str, Any]:
        """Return FVD and KVD from the real clips, of a window of both or of whole clips.

        Whole clips include the context if the protocol scores it.
        """
        truth = fvd.scored(self.context, self.truth, self.protocol) if window is None else self.truth[:, window]
        part = "" if window is None else f", frames {window.start + 1} to {window.stop}"
        real, fake = self.features(truth, f"truth{part}"), self.features(clips, f"{name}{part}")
        distances = {
            "fvd": fvd.score(real, fake, self.protocol.resamples),
            "kvd": kernel.score(real, fake, self.protocol.resamples),
        }
        line: dict[str, Any] = {"name": name, "clips": len(clips), "fvd_corrected": distances["fvd"].corrected}
        for key, estimate in distances.items():
            line |= {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
        return line

    def _motion(
        self, clips: UInt8[Tensor, "n f c h w"], moving_pixels: Bool[Tensor, "n h w"], window: slice
    ) -> dict[str, float]:
        """Return scores of motion in a window: amount of motion, change at still pixels, and form distance.

        Still pixels are determined over all frames, so that windows differ only in the predictions.
        """
        samples, last, late = len(clips) // len(self.truth), self.context[:, -1], form.last_frames(window)
        amounts = motion.motion(clips[:, window])
        scores = {"motion": float(amounts.mean())}
        scores |= motion.ratio_to_truth(amounts, motion.motion(self.truth[:, window]).repeat_interleave(samples))
        still_pixels, device = ~self._truth_moving, self.lpips.shift.device
        optional = {
            "still_change": motion.still_change(last, clips, still_pixels, window),
            "still_change_truth": motion.still_change(last, self.truth, still_pixels, window),
            "form_distance": form.distance(
                clips[:, late], self.truth[:, late], moving_pixels, self._truth_moving, device
            ),
        }
        return scores | {key: value for key, value in optional.items() if value is not None}


def _real_motion(
    last: UInt8[Tensor, "n c h w"],
    clips: UInt8[Tensor, "n f c h w"],
    still_pixels: Bool[Tensor, "n h w"],
    window: slice,
) -> dict[str, float]:
    """Return the motion of real clips in a window, and the change at their still pixels, which is noise."""
    change = motion.still_change(last, clips, still_pixels, window)
    noise = {} if change is None else {"still_change": change}
    return {"motion": float(motion.motion(clips[:, window]).mean())} | noise
