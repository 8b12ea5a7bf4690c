"""Command `predict`: one video file in, its continuation out."""

import argparse
from pathlib import Path

import torch

from components import checkpoint, tracking
from components.config import parse
from components.data import video
from components.errors import InputError
from components.models.trained import Trained
from components.randomness import Stream
from components.reporting import results
from components.sampling.frame import SamplerConfig
from pipeline import cluster, stage
from pipeline.predictor import Predictor
from pipeline.progress import say


def main() -> None:
    """Continues a video with a trained experiment; writes an mp4 and a GIF, given frames included."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.predict", description=main.__doc__)
    parser.add_argument("video", type=Path, help="the file whose frames are given")
    parser.add_argument("--row", required=True, help="a trained entry of the table experiments in params.yaml")
    parser.add_argument("--start", type=int, default=0, help="the first frame that is given (default: 0)")
    parser.add_argument("--context", type=int, default=1, help="frames that are given (default: 1)")
    parser.add_argument("--frames", type=int, default=16, help="frames that are predicted (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another future (default: 0)")
    parser.add_argument("--out", type=Path, help="folder of the result (default: predictions/<row>)")
    arguments = parser.parse_args()
    with stage.command() as root:
        run(arguments, root)


def run(arguments: argparse.Namespace, root: Path) -> None:
    """Predicts, writes and logs. Raises InputError for a video that is no use or an experiment that is not trained."""
    row, data = arguments.row, root / "data"
    model = data / "models" / row
    if not model.is_dir():
        trained = sorted(path.name for path in model.parent.glob("*")) if model.parent.is_dir() else []
        raise InputError(
            f"no experiment {row!r} is trained; there is {', '.join(trained) or 'none'}: run `make repro` first"
        )
    loaded = Predictor.load(model, autoencoder(data, model), cluster.device())
    best = data / "searches" / row / "best.json"
    sampler = parse(SamplerConfig, results.read_json(best)["sampler"], where=str(best))
    context = given(arguments.video, arguments.start, arguments.context, loaded.vae.config.resolution)
    out = arguments.out or root / "predictions" / row
    parameters = {"video": str(arguments.video), "row": row, "frames": arguments.frames, "seed": arguments.seed}
    tags = {"stage": "predict", "row": row, **tracking.provenance(root)}
    with tracking.run(f"predict@{row}", root=root, tags=tags, parameters=parameters) as log:
        stream = Stream.of(arguments.seed, (0,), loaded.device)
        clip = loaded.predict(context[None], arguments.frames, stream, sampler).clips[0]
        clip = torch.nn.functional.interpolate(clip.float(), scale_factor=4, mode="nearest").to(torch.uint8)
        name = arguments.video.stem
        video.write(out / f"{name}.mp4", clip, 8)
        video.write_gif(out / f"{name}.gif", clip, 8)
        for suffix in ("mp4", "gif"):
            log.artifact(out / f"{name}.{suffix}")
        say(f"predict: {out / name}.mp4 and .gif\n  MLflow run {log.link}")


def autoencoder(data: Path, model: Path) -> Path:
    """The folder of the VAE that this model was trained with. Raises InputError if it is not there."""
    wanted = checkpoint.description(model, Trained).autoencoder
    for folder in sorted((data / "autoencoders").glob("*")):
        if (folder / checkpoint.WEIGHTS).is_file() and checkpoint.identity(folder) == wanted:
            return folder
    raise InputError(f"no VAE in {data / 'autoencoders'} is the one that {model} was trained with; run `dvc repro`")


def given(path: Path, start: int, count: int, size: tuple[int, int]) -> torch.Tensor:
    """The context's frames. Raises InputError if the video is too short."""
    frames = video.read(path, size).frames
    if count < 1 or start < 0 or start + count > len(frames):
        raise InputError(
            f"{path} has {len(frames)} frames, so {count} from frame {start} on cannot be given; ask for others"
        )
    return frames[start : start + count]


if __name__ == "__main__":
    main()
