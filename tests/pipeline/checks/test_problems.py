"""The whole of params.yaml is checked before anything runs, and every problem names the setting and what would do."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.foundation.config import read_yaml
from components.foundation.errors import InputError
from components.foundation.settings import presets
from pipeline.checks import problems
from tests.pipeline.conftest import ROOT, tiny

FILES = sorted((ROOT / "presets").glob("*.yaml"))
NOWHERE = Path("/nowhere")
DEFAULT = read_yaml(ROOT / "params.yaml")


def edited(tables: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with the values at these dotted paths changed."""
    content = copy.deepcopy(tables)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = content
        for name in parents:
            place = place[name]
        place[last] = value
    return content


def found(tables: dict[str, Any], root: Path = NOWHERE, *, videos_needed: bool = False) -> list[str]:
    check = problems.whole(tables, "params.yaml", root, videos_needed=videos_needed)
    assert all("\n" not in sentence and sentence.startswith("params.yaml: ") for sentence in check.problems)
    return list(check.problems)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_preset_has_a_problem(file: Path) -> None:
    assert found(presets.read(file)) == []


def test_the_preset_that_the_documentation_shows_has_no_problem(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "how-to" / "change.md").read_text(encoding="utf-8")
    shutil.copy(ROOT / "presets" / "default.yaml", tmp_path)
    (tmp_path / "shown.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    tables = presets.read(tmp_path / "shown.yaml")
    assert list(tables["experiments"]) == ["push-canvasmar", "push-dropout"]
    assert tables["models"]["dropout"] == tables["models"]["canvas"] | {"drop": 0.1}
    assert found(tables) == []


def test_the_tiny_parameters_of_the_tests_have_no_problem() -> None:
    assert found(tiny(presets.read(ROOT / "presets" / "kuka.yaml"))) == []


PHASE = {"steps": 1, **dict.fromkeys(("batch", "learning_rate", "frames", "resolution", "frame_noise", "canvas_noise"))}
CASES: list[tuple[str, Any, str]] = [
    ("autoencoders.push-vae.frames", 19, "autoencoders.push-vae.frames is 19, but datasets.push.frames is 21"),
    ("autoencoders.push-vae.resolution", [32, 64], "is [32, 64], but datasets.push.resolution is [64, 64]"),
    ("models.canvas.latent", [8, 8, 8], "[channels, height, width] [16, 8, 8]; set it to [16, 8, 8]"),
    ("models.canvas.temporal.width", 64, "models.canvas: model.spatial.width is 128"),
    ("models.canvas.group", 3, "models.canvas: model.rows needs model.group 1"),
    ("models.canvas.condition.numbers", 6, "2 action columns for each of the 2 frames of a latent frame; set it to 4"),
    ("datasets.push.actions", None, "models.canvas.condition takes actions, but datasets.push.actions is null"),
    ("simulations.push.kind", "shapes", "a world of kind shapes has no commands; set it to null"),
    (
        "simulations.push.frames",
        20,
        "the videos of simulations.push have 20; set simulations.push.frames to at least 21",
    ),
    ("recipes.model.batch", 5000, "the split train of datasets.push has 3600 clips; set it to at most 3600"),
    ("recipes.model.workers", 3, "recipes.model: recipe.batch is 2, too few for 3 workers"),
    ("recipes.vae.batch", 5000, "recipes.vae.batch is 5000, but the split train"),
    ("recipes.vae.phases", [PHASE], "recipes.vae has new_weights or phases, which only video models take"),
    ("experiments.push-canvasmar.start", "data/models/base", "which no row writes and which holds no weights.safeten"),
    ("experiments.push-canvasmar.start", "data/models/push-canvasmar", "canvasmar.start is the row's own model"),
    ("recipes.model.new_weights", ["canvas."], "new_weights needs a trained model to start from, but experiments."),
    ("searches.guidance.clips", 150, "the split val of datasets.push has 144 clips; set it to at most 144"),
    ("searches.guidance.trials", 3, "searches.guidance: the grid has 4 points, but trials is 3"),
    ("searches.guidance.space", {"canvas_scale": {"choices": [-1.0]}}, "canvas_scale is -1.0: it must be at least 0"),
    ("searches.guidance.space", {"sets": {"choices": [65]}}, "guidance.space: sets is 65, but models.canvas takes at"),
    ("protocols.push.clips", 500, "protocols.push.clips is 500, but the split test of datasets.push has 480 clips"),
    ("protocols.push.frames", 17, "frames is 21, but protocols.push needs 22 (context 5 and frames 17)"),
    ("protocols.push.context", 4, "autoencoders.push-vae takes 1 + a multiple of 2 frames; use 3 or 5"),
    ("samplers.default.sets", 65, "samplers.default: sets is 65, but models.canvas takes at most 64; lower sets"),
    (
        "models.canvas.drop",
        0.0,
        "guidance with canvas_scale 1.5 needs a model that was trained with dropped conditions",
    ),
    ("models.no-canvas.drop", 0.0, "guidance with temporal_scale 1.5 needs a model"),
    ("simulations.push.episodes.val", 0, "the split val of datasets.push has no clips, but training needs some"),
    (
        "experiments.push-canvasmar.scored_on",
        "pull",
        "scored_on is 'pull', but datasets has no such entry; it has push",
    ),
    ("experiments.push-canvasmar.colour", "red", "experiments.push-canvasmar: unknown key experiment.colour"),
    ("samplers.fast.solver", "magic", "samplers.fast: sampler.solver is 'magic'"),  # which no row uses
    ("protocols", None, "the table protocols is missing; add it"),
    ("common", {"width": 64}, "unknown table common; the tables are simulations, "),  # such as one of YAML anchors
]


@pytest.mark.parametrize(("path", "value", "words"), CASES, ids=[f"{case[0]}={str(case[1])[:20]}" for case in CASES])
def test_a_problem_names_the_setting_and_what_would_do(path: str, value: Any, words: str) -> None:
    sentences = found(edited(DEFAULT, **{path: value}))
    assert any(words in sentence for sentence in sentences), sentences


def test_all_problems_are_found_at_once_and_each_once() -> None:
    changes = {"recipes.model.clip": 0, "protocols.push.clips": 500, "samplers.default.sets": 65}
    sentences = found(edited(DEFAULT, **changes))
    for words in ("recipe.clip is 0", "clips is 500", "models.canvas takes at most", "models.no-actions takes at most"):
        assert len([one for one in sentences if words in one]) == 1, words
    assert len(sentences) == 4


LABELS = {"condition": {"kind": "label", "classes": ["a"], "drop": 0.0}, "decoder.norm_first": False}
RELATIVES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (LABELS, {"temporal_scale": 2.0}, "models.videomar.condition.drop is 0"),
    ({"decoder.extent": [8, 16, 16]}, {}, "but the row trains on or predicts 11; set its first number to at least 11"),
    (LABELS, {}, "takes captions or labels, but datasets.push.words is null"),
]


