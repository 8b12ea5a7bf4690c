"""Conclusions from the scores in sentences, shown at the top of the report."""

from collections.abc import Sequence
from typing import Final

from components.reporting.results import Evaluation
from components.reporting.tables import paper, tables

COPY_LAST_FRAME: Final = "copy last frame"
REAL_AGAINST_REAL: Final = "real against real"
VAE_RECONSTRUCTION: Final = "VAE reconstruction"


def sentences(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """Return the conclusions on rows of one protocol, most important first. Raises InputError if protocols differ."""
    tables.check_comparable(evaluations)
    ranked = sorted((metrics["fvd"], one.row, one) for one in evaluations if "fvd" in (metrics := _model_metrics(one)))
    if not ranked:
        return ()
    best = ranked[0][2]
    conclusions = [_lead(best, [one for *_, one in ranked[1:]])]
    few_clips, overlap = tables.few_clips(evaluations), tables.overlap(evaluations)
    conclusions += [text for text in (overlap, _against_copy(best), _floor(best), few_clips) if text]
    conclusions.append(_compare_with_paper(evaluations))
    return tuple(conclusions)


def _lead(best: Evaluation, others: Sequence[Evaluation]) -> str:
    metrics = _model_metrics(best)
    lead = f"{best.row} has an FVD of {_fvd(metrics)}"
    if not others:
        return f"{lead}."
    other = _model_metrics(others[0])
    lead = f"{lead}, the lowest of {len(others) + 1} models; next is {others[0].row} with {_fvd(other)}"
    if {"fvd_low", "fvd_high"} <= metrics.keys() & other.keys() and metrics["fvd_high"] < other["fvd_low"]:
        lead += "; their intervals do not overlap"
    return f"{lead}."


def _against_copy(best: Evaluation) -> str:
    copy = best.line(COPY_LAST_FRAME)
    if copy is None or "fvd" not in copy.metrics:
        return ""
    model, baseline = _model_metrics(best), copy.metrics
    if model["fvd"] >= baseline["fvd"]:
        text = (
            f"No model beats repeating the last context frame, which scores {_fvd(baseline)}: "
            "none has learned to predict yet"
        )
    elif model.get("fvd_high", model["fvd"]) < baseline.get("fvd_low", baseline["fvd"]):
        text = f"This is clearly better than repeating the last context frame, which scores {_fvd(baseline)}"
    else:
        text = (
            f"This is better than repeating the last context frame, which scores {_fvd(baseline)}, "
            "but the intervals overlap"
        )
    if "motion_ratio" in model:
        ratio = tables.number(model["motion_ratio"], 2)
        text += f"; the predictions of {best.row} move {ratio} times as much as the truth"
    return f"{text}."


def _floor(best: Evaluation) -> str:
    """Return a sentence on the FVD of the VAE and of real clips, which limits every model."""
    reconstruction, real = best.line(VAE_RECONSTRUCTION), best.line(REAL_AGAINST_REAL)
    if reconstruction is None or real is None or not {"fvd"} <= reconstruction.metrics.keys() & real.metrics.keys():
        return ""
    return (
        f"The VAE reconstruction alone has an FVD of {_fvd(reconstruction.metrics)}, and two sets of real clips have "
        f"{_fvd(real.metrics)}: no model on these latents can be expected to score below the larger of the two."
    )


def _compare_with_paper(evaluations: Sequence[Evaluation]) -> str:
    for published in paper.PUBLISHED:
        if not any(paper.differences(published, one.protocol) for one in evaluations):
            return f"The protocol is that of {published.title}, shown below."
    return "Do not compare these numbers with the paper's: data or protocol differ, as listed below."


def _model_metrics(evaluation: Evaluation) -> dict[str, float]:
    line = evaluation.line(evaluation.row) or next(score for score in evaluation.scores if not score.reference)
    return line.metrics


def _fvd(metrics: dict[str, float]) -> str:
    text = tables.number(metrics["fvd"], 0)
    if not {"fvd_low", "fvd_high"} <= metrics.keys():
        return text
    return f"{text} ({tables.number(metrics['fvd_low'], 0)} to {tables.number(metrics['fvd_high'], 0)})"
