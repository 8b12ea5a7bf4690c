"""What the stage `ablate` makes of points that were scored; the whole stage runs in the journey."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from components.datasets import annotations
from components.foundation.config import parse
from components.foundation.errors import InputError
from components.metrics.distances import fvd
from components.telemetry.tracking import RunHandle
from pipeline import ablate
from pipeline.tuning.ablation import points
from pipeline.tuning.sampler_trials import AblationInputs, Folders, Scoring

SAMPLER = {
    "sets": 4, "flow_steps": 2, "solver": "euler", "order": "random", "temperature": 0.0, "temporal_scale": 1.0,
    "canvas_scale": 1.0, "guidance": "constant", "frame_noise": 0.0, "canvas_noise": 0.0, "noise_temperature": 1.0,
    "late_temperature": 1.0,
}  # fmt: skip
PROTOCOL = {
    "name": "p", "clips": 16, "samples": 1, "start": "first", "context": 1, "context_scored": False, "frames": 9,
    "window": None, "resolution": 32, "resamples": 8, "seed": 0,
}  # fmt: skip
ARMS = {
    name: {"experiment": "row", "space": {"sets": [2, 4]}, "against": against}
    for name, against in (("plain", None), ("canvas", "plain"))
}
ABLATION = {
    "dataset": "d", "autoencoder": "a", "experiment": "row", "baseline": "row", "sampler": "one", "protocol": "p",
    "along": "sets", "concurrent": 1, "arms": ARMS,
}  # fmt: skip


class Log:
    """Where artifacts of a run go."""

    def __init__(self) -> None:
        self.artifacts: list[Path] = []

    def artifact(self, path: Path) -> None:
        self.artifacts.append(path)


def given(folder: Path) -> tuple[ablate.Params, AblationInputs, list[dict[str, object]]]:
    content = {"ablation": ABLATION, "sampler": SAMPLER, "protocol": PROTOCOL}
    params = parse(ablate.Params, content, where="here")
    several = points(params.ablation, params.sampler)
    real, *fakes = torch.randn(5, 16, 20, generator=torch.Generator().manual_seed(0)).unbind()
    rows = []
    for place, fake in enumerate(fakes):
        save_file({"features": fake.contiguous()}, folder / f"{place}.safetensors")
        score = fvd.score(real, fake, 8)
        measured = {"fvd": score.value, "fvd_low": score.low, "fvd_high": score.high, "milliseconds_per_frame": 1.0}
        rows.append({"trial": place, "point": place, **measured, "status": "finished"})
    folders, clips = Folders(folder, folder, folder, folder), torch.zeros(16, 10, 3, 4, 4, dtype=torch.uint8)
    log = RunHandle("", "", "", None)
    scoring = Scoring(params.sampler, params.protocol, folders, clips, annotations.NONE, real, 1, log)
    shared = AblationInputs(several, {"row": scoring}, folder)
    return params, shared, rows


def test_the_table_holds_every_point_and_how_far_it_lies_from_the_one_it_is_compared_with(tmp_path: Path) -> None:
    params, shared, rows = given(tmp_path)
    log = Log()
    metrics = ablate.write_results(params, rows, shared, tmp_path, log)  # type: ignore[arg-type]
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(zip(table["arm"], table["sets"], strict=True)) == [
        ("plain", 2), ("plain", 4), ("canvas", 2), ("canvas", 4)
    ]  # fmt: skip
    assert table["against"].tolist()[2:] == ["plain", "plain"]
    assert table["difference"].tolist()[2:] == pytest.approx([table["fvd"][2 + i] - table["fvd"][i] for i in (0, 1)])
    assert (table["difference_low"][2:] < table["difference"][2:]).all()
    assert table["difference"][:2].isna().all()
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert metrics == {"points": 4.0, "points_failed": 0.0, "fvd_best": pytest.approx(table["fvd"].min())}
    assert log.artifacts == [tmp_path]


def test_a_point_that_failed_is_a_row_without_numbers_and_the_others_stand(tmp_path: Path) -> None:
    params, shared, rows = given(tmp_path)
    rows[0] = {"trial": 0, "point": 0, "status": "failed"}
    (tmp_path / "0.safetensors").unlink()
    assert ablate.write_results(params, rows, shared, tmp_path, Log())["points_failed"] == 1  # type: ignore[arg-type]
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["status"].tolist() == ["failed", "finished", "finished", "finished"]
    assert table["fvd"].isna().tolist() == [True, False, False, False]
    assert table["difference"].isna().tolist() == [True, True, True, False]
    with pytest.raises(InputError, match="every point of the ablation failed"):
        ablate.write_results(params, [rows[0]], shared, tmp_path, Log())  # type: ignore[arg-type]
