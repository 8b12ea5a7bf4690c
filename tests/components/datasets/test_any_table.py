"""Whatever a file of captions, actions or names holds, it is read, or refused with one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.datasets import actions, captions
from components.foundation import config
from components.foundation.errors import InputError
from components.sources.splits import ListsSplit, assign

VIDEOS = ["a.mp4", "b.mp4"]
READERS: dict[str, Callable[[Path], Any]] = {
    "captions": lambda file: captions.read(file, VIDEOS, ["c.mp4"]),
    "actions": lambda file: actions.matched(actions.read(file), VIDEOS, []),
    "yaml": config.read_yaml,
    "lists": lambda file: assign(
        ListsSplit(kind="lists", train=file.name, val=file.name, test=file.name), file.parent, VIDEOS
    ),
}
TEXT = st.text(max_size=80) | st.text(alphabet="video,caption\n\r\"'ab;.mp4 \ufeff0123:{}[]&*", max_size=120)
HEADED = st.tuples(st.sampled_from(["", "video,caption\n", "video,label\n", "video,frame,x\n", "a:\n  "]), TEXT)
BYTES = (
    st.binary(max_size=120)
    | HEADED.map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass"))
    | HEADED.map(lambda parts: "".join(parts).encode("utf-16", "surrogatepass"))
)


@pytest.mark.parametrize("reader", READERS)
@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the file is written anew each time
)
@given(content=BYTES)
def test_any_bytes_are_read_or_refused_with_one_sentence(tmp_path: Path, reader: str, content: bytes) -> None:
    file = tmp_path / "file.csv"
    file.write_bytes(content)
    refused = ""
    try:
        READERS[reader](file)
    except InputError as error:
        refused = str(error)
    assert "\n" not in refused
