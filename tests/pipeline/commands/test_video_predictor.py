"""`VideoPredictor`: videos of any size, and streamed frames that equal those of the whole prediction."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from components.foundation.config import parse, plain
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.nn.autoencoders.folded import CausalVAEConfig
from pipeline.commands.video_predictor import VideoPredictor, probe
from tests.pipeline.conftest import ROOT
from tests.pipeline.untrained import build

CLIP = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="module")
def predictor(folder):
    return VideoPredictor.open(folder, "kuka-canvasmar", "cpu")


def frames_of(steps):
    return torch.stack([step.frame for step in steps], dim=1)


def test_streamed_frames_are_those_of_the_whole_prediction(predictor):
    """Nine latent frames, more than the decoder looks back."""
    steps = list(predictor.stream(CLIP, frames=15, seed=3))
    assert predictor.reach == 5 < 9
    whole = predictor.predict(CLIP[None], 15, Stream.of(3, (0,)), predictor.sampler)
    assert [step.index for step in steps] == list(range(15))
    assert close(frames_of(steps), whole.clips[:, 3:])
    first = torch.stack([step.canvas for step in steps[:2]], dim=1)
    assert close(first, whole.canvas[:, 3:5])
    assert torch.equal(steps[2].order[0], whole.order[0, 1])
    assert torch.allclose(steps[2].staticness[0], whole.staticness[0, 1])


def close(one, other):
    """Equal but for the rounding of sums in another order."""
    distance = (one.int() - other.int()).abs()
    return distance.max() <= 1 and (distance == 0).float().mean() > 0.99


def test_the_decoder_is_seen_to_look_back_as_far_as_its_convolutions_reach(predictor):
    deeper = {**plain(predictor.vae.config), "depth": 2}
    vae = parse(CausalVAEConfig, deeper, where="vae").build()
    assert predictor.reach == 5  # two frames in each of two blocks, and one more
    assert probe(vae, (4, 4, 4), torch.device("cpu")) == 9

    class Forgetful(torch.nn.Module):
        """Works in chunks of four: how far it looks back depends on the place."""

        causal, strides = True, (1, 8)

        def pixel_frames(self, count):
            return count

        def decode(self, latents):
            chunks = [chunk.cumsum(1) for chunk in latents.split(4, dim=1)]
            return torch.cat(chunks, dim=1)

    assert probe(Forgetful(), (4, 4, 4), torch.device("cpu")) is None


def test_a_future_belongs_to_its_seed_whatever_is_made_beside_it(predictor):
    alone, many, other = (
        frames_of(predictor.stream(CLIP, frames=4, futures=futures, seed=seed))
        for futures, seed in ((1, 0), (3, 0), (1, 1))
    )
    assert many.shape == (3, 4, 3, 32, 32)
    assert close(many[:1], alone)
    assert not torch.equal(many[0], many[1])
    assert not torch.equal(other, alone)


def test_numpy_and_torch_and_files_of_any_size_and_length_are_taken(predictor, folder):
    height_first = np.ascontiguousarray(CLIP.permute(0, 2, 3, 1).numpy())
    assert torch.equal(frames_of(predictor.stream(height_first, frames=2)), frames_of(predictor.stream(CLIP, frames=2)))
    with pytest.warns(UserWarning, match="only the last 19 of 20 frames are used"):
        assert len(list(predictor.stream(folder / "videos" / "one.mp4", frames=1))) == 1
    with pytest.warns(UserWarning, match="90 x 70 were resized to 32 x 32"):
        (step,) = predictor.stream(np.zeros((1, 90, 70, 3), np.uint8), frames=1)
    assert step.frame.shape == step.canvas.shape == (1, 3, 32, 32)
    long = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    assert len(predictor.prepare(long).frames) == 1 + 63 * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(predictor.stream(CLIP, frames=1))


def test_settings_change_what_is_sampled_and_unknown_ones_are_named(predictor):
    (step,) = predictor.stream(CLIP, frames=1, sets=1)
    assert step.order.max() == 0
    for settings, words in (
        ({"set": 1}, "sampler: unknown key set"),
        ({"sets": "many"}, "sets is 'many'"),
        ({"sets": 0}, "sets is 0"),
        ({"frame_noise": 2.0}, "frame_noise is 2.0"),
        ({"frames": 0}, "frames is 0"),
        ({"futures": 65}, "futures is 65"),
    ):
        with pytest.raises(InputError, match=words):
            predictor.stream(CLIP, **settings)


@pytest.mark.parametrize(
    ("video", "words"),
    [
        (np.zeros((2, 8, 8, 3)), "float64"),
        (np.zeros((2, 8, 8, 4), np.uint8), "shape"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no frames"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "shape"),
        ("nowhere.mp4", "does not exist"),
    ],
)
def test_what_is_no_video_is_refused_with_a_sentence(predictor, video, words):
    with pytest.raises(InputError, match=words):
        predictor.stream(video)


@pytest.mark.parametrize("group", [1, 2])
def test_the_canvas_comes_first_and_the_sets_fill_it_in(tmp_path, group):
    predictor = VideoPredictor.open(build(tmp_path, group=group), "kuka-canvasmar", "cpu")
    parts = list(predictor.partial_frames(CLIP, frames=4))
    assert [round(part.share, 2) for part in parts] == [0.0, 0.12, 0.5, 1.0] * (2 // group)  # 2, 8, 16 tokens
    assert [part.done for part in parts] == [False, False, False, True] * (2 // group)
    assert torch.equal(parts[0].frames, parts[0].canvas)
    assert not torch.equal(parts[1].frames, parts[0].frames)
    streamed = frames_of(predictor.stream(CLIP, frames=4))
    assert torch.equal(torch.cat([part.frames for part in parts if part.done], dim=1), streamed)


def test_of_a_batch_only_what_is_shown_is_decoded_the_canvas_once(folder, monkeypatch):
    predictor = VideoPredictor.open(folder, "kuka-canvasmar", "cpu")
    context, decoded, decode = predictor.prepare(CLIP, context=1), [], predictor.vae.decode
    assert predictor.reach is not None  # found out by decoding
    monkeypatch.setattr(predictor.vae, "decode", lambda latents: decoded.append(len(latents)) or decode(latents))
    parts = list(predictor.stream_batch([context, context], frames=4, seeds=[1, 2], sets=8))
    assert [(part.index, part.done) for part in parts] == [(0, False), (0, True), (2, False), (2, True)]
    assert decoded == [2] * 4
    assert torch.equal(parts[1].canvas, parts[0].frames)
    assert not torch.equal(parts[3].canvas, parts[1].canvas)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_frames_again_alone_and_in_a_batch(folder):
    predictor = VideoPredictor.open(folder, "kuka-canvasmar", "cuda")
    context = predictor.prepare(CLIP, context=1)
    first, again = (frames_of(list(predictor.stream(context, frames=4, seed=3))) for _ in range(2))
    assert first.device.type == "cpu"
    assert torch.equal(first, again)
    done = [part.frames for part in predictor.stream_batch([context, context], frames=4, seeds=[8, 3]) if part.done]
    assert (torch.cat(done, dim=1)[1:].int() - first.int()).abs().max() <= 2  # another batch rounds sums otherwise


def test_a_model_without_a_canvas_has_none(folder):
    predictor = VideoPredictor.open(folder, "kuka-no-canvas", "cpu")
    assert [step.canvas for step in predictor.stream(CLIP, frames=3)] == [None, None, None]


def test_a_row_that_is_not_trained_is_named_beside_those_that_are(folder):
    with pytest.raises(InputError, match="row 'other' is not trained; trained rows: kuka-canvasmar, kuka-no-canvas"):
        VideoPredictor.open(folder, "other")


def test_a_model_of_mlflow_predicts_what_the_row_predicts(folder, predictor, tmp_path, monkeypatch):
    import mlflow
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    parts = {"model": "models/kuka-canvasmar", "autoencoder": "autoencoders/kuka-vae"}
    paths = {name: str(folder / "data" / part) for name, part in parts.items()}
    paths["sampler"] = str(folder / "data" / "searches" / "kuka-canvasmar" / "best.json")
    code = tmp_path / "served.py"
    code.write_text("import mlflow\nmlflow.models.set_model(mlflow.pyfunc.PythonModel())\n")
    mlflow.pyfunc.save_model(str(tmp_path / "m"), python_model=str(code), artifacts=paths, pip_requirements=[])
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.create_registered_model("mine")
    version = client.create_model_version("mine", str(tmp_path / "m"))
    client.set_registered_model_alias("mine", "current", version.version)
    registered = VideoPredictor.registered("models:/mine@current", tmp_path, "cpu")
    steps = registered.stream(CLIP, frames=2), predictor.stream(CLIP, frames=2)
    assert torch.equal(*map(frames_of, steps))
    with pytest.raises(InputError, match="cannot download models:/none@current"):
        VideoPredictor.registered("models:/none@current", tmp_path)


def test_a_program_that_predicts_imports_neither_ray_nor_mlflow(folder):
    program = (
        "import sys, numpy\n"
        "from pipeline.commands.video_predictor import VideoPredictor\n"
        f"predictor = VideoPredictor.open({str(folder)!r}, 'kuka-canvasmar')\n"
        "steps = list(predictor.stream(numpy.zeros((1, 32, 32, 3), numpy.uint8), frames=2))\n"
        "assert len(steps) == 2\n"
        "print(sorted({'ray', 'mlflow', 'gradio', 'dvc'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
