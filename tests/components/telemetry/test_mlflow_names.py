"""MLflow accepts every name, and different names stay different."""

from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.utils import validation

from components.telemetry.mlflow_names import accepted

NAMES = st.text(min_size=1, max_size=20) | st.text(alphabet="a./\\ :+-(€$", min_size=1) | st.text("ab", min_size=240)


@settings(max_examples=300)
@given(names=st.lists(NAMES, min_size=2, max_size=5, unique=True))
def test_any_names_become_different_names_that_mlflow_accepts(names: list[str]) -> None:
    found = [accepted(name) for name in names]
    assert len(set(found)) == len(names)
    for name in found:
        validation._validate_metric_name(name)
        validation._validate_param_name(name)
        validation._validate_tag_name(name)
        assert accepted(name) == name
