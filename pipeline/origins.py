"""What a stage was given, by hash: as tags and data sets of its run, and written down beside what it made."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from components import lineage
from components.config import Config, flatten, plain
from components.lineage import Files, Hashes, Lineage
from components.tracking import Run

MEMORY = Path(".state") / "hashes.json"


@dataclass(frozen=True, slots=True)
class Origins:
    """The inputs of a stage as they were when it began."""

    root: Path
    hashes: Hashes
    inputs: dict[str, Path]  # by the keyword of `main`
    files: dict[str, Files]

    @classmethod
    def of(cls, root: Path, folders: Mapping[str, Path], params: Config) -> "Origins":
        """Reads every file that the stage is given; the videos of a data set are named by its path."""
        given = dict(folders)
        path = getattr(getattr(params, "dataset", None), "path", None)
        if path is not None and Path(path).exists():
            given["videos"] = Path(path)
        hashes = Hashes(root / MEMORY)
        files = {key: hashes.files(root / folder) for key, folder in given.items()}
        hashes.save()
        return cls(root, hashes, given, files)

    def tags(self) -> dict[str, str]:
        """A hash for each input, such as `input.latents`, to find the runs that read the same."""
        return {f"input.{key}": lineage.digest(files)[:16] for key, files in self.files.items()}

    def log(self, run: Run) -> None:
        """The inputs as data sets of the run."""
        for key, path in self.inputs.items():
            run.dataset(path.name, str(path), lineage.digest(self.files[key]), key)

    def record(self, out: Path, stage: str, params: Config, tags: Mapping[str, str], run: Run) -> None:
        """Writes beside an output what made it, and sends that to the run too."""
        made = Lineage(
            stage=stage,
            commit=tags.get("commit"),
            changed=None if "dirty" not in tags else tags["dirty"] == "true",
            dvc_lock=tags.get("dvc_lock"),
            params=flatten(plain(params)),
            run=run.id,
            store=run.link,
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            inputs={str(path): lineage.digest(self.files[key]) for key, path in self.inputs.items()},
            sources={str(path): self.files[key] for key, path in self.inputs.items() if self._found(path)},
            output=self.hashes.files(self.root / out),
        )
        self.hashes.save()
        run.artifact(lineage.write(self.root / out, made), "provenance")

    def _found(self, path: Path) -> bool:
        """Whether no stage of this tree made what lies there."""
        place = self.root / path
        return not lineage.beside(place).exists() and not any(place.glob(f"*{lineage.SUFFIX}"))
