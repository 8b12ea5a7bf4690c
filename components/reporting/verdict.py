"""What the scores say, in sentences: what a reader wants to know before any table."""

from collections.abc import Sequence
from typing import Final

from components.reporting import paper, tables
from components.reporting.results import Evaluation

HELD: Final = "copy last frame"
REAL: Final = "real against real"
AGAIN: Final = "VAE reconstruction"


def sentences(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """The verdict on rows of one protocol, the most important first. Raises InputError if protocols or data differ."""
    tables.check_comparable(evaluations)
    ranked = sorted((found["fvd"], one.row, one) for one in evaluations if "fvd" in (found := _own(one)))
    if not ranked:
        return ()
    best = ranked[0][2]
    told = [_lead(best, [one for *_, one in ranked[1:]])]
    few, alike = tables.few_clips(evaluations), tables.overlap(evaluations)
    told += [text for text in (alike, _against_held(best), _floor(best), few) if text]
    told.append(_beside_the_paper(evaluations))
    return tuple(told)


def _lead(best: Evaluation, others: Sequence[Evaluation]) -> str:
    own = _own(best)
    lead = f"{best.row} has an FVD of {_fvd(own)}"
    if not others:
        return f"{lead}."
    apart = _own(others[0])
    told = f"{lead}, the lowest of {len(others) + 1} models; next is {others[0].row} with {_fvd(apart)}"
    if {"fvd_low", "fvd_high"} <= own.keys() & apart.keys() and own["fvd_high"] < apart["fvd_low"]:
        told += ", and their intervals are apart"
    return f"{told}."


def _against_held(best: Evaluation) -> str:
    held = best.line(HELD)
    if held is None or "fvd" not in held.numbers:
        return ""
    own, still = _own(best), held.numbers
    if own["fvd"] >= still["fvd"]:
        told = (
            f"No model is better than holding the last frame still at {_fvd(still)}: it has not learned to predict yet"
        )
    elif own.get("fvd_high", own["fvd"]) < still.get("fvd_low", still["fvd"]):
        told = f"That is clearly better than holding the last frame still at {_fvd(still)}"
    else:
        told = (
            f"That is better than holding the last frame still at {_fvd(still)}, but not by more than chance could do"
        )
    if "motion_ratio" in own:
        told += f"; its predictions move {tables.number(own['motion_ratio'], 2)} times as much as the truth"
    return f"{told}."


def _floor(best: Evaluation) -> str:
    """What is lost before the model begins."""
    again, real = best.line(AGAIN), best.line(REAL)
    if again is None or real is None or not {"fvd"} <= again.numbers.keys() & real.numbers.keys():
        return ""
    return (
        f"The VAE alone costs {_fvd(again.numbers)} and two sets of real clips are {_fvd(real.numbers)} apart: "
        "no model on these latents can be expected to score below the larger of the two."
    )


def _beside_the_paper(evaluations: Sequence[Evaluation]) -> str:
    for published in paper.PUBLISHED:
        if not any(paper.differences(published, one.protocol) for one in evaluations):
            return f"The protocol is that of {published.title}, which stands below."
    return "These numbers must not be set beside the paper's: data or protocol differ, and below stands in what."


def _own(evaluation: Evaluation) -> dict[str, float]:
    line = evaluation.line(evaluation.row) or next(score for score in evaluation.scores if not score.reference)
    return line.numbers


def _fvd(numbers: dict[str, float]) -> str:
    text = tables.number(numbers["fvd"], 0)
    if not {"fvd_low", "fvd_high"} <= numbers.keys():
        return text
    return f"{text} ({tables.number(numbers['fvd_low'], 0)} to {tables.number(numbers['fvd_high'], 0)})"
