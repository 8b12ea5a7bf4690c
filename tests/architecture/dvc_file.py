"""Compare dvc.yaml with the signatures in the stages' files."""

import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from tests.architecture.first_party import EXEMPT, PACKAGES, Tree, code_deps

ROW: Final = "row"  # selects the parameters; in the command line of every stage that takes a row of a table
USAGE: Final = "usage"  # resource usage of the stages; the stage that reads it does not write it
LOG: Final = "log"  # the MLflow run, which the stage passes to main


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of dvc.yaml; templates such as ${item.model} stay as they are."""

    name: str
    module: str
    given: Mapping[str, tuple[str, ...]]
    params: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def source(self) -> str:
        return f"pipeline/{self.module}.py"


@dataclass(frozen=True, slots=True)
class Signature:
    """Signature of a stage: whether it takes rows, the fields of Params and the keywords of main."""

    rows: bool
    fields: frozenset[str]
    keywords: frozenset[str]
    required: frozenset[str]
    paths: frozenset[str]


def read_stages(path: Path) -> list[Stage]:
    """Return the stages of a dvc.yaml. Raises AssertionError for a command that runs no stage of pipeline/."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [_stage(name, entry.get("do", entry)) for name, entry in content["stages"].items()]


def _stage(name: str, entry: Mapping[str, Any]) -> Stage:
    command = _tight(str(entry["cmd"]))
    words = shlex.split(command)
    found = re.fullmatch(r"python -m pipeline\.(\w+)", " ".join(words[:3]))
    assert found, f"{name}: the command must be `python -m pipeline.<module> --name value ...`, not `{command}`"
    outs = [_path(item) for key in ("outs", "metrics", "plots") for item in entry.get(key, [])]
    return Stage(
        name,
        found[1],
        _options(words[3:]),
        tuple(key for item in entry.get("params", []) for key in _keys(item)),
        tuple(_path(item) for item in entry.get("deps", [])),
        tuple(outs),
    )


