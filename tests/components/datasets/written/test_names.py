"""Names and texts as people write them: found if they are plain, never guessed."""

import pytest

from components.datasets.written.names import Names, read_lines


def test_a_name_that_is_exact_comes_before_names_that_are_alike():
    names = Names(["a.mp4", "A.mp4", "b.mp4"])
    assert [names.find(text) for text in ("a.mp4", "A.mp4", "a.MP4", "B.MP4", "c.mp4")] == [
        "a.mp4", "A.mp4", None, "b.mp4", None
    ]  # fmt: skip


def test_an_absolute_path_is_found_in_its_own_folder_only(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "link").symlink_to("set")
    for folder in ("set", "link"):
        names = Names(["a.mp4"], tmp_path / folder)
        assert names.find(f"{tmp_path}/set/a.mp4") == "a.mp4"
        assert names.find(f"{tmp_path}/other/a.mp4") is None
    assert Names(["a.mp4"]).find(f"{tmp_path}/set/a.mp4") is None


def test_a_number_after_a_name_is_a_label_only_where_labels_may_be():
    names = Names(["a.mp4", "run 7"])
    assert [names.find_labelled(text) for text in ("a.mp4 3", "a.mp4\t12", "run 7", "run 7 1", "a.mp4 x")] == [
        "a.mp4", "a.mp4", "run 7", "run 7", None
    ]  # fmt: skip
    assert names.find("a.mp4 3") is None


def test_the_example_is_a_name_that_ends_alike():
    names = Names(["b.mp4", "deep/a.mp4"])
    assert (names.example("A.mp4"), names.example("c.mp4"), Names([]).example("x")) == (
        "deep/a.mp4", "b.mp4", "folder/video.mp4"
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_lines_of_a_text_have_their_numbers_in_any_encoding(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("ü\r\n \r\nb\u2028c\rd".encode(encoding))
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "ü"), (3, "b\u2028c"), (4, "d")]
