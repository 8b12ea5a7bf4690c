import json
import os

import pytest

from components.foundation.errors import InputError
from components.telemetry import provenance
from components.telemetry.provenance import Hashes, Provenance, beside, digest, follow


def make(root, out, files, inputs=()):
    """What a stage does: files into a folder, and beside it what it was made from."""
    folder = root / out
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    hashes = Hashes(None)
    read = {str(path): hashes.files(root / path) for path in inputs}
    described = Provenance(
        stage=f"make@{out}", commit="abc", changed=False, dvc_lock=None, params={"rate": 0.1}, run="r1", store="there",
        ended="now", inputs={path: digest(found) for path, found in read.items()},
        sources={path: found for path, found in read.items() if not beside(root / path).exists()},
        output=hashes.files(folder),
    )  # fmt: skip
    provenance.write(folder, described)


@pytest.fixture
def root(tmp_path):
    """Videos of one's own, latents of a VAE, a model of the latents, scores of both."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_text("video")
    make(tmp_path, "clips", {"train/0": "clips"}, ["videos"])
    make(tmp_path, "vae", {"weights": "1", "config": "{}"}, ["clips"])
    make(tmp_path, "latents", {"0": "latents"}, ["clips", "vae"])
    make(tmp_path, "model", {"weights": "2"}, ["latents"])
    make(tmp_path, "scores", {"scores.json": "{}"}, ["clips", "vae", "model"])
    return tmp_path


def told(root, path="scores"):
    return [problem for link in follow(root, root / path) for problem in link.problems]


def test_a_chain_that_fits_is_followed_back_to_the_videos_and_each_folder_once(root):
    links = list(follow(root, root / "scores"))
    assert [link.path for link in links] == ["scores", "clips", "model", "latents", "vae"]
    assert told(root) == []


def test_files_that_were_changed_removed_or_added_are_named(root):
    (root / "vae" / "config").write_text("{ }")
    (root / "latents" / "0").unlink()
    (root / "clips" / "train" / "more").touch()
    assert told(root) == [
        "clips has additional files: train/more",
        "latents lacks the recorded files: 0",
        "vae has changed files: config",
    ]


def test_a_changed_video_and_a_missing_folder_are_named(root):
    (root / "videos" / "a.mp4").write_text("vide0")
    (root / "vae").rename(root / "gone")
    problems = told(root)
    assert "videos has changed files: a.mp4" in problems
    assert "vae, an input of scores, is missing" in problems
    assert "vae, an input of latents, is missing" in problems


def test_another_vae_that_fits_in_itself_is_found_by_all_that_were_made_from_the_first(root):
    make(root, "vae", {"weights": "another"}, ["clips"])
    assert told(root) == [
        "scores was made from another version of vae",
        "latents was made from another version of vae",
    ]


def test_a_folder_that_holds_outputs_of_stages_leads_to_each_of_them(root):
    (root / "models").mkdir()
    make(root, "models/one", {"weights": "1"}, ["latents"])
    make(root, "report", {"index.html": ""}, ["models"])
    assert [link.path for link in follow(root, root / "report")][:2] == ["report", "models/one"]
    assert told(root, "report") == []


def test_a_video_behind_a_link_is_a_video_of_the_folder(root):
    (root / "pool").mkdir()
    (root / "pool/b.mp4").write_text("video")
    (root / "videos/b.mp4").symlink_to(root / "pool/b.mp4")
    (root / "alias").symlink_to(root / "videos")
    make(root, "clips", {"train/0": "clips"}, ["alias"])
    assert told(root, "clips") == []
    (root / "pool/b.mp4").write_text("vide0")
    assert told(root, "clips") == ["alias has changed files: b.mp4"]


def test_a_file_that_cannot_be_read_is_recorded_as_that_and_pipes_are_passed_over(root, monkeypatch):
    os.mkfifo(root / "videos/pipe.mp4")
    (root / "videos/gone.mp4").symlink_to("nowhere.mp4")

    def refused(path):
        raise PermissionError(13, "Permission denied")

    whole = provenance.sha256
    monkeypatch.setattr(provenance, "sha256", refused)  # root may read everything
    assert Hashes(None).files(root / "videos") == {"a.mp4": "cannot be read (Permission denied)"}
    make(root, "other", {"x": "1"}, ["videos"])
    monkeypatch.setattr(provenance, "sha256", whole)
    assert "videos has changed files: a.mp4" in told(root, "other")


def test_a_folder_of_unknown_origin_says_so(root):
    assert told(root, "videos") == ["videos has no provenance file, so no stage of this project wrote it"]


def test_what_describes_a_folder_is_not_part_of_it_and_its_damage_is_one_sentence(root):
    make(root, "all", {"x": "1"}, ["clips"])
    before = Hashes(None).files(root)
    beside(root / "vae").write_text("nonsense")
    assert Hashes(None).files(root) == before
    with pytest.raises(InputError, match=r"vae\.provenance\.json is not valid JSON"):
        told(root)


def test_a_file_is_read_again_only_when_it_has_changed(root, monkeypatch):
    memory = root / ".state" / "hashes.json"
    first = Hashes(memory)
    found = first.files(root / "vae")
    first.save()
    read = []
    monkeypatch.setattr(provenance, "sha256", lambda path: read.append(path.name) or "new")
    assert Hashes(memory).files(root / "vae") == found
    assert read == []
    (root / "vae" / "config").write_text("longer than before")
    assert Hashes(memory).files(root / "vae")["config"] == "new"
    assert read == ["config"]
    memory.write_text("torn")
    assert Hashes(memory).files(root / "vae") == {"config": "new", "weights": "new"}


def test_a_lineage_is_text_beside_its_folder_and_none_where_nothing_was_made(root):
    assert json.loads(beside(root / "vae").read_text())["params"] == {"rate": 0.1}
    assert provenance.read(root / "nothing") is None