def _options(words: list[str]) -> dict[str, tuple[str, ...]]:
    options: dict[str, tuple[str, ...]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            option, _, value = word.removeprefix("--").partition("=")
            name = option.replace("-", "_")
            options[name] = (value,) if value else ()
        else:
            options[name] = (*options.get(name, ()), word)
    return options


def _path(item: str | Mapping[str, Any]) -> str:
    text = item if isinstance(item, str) else next(iter(item))
    return str(PurePosixPath(_tight(text)))


def _tight(text: str) -> str:
    """Remove the spaces inside templates, so that templates compare as text."""
    return re.sub(r"\$\{\s*(.*?)\s*\}", r"${\1}", text)


def _keys(item: str | Mapping[str, list[str]]) -> list[str]:
    return [item] if isinstance(item, str) else [key for keys in item.values() for key in keys or []]


def read_signature(tree: Tree, path: str) -> Signature | None:
    """Return the signature in a stage's file; None if the file has no main."""
    body = tree.sources[path].tree.body
    mains = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    schemas = [node for node in body if isinstance(node, ast.ClassDef) and node.name == "Params"]
    if not mains:
        return None
    asked = zip(mains[0].args.kwonlyargs, mains[0].args.kw_defaults, strict=True)
    keywords = {item.arg: (item, default) for item, default in asked if item.arg != LOG}
    return Signature(
        any(isinstance(node, ast.Call) and _takes_rows(node) for node in ast.walk(tree.sources[path].tree)),
        frozenset(
            ast.unparse(item.target) for node in schemas for item in node.body if isinstance(item, ast.AnnAssign)
        ),
        frozenset(keywords),
        frozenset(name for name, (_, default) in keywords.items() if default is None),
        frozenset(
            name for name, (item, _) in keywords.items() if item.annotation and "Path" in ast.unparse(item.annotation)
        ),
    )


def _takes_rows(call: ast.Call) -> bool:
    rows = [keyword.value for keyword in call.keywords if keyword.arg == "rows"]
    return ast.unparse(call.func) == "stage.run" and bool(rows) and ast.unparse(rows[0]) != "None"


def lies(tree: Tree, stage: Stage) -> list[str]:
    """Return a sentence for each difference between dvc.yaml and a stage's signature."""
    if stage.source not in tree.sources:
        return [f"{stage.name}: {stage.source} does not exist"]
    signature = read_signature(tree, stage.source)
    if signature is None:
        return [f"{stage.name}: {stage.source} has no function main"]
    return [
        f"{stage.name}: {problem}"
        for part in (
            _lies_of_code(tree, stage),
            _lies_of_params(stage, signature),
            _lies_of_keywords(stage, signature),
            _lies_of_paths(stage, signature),
        )
        for problem in part
    ]


def is_code(dep: str) -> bool:
    return PurePosixPath(dep).parts[0] in PACKAGES


def _lies_of_code(tree: Tree, stage: Stage) -> Iterator[str]:
    right, named = code_deps(tree, stage.source), [dep for dep in stage.deps if is_code(dep)]
    for dep in named:
        if dep in EXEMPT:
            yield f"{dep} is a superfluous dep: no output depends on it"
        elif dep not in right and (inside := [name for name in right if name.startswith(f"{dep}/")]):
            yield f"{dep} is no room; name {', '.join(inside)}"
        elif dep not in right:
            yield f"{dep} is a superfluous dep: it is no room that the stage imports from"
    if missing := [name for name in right if name not in named]:
        yield (
            f"deps lack {', '.join(missing)}; `python tests/architecture/first_party.py {stage.module}` "
            "prints all that belong there"
        )


def _lies_of_params(stage: Stage, signature: Signature) -> Iterator[str]:
    named = set()
    for key in stage.params:
        match = re.fullmatch(r"(\w+)(\.[\w-]*(\$\{[^}]*\}[\w-]*)?)?", key)
        if not match:
            yield f"the parameter {key} must name a table or one entry of a table, such as models.${{item.model}}"
        elif (field := _singular(match[1]) if match[2] else key) in signature.fields:
            named.add(field)
        else:
            yield f"{key} is a superfluous parameter: Params has no such field"
    for field in sorted(signature.fields - named):
        yield f"params lack {field}, which Params has: the table if that is its name, or one entry of its table"


def _singular(table: str) -> str:
    """Return the field for an entry of a table: `model` for models, `search` for searches."""
    return re.sub(r"(?<=ch)es$|s$", "", table)


def _lies_of_keywords(stage: Stage, signature: Signature) -> Iterator[str]:
    given = stage.given.keys() - {ROW}
    if (ROW in stage.given) != signature.rows:
        yield (
            "--row is not given, but the stage takes rows"
            if signature.rows
            else "--row is given, but there are no rows"
        )
    yield from (f"--{name} is no keyword of main" for name in sorted(given - signature.keywords))
    yield from (f"--{name} is not given, but main needs it" for name in sorted(signature.required - given))


def _lies_of_paths(stage: Stage, signature: Signature) -> Iterator[str]:
    arrows = [dep for dep in stage.deps if not is_code(dep)]
    paths = {name: stage.given[name] for name in sorted(signature.paths & stage.given.keys())}
    given = [PurePosixPath(path) for name, values in paths.items() for path in values if name != "out"]
    for path in (str(path) for path in given if not path.is_absolute()):
        if not any(_holds(dep, path) for dep in arrows):
            yield f"{path} is given to main but is not among the deps"
    yield from (
        f"{dep} is a superfluous dep: no argument of main leads there"
        for dep in arrows
        if not re.fullmatch(r"\$\{[^}]*\}", dep)  # the path is a parameter, so the command line does not need it
        and not any(_holds(dep, str(path)) for path in given)
    )
    name = f"{stage.module}/{[*stage.given.get(ROW, ()), stage.module][0]}.json"
    written = {*paths.get("out", ()), f"metrics/{name}"}  # every stage writes this file
    if USAGE not in stage.given:
        written.add(f"data/{USAGE}/{name}")
    yield from (
        f"the stage writes {path}, which is not among outs or metrics" for path in sorted(written - {*stage.outs})
    )
    yield from (f"{path} is a superfluous out: the stage does not write it" for path in sorted({*stage.outs} - written))


def _holds(folder: str, path: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)
