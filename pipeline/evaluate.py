"""Stage `evaluate`: predictions of a trained model and their scores, beside the rows that any score is read against."""

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor

from components import checkpoint
from components.config import Config, fingerprint, parse, plain
from components.data import video
from components.data.clips import Clips
from components.data.selection import evaluation_clips, random_starts
from components.errors import InputError
from components.metrics import calibration
from components.metrics.calibration import Canvases
from components.metrics.fvd import ProtocolConfig
from components.metrics.scoring import Judge
from components.nn.lpips import LPIPS
from components.randomness import Stream
from components.reporting import galleries, results
from components.sampling.frame import SamplerConfig
from components.tracking import Run
from pipeline import cluster, stage
from pipeline.features import Features
from pipeline.predictor import Prediction, Predictor
from pipeline.progress import meter

BATCH = 16  # clips that are predicted together
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

    identity = {
        "model": checkpoint.identity(model),
        "autoencoder": checkpoint.identity(autoencoder),
        "clips": test.hash,
    }
    kept = unfinished(model.name, {**identity, "protocol": plain(protocol), "sampler": plain(sampler)})
    predictions, seconds = predict(loaded, truth[:, :given], frames, protocol, sampler, kept)
    samples = torch.cat([prediction.clips for prediction in predictions])[:, given:]

    features = Features(weights, device, STATE / "features", protocol.resolution)
    lpips = LPIPS.load(weights / "lpips.safetensors", "alex", 5).to(device)
    judge = Judge(protocol, truth[:, :given], truth[:, given:], features.of, lpips)
    scored = [judge.score(model.name, samples)]
    scored.append(judge.score("copy last frame", truth[:, given - 1 : given].expand_as(truth[:, given:]).contiguous()))
    scored.append(judge.score("VAE reconstruction", loaded.reconstruct(whole)[:, given : given + frames]))
    if len(others) >= 2:
        real = test.read(others)
        scored.append(judge.score_others("real against real", real[:, :given], real[:, given : given + frames]))
    lines = [one.line for one in scored]
    assert scored[0].errors is not None
    names = [test.name(index) for index in chosen]
    shown = picks(scored[0].errors[:: protocol.futures])
    write_gallery(out, predictions, truth, names, shown, given=given, samples=protocol.futures)
    data = {"dataset": clips.name, "clips_hash": test.hash, "i3d_hash": features.digest}
    content = {
        "row": model.name,
        "protocol": {**plain(protocol), "description": protocol.describe(), **data},
        "scores": lines,
        "drift": [window for one in scored for window in one.windows],
        "calibration": calibrate(loaded, truth, protocol, sampler),
        "milliseconds_per_frame": 1000 * seconds / (len(samples) * frames),
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),  # type: ignore[attr-defined]
        "sampler": plain(sampler),
    }
    (out / "scores.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    show(out, log)
    shutil.rmtree(kept)
    return numbers(content)


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


def unfinished(row: str, facts: dict[str, Any]) -> Path:
    """The folder where predictions wait for the rest: of these facts and this code; what the row left before goes."""
    code = hashlib.sha256()
    for path in sorted((Path(__file__).parents[1] / "components").rglob("*.py")):
        code.update(path.read_bytes())
    folder = STATE / "evaluations" / row / fingerprint({**facts, "code": code.hexdigest()})
    for other in folder.parent.glob("*"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def predict(
    loaded: Predictor,
    context: UInt8[Tensor, "b f c h w"],
    frames: int,
    protocol: ProtocolConfig,
    sampler: SamplerConfig,
    kept: Path,
) -> tuple[list[Prediction], float]:
    """The predictions for every context, a clip's own one after the other, and the seconds that they took.

    A batch that lies in `kept` is not predicted again; its seconds are those that it took then.
    """
    contexts = context.repeat_interleave(protocol.futures, dim=0)
    predictions, seconds = [], 0.0
    with meter("predict", len(contexts), "clips") as shown:
        for start in range(0, len(contexts), BATCH):
            part = contexts[start : start + BATCH]
            path = kept / f"{start:08d}.safetensors"
            if not path.is_file():
                began = time.perf_counter()
                stream = Stream.of(protocol.seed, range(start, start + len(part)), loaded.device)
                prediction = loaded.predict(part, frames, stream, sampler)
                took = torch.tensor([time.perf_counter() - began])
                tensors = {name: getattr(prediction, name) for name in Prediction.__slots__}
                present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
                checkpoint.save_weights(path, {**present, "seconds": took})
            tensors = {"canvas": None, **checkpoint.read_weights(path)}
            seconds += float(tensors.pop("seconds"))
            predictions.append(Prediction(**tensors))
            shown.advance(len(part))
    return predictions, seconds


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
    predictions: list[Prediction],
    truth: UInt8[Tensor, "b f c h w"],
    names: list[str],
    shown: dict[int, str],
    *,
    given: int,
    samples: int,
) -> None:
    """Some clips with the first prediction of each and all that led to it, as tensors and as videos."""
    places = [divmod(index * samples, BATCH) for index in shown]

    def of(name: str) -> Tensor:
        return torch.stack([getattr(predictions[part], name)[row] for part, row in places])

    whole, clips = truth[list(shown)], of("clips")
    tensors = {
        "context": whole[:, :given],
        "truth": whole[:, given:],
        "sample": clips[:, given:],
        "staticness": of("staticness").float(),
        "order": of("order").int(),
    }
    if predictions[0].canvas is not None:
        tensors["canvas"] = of("canvas")[:, given:]
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


if __name__ == "__main__":
    stage.run(main, rows="experiments")
