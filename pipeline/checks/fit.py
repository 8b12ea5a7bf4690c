"""Check that the entries of a row match each other: frames, sizes, latents, sets, guidance and conditions."""

from collections.abc import Container, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from components.foundation import checkpoint
from components.foundation.errors import InputError
from components.models.conditions.interface import ActionConfig, condition_of
from components.models.latent_training import RANDOM_WEIGHTS, phase_model
from components.nn.autoencoders.folded import FoldedVAEConfig
from components.nn.lpips import TRUNKS
from components.sampling.frame import SamplerConfig
from pipeline.checks.entries import ParamsCheck, Row
from pipeline.tuning import sampler_search, training_search
from pipeline.tuning import search_space as spaces
from pipeline.tuning.ablation import points
from pipeline.tuning.sampler_search import SamplingSearch
from pipeline.tuning.training_search import Candidate

SMALLEST: Final = 11  # height and width in pixels that SSIM needs


def autoencoder(check: ParamsCheck, name: str) -> None:
    """Check an autoencoder against its data set and its recipe."""
    where = f"autoencoders.{name}"
    vae = check.entry("autoencoders", name, f"--row {name}")
    if vae is None:
        return
    dataset = check.entry("datasets", vae.dataset, f"{where}.dataset")
    recipe = check.entry("recipes", vae.recipe, f"{where}.recipe")
    for key in ("frames", "resolution") if dataset is not None else ():
        own, other = _shown(getattr(vae, key)), _shown(getattr(dataset, key))
        if own != other:
            check.problem(f"{where}.{key} is {own}, but datasets.{vae.dataset}.{key} is {other}; make them equal")
    short = min(vae.resolution)
    objective = vae.objective
    needed = {f"{where}: SSIM": SMALLEST}
    if objective is not None and objective.lpips is not None:
        needed[f"{where}.objective.lpips"] = TRUNKS[objective.lpips.net].smallest
    if objective is not None and objective.adversarial is not None:
        needed[f"{where}.objective.adversarial.depth {objective.adversarial.depth}"] = 2**objective.adversarial.depth
    for what, least in needed.items():
        if short < least:
            check.problem(
                f"{what} needs frames of {least} x {least} or more; raise {where}.resolution {_shown(vae.resolution)}"
            )
    if recipe is not None:
        check.attempt(recipe.check, f"recipes.{vae.recipe}")
        if recipe.new_weights or recipe.phases:
            check.problem(
                f"recipes.{vae.recipe} has new_weights or phases, which only video models take; set both to [], "
                f"or name another recipe in {where}.recipe"
            )


def experiment(check: ParamsCheck, row: Row) -> None:
    """Check all entries of a row against each other."""
    if row.autoencoder is not None:
        autoencoder(check, row.chosen.autoencoder)
        if row.autoencoder.dataset != row.chosen.dataset:
            check.problem(
                f"experiments.{row.name}.dataset is {row.chosen.dataset!r}, but {row.path('autoencoder')}.dataset is "
                f"{row.autoencoder.dataset!r}; make them equal"
            )
    if row.recipe is not None:
        check.attempt(row.recipe.check, row.path("recipe"))
    _scored(check, row)
    _conditions(check, row)
    module = None if row.model is None else check.attempt(partial(_built, row.model), row.path("model"))
    _latents(check, row)
    if module is not None:
        _sampler(check, row, module)
        _positions(check, row, module)
    _search(check, row)


def initial_weights(check: ParamsCheck, row: Row, root: Path) -> None:
    """Check that a row or a folder of `root` gives the weights that a row's training starts from."""
    where, start = f"experiments.{row.name}.start", Path(row.chosen.start)
    rows = {Path("data/models") / name: name for name in check.names("experiments")}
    if start == RANDOM_WEIGHTS:
        if row.recipe is not None and row.recipe.new_weights:
            check.problem(
                f"{row.path('recipe')}.new_weights needs a trained model to start from, but {where} is {start}; "
                f"set new_weights to [], or {where} to the folder of a trained model"
            )
    elif rows.get(start) == row.name:
        check.problem(f"{where} is the row's own model; set it to the model of another row, or to {RANDOM_WEIGHTS}")
    elif start not in rows and not (root / start / checkpoint.WEIGHTS).is_file():
        check.problem(
            f"{where} is {start}, which no row writes and which holds no {checkpoint.WEIGHTS}; set it to the folder of "
            f"a trained model, such as data/models/{check.names('experiments')[0]}, or to {RANDOM_WEIGHTS}"
        )


