"""Check that each split has enough clips for recipes, searches and protocols.

Splits with a still unknown number of clips are not checked.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.datasets import actions, shards
from components.datasets.clips import ClipsManifest
from components.datasets.shards import SPLITS
from components.foundation.errors import InputError
from components.models.conditions.interface import ActionConfig, LabelConfig, condition_of
from components.nn.autoencoders.folded import FoldedVAEConfig
from components.simulation.worlds import COMMANDS
from components.sources import cutting, sources
from components.sources.splits import NamedSplit
from pipeline.checks.entries import ParamsCheck, Row

Counts = dict[str, int]  # split -> clips, for the splits whose number of clips is known


@dataclass(frozen=True, slots=True)
class Known:
    """State of the disk: the project's folder, and the up-to-date folders of clips by data set."""

    root: Path
    clips: Mapping[str, Path]
    videos_needed: bool  # whether a data set whose folder of videos is missing is a problem


def simulated(check: ParamsCheck, dataset: Any) -> tuple[str, Any] | None:
    """Return name and settings of the simulation that writes the videos of a data set; None without one."""
    for name in check.names("simulations"):
        if dataset.path == f"data/videos/{name}":
            world = check.entry("simulations", name, "")
            return None if world is None else (name, world)
    return None


def counts(check: ParamsCheck, name: str, dataset: Any, known: Known) -> Counts:
    """Return the number of clips of each split of a data set, without splits whose number is still unknown.

    The numbers come from the clips on disk if these are up to date, otherwise from the settings of the simulation. For
    a user's folder of videos, only splits without a video are included, with 0 clips.
    """
    folder = known.clips.get(name)
    if folder is not None and not (folder / shards.MANIFEST).is_file():
        return {}  # the stage itself reports it if it reads the clips
    if folder is None and _fresh(known.root / "data" / "clips" / name, dataset, known.root):
        folder = known.root / "data" / "clips" / name
    if folder is not None:
        manifest = check.attempt(partial(shards.read_manifest, ClipsManifest, folder))
        return {} if manifest is None else {str(split): count for split, count in manifest.counts.items()}
    if (found := simulated(check, dataset)) is not None:
        return _of_simulation(dataset, found[1])
    if not (known.root / Path(dataset.path).expanduser()).exists() and not known.videos_needed:
        return {}
    collection = check.attempt(partial(sources.find, _placed(dataset, known.root)), f"datasets.{name}")
    return {} if collection is None else dict.fromkeys(set(SPLITS) - {video.split for video in collection.videos}, 0)


def dataset(check: ParamsCheck, name: str, known: Known) -> Any:
    """Check a data set against the simulation that writes its videos; return its settings, None if invalid."""
    found = check.entry("datasets", name, f"--row {name}")
    if found is None or (source := simulated(check, found)) is None:
        return found
    world, span = source[1], (found.frames - 1) * found.stride + 1
    if getattr(found, "fps", None) in (None, world.fps) and world.frames < span:
        check.problem(
            f"datasets.{name} cuts clips of {span} frames (frames {found.frames}, stride {found.stride}), but the "
            f"videos of simulations.{source[0]} have {world.frames}; set simulations.{source[0]}.frames "
            f"to at least {span}"
        )
    if found.actions is not None and COMMANDS[world.kind] is None:
        check.problem(
            f"datasets.{name}.actions is {found.actions!r}, but a world of kind {world.kind} has no commands; set it "
            "to null, or simulate kind pusher or kuka"
        )
    return found


def experiment(check: ParamsCheck, row: Row, known: Known) -> None:
    """Check that the splits have enough clips for a row, and that its model fits their annotations."""
    own = {key: getattr(row.chosen, key) for key in ("dataset", "scored_on") if getattr(row, key) is not None}
    found = {key: counts(check, name, getattr(row, key), known) for key, name in own.items()}
    for key in own:
        dataset(check, own[key], known)
        _columns(check, row, key, known)
    if "dataset" in found:
        _train(check, row, f"datasets.{own['dataset']}", found["dataset"])
    if "scored_on" not in found:
        return
    scored, where = found["scored_on"], f"datasets.{own['scored_on']}"
    search, protocol = row.search, row.protocol
    if search is not None and search.kind == "sampling":
        _enough(check, f"{row.path('search')}.clips", search.clips, 2, where, "val", scored)
        _fewer(check, f"{row.path('search')}: clips + unseen", search.clips + search.unseen, where, "val", scored)
    if protocol is not None:
        _enough(check, f"{row.path('protocol')}.clips", protocol.clips, 2, where, "test", scored)


def ablation(check: ParamsCheck, name: str, known: Known) -> None:
    """Check that the test split has enough clips for an ablation."""
    one = check.entry("ablations", name, f"--row {name}")
    clips = one and check.entry("datasets", one.dataset, f"ablations.{name}.dataset")
    protocol = one and check.entry("protocols", one.protocol, f"ablations.{name}.protocol")
    if clips and protocol:
        found = counts(check, one.dataset, clips, known)
        _enough(check, f"protocols.{one.protocol}.clips", protocol.clips, 2, f"datasets.{one.dataset}", "test", found)


