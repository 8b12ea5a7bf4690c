"""Where a folder comes from: what made it, out of what, and whether that still fits what lies on the disk.

What a stage made is described in `<folder>.provenance.json` beside the folder: inside, the time and the run would make
equal outputs differ. DVC and git do not see these files.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from components import checkpoint
from components.config import Config, parse, plain
from components.errors import InputError

SUFFIX: Final = ".provenance.json"
NAMED: Final = 5  # files that a sentence names

Files = dict[str, str]  # paths below a folder, and their sha256; a file itself has the path "."


class Lineage(Config):
    """What made a folder, and out of what."""

    stage: str  # such as train@kuka-canvasmar
    commit: str | None
    changed: bool | None  # whether the tree held changes that the commit lacks
    dvc_lock: str | None  # hash of dvc.lock when the stage began
    params: dict[str, Any]
    run: str  # MLflow's
    store: str  # where that run is kept
    ended: str
    inputs: dict[str, str]  # hash of each folder or file that was read, by its path
    sources: dict[str, Files]  # the files of inputs that no stage made
    output: Files


class Hashes:
    """sha256 of files, remembered while size and time of change stay: every byte is read once."""

    def __init__(self, memory: Path | None) -> None:
        self.memory = memory
        self.known: dict[str, list[Any]] = {}
        if memory is not None and memory.is_file():
            try:
                self.known = dict(json.loads(memory.read_text(encoding="utf-8")))
            except ValueError:
                self.known = {}

    def files(self, path: Path) -> Files:
        """Every file at or below a path; what describes or prepares a folder is none of it."""
        if path.is_file():
            return {".": self._of(path)}
        return {file.relative_to(path).as_posix(): self._of(file) for file in _below(path)}

    def save(self) -> None:
        """For the next process; nothing without a memory."""
        if self.memory is not None:
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            aside = self.memory.with_name(f"{self.memory.name}.{os.getpid()}")
            aside.write_text(json.dumps(self.known), encoding="utf-8")
            aside.rename(self.memory)

    def _of(self, path: Path) -> str:
        facts = path.stat()
        key, stamp = str(path.resolve()), [facts.st_size, facts.st_mtime_ns, facts.st_ino]
        found = self.known.get(key) if self.memory is not None else None
        if found is None or found[:3] != stamp:
            found = [*stamp, checkpoint.sha256(path)]
            self.known[key] = found
        return str(found[3])


def _below(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.is_file() and not hidden and not file.name.endswith(SUFFIX):
            yield file


def digest(files: Files) -> str:
    """One hash of all files and their names."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def beside(path: Path) -> Path:
    """Where the lineage of a folder stands."""
    return path.with_name(f"{path.name}{SUFFIX}")


def write(path: Path, lineage: Lineage) -> Path:
    """Writes the lineage of a folder beside it."""
    file = beside(path)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(json.dumps(plain(lineage), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    aside.rename(file)
    return file


def read(path: Path) -> Lineage | None:
    """The lineage of a folder; None where nothing is written down. Raises InputError if it is damaged."""
    file = beside(path)
    try:
        content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON ({error}); delete it and run `dvc repro --force`") from None
    return parse(Lineage, content, where=str(file))


@dataclass(frozen=True, slots=True)
class Link:
    """One folder of a chain: how deep it lies below the one that was asked for, what made it, what does not fit."""

    path: str
    depth: int
    lineage: Lineage | None
    problems: tuple[str, ...]


def follow(root: Path, path: Path) -> Iterator[Link]:
    """The chain behind a folder, back to what no stage made; every byte is read again, and no folder twice."""
    yield from _follow(root, path, 0, {})


def _follow(root: Path, path: Path, depth: int, seen: dict[Path, None]) -> Iterator[Link]:
    if path in seen:
        return
    seen[path] = None
    name, lineage = _named(root, path), read(path)
    if lineage is None:
        yield Link(name, depth, None, (f"{name} has no provenance: no stage of this tree made it",))
        return
    problems = list(_differences(name, lineage.output, path))
    behind: list[Path] = []
    for given, known in lineage.inputs.items():
        source = root / given
        made = read(source)
        if not source.exists():
            problems.append(f"{given}, which {name} was made from, is missing")
        elif given in lineage.sources:
            problems += list(_differences(given, lineage.sources[given], source))
        elif made is not None and digest(made.output) != known:
            problems.append(f"{name} was made from another {given} than the one that lies there now")
        if made is not None:
            behind.append(source)
        elif source.is_dir():
            behind += [Path(str(file).removesuffix(SUFFIX)) for file in sorted(source.glob(f"*{SUFFIX}"))]
    yield Link(name, depth, lineage, tuple(problems))
    for source in behind:
        yield from _follow(root, source, depth + 1, seen)


def _differences(name: str, known: Files, path: Path) -> Iterator[str]:
    if not path.exists():
        yield f"{name} is missing"
        return
    found = Hashes(None).files(path)
    kinds = {
        "lacks": known.keys() - found.keys(),
        "has besides": found.keys() - known.keys(),
        "has changed in": {file for file in known.keys() & found.keys() if known[file] != found[file]},
    }
    for what, files in kinds.items():
        if files:
            more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
            yield f"{name} {what} {', '.join(sorted(files)[:NAMED])}{more}"


def _named(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
