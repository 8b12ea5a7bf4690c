"""Whatever stands in the query of a request, it is accepted, or refused with one sentence."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("ray.serve")

from pipeline.commands.serving.ingress import DEFAULTS, RefusedError, parse_query

FIELDS = st.sampled_from(sorted(DEFAULTS)) | st.text(max_size=8)
VALUES = st.text(max_size=12) | st.integers().map(str) | st.floats().map(str) | st.text("[]{},:&*!|>-01", max_size=8)


@example(query={"frames": "[1"})
@example(query={"seed": ""})
@given(query=st.dictionaries(FIELDS, VALUES, max_size=3))
def test_any_query_is_accepted_or_refused_with_one_sentence(query: dict[str, str]) -> None:
    try:
        found = parse_query(query)
    except RefusedError as refusal:
        status, message = refusal.status, str(refusal)
    else:
        status, message = 200, ""
        assert found.keys() == DEFAULTS.keys()
    assert (status, "\n" in message) in ((200, False), (422, False))
