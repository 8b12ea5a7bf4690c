"""Stage `evaluate`: predictions of a trained model and their scores, beside the rows that any score is read against."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor

from components.config import Config, parse, plain
from components.data import video
from components.data.clips import Clips
from components.data.selection import evaluation_clips
from components.errors import InputError
from components.metrics import fvd, pixels
from components.metrics.fvd import ProtocolConfig
from components.nn.lpips import LPIPS
from components.reporting import galleries, results
from components.sampling.frame import SamplerConfig
from components.tracking import Run
from pipeline import cluster, stage
from pipeline.features import Features
from pipeline.predictor import Prediction, Predictor
from pipeline.progress import meter

BATCH = 16  # clips that are predicted together
SHOWN = 6  # clips of the gallery
FPS = 8  # of the videos to look at


class Params(Config):
    """What is scored, and how; the sampler is the one that the search chose."""

    protocol: ProtocolConfig


@dataclass(frozen=True, slots=True)
class Judge:
    """Scores clips against the truth of a protocol."""

    protocol: ProtocolConfig
    truth: UInt8[Tensor, "b f c h w"]  # the scored frames only
    real: Float[Tensor, "b d"]
    features: Features
    lpips: LPIPS

    def score(self, name: str, clips: UInt8[Tensor, "b f c h w"], *, paired: bool = True) -> dict[str, Any]:
        """One line of the table; `paired` clips are also compared frame by frame with the truth that they belong to."""
        scored = fvd.score(self.real, self.features.of(clips, name), self.protocol)
        line = {
            "name": name,
            "fvd": scored.value,
            "fvd_low": scored.low,
            "fvd_high": scored.high,
            "clips": scored.clips_fake,
            "motion": float(fvd.motion(clips).mean()),
        }
        if paired:
            truth = self.truth.repeat_interleave(len(clips) // len(self.truth), dim=0)
            line |= {"psnr": float(pixels.psnr(clips, truth).mean()), "ssim": float(pixels.ssim(clips, truth).mean())}
            line["lpips"] = self._perceptual(clips, truth)
        return line

    @torch.no_grad()
    def _perceptual(self, clips: UInt8[Tensor, "b f c h w"], truth: UInt8[Tensor, "b f c h w"]) -> float:
        pairs = zip(clips.flatten(0, 1).split(256), truth.flatten(0, 1).split(256), strict=True)
        values = [self.lpips(a.float() / 127.5 - 1, b.float() / 127.5 - 1) for a, b in pairs]
        return float(torch.cat(values).mean())


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
    if test.frames < given + frames:
        raise InputError(
            f"the protocol {protocol.name} gives {given} frames and scores {frames}, but the clips have {test.frames}; "
            "lower protocol.frames, or cut longer clips"
        )
    chosen, others = evaluation_clips([test.name(index) for index in range(len(test))], protocol.clips)
    whole = test.read(chosen)
    truth = whole[:, : given + frames]

    predictions, seconds = predict(loaded, truth[:, :given], frames, protocol, sampler)
    samples = torch.cat([prediction.clips for prediction in predictions])[:, given:]
    names = [test.name(index) for index in chosen]
    write_gallery(out, predictions, truth, names, given=given, samples=protocol.samples)

    features = Features(weights, device, Path(".state") / "features", protocol.resolution)
    scored = truth[:, given:]
    real = features.of(scored, "truth")
    judge = Judge(protocol, scored, real, features, LPIPS.load(weights / "lpips.safetensors", "alex", 5))
    row = model.name
    lines = [judge.score(row, samples)]
    lines.append(judge.score("copy last frame", truth[:, given - 1 : given].expand_as(scored).contiguous()))
    lines.append(judge.score("VAE reconstruction", loaded.reconstruct(whole)[:, given : given + frames]))
    if len(others) >= 2:
        lines.append(judge.score("real against real", test.read(others)[:, given : given + frames], paired=False))
    milliseconds = 1000 * seconds / (len(samples) * frames)
    content = {
        "row": row,
        "protocol": {**plain(protocol), "description": protocol.describe(), "clips_hash": test.hash},
        "scores": lines,
        "milliseconds_per_frame": milliseconds,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),  # type: ignore[attr-defined]
        "sampler": plain(sampler),
    }
    (out / "scores.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    show(out, log)
    return {
        **{key: lines[0][key] for key in ("fvd", "psnr", "ssim", "lpips", "motion")},
        **{f"fvd_{line['name'].replace(' ', '_')}": line["fvd"] for line in lines[1:]},
        "milliseconds_per_frame": milliseconds,
    }


def predict(
    loaded: Predictor,
    context: UInt8[Tensor, "b f c h w"],
    frames: int,
    protocol: ProtocolConfig,
    sampler: SamplerConfig,
) -> tuple[list[Prediction], float]:
    """The predictions for every context, a clip's own one after the other, and the seconds that they took."""
    contexts = context.repeat_interleave(protocol.samples, dim=0)
    predictions = []
    began = time.perf_counter()
    with meter("predict", len(contexts), "clips") as shown:
        for prediction in loaded.batches(contexts, frames, protocol.seed, sampler, BATCH):
            predictions.append(prediction)
            shown.advance(len(prediction.clips))
    return predictions, time.perf_counter() - began


def write_gallery(
    out: Path,
    predictions: list[Prediction],
    truth: UInt8[Tensor, "b f c h w"],
    names: list[str],
    *,
    given: int,
    samples: int,
) -> None:
    """The first predictions with all that led to them, as tensors and as videos."""
    shown = predictions[: -(-SHOWN * samples // BATCH)]
    own = slice(0, SHOWN * samples, samples)  # the first prediction for each context
    clips = torch.cat([part.clips for part in shown])[own]
    count = len(clips)
    tensors = {
        "context": truth[:count, :given],
        "truth": truth[:count, given:],
        "sample": clips[:, given:],
        "staticness": torch.cat([part.staticness for part in shown])[own].float(),
        "order": torch.cat([part.order for part in shown])[own].int(),
    }
    canvases = [part.canvas for part in shown if part.canvas is not None]
    if canvases:
        tensors["canvas"] = torch.cat(canvases)[own, given:]
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, out / "gallery.safetensors", {"names": json.dumps(names[:count])})
    for index in range(count):
        side_by_side = torch.cat([truth[index], clips[index]], dim=-1)
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
