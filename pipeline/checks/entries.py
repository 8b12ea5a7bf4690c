"""Entries of params.yaml, parsed one by one, with the problems found in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, create_model

from components.foundation.config import Config, parse
from components.foundation.errors import InputError
from components.metrics.distances.fvd import ProtocolConfig
from components.models.kinds import ModelConfig
from components.nn.autoencoders.kinds import AutoencoderConfig
from components.sampling.frame import SamplerConfig
from components.simulation.worlds import AnyWorld
from components.sources.sources import AnyDataset
from components.training.optimizer import RecipeConfig
from pipeline.runtime.stage import Experiment
from pipeline.tuning.ablation import AblationConfig
from pipeline.tuning.sampler_search import SamplingSearch
from pipeline.tuning.training_search import TrainingSearch

T = TypeVar("T")
AnySearch = Annotated[SamplingSearch | TrainingSearch, Field(discriminator="kind")]
# each table and its kind of entries; the name of a union is the first key in its messages
KINDS: Final[dict[str, tuple[str, Any]]] = {
    "simulations": ("simulation", AnyWorld),
    "datasets": ("dataset", AnyDataset),
    "autoencoders": ("autoencoder", AutoencoderConfig),
    "models": ("model", ModelConfig),
    "recipes": ("recipe", RecipeConfig),
    "samplers": ("sampler", SamplerConfig),
    "searches": ("search", AnySearch),
    "protocols": ("protocol", ProtocolConfig),
    "experiments": ("experiment", Experiment),
    "ablations": ("ablation", AblationConfig),
}
_SCHEMAS: Final[dict[str, type[Config]]] = {
    table: create_model(table, __base__=Config, **{name: (kind, ...)})  # type: ignore[call-overload]
    for table, (name, kind) in KINDS.items()
}


@dataclass
class ParamsCheck:
    """All tables of a params file, the entries parsed so far, and the problems and notes about them."""

    tables: Mapping[str, Any]
    file: str = "params.yaml"
    problems: dict[str, None] = field(default_factory=dict)  # in their order, each once; status 2
    notes: dict[str, None] = field(default_factory=dict)  # worth knowing, but nothing fails
    parsed: dict[tuple[str, str], Any] = field(default_factory=dict)

    def names(self, table: str) -> list[str]:
        """Return the names of a table's entries; none if the table is missing."""
        entries = self.tables.get(table)
        return list(entries) if isinstance(entries, dict) else []

    def entry(self, table: str, name: str, where: str) -> Any:
        """Return an entry, or None with a problem if it is missing or invalid. `where` is the setting that names it."""
        if name not in self.names(table):
            known = ", ".join(self.names(table)) or "nothing"
            self.problem(f"{where} is {name!r}, but {table} has no such entry; it has {known}")
            return None
        if (table, name) not in self.parsed:
            kind = KINDS[table][0]
            content = {kind: self.tables[table][name]}
            found = self.attempt(partial(parse, _SCHEMAS[table], content, where=f"{table}.{name}"))
            self.parsed[table, name] = None if found is None else getattr(found, kind)
        return self.parsed[table, name]

    def problem(self, sentence: str) -> None:
        """Add a problem."""
        self.problems[f"{self.file}: {sentence}"] = None

    def note(self, sentence: str) -> None:
        """Add a note."""
        self.notes[f"{self.file}: {sentence}"] = None

    def attempt(self, action: Callable[[], T], where: str = "") -> T | None:
        """Return the result of an action, or None with the problem if it raises InputError."""
        try:
            return action()
        except InputError as error:
            self.problem(f"{where}: {error}" if where else str(error))
            return None


@dataclass(frozen=True)
class Row:
    """A row of experiments with the entries that it names; an entry is None if it is missing or invalid."""

    name: str
    chosen: Experiment
    dataset: Any
    scored_on: Any
    autoencoder: Any
    model: Any
    recipe: Any
    sampler: Any
    search: Any
    protocol: Any

    @classmethod
    def of(cls, check: ParamsCheck, name: str) -> "Row | None":
        """Return a row, or None with a problem if the row itself is missing or invalid."""
        chosen = check.entry("experiments", name, f"--row {name}")
        if chosen is None:
            return None
        entries = {
            key: check.entry(table, getattr(chosen, key), f"experiments.{name}.{key}")
            for key, table in (
                ("dataset", "datasets"), ("scored_on", "datasets"), ("autoencoder", "autoencoders"),
                ("model", "models"), ("recipe", "recipes"), ("sampler", "samplers"),
                ("search", "searches"), ("protocol", "protocols"),
            )
        }  # fmt: skip
        return cls(name, chosen, **entries)

    def path(self, key: str) -> str:
        """Return the path of an entry that the row names, such as `models.canvas`."""
        table = {"scored_on": "datasets", "search": "searches"}.get(key, f"{key}s")
        return f"{table}.{getattr(self.chosen, key)}"
