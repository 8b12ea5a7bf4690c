"""What an edit of the code makes stale, as `dvc status` says it of a project whose outputs are all there."""

import json
from pathlib import Path

import pytest
import yaml

from tests.pipeline.conftest import build, run, set_value


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every stage has outputs that DVC takes for its own, although none has run."""
    folder = build(tmp_path_factory.mktemp("edits") / "project")
    content = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    for stage in content.values():
        table = stage.get("foreach", "").strip("${}")
        entry = stage.get("do", stage)
        outs = [*entry["outs"], *(next(iter(metrics)) for metrics in entry["metrics"])]
        for row in params[table] if table else [""]:
            for out in outs:
                path = folder / out.replace("${key}", row)
                file = path if path.suffix else path / "made.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps({"of": 1}), encoding="utf-8")
    run(folder, "dvc", "commit", "--force", "--quiet")
    assert stale(folder) == set()
    return folder


def stale(folder: Path, *, rows: bool = False) -> set[str]:
    """The stages that `dvc repro` would run for their own sake, with or without their rows."""
    told = json.loads(run(folder, "dvc", "status", "--json").stdout)
    return set(told) if rows else {name.split("@")[0] for name in told}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("components/telemetry/progress.py", set()),
        ("components/telemetry/tracking.py", set()),
        ("pipeline/monitoring/previews.py", set()),
        ("pipeline/commands/predict.py", set()),
        ("pipeline/jobs/submit.py", set()),
        ("components/reporting/page.py", {"report"}),
        ("components/reporting/page.html.j2", {"report"}),
        ("components/pictures/galleries.py", {"evaluate", "report"}),
        ("pipeline/tuning/trials.py", {"sweep", "ablate"}),
        ("components/sampling/frame.py", {"sweep", "evaluate", "ablate"}),
        ("pipeline/fitting/trainer.py", {"train_vae", "train"}),
        ("components/models/layers/attention.py", {"train", "sweep", "evaluate", "ablate"}),
        ("pipeline/encoding/moments.py", {"cache_latents", "train"}),
    ],
)
def test_an_edit_makes_only_these_stages_stale(finished: Path, path: str, expected: set[str]) -> None:
    file = finished / path
    before = file.read_bytes()
    file.write_bytes(before + b"\n# another line\n")
    try:
        assert stale(finished) == expected
    finally:
        file.write_bytes(before)


def test_an_unused_sampler_makes_nothing_stale_and_an_ablations_own_only_that(finished: Path) -> None:
    file = finished / "params.yaml"
    before = file.read_text(encoding="utf-8")
    try:
        for name, expected in (("default", {"sweep"}), ("no-canvas", {"sweep", "ablate"})):
            params = yaml.safe_load(before)
            params["samplers"][name]["flow_steps"] += 1
            file.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
            assert stale(finished) == expected
    finally:
        file.write_text(before, encoding="utf-8")


def test_a_change_of_the_weights_that_a_row_starts_from_makes_its_training_stale_and_no_other(finished: Path) -> None:
    weights = finished / "base" / "weights.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"1")
    files = [finished / name for name in ("params.yaml", "dvc.lock")]
    before = [file.read_bytes() for file in files]
    set_value(finished, "experiments.kuka-canvasmar.start", "base")
    run(finished, "dvc", "commit", "--force", "--quiet")
    try:
        weights.write_bytes(b"2")
        assert stale(finished, rows=True) == {"train@kuka-canvasmar", "sweep@kuka-canvasmar"}
    finally:
        for file, content in zip(files, before, strict=True):
            file.write_bytes(content)
    assert stale(finished) == set()


def test_a_row_that_starts_from_anothers_weights_comes_after_it(finished: Path) -> None:
    before = (finished / "params.yaml").read_bytes()
    set_value(finished, "experiments.kuka-canvasmar.start", "data/models/kuka-no-canvas")
    try:
        told = run(finished, "dvc", "dag", "--dot", "train@kuka-canvasmar").stdout
        assert '"train@kuka-no-canvas" -> "train@kuka-canvasmar"' in told
    finally:
        (finished / "params.yaml").write_bytes(before)


def test_a_model_that_no_arm_samples_makes_no_ablation_stale(finished: Path) -> None:
    params = yaml.safe_load((finished / "params.yaml").read_text(encoding="utf-8"))
    (ablation,) = params["ablations"].values()
    sampled = {f"data/models/{ablation[key]}" for key in ("experiment", "baseline")}
    lock = yaml.safe_load((finished / "dvc.lock").read_text(encoding="utf-8"))["stages"]["ablate@sets"]
    assert {dep["path"] for dep in lock["deps"] if dep["path"].startswith("data/models")} == sampled


def test_the_artifacts_of_dvc_yaml_are_found_by_dvc(finished: Path) -> None:
    content = yaml.safe_load((finished / "dvc.yaml").read_text(encoding="utf-8"))
    content["artifacts"] = {"vae": {"path": "data/autoencoders/kuka-vae", "type": "model"}}
    (finished / "dvc.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    run(finished, "git", "add", "-A")
    run(finished, "git", "commit", "-qm", "artifacts")
    run(finished, "git", "tag", "-a", "vae@v1.0.0", "-m", "the first version")
    run(finished, "dvc", "artifacts", "get", ".", "vae", "--out", "got")
    assert (finished / "got" / "made.json").is_file()
