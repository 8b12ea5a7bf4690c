"""Stage `evaluate`: predictions of a trained model and their scores, beside the rows that any score is read against."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor

from components import checkpoint, registry
from components.config import Config, parse, plain
from components.data import video
from components.data.clips import Clips
from components.data.selection import evaluation_clips, random_starts
from components.errors import InputError
from components.metrics import calibration
from components.metrics.calibration import Canvases
from components.metrics.fvd import ProtocolConfig
from components.metrics.scoring import Judge, Scored
from components.nn.lpips import LPIPS
from components.randomness import Stream
from components.reporting import galleries, results
from components.sampling.frame import SamplerConfig
from components.tracking import Run
from pipeline import cluster, stage
from pipeline.features import Features
from pipeline.hands import spread
from pipeline.predictions import Job, Predictions, predict, unfinished
from pipeline.predictor import Predictor

BATCH = 16  # clips whose canvases are looked at together
TYPICAL, EXTREME = 4, 2  # clips of the gallery: as they come, and of the least and of the largest error
FPS = 8  # of the videos to look at
STATE = Path(".state")


class Params(Config):
    """What is scored, and how; the sampler is the one that the search chose."""

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
    """The table of scores with its reference rows, a gallery to look at, and predicted videos."""
    protocol, device = params.protocol, cluster.device()
    given, frames = protocol.context, protocol.frames
    sampler = parse(SamplerConfig, results.read_json(search / "best.json")["sampler"], where=str(search / "best.json"))
    loaded = Predictor.load(model, autoencoder, device)
    test = Clips.open(clips, "test")
    chosen, others = choose(test, protocol)
    whole = test.read(chosen)
    truth = whole[:, : given + frames]

    facts: dict[str, Any] = {
        name: checkpoint.identity(path) for name, path in (("model", model), ("autoencoder", autoencoder))
    }
    facts |= {"clips": test.hash, "protocol": plain(protocol), "sampler": plain(sampler)}
    kept = unfinished(STATE, model.name, facts)
    load = functools.partial(_load, model.resolve(), autoencoder.resolve())
    with spread(Path.cwd()) as hands:
        make = load if hands.places > 1 else lambda: loaded
        predictions = predict(make, truth[:, :given], Job(protocol, sampler, kept), hands, test.words(chosen))
        features = Features(weights, device, STATE / "features", protocol.resolution, hands)
        lpips = LPIPS.load(weights / "lpips.safetensors", "alex", 5).to(device)
        judge = Judge(protocol, truth[:, :given], truth[:, given:], features.of, lpips)
        scored = rows(loaded, judge, predictions.clips(given), whole, test.read(others), model.name)
    lines = [one.line for one in scored]
    assert scored[0].errors is not None
    names = [test.name(index) for index in chosen]
    shown = picks(scored[0].errors[:: protocol.futures])
    write_gallery(out, predictions, truth, names, shown, protocol)
    data = {"dataset": clips.name, "clips_hash": test.hash, "i3d_hash": features.digest}
    content = {
        "row": model.name,
        "protocol": {**plain(protocol), "description": protocol.describe(), **data},
        "scores": lines,
        "drift": [window for one in scored for window in one.windows],
        "calibration": calibrate(loaded, truth, protocol, sampler),
        "milliseconds_per_frame": 1000 * predictions.seconds() / (len(truth) * protocol.futures * frames),
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),  # type: ignore[attr-defined]
        "sampler": plain(sampler),
    }
    (out / "scores.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    show(out, log)
    publish(model, autoencoder, search, test, log)
    shutil.rmtree(kept)
    return numbers(content)


def _load(model: Path, autoencoder: Path) -> Predictor:
    return Predictor.load(model, autoencoder, cluster.device())


def rows(
    loaded: Predictor,
    judge: Judge,
    samples: UInt8[Tensor, "n f c h w"],
    whole: UInt8[Tensor, "b f c h w"],
    real: UInt8[Tensor, "k f c h w"],
    name: str,
) -> list[Scored]:
    """The model's line of the table, and the lines that any score is read against."""
    given, frames = judge.protocol.context, judge.protocol.frames
    scored = [judge.score(name, samples)]
    scored.append(judge.score("copy last frame", judge.context[:, -1:].expand_as(judge.truth).contiguous()))
    scored.append(judge.score("VAE reconstruction", loaded.reconstruct(whole)[:, given : given + frames]))
    if len(real) >= 2:
        scored.append(judge.score_others("real against real", real[:, :given], real[:, given : given + frames]))
    return scored


def choose(test: Clips, protocol: ProtocolConfig) -> tuple[list[int], list[int]]:
    """The clips that the protocol scores, and others like them. Raises InputError for clips too few or too short."""
    if test.frames < protocol.context + protocol.frames:
        raise InputError(
            f"the protocol {protocol.name} gives {protocol.context} frames and scores {protocol.frames}, but the clips "
            f"have {test.frames}; lower protocol.frames, or cut longer clips"
        )
    names = [test.name(index) for index in range(len(test))]
    if protocol.start == "random":
        return random_starts(names, protocol.clips, protocol.samples, protocol.seed)
    return evaluation_clips(names, protocol.clips)


