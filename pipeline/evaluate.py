"""Stage `evaluate`: predict the test clips with a trained model, and score it together with reference rows."""

import functools
import json
from pathlib import Path
from typing import Any, Final

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor

from components.datasets.annotations import NONE, Annotations
from components.datasets.clips import Clips
from components.datasets.selection import evaluation_clips, random_starts
from components.foundation import checkpoint, devices
from components.foundation.caching.cache import Cache
from components.foundation.config import Config, flatten, parse, plain
from components.foundation.errors import InputError
from components.foundation.files import read_json, write_json
from components.metrics import calibration
from components.metrics.calibration import Canvases
from components.metrics.distances.features import FeatureExtractor
from components.metrics.distances.fvd import ProtocolConfig
from components.metrics.scoring import Scorer, Scores
from components.nn.lpips import LPIPS
from components.pictures import galleries, records
from components.sampling import batches
from components.sampling.batches import PredictionJob, Predictions, predict, split
from components.sampling.frame import SamplerConfig
from components.sampling.predictor import Predictor
from components.telemetry import registry
from components.telemetry.tracking import Run
from components.video import video
from pipeline.runtime import ray_map, stage

TYPICAL, EXTREME = 4, 2  # clips in the gallery: the first ones, and those of the smallest and of the largest error
FPS = 8  # frame rate of the gallery's videos

HEADLINES: Final = (  # for `dvc metrics`
    "fvd", "psnr", "ssim", "lpips", "motion_ratio", "still_change", "form_distance", "milliseconds_per_frame",
)  # fmt: skip


class Params(Config):
    """The evaluation protocol; the sampler comes from the search."""

    protocol: ProtocolConfig


def main(
    params: Params,
    *,
    clips: Path,
    autoencoder: Path,
    model: Path,
    search: Path,
    weights: Path,
    out: Path,
    log: Run,
) -> dict[str, float]:
    """Write scores.json with the model's row and the reference rows, a gallery of clips, and predicted videos.

    Raise InputError if the clips are too few or too short for the protocol, or the model and the VAE do not match.
    """
    protocol, device = params.protocol, devices.device()
    context, frames = protocol.context, protocol.frames
    sampler = parse(SamplerConfig, read_json(search / "best.json")["sampler"], where=str(search / "best.json"))
    log.parameters(flatten({"sampler": plain(sampler)}))  # the search's winner
    predictor = Predictor.load(model, autoencoder, device)
    test = Clips.open(clips, "test")
    chosen, others = choose_clips(test, protocol)
    whole = test.read(chosen)
    truth, annotations = whole[:, : context + frames], test.annotations(chosen)

    inputs: dict[str, Any] = {"model": checkpoint.identity(model), "vae": checkpoint.identity(autoencoder)}
    inputs |= {"clips": test.hash, "chosen": chosen}
    entry = batches.entry(inputs, truth[:, :context], protocol, sampler)
    load = functools.partial(batches.load, model.resolve(), autoencoder.resolve())
    with ray_map.connect(Path.cwd(), num_cpus=ray_map.NETWORK_CPUS, use_gpu=True) as parallel:
        make = load if parallel.num_workers > 1 else lambda: predictor
        predictions = predict(
            make, truth[:, :context], PredictionJob(protocol, sampler, entry.path), parallel, annotations
        )
        features = FeatureExtractor(weights, device, Cache.here(), protocol.resolution, parallel)
        lpips = LPIPS.load(weights / "lpips.safetensors", "alex", 5).to(device)
        scorer = Scorer(protocol, truth[:, :context], truth[:, context:], features.extract, lpips)
        scored = score_rows(predictor, scorer, predictions.clips(context), whole, test.read(others), model.name)
    assert scored[0].errors is not None
    names = [test.name(index) for index in chosen]
    reasons = gallery_clips(scored[0].errors[:: protocol.futures])
    write_gallery(out, predictions, truth, names, reasons, protocol)
    data = {"dataset": clips.name, "clips_hash": test.hash, "i3d_hash": features.digest}
    content = {
        "row": model.name,
        "protocol": {**plain(protocol), "description": protocol.describe(), **data},
        "scores": [row.line for row in scored],
        "drift": [window for row in scored for window in row.windows],
        "calibration": calibrate(predictor, truth, protocol, sampler, annotations),
        "milliseconds_per_frame": 1000 * predictions.seconds() / (len(truth) * protocol.futures * frames),
        "parameters": sum(tensor.numel() for tensor in predictor.model.parameters()),  # type: ignore[attr-defined]
        "sampler": plain(sampler),
    }
    write_json(out / "scores.json", content)
    log_results(out, log)
    register(model, autoencoder, search, test, log)
    entry.remove()
    return summary(content)


