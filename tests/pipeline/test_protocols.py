"""The protocols of the field: every entry can be read, says what it does, and is what the paper scores by."""

from pathlib import Path

import pytest

from components.foundation.config import parse, plain, read_yaml
from components.metrics.distances.fvd import ProtocolConfig
from components.reporting.tables import paper

FOLDER = Path(__file__).parents[2] / "presets" / "protocols"
# videos or clips, futures, given, scored, side: spec of the field, and of the paper's tables
EXPECTED = {
    "bair-standard": (256, 20, 1, 16, 64),
    "bair-standard-100": (256, 100, 1, 16, 64),
    "bair-debiased": (256, 20, 1, 16, 64),
    "bair-debiased-100": (256, 100, 1, 16, 64),
    "ucf101": (5000, 1, 1, 16, 256),
    "kinetics600-5-11": (10_000, 1, 5, 16, 64),
    "kinetics600-5-11-50000": (50_000, 1, 5, 16, 64),
    "kinetics600-5-16": (50_000, 1, 5, 16, 64),
}


def protocols() -> dict[str, ProtocolConfig]:
    return {
        name: parse(ProtocolConfig, entry, where=f"{path.name}: {name}")
        for path in sorted(FOLDER.glob("*.yaml"))
        for name, entry in read_yaml(path)["protocols"].items()
    }


def test_every_entry_is_named_as_its_key_and_is_what_the_field_does() -> None:
    found = protocols()
    assert {name: one.name for name, one in found.items()} == {name: name for name in EXPECTED}
    for name, one in found.items():
        scored = one.frames + (one.context if one.context_scored else 0)
        assert (one.clips, one.samples, one.context, scored, one.resolution) == EXPECTED[name]
        assert (one.start == "first") == name.startswith("bair-standard")


@pytest.mark.parametrize(
    ("name", "published", "dataset"),
    [
        ("bair-standard-100", paper.BAIR, "bair"),
        ("bair-debiased-100", paper.BAIR, "bair"),
        ("kinetics600-5-11-50000", paper.KINETICS, "kinetics600"),
    ],
)
def test_what_is_said_to_be_the_papers_table_is_comparable_with_it_and_nothing_else_is(
    name: str, published: paper.Published, dataset: str
) -> None:
    assert paper.differences(published, plain(protocols()[name]) | {"dataset": dataset}) == ()
    ours = plain(protocols()["ucf101"]) | {"dataset": dataset}
    assert paper.differences(published, ours)
