"""What DVC sees behind links, on which the rules for the folders of videos rest."""

from pathlib import Path

import pytest

from components.foundation.errors import InputError
from components.sources import folders
from tests.pipeline.conftest import run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A stage that reads the folder `videos`, which is a link and holds a link to a file."""
    for name in ("store/a.mp4", "pool/b.mp4", "other/a.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    (tmp_path / "store/b.mp4").symlink_to(tmp_path / "pool/b.mp4")
    (tmp_path / "videos").symlink_to("store")
    (tmp_path / "dvc.yaml").write_text("stages: {read: {cmd: cp -r videos/. out, deps: [videos], outs: [out]}}\n")
    run(tmp_path, "dvc", "init", "--quiet", "--no-scm")
    run(tmp_path, "dvc", "repro")
    return tmp_path


def changed(project: Path) -> bool:
    return "videos" in run(project, "dvc", "status").stdout


def test_dvc_sees_changes_behind_a_link_to_a_file_and_behind_the_folder_itself(project: Path) -> None:
    folders.check(project / "videos")
    assert not changed(project)
    (project / "pool/b.mp4").write_text("another")
    assert changed(project)
    (project / "pool/b.mp4").write_text("pool/b.mp4")
    assert not changed(project)
    (project / "videos").unlink()
    (project / "videos").symlink_to("other")
    assert changed(project)


def test_dvc_sees_no_change_behind_a_link_to_a_folder_which_is_therefore_refused(project: Path) -> None:
    (project / "store/more").symlink_to(project / "pool")
    assert not changed(project)
    with pytest.raises(InputError, match="DVC does not detect changes behind it"):
        folders.check(project / "videos")


def test_dvc_ends_at_what_is_refused_before_it(project: Path) -> None:
    (project / "store/gone.mp4").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"gone\.mp4 is a broken link to nowhere"):
        folders.check(project / "videos")
    assert run(project, "dvc", "repro", check=False).returncode
    (project / "store/gone.mp4").unlink()
    (project / "store/\udcff.mp4").touch()
    with pytest.raises(InputError, match="has a name that is not UTF-8"):
        folders.check(project / "videos")
    assert run(project, "dvc", "repro", check=False).returncode