def score_rows(
    predictor: Predictor,
    scorer: Scorer,
    samples: UInt8[Tensor, "n f c h w"],
    whole: UInt8[Tensor, "b f c h w"],
    real: UInt8[Tensor, "k f c h w"],
    name: str,
) -> list[Scores]:
    """Return the scores of the predictions, followed by those of the reference rows.

    `whole` are the test clips at full length, `real` other real clips of the test split.
    """
    context, frames = scorer.protocol.context, scorer.protocol.frames
    scored = [scorer.score(name, samples)]
    decoded = predictor.reconstruct(scorer.context)[:, :context]
    for kind, clips in (("copy last frame", scorer.context), ("copy last frame, VAE", decoded)):
        scored.append(scorer.score(kind, clips[:, -1:].expand_as(scorer.truth).contiguous()))
    scored.append(scorer.score("VAE reconstruction", predictor.reconstruct(whole)[:, context : context + frames]))
    if len(real) >= 2:
        scored.append(scorer.score_others("real against real", real[:, :context], real[:, context : context + frames]))
    return scored


def choose_clips(test: Clips, protocol: ProtocolConfig) -> tuple[list[int], list[int]]:
    """Return the indices of the clips to score, and of other clips for the row "real against real".

    Raise InputError if the clips are too few or too short.
    """
    if test.frames < protocol.context + protocol.frames:
        raise InputError(
            f"the protocol {protocol.name} needs {protocol.context} context frames and scores {protocol.frames}, "
            f"but the clips have {test.frames} frames; lower protocol.frames, or cut longer clips"
        )
    names = [test.name(index) for index in range(len(test))]
    if protocol.start == "random":
        return random_starts(names, protocol.clips, protocol.samples, protocol.seed)
    return evaluation_clips(names, protocol.clips)


def calibrate(
    predictor: Predictor,
    truth: UInt8[Tensor, "b f c h w"],
    protocol: ProtocolConfig,
    sampler: SamplerConfig,
    annotations: Annotations = NONE,
) -> dict[str, Any] | None:
    """Return the error of the canvases and the calibration of their staticness; None for a model without a canvas.

    Each canvas is predicted from the true frames before it.
    """
    stride = predictor.vae.strides[0]
    last = (truth.shape[1] - 1) // stride * stride  # frame that completes the last whole latent frame
    parts = [
        predictor.canvases(part, protocol.context, stream, sampler, own)
        for part, own, stream in split(truth[:, : last + 1], annotations, protocol.seed, predictor.device)
    ]
    canvases = [part for part in parts if part is not None]
    if not canvases:
        return None
    staticness, error = (torch.cat([getattr(part, name) for part in canvases]) for name in ("staticness", "error"))
    return calibration.reliability(Canvases(staticness, error, canvases[0].channels, canvases[0].scale))


def summary(content: dict[str, Any]) -> dict[str, float]:
    """Return the stage's metrics from the content of scores.json, without those that were not measured."""
    first, *references = content["scores"]
    own = {
        key: value
        for key, value in first.items()
        if key not in ("name", "clips") and not key.endswith(("_low", "_high"))
    }
    calibrated = content["calibration"] or {}
    return {
        **{key: value for key, value in own.items() if value is not None},
        **{f"fvd_{metric_key(line['name'])}": line["fvd"] for line in references},
        **{key: calibrated[key] for key in ("canvas_error", "staticness_error") if key in calibrated},
        "milliseconds_per_frame": content["milliseconds_per_frame"],
    }


