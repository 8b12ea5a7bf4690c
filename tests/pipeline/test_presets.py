"""Presets as whole files of parameters: every stage reads them, their parts fit together, and they are the paper's."""

import functools
import importlib
import inspect
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml

from benchmarks import families
from components.foundation.config import parse, plain
from components.foundation.settings import presets
from components.metrics.distances.fvd import ProtocolConfig
from components.models.canvasmar.model import CanvasMARConfig
from components.models.conditions.interface import zero_clip
from components.models.kinds import ModelConfig
from components.sampling.frame import SamplerConfig
from components.training import plan
from components.training.optimizer import RecipeConfig
from pipeline import ablate, preprocess, train, train_vae
from pipeline.runtime.stage import Experiment, resolve
from pipeline.tuning import training_search
from pipeline.tuning.ablation import points
from pipeline.tuning.sampler_search import SamplingSearch, changed, suggester
from pipeline.tuning.training_search import Candidate, TrainingSearch

ROOT = Path(__file__).parents[2]
PRESETS = ("bair", "ucf101", "kinetics600")
FILES = {path.stem: path for path in sorted((ROOT / "presets").glob("*.yaml"))}

# Table 3 of the paper, from top to bottom; what it does not say stands in the presets alone
TABLE: dict[str, tuple[Any, Any, Any]] = {
    "temporal (dim, layers)": ((768, 8), (1024, 16), (1024, 16)),
    "canvas (dim, layers)": ((768, 4), (1024, 8), (1024, 8)),
    "spatial (dim, layers, depth)": ((768, 8, 2), (1024, 16, 4), (1024, 16, 4)),
    "additional architecture": ("expert_norm", "expert_norm", "mm_dit"),
    "flow decoder (dim, layers)": ((1280, 3), (1280, 3), (1280, 3)),
    "autoregressive steps": (4, 8, 10),
    "batch": (192, 64, 192),
    "epochs": (600, 800, 270),
    "resolution": ((17, 64, 64), (17, 256, 256), (17, 128, 128)),
    "compression": ((2, 4), (4, 8), (4, 8)),
    "latent resolution": ((9, 16, 16), (5, 32, 32), (5, 16, 16)),
    "training r": ((0.2, 0.6), (0.2, 0.6), (0.2, 0.6)),
    "training r'": ((0.0, 0.3), (0.0, 0.3), (0.0, 0.3)),
    "sampling r": (0.3, 0.3, 0.4),
    "sampling r'": (0.2, 0.2, 0.2),
    "confidence temperature": (6.5, 6.5, 6.5),
    "flow-head steps": (30, 30, 30),
    "canvas CFG": (1.5, 1.5, 2.25),
    "temporal CFG": (1.2, 1.2, 1.1),
    "evaluated (frames, side)": ((16, 64), (16, 256), (16, 64)),
}
ROLLOUTS = ("arm-canvasmar", "rollouts")  # scored on longer clips than those of their training
VIDEOS = {"bair": 43_264, "ucf101": 9_537, "kinetics600": 400_000}  # of an epoch
LENGTHS = {"bair": 30, "ucf101": 186, "kinetics600": 250}  # frames of a video; of UCF-101 and Kinetics on average
MILLIONS = {"bair": (175.1, 146.8), "ucf101": (538.2, 437.4), "kinetics600": (739.7, 638.9), "kuka-gpu": (47.5, 40.4)}


@functools.cache
def tables(name: str) -> dict[str, Any]:
    return presets.read(FILES[name])


@functools.cache
def stages() -> dict[str, str | None]:
    """From each stage of the DAG to the table whose rows it runs over."""
    found = {}
    for stage, entry in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        found[stage] = entry["foreach"].removeprefix("${").removesuffix("}") if "foreach" in entry else None
    return found


def schema(stage: str) -> Any:
    main = importlib.import_module(f"pipeline.{stage}").main
    return inspect.signature(main).parameters["params"].annotation


def entry(kind: Any, name: str, table: str, row: str) -> Any:
    return parse(kind, tables(name)[table][row], where=f"{name}: {table}.{row}")


