"""Views of MLflow's page: the runs that it shows, the columns of its table and its charts.

MLflow keeps the view behind a shared link as a tag of the experiment, in the format of its own button `Share`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

TAG: Final = "mlflow.sharedViewState."
MODE: Final = {"workflowType": "machine_learning"}  # otherwise MLflow opens its pages for prompts and traces
SECTION: Final = "settings"  # of our charts
# the sections of MLflow's own charts, which it makes for each metric
CLOSED: Final = ("Model metrics", "System metrics")


@dataclass(frozen=True, slots=True)
class View:
    """A view of the runs: a filter, the metrics and parameters in the columns, and charts of `score`."""

    name: str  # unique in the experiment
    runs: str  # filter, such as tags.stage = 'evaluate'
    metrics: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    order: str | None = None  # metric that orders the runs, smallest first
    score: str | None = None  # metric of the charts
    axes: tuple[str, ...] = ()  # parameters; each has a chart of the score against it

    def state(self) -> dict[str, Any]:
        """Return the state of MLflow's page."""
        charts, sections = self._charts()
        columns = [f"metrics.`{name}`" for name in self.metrics] + [f"params.`{name}`" for name in self.parameters]
        return {
            "searchFilter": self.runs,
            "orderByKey": "attributes.start_time" if self.order is None else f"metrics.`{self.order}`",
            "orderByAsc": self.order is not None,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "selectedColumns": columns,
            "columnOrder": [],
            "columnWidths": {},
            "runsExpanded": {},
            "runsPinned": [],
            "runsHidden": [],
            "runsVisibilityMap": {},
            "runsHiddenMode": "SHOW_ALL" if charts else "FIRST_10_RUNS",
            **({"compareRunCharts": charts, "compareRunSections": sections} if charts else {}),
            "viewMaximized": False,
            "runListHidden": False,
            "isAccordionReordered": True,  # keeps the order of the sections
            "useGroupedValuesInCharts": True,
            "hideEmptyCharts": True,
            "groupBy": None,
            "groupsExpanded": {},
            "autoRefreshEnabled": True,
            "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        }

    def _charts(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if self.score is None:
            return [], []
        common = {"metricSectionId": SECTION, "deleted": False, "isGenerated": False, "runsCountToCompare": 100}
        score = {"key": self.score, "type": "METRIC"}
        charts: list[dict[str, Any]] = [
            {"uuid": f"{SECTION}-{axis}", "type": "SCATTER", "xaxis": {"key": axis, "type": "PARAM"}, "yaxis": score}
            for axis in self.axes
        ]
        if self.parameters:
            chosen = {"selectedParams": list(self.parameters), "selectedMetrics": [self.score], "showAllRuns": True}
            charts.append({"uuid": f"{SECTION}-all", "type": "PARALLEL", **chosen})
        sections = [{"uuid": SECTION, "name": f"{self.score} by setting", "display": True}]
        sections += [{"uuid": name, "name": name, "display": False} for name in CLOSED]
        ordered = {"isReordered": True, "deleted": False, "isGenerated": False}
        return [chart | common for chart in charts], [section | ordered for section in sections]


def link(client: Any, base: str, experiment: str, view: View, *, charts: bool) -> str:
    """Store a view in the experiment, and return the link that opens it as a table or as charts."""
    client.set_experiment_tag(experiment, f"{TAG}{view.name}", json.dumps(view.state()))
    query = MODE | {"viewStateShareKey": view.name, "compareRunsMode": "CHART" if charts else "TABLE"}
    return f"{base}/#/experiments/{experiment}/runs?{urlencode(query)}"


def varying(runs: Iterable[Any], tables: Sequence[str]) -> tuple[str, ...]:
    """Return the parameters whose values differ between runs, those of the first of `tables` first.

    A parameter belongs to a table if its name begins with that; all parameters count if `tables` is empty.
    """
    values: dict[str, set[str | None]] = {}
    found = [run.data.params for run in runs]
    for parameters in found:
        for name in parameters:
            if not tables or name.partition(".")[0] in tables:
                values.setdefault(name, {other.get(name) for other in found})
    names = [name for name, seen in values.items() if len(seen) > 1]
    return tuple(sorted(names, key=lambda name: (tables.index(name.partition(".")[0]) if tables else 0, name)))


def numeric(runs: Iterable[Any], names: Iterable[str]) -> tuple[str, ...]:
    """Return the parameters that are numbers in every run, which a chart can have as an axis."""
    parameters = [run.data.params for run in runs]
    return tuple(name for name in names if all(_is_number(values.get(name)) for values in parameters))


def _is_number(text: str | None) -> bool:
    try:
        return isinstance(json.loads(text or ""), int | float)
    except ValueError:
        return False