def metric_key(name: str) -> str:
    """Return a row's name without commas and spaces, which MLflow and DVC do not allow in metric names."""
    return name.replace(",", "").replace(" ", "_")


def gallery_clips(errors: Float[Tensor, "b"]) -> dict[int, str]:
    """Return the clips of the gallery and the reason for each: the first ones, and the best and worst of the others."""
    reasons = dict.fromkeys(range(min(TYPICAL, len(errors))), "as it comes")
    order = [index for index in errors.argsort().tolist() if index not in reasons]
    for index in order[:EXTREME]:
        reasons[index] = "least error"
    for index in order[EXTREME:][::-1][:EXTREME]:
        reasons[index] = "largest error"
    return reasons


def write_gallery(
    out: Path,
    predictions: Predictions,
    truth: UInt8[Tensor, "b f c h w"],
    names: list[str],
    reasons: dict[int, str],
    protocol: ProtocolConfig,
) -> None:
    """Write some clips with the first prediction of each, its canvas, staticness and order; also as videos."""
    context, indices = protocol.context, [index * protocol.futures for index in reasons]
    picked = {name: predictions.pick(name, indices) for name in ("clips", "canvas", "staticness", "order")}
    whole, clips = truth[list(reasons)], picked.pop("clips")
    assert clips is not None
    tensors = {"context": whole[:, :context], "truth": whole[:, context:], "sample": clips[:, context:]}
    tensors |= {name: tensor for name, tensor in picked.items() if tensor is not None}
    if "canvas" in tensors:
        tensors["canvas"] = tensors["canvas"][:, context:]
    tensors |= {"staticness": tensors["staticness"].float(), "order": tensors["order"].int()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    # one entry, because safetensors writes several in a random order
    text = {"names": [names[index] for index in reasons], "reasons": list(reasons.values())}
    save_file(tensors, out / "gallery.safetensors", {"text": json.dumps(text)})
    for index, pair in enumerate(zip(whole, clips, strict=True)):
        side_by_side = torch.cat(pair, dim=-1)
        video.write(out / "videos" / f"{index:02d}-truth-and-sample.mp4", side_by_side, FPS)


def log_results(out: Path, log: Run) -> None:
    """Draw pictures of the gallery, and log them with the scores and videos to the MLflow run."""
    gallery = records.read_gallery(out)
    (out / "pictures").mkdir()
    for index in range(len(gallery.names)):
        (out / "pictures" / f"{index:02d}.png").write_bytes(galleries.sheet(galleries.filmstrip(gallery, index)))
        (out / "pictures" / f"{index:02d}.webp").write_bytes(galleries.animation(gallery, index))
        rows = torch.stack([torch.from_numpy(clips[index]) for clips in (gallery.truth, gallery.sample)])
        log.image(rearrange(rows, "q f c h w -> (q h) (f w) c").numpy(), "truth above sample", index)
    for name in ("scores.json", "pictures", "videos"):
        log.artifact(out / name, name if (out / name).is_dir() else "")


def register(model: Path, autoencoder: Path, search: Path, clips: Clips, log: Run) -> None:
    """Register the model with its VAE and sampler as a new version of the row's MLflow model."""
    here = Path(__file__).resolve().parent
    registry.register(
        log,
        model.name,
        here / "commands" / "mlflow_model.py",
        data="clips",
        code=[here, here.parent / "components"],
        parts={"model": model, "autoencoder": autoencoder, "sampler": search / "best.json"},
        shape=(3, *clips.size),
        choices={"frames": 16, "seed": 0},
        tags={"row": model.name, "model": checkpoint.identity(model), "autoencoder": checkpoint.identity(autoencoder)},
    )


if __name__ == "__main__":
    from pipeline.checks import problems  # not above: a Ray worker that imports this file needs no checks

    stage.run(main, rows="experiments", check=problems.before_stage, headlines=HEADLINES)
