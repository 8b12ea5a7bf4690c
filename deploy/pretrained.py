"""`python -m deploy.pretrained`: copy the trained row push-canvasmar of this project to pretrained/, which git holds.

Run it after `make repro`, in the environment of `make setup`. It writes the averaged weights of the row's model and of
its VAE, the sampler, an example video of the test split with its actions, and a model card with the row's scores.
"""

import shutil
import sys
from pathlib import Path

from components.datasets import actions
from components.foundation import checkpoint, config
from components.foundation.errors import InputError
from components.foundation.files import write_json, write_text
from components.reporting.results import read_evaluation
from pipeline.commands.prediction import rows
from pipeline.commands.video_predictor import VideoPredictor

ROW, VIDEO = "push-canvasmar", "test/00000.mp4"
COLUMNS = {"fvd": 0, "psnr": 1, "ssim": 2, "lpips": 3}  # metric and digits after the point
MOST_BYTES = 12 * 2**20
CARD = Path(__file__).with_suffix(".md")  # with the names of `card` in braces


def refresh(root: Path, out: Path, name: str = ROW, video: str = VIDEO) -> Path:
    """Write out/<name> from the trained row of the project in `root`, and return this folder.

    Raise InputError if the row is not trained, or if the weights are larger than 12 MB.
    """
    row = rows.find(root, name)
    if row.shipped:
        raise InputError(f"row {name} is not trained in {root}; run `make repro` first")
    out = out / name
    size = sum((folder / checkpoint.WEIGHTS).stat().st_size for folder in (row.model, row.autoencoder))
    if size > MOST_BYTES:
        raise InputError(f"the weights of {name} take {size / 2**20:.1f} MiB; git should not hold more than 12")
    for source, target in ((row.model, rows.MODEL), (row.autoencoder, rows.AUTOENCODER)):
        (out / target).mkdir(parents=True, exist_ok=True)
        for file in (checkpoint.WEIGHTS, checkpoint.DESCRIPTION):
            shutil.copyfile(source / file, out / target / file)
    write_json(
        out / rows.SETTINGS, config.plain(rows.ShippedRow(sampler=row.sampler, fps=row.fps, surprise=row.surprise))
    )
    copy_example(root, name, video, out)
    write_text(out / "README.md", card(root, row))
    return out


def copy_example(root: Path, name: str, video: str, out: Path) -> None:
    """Copy a video of the row's data set, with its actions if there are any. Raise InputError if it is missing."""
    tables = config.read_yaml(root / "params.yaml")
    dataset = tables["datasets"][tables["experiments"][name]["dataset"]]
    folder = root / dataset["path"]
    if not (folder / video).is_file():
        raise InputError(f"{folder / video} does not exist; run `make repro` first")
    shutil.copyfile(folder / video, out / rows.EXAMPLE)
    if dataset["actions"] is not None:
        table = actions.read(folder / dataset["actions"])
        actions.write_csv(out / rows.ACTIONS, table.columns, [(rows.EXAMPLE, table.videos[video])])


def card(root: Path, row: rows.Row) -> str:
    """Return the model card, with the scores of the row's evaluation."""
    predictor = VideoPredictor.of(row.model, row.autoencoder, row.sampler, "cpu")
    evaluation = read_evaluation(root / "data" / "evaluations" / row.name)
    lines = []
    for name in (row.name, "copy last frame", "VAE reconstruction"):
        line = evaluation.line(name)
        metrics = {} if line is None else line.metrics
        found = [(f"{metrics[key]:.{digits}f}" if key in metrics else "–") for key, digits in COLUMNS.items()]
        lines.append(f"| {' | '.join([name, *found])} |")
    parameters, vae_parameters = (
        sum(weight.numel() for weight in module.state_dict().values()) / 1e6
        for module in (predictor.model, predictor.vae)
    )
    return CARD.read_text(encoding="utf-8").format(
        row=row.name,
        parameters=parameters,
        vae_parameters=vae_parameters,
        width=predictor.size[1],
        height=predictor.size[0],
        fps=row.fps or 0,
        sampler=", ".join(f"{key} {value}" for key, value in config.plain(row.sampler).items()),
        scores="\n".join(lines),
    )


if __name__ == "__main__":
    try:
        written = refresh(Path.cwd(), Path(rows.SHIPPED))
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {written}")
