"""Entries of a folder at which DVC would end with words of its own are refused with a sentence."""

import os
import re
from pathlib import Path

import pytest

from components.foundation.errors import InputError
from components.sources import folders
from tests.components.sources.test_sources import fill


def test_a_folder_that_dvc_can_read_passes(tmp_path):
    fill(tmp_path / "pool", "a.mp4")
    fill(tmp_path / "set", "b.mp4", ".hidden/c.mp4", "deep/ü ö\n.mp4")
    (tmp_path / "set/a.mp4").symlink_to(tmp_path / "pool/a.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    folders.check(tmp_path / "link")


def broken_link(path: Path) -> None:
    path.symlink_to("gone.mp4")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("name", "make", "problem"),
    [
        ("deep/a.mp4", broken_link, "deep/a.mp4 is a broken link to gone.mp4"),
        (".hidden/a", broken_link, ".hidden/a is a broken link to gone.mp4"),
        ("a.mp4", loop, "a.mp4 cannot be read (Too many levels of symbolic links)"),
        ("\udcff.mp4", Path.touch, "\\xff.mp4 has a name that is not UTF-8"),
        ("\udcff/a.mp4", Path.touch, "\\xff/a.mp4 has a name that is not UTF-8"),
        ("a.mp4", os.mkfifo, "a.mp4 is neither a file nor a folder"),
        ("a", os.mkfifo, "a is neither a file nor a folder"),
        ("deep/.dvcignore", Path.touch, "deep/.dvcignore would make DVC refuse the folder"),
    ],
)
def test_an_entry_that_dvc_cannot_read_is_named(tmp_path, name, make, problem):
    fill(tmp_path, "b.mp4")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    with pytest.raises(InputError, match=re.escape(f"holds files that DVC cannot read ({problem}); repair or rename")):
        folders.check(tmp_path)


def test_a_file_without_permission_is_named_and_many_are_counted(tmp_path, monkeypatch):
    fill(tmp_path, *(f"{number}.mp4" for number in range(5)))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name == "0.mp4")  # root may read everything
    with pytest.raises(InputError, match=r"\(1\.mp4 cannot be read \(Permission denied\), 2.* and 1 more\)"):
        folders.check(tmp_path)


def test_a_link_to_a_folder_elsewhere_is_refused(tmp_path):
    fill(tmp_path / "pool", "a.mp4")
    fill(tmp_path / "set", "b.mp4")
    (tmp_path / "set/c").symlink_to(tmp_path / "pool")
    with pytest.raises(InputError, match=r"c is a link to the folder .*pool"):
        folders.check(tmp_path / "set")
