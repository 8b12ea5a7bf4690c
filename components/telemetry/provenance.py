"""Provenance of output folders: which stage made them, from which inputs, and whether the files still match.

A stage records the provenance of `<folder>` in `<folder>.provenance.json` beside it. Inside the folder, the recorded
time and run id would give equal outputs different hashes. DVC and git ignore these files.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from components.foundation.config import Config, flatten, parse, plain
from components.foundation.errors import InputError, reason
from components.foundation.files import sha256, write_json
from components.telemetry.tracking import Run
from components.telemetry.trees import OUTPUT

SUFFIX: Final = ".provenance.json"
NAMED: Final = 5  # at most so many files are listed in a message

Files = dict[str, str]  # sha256 by path relative to the folder; for a single file the path is "."


class Provenance(Config):
    """Provenance record of a folder: the stage that wrote it, its inputs and its output."""

    stage: str  # such as train@push-canvasmar
    commit: str | None
    changed: bool | None  # whether the working tree had uncommitted changes
    dvc_lock: str | None  # hash of dvc.lock when the stage began
    params: dict[str, Any]
    run: str  # id of the MLflow run
    store: str  # tracking URI of that run
    ended: str
    inputs: dict[str, str]  # hash of each folder or file that the stage read, by path
    sources: dict[str, Files]  # file hashes of each input that no stage made, by path
    output: Files


class Hashes:
    """sha256 of files. Hashes are cached in the file `memory` while size, mtime and inode stay the same."""

    def __init__(self, memory: Path | None) -> None:
        self.memory = memory
        self.known: dict[str, list[Any]] = {}
        if memory is not None and memory.is_file():
            try:
                self.known = dict(json.loads(memory.read_text(encoding="utf-8")))
            except ValueError:
                self.known = {}

    def files(self, path: Path) -> Files:
        """Hash every file at or below a path, except hidden files and provenance files.

        The value of an unreadable file is the reason instead of its hash, so that the stage can report it.
        """
        if path.is_file():
            return {".": self._of(path)}
        return {file.relative_to(path).as_posix(): self._of(file) for file in _below(path)}

    def save(self) -> None:
        """Write the cached hashes for later processes; a no-op if `memory` is None."""
        if self.memory is not None:
            write_json(self.memory, self.known, indent=None)

    def _of(self, path: Path) -> str:
        try:
            facts = path.stat()
            key, stamp = str(path.resolve()), [facts.st_size, facts.st_mtime_ns, facts.st_ino]
            found = self.known.get(key) if self.memory is not None else None
            if found is None or found[:3] != stamp:
                found = [*stamp, sha256(path)]
                self.known[key] = found
        except OSError as error:
            return f"cannot be read ({reason(error)})"
        return str(found[3])


def _below(folder: Path) -> Iterator[Path]:
    """Yield the visible files, without entering links to folders; stages read no file behind such a link."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        for file in (Path(place, entry) for entry in sorted(files)):
            if not file.name.startswith(".") and not file.name.endswith(SUFFIX) and not _is_other(file):
                yield file


def _is_other(file: Path) -> bool:
    """Return whether an entry of a folder is a pipe or a device, which would block the reader, or a broken link."""
    try:
        return not stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:
        return True
    except OSError:  # without permission, it may be a file
        return False


def digest(files: Files) -> str:
    """Return one sha256 over the paths and hashes of all files."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def beside(path: Path) -> Path:
    """Return the path of a folder's provenance file."""
    return path.with_name(f"{path.name}{SUFFIX}")


def write(path: Path, provenance: Provenance) -> Path:
    """Write the provenance file of a folder and return its path."""
    file = beside(path)
    write_json(file, plain(provenance), indent=1, sort_keys=True)
    return file


def read(path: Path) -> Provenance | None:
    """Read the provenance of a folder; None if it has no provenance file. Raises InputError if the file is damaged."""
    file = beside(path)
    try:
        content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON ({error}); delete it and run `dvc repro --force`") from None
    return parse(Provenance, content, where=str(file))


@dataclass(frozen=True, slots=True)
class Link:
    """A folder in a chain of provenance: its distance from the first folder, its record and the mismatches found."""

    path: str
    depth: int
    provenance: Provenance | None
    problems: tuple[str, ...]


