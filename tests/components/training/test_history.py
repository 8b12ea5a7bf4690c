from pathlib import Path

import pandas as pd

from components.training.history import write_history

ROWS = [
    {"step": 10.0, "loss": 1.23456789, "steps_per_second": 4.0, "data_wait": 0.1},
    {"step": 20.0, "loss": 0.5, "validation_loss": 0.75, "steps_per_second": 5.0, "data_wait": 0.2},
]


def test_a_history_is_a_table_with_a_line_an_interval(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", ROWS)
    table = pd.read_csv(tmp_path / "history.csv")
    assert list(table.columns) == ["step", "loss", "validation_loss"]
    assert table["step"].tolist() == [10, 20]
    assert table["loss"].tolist() == [1.23457, 0.5]


def test_what_was_not_measured_is_an_empty_cell(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", ROWS)
    assert (tmp_path / "history.csv").read_bytes() == b"step,loss,validation_loss\n10,1.23457,\n20,0.5,0.75\n"


def test_runs_of_another_speed_write_the_same_bytes(tmp_path: Path) -> None:
    faster = [{**row, "steps_per_second": 9.0, "data_wait": 0.0} for row in ROWS]
    for name, rows in (("a.csv", ROWS), ("b.csv", faster)):
        write_history(tmp_path / name, rows)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_training_that_wrote_nothing_leaves_an_empty_table(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", [])
    assert (tmp_path / "history.csv").read_text(encoding="utf-8").strip() == ""
