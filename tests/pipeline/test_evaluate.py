"""The parts of an evaluation with a small model that was never trained: what is kept, shown and refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from components import config
from components.autoencoders.causal import CausalVAEConfig
from components.errors import InputError
from components.metrics.fvd import ProtocolConfig
from components.models.canvasmar import CanvasMARConfig
from components.models.trained import Trained
from components.sampling.frame import SamplerConfig
from pipeline import evaluate, hands, predictions
from pipeline.predictor import Predictor
from tests.pipeline.conftest import ROOT, tiny

PARAMS = tiny(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
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
    trained = Trained(model=shape, autoencoder="", clips="", encoder=None, mean=(0.0,) * 4, std=(1.0,) * 4)
    device = torch.device("cpu")
    return Counting(vae.build().eval(), shape.build().eval().requires_grad_(False), trained, device)


def predict(loaded: Counting, kept: Path) -> torch.Tensor:
    kept.mkdir(exist_ok=True)
    found = predictions.predict(lambda: loaded, CONTEXT, predictions.Job(PROTOCOL, SAMPLER, kept), hands.ALONE)
    assert found.seconds() > 0
    return found.clips(0)


def test_an_interrupted_evaluation_goes_on_where_it_was_and_ends_with_the_same_predictions(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "BATCH", 2)
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
    monkeypatch.setattr(predictions, "BATCH", 2)
    job = predictions.Job(PROTOCOL, SAMPLER, tmp_path)
    found = predictions.predict(predictor, CONTEXT, job, hands.ALONE)
    picked = found.pick("clips", [5, 0])
    assert picked is not None
    assert torch.equal(picked, found.clips(0)[[5, 0]])
    assert found.pick("canvas", [1]) is not None
    without = predictions.predict(
        lambda: predictor("no-canvas"), CONTEXT, replace(job, kept=tmp_path / "x"), hands.ALONE
    )
    assert without.pick("canvas", [1]) is None


def test_what_was_left_of_other_parameters_is_not_gone_on_with(tmp_path):
    first = predictions.unfinished(tmp_path, "row", {"sampler": 1})
    (first / "00000000.safetensors").touch()
    other_row = predictions.unfinished(tmp_path, "other", {"sampler": 1})
    assert predictions.unfinished(tmp_path, "row", {"sampler": 1}) == first
    assert list(first.iterdir())
    assert predictions.unfinished(tmp_path, "row", {"sampler": 2}) != first
    assert not first.exists()
    assert other_row.exists()


def test_every_token_of_every_predicted_frame_is_in_the_reliability_table_and_no_canvas_has_none():
    truth = torch.randint(0, 256, (3, 10, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    told = evaluate.calibrate(predictor(), truth, PROTOCOL, SAMPLER)
    assert told is not None
    assert sum(row["tokens"] for row in told["bins"]) == 3 * 4 * 16  # of 9 whole frames, 1 + 4 latent frames of 4 x 4
    assert told["canvas_error"] > 0
    assert evaluate.calibrate(predictor("no-canvas"), truth, PROTOCOL, SAMPLER) is None


def test_the_first_clips_are_shown_and_of_the_others_the_best_and_the_worst():
    errors = torch.tensor([9.0, 0.0, 5.0, 5.0, 3.0, 1.0, 8.0, 2.0, 7.0])
    assert evaluate.picks(errors) == {
        **dict.fromkeys(range(4), "as it comes"),
        5: "least error",
        7: "least error",
        6: "largest error",
        8: "largest error",
    }
    assert evaluate.picks(errors[:2]) == {0: "as it comes", 1: "as it comes"}


class Short:
    """A split of clips of ten frames."""

    frames = 10

    def __len__(self):
        return 8

    def name(self, index):
        return f"{index // 2}.mp4@{index % 2}"


def test_a_protocol_longer_than_the_clips_is_refused_and_random_starts_are_drawn_from_each_video():
    with pytest.raises(InputError, match="gives 1 frames and scores 12, but the clips have 10"):
        evaluate.choose(Short(), PROTOCOL.model_copy(update={"frames": 12}))
    drawn, _ = evaluate.choose(Short(), PROTOCOL.model_copy(update={"start": "random", "samples": 20}))
    assert len(drawn) == 80
    assert all(len({index // 2 for index in drawn[i : i + 20]}) == 1 for i in range(0, 80, 20))