@pytest.mark.parametrize(("changes", "sampler", "words"), RELATIVES)
def test_the_relatives_of_the_model_are_checked_too(
    changes: dict[str, Any], sampler: dict[str, Any], words: str
) -> None:
    content = presets.read(ROOT / "presets" / "compare.yaml")
    row = next(row for row in content["experiments"].values() if row["model"] == "videomar")
    paths = {f"models.videomar.{path}": value for path, value in changes.items()}
    paths |= {f"samplers.{row['sampler']}.{path}": value for path, value in sampler.items()}
    sentences = found(edited(content, **paths))
    assert any(words in sentence for sentence in sentences), sentences


def own(folder: Path, videos: int, **changes: Any) -> dict[str, Any]:
    """The preset for one's own videos, with so many files in a folder."""
    (folder / "videos").mkdir()
    for index in range(videos):
        (folder / "videos" / f"{index:02d}.mp4").touch()
    (name,) = presets.read(ROOT / "presets" / "own-videos.yaml")["datasets"]
    return edited(presets.read(ROOT / "presets" / "own-videos.yaml"), **{f"datasets.{name}.path": "videos", **changes})


def test_twelve_videos_of_ones_own_are_too_few_before_the_first_is_cut(tmp_path: Path) -> None:
    tables = own(tmp_path, 12)
    (name,) = tables["datasets"]
    tables["datasets"][name]["split"] = {"kind": "hash", "val": 0.001, "test": 0.5}
    sentences = found(tables, tmp_path)
    assert f"params.yaml: datasets.{name}: none of the 12 videos in " in sentences[0]
    assert "is assigned to val, whose share is 0.001; raise the share, or split by folders or lists" in sentences[0]


def test_a_folder_that_is_not_there_is_a_problem_only_where_videos_are_needed(tmp_path: Path) -> None:
    tables = own(tmp_path, 12)
    (tmp_path / "videos").rename(tmp_path / "elsewhere")
    assert found(tables, tmp_path) == []
    assert "does not exist; correct the data set's path" in found(tables, tmp_path, videos_needed=True)[0]


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A project of a simulated world whose three videos for each split are cut into clips."""
    import torch

    from components.foundation.config import parse
    from components.sources import cutting, sources
    from components.video import video
    from pipeline.preprocess import Params

    tables = small()
    for split in ("train", "val", "test"):
        for index in range(3):
            path = tmp_path / "videos" / split / f"{index}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            frames = torch.randint(0, 255, (18, 3, 32, 32), dtype=torch.uint8, generator=generator(split, index))
            video.write(path, frames, 8)
    content = edited(tables, **{"datasets.kuka.path": str(tmp_path / "videos")})
    config = parse(Params, {"dataset": content["datasets"]["kuka"]}, where="here").dataset
    collection = sources.find(config)
    (tmp_path / "state").mkdir()
    out = tmp_path / "data" / "clips" / "kuka"
    out.mkdir(parents=True)
    reports = [cutting.write_shard(job, config, tmp_path / "state") for job in cutting.jobs(collection.videos, config)]
    cutting.finish(out, tmp_path / "state", reports, collection, config, None, None)
    return tmp_path


def generator(split: str, index: int) -> Any:
    import torch

    return torch.Generator().manual_seed(len(split) * 10 + index + (100 if split == "val" else 0))


def small() -> dict[str, Any]:
    """The tiny parameters, with videos of one's own instead of a simulation."""
    tables = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))
    return edited(tables, simulations={}, **{"datasets.kuka.path": "videos", "datasets.kuka.split": {"kind": "named"}})