def calibrate(
    loaded: Predictor, truth: UInt8[Tensor, "b f c h w"], protocol: ProtocolConfig, sampler: SamplerConfig
) -> dict[str, Any] | None:
    """How far the canvases of true frames are off and whether their staticness knows it; None without a canvas."""
    last = (truth.shape[1] - 1) // loaded.vae.strides[0] * loaded.vae.strides[0]  # of the last whole latent frame
    found = []
    for start in range(0, len(truth), BATCH):
        part = truth[start : start + BATCH, : last + 1]
        stream = Stream.of(protocol.seed, range(start, start + len(part)), loaded.device)
        found.append(loaded.canvases(part, protocol.context, stream, sampler))
    canvases = [one for one in found if one is not None]
    if not canvases:
        return None
    staticness, error = (torch.cat([getattr(one, name) for one in canvases]) for name in ("staticness", "error"))
    return calibration.reliability(Canvases(staticness, error, canvases[0].numbers, canvases[0].scale))


def numbers(content: dict[str, Any]) -> dict[str, float]:
    """What a person compares from one run to the next; what was not measured is absent."""
    first, *references = content["scores"]
    own = {
        key: value
        for key, value in first.items()
        if key not in ("name", "clips") and not key.endswith(("_low", "_high"))
    }
    told = content["calibration"] or {}
    return {
        **{key: value for key, value in own.items() if value is not None},
        **{f"fvd_{line['name'].replace(' ', '_')}": line["fvd"] for line in references},
        **{key: told[key] for key in ("canvas_error", "staticness_error") if key in told},
        "milliseconds_per_frame": content["milliseconds_per_frame"],
    }


def picks(errors: Float[Tensor, "b"]) -> dict[int, str]:
    """Which clips are shown, and why: the first, and those that were predicted best and worst of all others."""
    shown = dict.fromkeys(range(min(TYPICAL, len(errors))), "as it comes")
    order = [index for index in errors.argsort().tolist() if index not in shown]
    for index in order[:EXTREME]:
        shown[index] = "least error"
    for index in order[EXTREME:][::-1][:EXTREME]:
        shown[index] = "largest error"
    return shown


def write_gallery(
    out: Path,
    predictions: Predictions,
    truth: UInt8[Tensor, "b f c h w"],
    names: list[str],
    shown: dict[int, str],
    protocol: ProtocolConfig,
) -> None:
    """Some clips with the first prediction of each and all that led to it, as tensors and as videos."""
    given, places = protocol.context, [index * protocol.futures for index in shown]
    picked = {name: predictions.pick(name, places) for name in ("clips", "canvas", "staticness", "order")}
    whole, clips = truth[list(shown)], picked.pop("clips")
    assert clips is not None
    tensors = {"context": whole[:, :given], "truth": whole[:, given:], "sample": clips[:, given:]}
    tensors |= {name: tensor for name, tensor in picked.items() if tensor is not None}
    if "canvas" in tensors:
        tensors["canvas"] = tensors["canvas"][:, given:]
    tensors |= {"staticness": tensors["staticness"].float(), "order": tensors["order"].int()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    words = {"names": json.dumps([names[index] for index in shown]), "reasons": json.dumps(list(shown.values()))}
    save_file(tensors, out / "gallery.safetensors", words)
    for index, (before, after) in enumerate(zip(whole, clips, strict=True)):
        side_by_side = torch.cat([before, after], dim=-1)
        video.write(out / "videos" / f"{index:02d}-truth-and-sample.mp4", side_by_side, FPS)


def show(out: Path, log: Run) -> None:
    """Scores, pictures and videos into the run."""
    gallery = results.read_gallery(out)
    (out / "pictures").mkdir()
    for index in range(len(gallery.names)):
        (out / "pictures" / f"{index:02d}.png").write_bytes(galleries.sheet(galleries.film(gallery, index)))
        (out / "pictures" / f"{index:02d}.webp").write_bytes(galleries.animation(gallery, index))
        rows = torch.stack([torch.from_numpy(clips[index]) for clips in (gallery.truth, gallery.sample)])
        log.image(rearrange(rows, "q f c h w -> (q h) (f w) c").numpy(), "truth above sample", index)
    for name in ("scores.json", "pictures", "videos"):
        log.artifact(out / name, name if (out / name).is_dir() else "")


def publish(model: Path, autoencoder: Path, search: Path, clips: Clips, log: Run) -> None:
    """What was scored becomes a version of a registered model."""
    here = Path(__file__).resolve().parent
    registry.register(
        log,
        f"canvasmar-{model.name}",
        here / "served.py",
        code=[here, here.parent / "components"],
        parts={"model": model, "autoencoder": autoencoder, "sampler": search / "best.json"},
        shape=(3, *clips.size),
        choices={"frames": 16, "seed": 0},
        tags={"row": model.name, "model": checkpoint.identity(model), "autoencoder": checkpoint.identity(autoencoder)},
    )


if __name__ == "__main__":
    stage.run(main, rows="experiments")