def ablation(check: ParamsCheck, name: str) -> None:
    """Check an ablation against the rows whose models it samples, and against its protocol."""
    where = f"ablations.{name}"
    one = check.entry("ablations", name, f"--row {name}")
    if one is None:
        return
    dataset = check.entry("datasets", one.dataset, f"{where}.dataset")
    sampler = check.entry("samplers", one.sampler, f"{where}.sampler")
    protocol = check.entry("protocols", one.protocol, f"{where}.protocol")
    rows: dict[str, Any] = {}
    for key in ("experiment", "baseline"):
        row = check.entry("experiments", getattr(one, key), f"{where}.{key}")
        if row is not None and row.autoencoder != one.autoencoder:
            check.problem(
                f"{where}.autoencoder is {one.autoencoder!r}, but experiments.{getattr(one, key)}.autoencoder is "
                f"{row.autoencoder!r}; make them equal"
            )
        rows[getattr(one, key)] = row
    if protocol is not None and protocol.start != "first":
        check.problem(
            f"{where}: protocols.{one.protocol}.start is {protocol.start}, but an ablation needs first; set it to first"
        )
    if protocol is not None and dataset is not None and dataset.frames < protocol.context + protocol.frames:
        check.problem(_too_short(f"datasets.{one.dataset}", dataset.frames, f"protocols.{one.protocol}", protocol))
    for point in (sampler and check.attempt(partial(points, one, sampler), where)) or ():
        row = rows.get(point.experiment)
        if row is None:
            continue
        model = check.entry("models", row.model, f"experiments.{point.experiment}.model")
        module = None if model is None else check.attempt(partial(_built, model), f"models.{row.model}")
        if module is not None:
            _sampled(check, f"{where}.arms.{point.arm}", point.sampler, f"models.{row.model}", model, module)


def _built(model: Any) -> nn.Module:
    with torch.device("meta"):
        module: nn.Module = model.build()
    return module


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _too_short(clips: str, frames: int, where: str, protocol: Any) -> str:
    needed = protocol.context + protocol.frames
    return (
        f"{clips}.frames is {frames}, but {where} needs {needed} (context {protocol.context} and frames "
        f"{protocol.frames}); cut clips of at least {needed} frames, or lower {where}.frames"
    )


def _scored(check: ParamsCheck, row: Row) -> None:
    """Check the clips that score a row against its VAE and its protocol."""
    vae, clips, protocol = row.autoencoder, row.scored_on, row.protocol
    if clips is not None and protocol is not None and clips.frames < protocol.context + protocol.frames:
        check.problem(_too_short(row.path("scored_on"), clips.frames, row.path("protocol"), protocol))
    if vae is None:
        return
    if clips is not None and clips.resolution != vae.resolution:
        check.problem(
            f"{row.path('scored_on')}.resolution is {_shown(clips.resolution)}, but "
            f"{row.path('autoencoder')}.resolution is {_shown(vae.resolution)}; make them equal"
        )
    lengths = {} if clips is None else {f"{row.path('scored_on')}.frames": clips.frames}
    if protocol is not None:
        lengths[f"{row.path('protocol')}.context"] = protocol.context
    for setting, frames in lengths.items() if isinstance(vae, FoldedVAEConfig) else ():
        if rest := (frames - 1) % vae.stride_time:
            below, above = frames - rest, frames - rest + vae.stride_time
            check.problem(
                f"{setting} is {frames}, but {row.path('autoencoder')} takes 1 + a multiple of {vae.stride_time} "
                f"frames; use {below} or {above}"
            )


def _conditions(check: ParamsCheck, row: Row) -> None:
    """Check that the data sets of a row have the annotations that its model takes."""
    condition = None if row.model is None else condition_of(row.model)
    if condition is None:
        return
    key, what = ("actions", "actions") if isinstance(condition, ActionConfig) else ("words", "captions or labels")
    for dataset in ("dataset", "scored_on"):
        config = getattr(row, dataset)
        if config is not None and getattr(config, key) is None:
            check.problem(
                f"{row.path('model')}.condition takes {what}, but {row.path(dataset)}.{key} is null; set it to a "
                "CSV file, or the condition to null"
            )


def _latents(check: ParamsCheck, row: Row) -> None:
    """Check a model and the phases of its recipe against the latents of the VAE."""
    vae, model, recipe = row.autoencoder, row.model, row.recipe
    if model is None or not isinstance(vae, FoldedVAEConfig):  # the latents of a published VAE need its files
        return
    frames, *whole = vae.latent
    if list(model.latent) != whole:
        check.problem(
            f"{row.path('model')}.latent is {_shown(model.latent)}, but {row.path('autoencoder')} gives latents of "
            f"[channels, height, width] {whole}; set it to {whole}"
        )
        return
    for phase in recipe.resolved_phases() if recipe is not None else ():
        name = f"{row.path('recipe')}, {phase.name}" if phase.name else row.path("recipe")
        used = phase.frames or frames
        if used > frames:
            check.problem(f"{name} takes {used} latent frames, but clips have {frames}; use 2 to {frames}, or null")
        group = getattr(model, "group", 1) if model.kind == "canvasmar" else 1
        if used < 2 or (used - 1) % group:
            check.problem(
                f"{name}: clips of {used} latent frames are not 1 + a multiple of {row.path('model')}.group, which is "
                f"{group}; change the group or the length of the clips"
            )
        latent = check.attempt(partial(phase.latent_shape, (whole[0], whole[1], whole[2]), vae.resolution), name)
        changed = latent and check.attempt(partial(phase_model, model, phase, latent), name)
        if changed and changed != model:
            check.attempt(partial(_built, changed), name)