class Row:
    """One row of the table of experiments, with everything that it names."""

    def __init__(self, name: str, row: str) -> None:
        chosen = entry(Experiment, name, "experiments", row)
        self.dataset, self.trained_on = (
            resolve(preprocess.Params, tables(name), "datasets", dataset).dataset
            for dataset in (chosen.scored_on, chosen.dataset)
        )
        vae = resolve(train_vae.Params, tables(name), "autoencoders", chosen.autoencoder)
        self.autoencoder: Any = vae.autoencoder
        self.vae_recipe: RecipeConfig = entry(RecipeConfig, name, "recipes", self.autoencoder.recipe)
        self.model: Any = resolve(train.Params, tables(name), "experiments", row).model
        self.recipe: RecipeConfig = entry(RecipeConfig, name, "recipes", chosen.recipe)
        self.sampler: SamplerConfig = entry(SamplerConfig, name, "samplers", chosen.sampler)
        kind = tables(name)["searches"][chosen.search]["kind"]
        schema = {"sampling": SamplingSearch, "training": TrainingSearch}[kind]
        self.search: Any = entry(schema, name, "searches", chosen.search)
        self.protocol: ProtocolConfig = entry(ProtocolConfig, name, "protocols", chosen.protocol)
        self.names = chosen


EVERY = [(name, row) for name in FILES for row in tables(name)["experiments"]]


@pytest.mark.parametrize("stage", stages())
@pytest.mark.parametrize("name", FILES)
def test_every_stage_can_read_every_row(name: str, stage: str) -> None:
    table = stages()[stage]
    rows = tables(name)[table] if table else [None]
    for row in rows:
        resolve(schema(stage), tables(name), table, row)


OFFERED = {"samplers": {"fast"}}  # for a row to take up; until then a change of it changes nothing


@pytest.mark.parametrize("name", FILES)
def test_no_entry_is_left_over(name: str) -> None:
    """Whatever else stands in a table is picked by a row, so that a change of anything changes something."""
    content = tables(name)
    experiments = content["experiments"].values()
    vaes = content["autoencoders"].values()
    ablations = content["ablations"].values()
    used = {
        "datasets": {row[key] for row in experiments for key in ("dataset", "scored_on")},
        "autoencoders": {row["autoencoder"] for row in experiments},
        "models": {row["model"] for row in experiments},
        "recipes": {row["recipe"] for row in (*experiments, *vaes)},
        "samplers": {row["sampler"] for row in (*experiments, *ablations)},
        "searches": {row["search"] for row in experiments},
        "protocols": {row["protocol"] for row in (*experiments, *ablations)},
    }
    assert {table: set(content[table]) - OFFERED.get(table, set()) for table in used} == used


@pytest.mark.parametrize("name", FILES)
def test_simulated_videos_lie_where_their_data_set_looks_for_them(name: str) -> None:
    content = tables(name)
    places = {dataset["path"] for dataset in content["datasets"].values()}
    assert {f"data/videos/{row}" for row in content["simulations"]} <= places


@pytest.mark.parametrize(("name", "row"), EVERY)
def test_clips_vae_model_and_protocol_fit_one_another(name: str, row: str) -> None:
    chosen = Row(name, row)
    trained_on = chosen.trained_on
    assert tables(name)["autoencoders"][chosen.names.autoencoder]["dataset"] == chosen.names.dataset
    assert (chosen.names.dataset == chosen.names.scored_on) == (row not in ROLLOUTS)
    assert (chosen.autoencoder.frames, chosen.autoencoder.resolution) == (trained_on.frames, trained_on.resolution)
    assert chosen.dataset.resolution == trained_on.resolution
    assert chosen.dataset.frames >= trained_on.frames
    with torch.device("meta"):
        vae = chosen.autoencoder.build()
        clip = torch.empty(1, 3, trained_on.frames, *trained_on.resolution).transpose(1, 2)
        moments = vae.encode(clip)
    frames, channels = moments.shape[1], moments.shape[2] // 2
    assert (channels, *moments.shape[3:]) == chosen.model.latent
    if isinstance(chosen.model, CanvasMARConfig):
        assert chosen.model.temporal.window == frames
    else:
        assert chosen.model.decoder.extent[0] >= frames
    assert chosen.protocol.context + chosen.protocol.frames <= chosen.dataset.frames
    assert vae.latent_frames(chosen.protocol.context) < frames
    assert chosen.protocol.resolution <= min(chosen.dataset.resolution)


