"""CSV files: no value of a user's line is lost, and what is written is read back."""

import csv

import pytest

from components.datasets.written import csv_files
from components.foundation.errors import InputError


def lines(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(csv_files.read(path, "words").lines())


@pytest.mark.parametrize(
    "content",
    [
        'video,caption\na.mp4,"red, then blue"\n',
        '\ufeffvideo,caption\r\na.mp4,"red, then blue"\r\n',
        'video, caption\na.mp4, "red, then blue"\n\n,\n',
        'video,caption\na.mp4,"red, then blue"'.encode("utf-16"),
    ],
)
def test_a_csv_is_read_however_a_program_writes_it(tmp_path, content):
    assert lines(tmp_path, content) == [(2, {"video": "a.mp4", "caption": "red, then blue"})]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            "video,caption\na.mp4,red, then blue\n",
            "line 2 has 3 values for the 2 columns video,caption; put",
        ),
        ("video,caption\na.mp4,x\nb.mp4\n", "line 3 has 1 values for the 2 columns"),
        ('video,caption\na.mp4,"red\nb.mp4,blue\n', r"line 2 is not valid CSV \(unexpected end of data\)"),
        ('video,caption\na.mp4,"red" one\n', "line 2 is not valid CSV"),
        ("video,caption\na.mp4,r\u00fc".encode("latin-1"), "is not a CSV file .*; replace it with a UTF-8 text file"),
    ],
)
def test_a_line_that_would_lose_a_value_is_refused(tmp_path, content, told):
    with pytest.raises(InputError, match=rf"a\.csv.* {told}"):
        lines(tmp_path, content)


def test_a_quoted_value_of_several_lines_counts_them(tmp_path):
    assert [number for number, _ in lines(tmp_path, 'video,caption\na,"x\ny"\nb,z\n')] == [2, 4]


@pytest.mark.parametrize(("sign", "told"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_another_separator_is_named(tmp_path, sign, told):
    (tmp_path / "a.csv").write_text(f"video{sign}caption\na.mp4{sign}x\n")
    error = csv_files.read(tmp_path / "a.csv", "words").lacks("the columns video and caption")
    assert f"separate the values by commas, not by {told}" in str(error)


def test_every_text_is_read_back_and_lines_end_as_on_unix(tmp_path):
    rows = [("a\rb", 'say "x", y'), ("c\nd", "e\r\nf"), (" g ", "")]
    text = csv_files.to_csv(("x", "y"), rows)
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["x", "y"], *map(list, rows)]
    with csv_files.writing(tmp_path / "b.csv") as writer:
        writer.writerows([("x", "y"), *rows])
    assert (tmp_path / "b.csv").read_bytes() == text.encode()
    assert csv_files.to_csv(("x",), [(1.5,)]) == "x\n1.5\n"
