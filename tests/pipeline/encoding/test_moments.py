"""Clips to moments in shards: gone on with after a stop, damaged ones made again alone."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from components.datasets import clips, latents, shards
from components.datasets.clips import ClipsManifest
from components.datasets.latents import Latents
from components.foundation import config
from components.foundation.errors import InputError
from components.foundation.files import write_text
from components.foundation.settings import presets
from components.nn.autoencoders import serialization
from components.nn.autoencoders.folded import CausalVAEConfig
from components.training.optimizer import Phase, RecipeConfig
from components.video import video
from pipeline.commands import repair
from pipeline.encoding import moments, resolutions
from tests.pipeline.conftest import ROOT, environment, run, tiny

RECIPE = config.parse(
    RecipeConfig,
    presets.read(ROOT / "presets" / "kuka.yaml")["recipes"]["model"],
    where="recipe",
)
COUNTS = {"train": 7, "val": 3, "test": 0}
PLACE = torch.device("cpu")


def write_clips(folder: Path, counts: dict[str, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    written = [
        shards.write_rows(
            folder, split, 0, torch.randint(0, 256, (count, 17, 3, 32, 32), generator=generator, dtype=torch.uint8)
        )
        for split, count in counts.items()
        if count
    ]
    index = write_text(folder / clips.INDEX, ",".join(clips.COLUMNS) + "\n")
    made = {"shards": tuple(written), "counts": counts, "files": {clips.INDEX: index}, "frames": 17, "size": (32, 32)}
    shards.write_manifest(folder, ClipsManifest(**made, channels="rgb", cut={"stride": 1}))


def save_vae(folder: Path) -> None:
    row = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))["autoencoders"]["kuka-vae"]
    torch.manual_seed(0)
    vae = config.parse(CausalVAEConfig, row, where="vae").build()
    serialization.save(folder, vae, vae.state_dict())


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """Folders of clips, of a VAE that was never trained, and of the moments that it makes of them."""
    monkeypatch.setattr(moments, "SHARD", 3)
    places = tmp_path / "clips", tmp_path / "vae", tmp_path / "latents"
    write_clips(places[0], COUNTS)
    places[2].mkdir()
    save_vae(places[1])
    key = moments.key_of(places[0], places[1])
    work = moments.encoder(places[0], places[1], tmp_path / "state")
    reports = [work(piece) for piece in moments.pieces(COUNTS)]
    for report in reports:
        shards.place(tmp_path / "state" / report.shard.file, places[2])
    latents.finish(places[2], reports, key, {})
    return places


def test_every_clip_has_its_moments_and_they_are_those_of_the_vae(cached) -> None:
    clips_folder, vae_folder, folder = cached
    assert [len(piece.rows) for piece in moments.pieces(COUNTS)] == [3, 3, 1, 3]
    stored = Latents.open(folder, "train", moments.key_of(clips_folder, vae_folder))
    source = clips.Clips.open(clips_folder, "train")
    vae = serialization.load(vae_folder, PLACE)
    for row in range(7):
        expected = vae.encode(source.read([row]).float() / 127.5 - 1)
        assert torch.allclose(stored.moments([row]), expected, atol=1e-4)


def test_a_finished_shard_is_found_again_and_not_after_a_flipped_bit(cached, tmp_path) -> None:
    work = moments.encoder(cached[0], cached[1], tmp_path / "again")
    report = work(moments.pieces(COUNTS)[1])
    assert latents.finished(tmp_path / "again", "train", 1) == report
    assert latents.finished(tmp_path / "again", "train", 0) is None
    path = tmp_path / "again" / report.shard.file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert latents.finished(tmp_path / "again", "train", 1) is None


def test_damaged_and_missing_shards_are_named_and_made_again_alone(cached, capsys) -> None:
    clips_folder, vae_folder, folder = cached
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "train-00001.safetensors").write_bytes(before["train-00001.safetensors"][:-1] + b"?")
    (folder / "val-00000.safetensors").unlink()
    untouched = (folder / "train-00000.safetensors").stat().st_mtime_ns
    repair.repair_latents(clips_folder, vae_folder, folder, check=True)
    told = capsys.readouterr().out
    assert "2 of 4 shards" in told
    assert "train-00001.safetensors" in told
    assert not (folder / "val-00000.safetensors").exists()
    repair.repair_latents(clips_folder, vae_folder, folder, check=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (folder / "train-00000.safetensors").stat().st_mtime_ns == untouched
    (folder / "statistics.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"statistics.json is damaged or missing"):
        repair.repair_latents(clips_folder, vae_folder, folder, check=False)


def test_moments_of_another_vae_are_not_mended(cached, tmp_path) -> None:
    clips_folder, vae_folder, folder = cached
    vae = serialization.load(vae_folder, PLACE)
    serialization.save(tmp_path / "other", vae, {name: tensor + 1 for name, tensor in vae.state_dict().items()})
    with pytest.raises(InputError, match="stale, made with autoencoder"):
        repair.repair_latents(clips_folder, tmp_path / "other", folder, check=False)


def test_clips_at_another_resolution_are_encoded_once_scaled_as_videos_are(cached, tmp_path, monkeypatch) -> None:
    clips_folder, vae_folder, whole = cached
    monkeypatch.chdir(tmp_path)

    def resized(*size: int) -> Path:
        return resolutions.resized(Phase("phase 1 of 2", RECIPE, None, size, {}), clips_folder, vae_folder, whole)

    folder = resized(16, 16)
    stored = Latents.open(folder, "train", None)
    assert (len(stored), stored.shape) == (7, (9, 4, 2, 2))
    source, vae = clips.Clips.open(clips_folder, "train"), serialization.load(vae_folder, PLACE)
    for row in range(7):
        small = video.fit(source.read([row])[0], (16, 16))[None]
        assert torch.allclose(stored.moments([row]), vae.encode(small.float() / 127.5 - 1), atol=1e-4)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert resized(16, 16) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    shard = folder / "train-00001.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + b"?")
    resized(16, 16)
    assert shard.read_bytes() == good
    assert resized(24, 16) != folder
    with pytest.raises(InputError, match=r"a latent pixel covers \[8, 8\] pixels"):
        resized(20, 16)
    shutil.rmtree(clips_folder)
    write_clips(clips_folder, {"train": 2, "val": 1, "test": 0})
    with pytest.raises(InputError, match="stale, made with clips"):
        resized(16, 16)
    shutil.rmtree(clips_folder)
    with pytest.raises(InputError, match="does not exist"):
        resized(16, 16)


@pytest.mark.faults
def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(project: Path) -> None:
    shards_of_train = 8
    write_clips(project / "clips", {"train": shards_of_train * moments.SHARD, "val": 3, "test": 0})
    save_vae(project / "vae")
    words = ("-m", "pipeline.cache_latents", "--row", "kuka-vae", "--clips", "clips", "--autoencoder", "vae", "--out")
    state = project / ".state" / "cache" / "moments"
    driver = subprocess.Popen(
        (sys.executable, *words, "out"), cwd=project, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not list(state.glob("*/*.json")):
        time.sleep(0.005)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert 0 < len(list(state.glob("*/*.json"))) < shards_of_train + 1
    assert not (project / "out").exists()
    done = run(project, sys.executable, *words, "out")
    assert f"of {shards_of_train + 1} shards were finished by an interrupted run" in done.stdout
    run(project, sys.executable, *words, "whole")
    whole, resumed = (
        {path.name: path.read_bytes() for path in (project / name).iterdir()} for name in ("whole", "out")
    )
    assert len(whole) > shards_of_train
    assert whole == resumed
    assert not list(state.iterdir())