def test_clips_on_disk_are_counted(cut: Path) -> None:
    clips = cut / "data" / "clips" / "kuka"
    tables = edited(small(), **{"searches.guidance.clips": 20, "protocols.kuka.clips": 30})
    sentences = found(tables, cut)
    assert len(sentences) == 2, sentences
    assert "searches.guidance.clips is 20, but the split val of datasets.kuka has" in sentences[0]
    assert "protocols.kuka.clips is 30, but the split test of datasets.kuka has" in sentences[1]
    with pytest.raises(InputError, match=r"clips is 20.* \(and 1 more: `canvasmar check` prints all problems\)"):
        problems.before_stage(tables, "autoencoders", "kuka-vae", {"clips": clips})
    (cut / "videos" / "val" / "new.mp4").touch()  # the clips are older now, and may be too few no longer
    assert found(tables, cut) == []


def test_fewer_clips_than_are_asked_for_where_fewer_do_are_a_note(cut: Path) -> None:
    tables = edited(small(), **{"searches.guidance.unseen": 50, "protocols.kuka.clips": 3})
    check = problems.whole(tables, "params.yaml", cut, videos_needed=True)
    assert check.problems == {}
    assert any("clips + unseen is 52" in note for note in check.notes)


def test_a_stage_checks_the_rows_that_depend_on_its_row_and_no_others() -> None:
    tables = edited(DEFAULT, **{"samplers.no-canvas.sets": 65})
    sound = (("experiments", "push-canvasmar"), ("experiments", "push-no-actions"), (None, None))
    broken = (("simulations", "push"), ("datasets", "push"), ("autoencoders", "push-vae"))
    for table, row in sound:
        problems.before_stage(tables, table, row, {})
    for table, row in (*broken, ("experiments", "push-no-canvas")):
        with pytest.raises(
            InputError, match=r"samplers\.no-canvas: sets is 65, but models\.no-canvas takes at most 64"
        ):
            problems.before_stage(tables, table, row, {})


def test_an_ablation_is_checked_against_its_rows() -> None:
    tables = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))
    cases: dict[str, tuple[Any, str]] = {
        "ablations.sets.experiment": ("gone", "ablations.sets.experiment is 'gone', but experiments has no such entry"),
        "protocols.kuka.start": ("random", "protocols.kuka.start is random, but an ablation needs first"),
        "ablations.sets.arms.with.space": ({"sets": [2, 20]}, "arms.with: sets is 20, but models.canvas takes at"),
        "protocols.kuka.clips": (60, "protocols.kuka.clips is 60, but the split test of datasets.kuka has 8 clips"),
    }  # fmt: skip
    for path, (value, words) in cases.items():
        with pytest.raises(InputError, match=words):
            problems.before_stage(edited(tables, **{path: value}), "ablations", "sets", {})


def test_a_training_search_is_checked_before_it_trains() -> None:
    search = {
        "kind": "training", "space": {"recipe": {"learning_rate": {"choices": [1e-3, -1.0]}}}, "algorithm": "grid",
        "trials": 2, "objectives": ["validation_loss"], "stopper": {"kind": "none"}, "steps": 5, "report_every": 5,
        "concurrent": 1, "seed": 0,
    }  # fmt: skip
    sentences = found(edited(DEFAULT, **{"searches.guidance": search}))
    assert any("recipe.learning_rate is -1.0: it must be above 0" in one for one in sentences), sentences
    search |= {"space": {"recipe": {"learning_rate": {"choices": [1e-3, 1e-2]}}}, "objectives": ["validation_static"]}
    sentences = found(edited(DEFAULT, **{"searches.guidance": search, "experiments.push-no-canvas.search": "guidance"}))
    assert any("training does not report validation_static; choose objectives from" in one for one in sentences), (
        sentences
    )


def test_what_is_left_of_a_damaged_folder_of_clips_is_not_counted(cut: Path) -> None:
    shutil.rmtree(cut / "videos" / "val")
    (cut / "data" / "clips" / "kuka" / "manifest.json").write_text("{")
    assert any("val" in sentence for sentence in found(small(), cut))