@pytest.mark.parametrize(("name", "row"), EVERY)
def test_models_build_and_recipes_samplers_and_searches_can_be_followed(name: str, row: str) -> None:
    chosen = Row(name, row)
    with torch.device("meta"):
        model = chosen.model.build()
    assert 1 <= chosen.sampler.sets <= model.tokens
    if isinstance(chosen.search, SamplingSearch):
        tried = suggester(chosen.sampler, chosen.search).suggest([])
        assert changed(chosen.sampler, tried[0]) == chosen.sampler
    else:
        current = Candidate(model=chosen.model, recipe=chosen.recipe)
        tried = training_search.suggester(current, chosen.search).suggest([])
        assert current.changed(tried[0]) == current
    assert len(tried) == chosen.search.trials
    for recipe in (chosen.recipe, chosen.vae_recipe):
        recipe.check()
        assert recipe.warmup < recipe.steps
        assert recipe.validate_every % recipe.log_every == 0
        assert recipe.checkpoint_every % recipe.log_every == 0  # a checkpoint is written after a look at the loss


@pytest.mark.parametrize(
    "name", [name for name in FILES if name not in ("compare", "long", "search", "variants", "videomar")]
)
def test_a_model_with_a_canvas_stands_beside_the_same_without_it(name: str) -> None:
    first, second, *_ = (Row(name, row) for row in tables(name)["experiments"])
    assert first.model.canvas is not None
    both = plain(first.model), plain(second.model)
    for content in both:  # what only a canvas can tell, and how many frames a step learns in the time that this saves
        content["rows"] = None
        content["head"]["preconditioned"] = None  # each has what is better for it
        if content["relative"] is not None:
            content["relative"]["copy_still"] = None
    assert both[1] == both[0] | {"canvas": None}
    assert first.recipe == second.recipe
    assert first.protocol == second.protocol
    assert first.autoencoder == second.autoencoder
    for setting in ("sets", "flow_steps", "temporal_scale"):
        assert getattr(first.sampler, setting) == getattr(second.sampler, setting)
    assert second.sampler.order == "random"


@pytest.mark.parametrize("name", MILLIONS)
def test_totals_are_those_that_are_told(name: str) -> None:
    for row, expected in zip(tables(name)["experiments"], MILLIONS[name], strict=True):
        with torch.device("meta"):
            model = Row(name, row).model.build()
        assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(expected, rel=0.005)


def test_long_rollouts_are_scored_on_longer_videos_of_the_world_that_is_trained_on() -> None:
    long = Row("long", "arm-canvasmar")
    worlds = tables("long")["simulations"]
    others = {"episodes", "frames", "seed"}
    assert {key: value for key, value in worlds["arm"].items() if key not in others} == {
        key: value for key, value in worlds["arm-long"].items() if key not in others
    }
    assert long.names.dataset == "arm"
    assert long.names.scored_on == "arm-long"
    assert long.protocol.frames == 64
    assert long.dataset.frames == long.protocol.context + long.protocol.frames


def test_the_comparison_holds_every_kind_of_model() -> None:
    kinds = {entry["kind"] for entry in tables("compare")["models"].values()}
    assert kinds == {kind.model_fields["kind"].annotation.__args__[0] for kind in get_args(get_args(ModelConfig)[0])}


def test_the_models_of_the_comparison_have_as_many_parameters_as_canvasmar_within_a_twentieth() -> None:
    counts = {}
    for row in tables("compare")["experiments"]:
        with torch.device("meta"):
            model = Row("compare", row).model.build()
        counts[row] = sum(parameter.numel() for parameter in model.parameters())
    assert counts == {row: pytest.approx(counts["push-no-actions"], rel=0.05) for row in counts}