def autoencoder(check: ParamsCheck, name: str, known: Known) -> None:
    """Check that the splits have enough clips for training an autoencoder."""
    vae = check.entry("autoencoders", name, f"--row {name}")
    config = vae and check.entry("datasets", vae.dataset, f"autoencoders.{name}.dataset")
    recipe = vae and check.entry("recipes", vae.recipe, f"autoencoders.{name}.recipe")
    if config is None:
        return
    where, found = f"datasets.{vae.dataset}", counts(check, vae.dataset, config, known)
    dataset(check, vae.dataset, known)
    _some(check, where, found)
    if recipe is not None and vae.objective is not None:
        _enough(check, f"recipes.{vae.recipe}.batch", recipe.batch, 1, where, "train", found)


def _train(check: ParamsCheck, row: Row, where: str, found: Counts) -> None:
    _some(check, where, found)
    for phase in row.recipe.resolved_phases() if row.recipe is not None else ():
        setting = f"{row.path('recipe')}.batch" + (f" ({phase.name})" if phase.name else "")
        _enough(check, setting, phase.recipe.batch, 1, where, "train", found)
    if row.recipe is not None:
        setting = f"{row.path('recipe')}.validation_clips"
        _fewer(check, setting, row.recipe.validation_clips, where, "val", found)


def _some(check: ParamsCheck, where: str, found: Counts) -> None:
    for split in ("train", "val"):
        if found.get(split, 1) < 1:
            check.problem(f"the split {split} of {where} has no clips, but training needs some; {_more(split, where)}")


def _enough(check: ParamsCheck, setting: str, wanted: int, least: int, where: str, split: str, found: Counts) -> None:
    count = found.get(split)
    if count is None or wanted <= count or (split == "train" and count == 0):  # `_some` reports an empty split
        return
    lower = f"set it to at most {count}, or " if count >= least else ""
    check.problem(
        f"{setting} is {wanted}, but the split {split} of {where} has {count} clips; {lower}{_more(split, where)}"
    )


def _fewer(check: ParamsCheck, setting: str, wanted: int, where: str, split: str, found: Counts) -> None:
    count = found.get(split)
    if count is not None and 0 < count < wanted:
        check.note(f"{setting} is {wanted}, but the split {split} of {where} has {count} clips; all are used")


def _more(split: str, where: str) -> str:
    return f"assign more videos to {split} ({where}.split), or lower {where}.step to cut more clips"


def _of_simulation(config: Any, world: Any) -> Counts:
    fps = getattr(config, "fps", None)
    if not isinstance(getattr(config, "split", None), NamedSplit) or fps not in (None, world.fps):
        return {}
    span = (config.frames - 1) * config.stride + 1
    each = 1 + (world.frames - span) // config.step if world.frames >= span else 0
    return {split: each * getattr(world.episodes, split) for split in SPLITS}


def _fresh(folder: Path, config: Any, root: Path) -> bool:
    """Whether clips on disk were cut with these settings, and no video is newer."""
    manifest = folder / shards.MANIFEST
    if not manifest.is_file():
        return False
    try:
        if shards.read_manifest(ClipsManifest, folder).cut != cutting.content(config):
            return False
        videos = root / Path(config.path).expanduser()
        made = manifest.stat().st_mtime
        return all(path.stat().st_mtime <= made for path in (videos, *videos.rglob("*")) if path.exists())
    except (InputError, OSError):
        return False


def _placed(config: Any, root: Path) -> Any:
    return config.model_copy(update={"path": str(root / Path(config.path).expanduser())})


def _columns(check: ParamsCheck, row: Row, key: str, known: Known) -> None:
    """Check the action columns and the labels of a data set against the condition of the model."""
    condition = None if row.model is None else condition_of(row.model)
    config = getattr(row, key)
    if isinstance(condition, ActionConfig) and config.actions is not None:
        columns = _action_columns(check, config, known)
        if columns and isinstance(row.autoencoder, FoldedVAEConfig):
            numbers = columns * row.autoencoder.stride_time
            if condition.numbers != numbers:
                check.problem(
                    f"{row.path('model')}.condition.numbers is {condition.numbers}, but {row.path(key)} has {columns} "
                    f"action columns for each of the {row.autoencoder.stride_time} frames of a latent frame; set it to "
                    f"{numbers}"
                )
    if isinstance(condition, LabelConfig) and config.words is not None:
        labels = _cells(known.root / Path(config.path).expanduser() / config.words, "label")
        if unknown := sorted(labels - set(condition.classes)):
            check.problem(
                f"{row.path(key)}.words has the label {unknown[0]!r}, which {row.path('model')}.condition.classes does "
                f"not list; add the {len(unknown)} missing labels to it"
            )


def _action_columns(check: ParamsCheck, config: Any, known: Known) -> int | None:
    if (source := simulated(check, config)) is not None and config.actions == actions.CSV:
        commands = COMMANDS[source[1].kind]
        return None if commands is None else len(commands)
    path = known.root / Path(config.path).expanduser() / config.actions
    if not path.is_file():
        return None
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        return len([name for name in next(csv.reader(file), []) if name not in actions.KEYS]) or None


def _cells(path: Path, column: str) -> set[str]:
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        return {line[column] for line in csv.DictReader(file) if line.get(column) is not None}