def _sampler(check: ParamsCheck, row: Row, module: nn.Module) -> None:
    """Check the sampler of a row, and every value that its search tries, against the model."""
    if row.sampler is None:
        return
    _sampled(check, row.path("sampler"), row.sampler, row.path("model"), row.model, module)
    if isinstance(row.search, SamplingSearch):
        for setting in spaces.settings_to_check(row.search.space):
            try:
                changed = sampler_search.changed(row.sampler, setting)
            except InputError:  # `_search` reports it
                continue
            _sampled(check, f"{row.path('search')}.space", changed, row.path("model"), row.model, module, setting)


def _sampled(
    check: ParamsCheck,
    where: str,
    sampler: SamplerConfig,
    path: str,
    model: Any,
    module: Any,
    only: Container[str] | None = None,
) -> None:
    """Check a sampler against a model: its number of sets, and guidance without condition dropout in training.

    With `only`, check these settings and no others.
    """
    if sampler.sets > module.most_sets and (only is None or "sets" in only):
        check.problem(f"{where}: sets is {sampler.sets}, but {path} takes at most {module.most_sets}; lower sets")
    scales = {name: getattr(sampler, name) for name in _scales(model) if only is None or name in only}
    if not module.guidable and any(scale != 1 for scale in scales.values()):
        drop = "drop" if model.kind == "canvasmar" else "condition.drop"
        shown = " and ".join(f"{name} {scale:g}" for name, scale in scales.items() if scale != 1)
        check.problem(
            f"{where}: guidance with {shown} needs a model that was trained with dropped conditions, but {path}.{drop} "
            f"is 0; set these scales to 1, or {path}.{drop} above 0"
        )


def _scales(model: Any) -> tuple[str, ...]:
    """Return the guidance scales that have an effect on a model."""
    match model.kind:
        case "canvasmar":
            return ("temporal_scale",) if model.canvas is None else ("temporal_scale", "canvas_scale")
        case "videomar":
            return () if model.condition is None else ("temporal_scale",)
        case "magi":
            return ()
        case _:
            return ("temporal_scale",)


def _positions(check: ParamsCheck, row: Row, module: Any) -> None:
    """Check that a model has positions for the longest video that is trained on or predicted."""
    vae, protocol = row.autoencoder, row.protocol
    if not isinstance(vae, FoldedVAEConfig) or protocol is None:
        return
    given = 1 + -(-(protocol.context - 1) // vae.stride_time)
    whole = 1 + -(-(protocol.context + protocol.frames - 1) // vae.stride_time)
    predicted = -(-(whole - given) // module.group) * module.group
    if module.group > whole - given:
        check.problem(
            f"{row.path('model')}.group is {module.group}, but {row.path('protocol')} predicts {whole - given} latent "
            "frames; lower group, or predict more frames"
        )
    decoder = getattr(row.model, "decoder", None)
    reach = max(vae.latent[0], given + predicted)
    if decoder is not None and reach > decoder.extent[0]:
        check.problem(
            f"{row.path('model')}.decoder.extent reaches {decoder.extent[0]} latent frames, but the row trains on or "
            f"predicts {reach}; set its first number to at least {reach}"
        )


def _search(check: ParamsCheck, row: Row) -> None:
    """Check the space of a search against the settings that it varies."""
    search, where = row.search, row.path("search")
    if search is None or row.model is None or row.recipe is None or row.sampler is None:
        return
    if isinstance(search, SamplingSearch):
        check.attempt(partial(sampler_search.suggester, row.sampler, search), where)
        return
    if row.recipe.phases:
        check.problem(f"{where} needs a recipe without phases, but {row.path('recipe')} has some; name another recipe")
        return
    current = Candidate(model=row.model, recipe=row.recipe)
    check.attempt(partial(training_search.suggester, current, search), where)
    for setting in ({}, *spaces.settings_to_check(search.space)):
        check.attempt(partial(_trial, row, current, setting), where)


def _trial(row: Row, current: Candidate, setting: Mapping[str, Any]) -> None:
    """Raise InputError if a training search cannot try a setting or does not report its objectives."""
    chosen = current.changed(setting)
    chosen.recipe.check()
    frames = row.autoencoder.latent[0] if isinstance(row.autoencoder, FoldedVAEConfig) else 3
    chosen.check_objectives(row.search, (frames, *chosen.model.latent))