def test_the_trainings_of_the_comparison_take_as_much_arithmetic_as_canvasmars_within_a_twentieth() -> None:
    work = {}
    for row in tables("compare")["experiments"]:
        chosen = Row("compare", row)
        with torch.device("meta"):
            model = chosen.model.build()
        clip = torch.zeros(1, families.FRAMES, *chosen.model.latent)
        step = plan.flops(model, plan.draw_steps(model, clip, 0, range(16)), clip)  # masks and targets differ by step
        work[row] = chosen.recipe.steps * chosen.recipe.batch * step
    assert work == {row: pytest.approx(work["push-no-actions"], rel=0.05) for row in work}


def test_the_rows_of_the_comparison_differ_in_model_sampler_and_recipe_alone() -> None:
    content, default = tables("compare"), tables("default")
    rows = [
        {table: name for table, name in row.items() if table not in ("model", "sampler", "recipe")}
        for row in content["experiments"].values()
    ]
    assert all(row == rows[0] for row in rows)
    for recipe in (name for name in content["recipes"] if name != "vae"):
        own = {name: content["recipes"][recipe][name] for name in ("steps", "warmup", "learning_rate")}
        assert content["recipes"][recipe] == default["recipes"]["model"] | own
    for table in ("simulations", "datasets", "autoencoders", "protocols"):
        assert content[table] == default[table]
    assert content["models"]["no-actions"] == default["models"]["no-actions"]
    assert content["recipes"]["model"] == default["recipes"]["model"]


