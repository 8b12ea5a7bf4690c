"""The parts of an evaluation with a small model that was never trained: what is kept, shown and refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.foundation import config
from components.foundation.errors import InputError
from components.foundation.settings import presets
from components.metrics.distances.fvd import ProtocolConfig
from components.metrics.scoring import Scorer
from components.models.canvasmar.model import CanvasMARConfig
from components.models.serialization import ModelDescription
from components.nn.autoencoders.folded import CausalVAEConfig
from components.nn.lpips import LPIPS
from components.sampling import batches
from components.sampling.frame import SamplerConfig
from components.sampling.predictor import Predictor
from pipeline import evaluate
from pipeline.runtime import ray_map
from tests.pipeline.conftest import ROOT, tiny

PARAMS = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))
PROTOCOL = config.parse(ProtocolConfig, PARAMS["protocols"]["kuka"] | {"samples": 2}, where="protocol")
SAMPLER = config.parse(SamplerConfig, PARAMS["samplers"]["default"], where="sampler")
CONTEXT = torch.randint(0, 256, (3, 1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


class Counting(Predictor):
    """Says how many batches it predicted, and can be interrupted before one of them."""

    calls = 0
    stop = 99

    def predict(self, *given, **named):
        if self.calls == self.stop:
            raise KeyboardInterrupt
        self.calls += 1
        return super().predict(*given, **named)


def predictor(model: str = "canvas") -> Counting:
    torch.manual_seed(0)
    vae = config.parse(CausalVAEConfig, PARAMS["autoencoders"]["kuka-vae"], where="vae")
    shape = config.parse(CanvasMARConfig, PARAMS["models"][model], where="model")
    trained = ModelDescription(
        model=shape, autoencoder="", clips="", encoder=None, actions=None, mean=(0.0,) * 4, std=(1.0,) * 4
    )
    device = torch.device("cpu")
    return Counting(vae.build().eval(), shape.build().eval().requires_grad_(False), trained, device)


def predict(loaded: Counting, kept: Path) -> torch.Tensor:
    kept.mkdir(exist_ok=True)
    found = batches.predict(lambda: loaded, CONTEXT, batches.PredictionJob(PROTOCOL, SAMPLER, kept), ray_map.INLINE)
    assert found.seconds() > 0
    return found.clips(0)


def test_an_interrupted_evaluation_goes_on_where_it_was_and_ends_with_the_same_predictions(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 2)
    whole = predict(predictor(), tmp_path / "whole")
    assert len(whole) == 6
    stopped = predictor()
    stopped.stop = 2
    with pytest.raises(KeyboardInterrupt):
        predict(stopped, tmp_path / "kept")
    going = predictor()
    assert torch.equal(predict(going, tmp_path / "kept"), whole)
    assert going.calls == 1


def test_one_field_of_some_predictions_is_what_all_of_them_hold_there(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 2)
    job = batches.PredictionJob(PROTOCOL, SAMPLER, tmp_path)
    found = batches.predict(predictor, CONTEXT, job, ray_map.INLINE)
    picked = found.pick("clips", [5, 0])
    assert picked is not None
    assert torch.equal(picked, found.clips(0)[[5, 0]])
    assert found.pick("canvas", [1]) is not None
    without = batches.predict(
        lambda: predictor("no-canvas"), CONTEXT, replace(job, folder=tmp_path / "x"), ray_map.INLINE
    )
    assert without.pick("canvas", [1]) is None


def test_predictions_of_other_clips_or_another_sampler_are_not_gone_on_with_and_damaged_ones_are_made_again(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given = ({"model": "a"}, CONTEXT, PROTOCOL, SAMPLER)
    first = batches.entry(*given)
    whole = predict(predictor(), first.path)
    assert batches.entry(*given) == first
    others = [
        ({"model": "b"}, CONTEXT, PROTOCOL, SAMPLER),
        ({"model": "a"}, CONTEXT + 1, PROTOCOL, SAMPLER),
        ({"model": "a"}, CONTEXT, PROTOCOL, SAMPLER.model_copy(update={"sets": 1})),
    ]
    assert all(batches.entry(*other).path != first.path for other in others)
    (path,) = first.path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    again = predictor()
    assert torch.equal(predict(again, first.path), whole)
    assert again.calls == 1


def test_every_token_of_every_predicted_frame_is_in_the_reliability_table_and_no_canvas_has_none():
    truth = torch.randint(0, 256, (3, 10, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    told = evaluate.calibrate(predictor(), truth, PROTOCOL, SAMPLER)
    assert told is not None
    assert sum(row["tokens"] for row in told["bins"]) == 3 * 4 * 16  # of 9 whole frames, 1 + 4 latent frames of 4 x 4
    assert told["canvas_error"] > 0
    assert evaluate.calibrate(predictor("no-canvas"), truth, PROTOCOL, SAMPLER) is None


def test_the_first_clips_are_shown_and_of_the_others_the_best_and_the_worst():
    errors = torch.tensor([9.0, 0.0, 5.0, 5.0, 3.0, 1.0, 8.0, 2.0, 7.0])
    assert evaluate.gallery_clips(errors) == {
        **dict.fromkeys(range(4), "as it comes"),
        5: "least error",
        7: "least error",
        6: "largest error",
        8: "largest error",
    }
    assert evaluate.gallery_clips(errors[:2]) == {0: "as it comes", 1: "as it comes"}


class Short:
    """A split of clips of ten frames."""

    frames = 10

    def __len__(self):
        return 8

    def name(self, index):
        return f"{index // 2}.mp4@{index % 2}"


def test_a_protocol_longer_than_the_clips_is_refused_and_random_starts_are_drawn_from_each_video():
    with pytest.raises(InputError, match="needs 1 context frames and scores 12, but the clips have 10 frames"):
        evaluate.choose_clips(Short(), PROTOCOL.model_copy(update={"frames": 12}))
    drawn, _ = evaluate.choose_clips(Short(), PROTOCOL.model_copy(update={"start": "random", "samples": 20}))
    assert len(drawn) == 80
    assert all(len({index // 2 for index in drawn[i : i + 20]}) == 1 for i in range(0, 80, 20))


def test_the_last_frame_is_held_as_it_is_and_as_the_vae_returns_it_from_its_context():
    torch.manual_seed(0)
    loaded, net = predictor(), LPIPS("alex", 5)
    protocol = PROTOCOL.model_copy(update={"context": 3, "frames": 10, "window": 5, "samples": 1, "resamples": 0})
    whole = torch.randint(0, 256, (3, 13, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    scorer = Scorer(
        protocol, whole[:, :3], whole[:, 3:], lambda clips, _: clips.float().mean(dim=(3, 4)).flatten(1), net
    )
    scored = evaluate.score_rows(loaded, scorer, whole[:, 3:], whole, whole[:2], "row")
    lines = {one.line["name"]: one.line for one in scored}
    assert list(lines) == ["row", "copy last frame", "copy last frame, VAE", "VAE reconstruction", "real against real"]
    for name, frame in (("", whole[:, 2:3]), (", VAE", loaded.reconstruct(whole[:, :3])[:, 2:3])):
        expected = scorer.score("x", frame.expand_as(scorer.truth).contiguous())
        assert lines[f"copy last frame{name}"] == expected.line | {"name": f"copy last frame{name}"}
    assert lines["copy last frame"]["psnr"] != lines["copy last frame, VAE"]["psnr"]
    assert len(scored[2].windows) == 2
    content = {"scores": [one.line for one in scored], "calibration": None, "milliseconds_per_frame": 1.0}
    found = evaluate.summary(content)
    assert found["fvd_copy_last_frame_VAE"] == lines["copy last frame, VAE"]["fvd"]
    assert not any(set(key) & set(" ,") for key in found)
    assert {"form_distance"} <= found.keys()