def follow(root: Path, path: Path) -> Iterator[Link]:
    """Yield a folder and all folders that it was made from, each once. Hashes every file again, without the cache."""
    yield from _follow(root, path, 0, {})


def _follow(root: Path, path: Path, depth: int, seen: dict[Path, None]) -> Iterator[Link]:
    if path in seen:
        return
    seen[path] = None
    name, provenance = _named(root, path), read(path)
    if provenance is None:
        yield Link(name, depth, None, (f"{name} has no provenance file, so no stage of this project wrote it",))
        return
    problems = list(_differences(name, provenance.output, path))
    behind: list[Path] = []
    for used, known in provenance.inputs.items():
        source = root / used
        made = read(source)
        if not source.exists():
            problems.append(f"{used}, an input of {name}, is missing")
        elif used in provenance.sources:
            problems += list(_differences(used, provenance.sources[used], source))
        elif made is not None and digest(made.output) != known:
            problems.append(f"{name} was made from another version of {used}")
        if made is not None:
            behind.append(source)
        elif source.is_dir():
            behind += [Path(str(file).removesuffix(SUFFIX)) for file in sorted(source.glob(f"*{SUFFIX}"))]
    yield Link(name, depth, provenance, tuple(problems))
    for source in behind:
        yield from _follow(root, source, depth + 1, seen)


def _differences(name: str, known: Files, path: Path) -> Iterator[str]:
    if not path.exists():
        yield f"{name} is missing"
        return
    found = Hashes(None).files(path)
    kinds = {
        "lacks the recorded files": known.keys() - found.keys(),
        "has additional files": found.keys() - known.keys(),
        "has changed files": {file for file in known.keys() & found.keys() if known[file] != found[file]},
    }
    for what, files in kinds.items():
        if files:
            more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
            yield f"{name} {what}: {', '.join(sorted(files)[:NAMED])}{more}"


def _named(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


MEMORY = Path(".state") / "hashes.json"


@dataclass(frozen=True, slots=True)
class StageInputs:
    """Inputs of a stage with the hashes of their files, read before the stage runs."""

    root: Path
    hashes: Hashes
    inputs: dict[str, Path]  # by the keyword of `main`
    files: dict[str, Files]

    @classmethod
    def of(cls, root: Path, folders: Mapping[str, Path], params: Config) -> "StageInputs":
        """Hash every input file of a stage: the given folders, and the videos of the data set in `params`."""
        given = dict(folders)
        path = getattr(getattr(params, "dataset", None), "path", None)
        if path is not None and Path(path).exists():
            given["videos"] = Path(path)
        hashes = Hashes(root / MEMORY)
        files = {key: hashes.files(root / folder) for key, folder in given.items()}
        hashes.save()
        return cls(root, hashes, given, files)

    def tags(self) -> dict[str, str]:
        """Return a tag with a hash for each input, such as `input.latents`; runs with equal tags read equal data."""
        return {f"input.{key}": digest(files)[:16] for key, files in self.files.items()}

    def log(self, run: Run) -> None:
        """Log the inputs as datasets of the MLflow run."""
        for key, path in self.inputs.items():
            run.dataset(path.name, str(path), digest(self.files[key]), key)

    def record(self, out: Path, stage: str, params: Config, tags: Mapping[str, str], run: Run) -> None:
        """Write the provenance file of an output, and copy it to the artifacts of the MLflow run."""
        made = Provenance(
            stage=stage,
            commit=tags.get("commit"),
            changed=None if "dirty" not in tags else tags["dirty"] == "true",
            dvc_lock=tags.get("dvc_lock"),
            params=flatten(plain(params)),
            run=run.id,
            store=run.link,
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            inputs={str(path): digest(self.files[key]) for key, path in self.inputs.items()},
            sources={str(path): self.files[key] for key, path in self.inputs.items() if self._found(path)},
            output=self.hashes.files(self.root / out),
        )
        self.hashes.save()
        run.tags({OUTPUT: digest(made.output)[:16]})
        run.artifact(write(self.root / out, made), "provenance")

    def _found(self, path: Path) -> bool:
        """Return whether the input was written by no stage of this project, such as the user's videos."""
        place = self.root / path
        return not beside(place).exists() and not any(place.glob(f"*{SUFFIX}"))