def test_the_costs_of_the_comparison_are_those_of_its_clips() -> None:
    row = Row("compare", "push-no-actions")
    stride = row.autoencoder.stride_time
    assert -(-row.dataset.frames // stride) == families.FRAMES
    assert -(-row.protocol.context // stride) == families.CONTEXT


def test_the_ablation_is_the_papers_figure_and_trains_nothing_new() -> None:
    """Figure 3: sets for three arms without guidance, and both branches of guidance, with the rows of the default."""
    content, default = tables("ablation"), tables("default")
    own = dict.fromkeys(("samplers", "ablations"))
    assert content | own == default | own
    assert content["samplers"].items() > default["samplers"].items()
    found = {}
    for name in content["ablations"]:
        params = resolve(ablate.Params, content, "ablations", name)
        found[name] = points(params.ablation, params.sampler)
        assert {point.experiment for point in found[name]} <= set(content["experiments"])
    curves = {(point.arm, point.experiment, point.sampler.order, point.sampler.sets) for point in found["sets"]}
    assert curves == {
        (*arm, sets)
        for sets in (1, 2, 4, 8, 16, 32)
        for arm in (
            ("no canvas", "push-no-canvas", "random"),
            ("canvas in random order", "push-canvasmar", "random"),
            ("canvas in motion-aware order", "push-canvasmar", "motion_aware"),
        )
    }
    assert {(point.sampler.temporal_scale, point.sampler.canvas_scale) for point in found["sets"]} == {(1.0, 1.0)}
    scales = {(point.sampler.temporal_scale, point.sampler.canvas_scale) for point in found["guidance"]}
    assert scales == {(1.0, 1.0), (1.0, 1.25), (1.0, 1.5), (1.0, 2.25), (1.2, 1.0), (1.2, 1.5)}


def column(name: str) -> dict[str, Any]:
    """Table 3's column, read off a preset."""
    row = Row(name, next(iter(tables(name)["experiments"])))
    model, canvas, sampler, protocol = row.model, row.model.canvas, row.sampler, row.protocol
    assert canvas is not None
    latent = row.autoencoder.latent
    given = 0 if protocol.context == 1 else protocol.context  # Kinetics: 5 frames are given and 11 predicted
    return {
        "temporal (dim, layers)": (model.temporal.width, model.temporal.layers),
        "canvas (dim, layers)": (canvas.width, canvas.layers),
        "spatial (dim, layers, depth)": (model.spatial.width, model.spatial.layers, model.spatial.encoder_depth),
        "additional architecture": model.spatial.block,
        "flow decoder (dim, layers)": (model.head.width, model.head.layers),
        "autoregressive steps": sampler.sets,
        "batch": row.recipe.batch,
        "epochs": round(row.recipe.steps * row.recipe.batch / VIDEOS[name], 2),
        "resolution": (row.dataset.frames, *row.dataset.resolution),
        "compression": (row.autoencoder.stride_time, row.autoencoder.stride_space),
        "latent resolution": (latent[0], *latent[2:]),
        "training r": canvas.frame_noise,
        "training r'": canvas.canvas_noise,
        "sampling r": sampler.frame_noise,
        "sampling r'": sampler.canvas_noise,
        "confidence temperature": sampler.temperature,
        "flow-head steps": sampler.flow_steps,
        "canvas CFG": sampler.canvas_scale,
        "temporal CFG": sampler.temporal_scale,
        "evaluated (frames, side)": (given + protocol.frames, protocol.resolution),
    }


@pytest.mark.parametrize("name", PRESETS)
def test_the_papers_presets_hold_the_papers_table(name: str) -> None:
    assert column(name) == {line: values[PRESETS.index(name)] for line, values in TABLE.items()}


@pytest.mark.parametrize(("name", "fewest"), [("bair", 14), ("ucf101", 6), ("kinetics600", 4)])
def test_the_papers_presets_cut_several_clips_of_each_video(name: str, fewest: int) -> None:
    dataset = Row(name, next(iter(tables(name)["experiments"]))).dataset
    span = (dataset.frames - 1) * dataset.stride + 1
    assert 1 + (LENGTHS[name] - span) // dataset.step == fewest


def test_clips_are_scored_where_the_paper_takes_them() -> None:
    """Appendix A: the first frame of each BAIR video, a random clip of each UCF-101 and Kinetics-600 video."""
    starts = {name: {entry["start"] for entry in tables(name)["protocols"].values()} for name in PRESETS}
    assert starts == {"bair": {"first"}, "ucf101": {"random"}, "kinetics600": {"random"}}


@pytest.mark.parametrize("name", PRESETS)
def test_the_papers_presets_are_trained_as_the_paper_and_its_code_base_say(name: str) -> None:
    for row in tables(name)["experiments"]:
        chosen = Row(name, row)
        recipe = chosen.recipe
        assert (recipe.learning_rate, recipe.schedule, recipe.warmup) == (1e-4, "constant", 5000)
        assert (recipe.weight_decay, recipe.clip, recipe.ema, recipe.precision) == (0.02, 1.0, 0.9999, "bfloat16")
        assert plain(chosen.model.mask) == {"mean": 1.0, "std": 0.25, "low": 0.7}
        assert (chosen.model.drop, chosen.model.head.repeats) == (0.05, 4)
        assert chosen.model.temporal.width == 64 * chosen.model.temporal.heads


@pytest.mark.parametrize("name", PRESETS)
def test_the_papers_own_sampler_is_among_those_that_are_tried_and_its_values_lie_amid_the_others(name: str) -> None:
    chosen = Row(name, next(iter(tables(name)["experiments"])))
    for setting, values in chosen.search.space.items():
        options = list(values.choices)
        assert options == sorted(options)
        assert options[0] < getattr(chosen.sampler, setting) < options[-1]


def test_the_presets_for_a_users_own_machine_need_no_videos_but_their_own() -> None:
    for name in ("default", "kuka-gpu"):
        assert set(tables(name)["simulations"]) == set(tables(name)["datasets"])
    for name in PRESETS:
        assert tables(name)["simulations"] == {}
        assert set(tables(name)["datasets"]) == {name}


def test_the_work_of_every_model_of_the_default_can_be_counted_and_no_baseline_has_less() -> None:
    """Counting follows every module, also those that run without gradients in scheduled sampling."""
    work = {}
    for name, row in tables("default")["experiments"].items():
        model = Row("default", name).model.build().train()
        clip = zero_clip(model.config, (11, *model.config.latent))
        work[row["model"]] = plan.flops(plan.meta_copy(model), plan.draw_steps(model, clip, 0, range(2)), clip)
    assert min(work.values()) > 0.9 * work["canvas"]
