from xml.etree import ElementTree

import pytest

from components.reporting import diagram

NUMBERS = {"videos": "640 mp4\n30 frames", "scores": "FVD < 700 & falling"}


@pytest.mark.parametrize("upright", [False, True])
def test_the_journey_is_well_formed_and_holds_every_station_and_number(upright):
    tree = ElementTree.fromstring(diagram.journey_svg(NUMBERS, upright=upright))
    words = ["".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert [word for word in words if word in diagram.JOURNEY] == list(diagram.JOURNEY)
    assert {"640 mp4", "30 frames", "FVD < 700 & falling", *diagram.VERBS} <= set(words)


def test_upright_is_tall_and_otherwise_wide():
    def shape(upright):
        box = ElementTree.fromstring(diagram.journey_svg({}, upright=upright)).attrib["viewBox"].split()
        return float(box[2]) / float(box[3])

    assert shape(False) > 5
    assert shape(True) < 0.5


def test_a_station_that_is_not_on_the_journey_is_refused():
    with pytest.raises(ValueError, match="no such station in the diagram: tokens"):
        diagram.journey_svg({"tokens": "5"})
