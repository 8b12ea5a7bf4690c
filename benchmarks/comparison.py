"""`python -m benchmarks.comparison`: scores and costs of the rows of presets/compare.yaml.

Reads the evaluations and the table that `python -m benchmarks.families --out docs/families.json` wrote, and puts a
table, sentences and a figure into docs/comparison.md. Rows without an evaluation get dashes and are listed.
"""

import argparse
from pathlib import Path

from benchmarks import families
from benchmarks.table import text
from components.foundation.errors import InputError
from components.foundation.files import read_json
from components.foundation.settings import presets
from components.reporting import results
from components.reporting.results import Evaluation, Score

BEGIN, END = "<!-- measured: written by `make compare` -->", "<!-- /measured -->"
SCORES = {"fvd": "FVD (95 % interval)", "kvd": "KVD", "psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS"}
COSTS = ("first frame, ms", "clip, ms", "clip of a batch, ms", "memory, MB", "tokens a second", "parameters, M",
         "training, TFLOP")  # fmt: skip


def evaluations(folder: Path, rows: list[str]) -> dict[str, Evaluation]:
    """Read the evaluations of the rows that have one. Raises InputError if their protocols differ."""
    from components.reporting.tables import tables

    found = {row: results.read_evaluation(folder / row) for row in rows if (folder / row / "scores.json").is_file()}
    tables.check_comparable(list(found.values()))
    return found


def costs(path: Path) -> dict[str, list[float]]:
    """Return the costs of each row in the order of COSTS, at batch 1 and at the largest measured batch.

    Raises InputError if the measurements lack a row at one of these batches.
    """
    preset, measured = presets.read(families.PRESET), read_json(path)["rows"]
    largest = max(line["batch"] for line in measured)
    found = {}
    for row, chosen in preset["experiments"].items():
        lines = {line["batch"]: line for line in measured if line["family"] == row}
        if 1 not in lines or largest not in lines:
            raise InputError(f"{path} lacks {row} at batch 1 or {largest}; run benchmarks.families again")
        alone, many, recipe = lines[1], lines[largest], preset["recipes"][chosen["recipe"]]
        work = alone["training GFLOP a clip"] * recipe["steps"] * recipe["batch"] / 1000
        found[row] = [alone["first frame ms"], alone["clip ms"], many["clip ms"] / largest, many["sampling MB"],
                      many["tokens/s"], alone["parameters M"], work]  # fmt: skip
    return found


def shown(score: Score | None) -> list[str]:
    """Return the scores of a row as cells of the table."""
    numbers = {} if score is None else score.metrics
    cells = [text(numbers.get(key)) for key in SCORES]
    if "fvd_low" in numbers:
        cells[0] += f" ({text(numbers['fvd_low'])} to {text(numbers['fvd_high'])})"
    return cells


def table(found: dict[str, Evaluation], cost: dict[str, list[float]]) -> list[str]:
    """Return the lines of the Markdown table: every row of the preset, then the references."""
    from components.reporting.tables import tables

    heads = ["row", *SCORES.values(), *COSTS]
    lines = [heads, ["---"] * len(heads)]
    for row, numbers in cost.items():
        score = found[row].line(row) if row in found else None
        lines.append([row, *shown(score), *map(text, numbers)])
    for score in tables.references_of(list(found.values())):
        lines.append([score.name, *shown(score), *["–"] * len(COSTS)])
    return [f"| {' | '.join(line)} |" for line in lines]


def sentences(found: dict[str, Evaluation], cost: dict[str, list[float]]) -> list[str]:
    """Return sentences on the limits of the scores, missing rows and speed ratios."""
    from components.reporting.tables import tables

    lines = list(tables.verdicts(list(found.values())))
    if missing := [row for row in cost if row not in found]:
        lines.append(f"Not evaluated yet: {', '.join(missing)}. Their costs are those of untrained weights.")
    first, anchor = next(iter(cost)), list(cost)[-1]
    for name, column in (("first frame", 0), ("clip", 1)):
        ratio = cost[anchor][column] / cost[first][column]
        lines.append(f"At batch 1, {first} samples the {name} {text(ratio)} times as fast as {anchor}.")
    return lines


def write(document: Path, lines: list[str]) -> None:
    """Replace the text between the marks of the document. Raises InputError if a mark is missing."""
    whole = document.read_text(encoding="utf-8")
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{document} lacks the line {BEGIN} or {END}; restore it from git")
    document.write_text("\n".join([before + BEGIN, "", *lines, "", END]) + after, encoding="utf-8")


def main() -> None:
    """Write table, sentences and figure of the comparison into the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=main.__doc__)
    parser.add_argument("--evaluations", type=Path, default=Path("data/evaluations"))
    parser.add_argument("--families", type=Path, default=Path("docs/families.json"))
    parser.add_argument("--document", type=Path, default=Path("docs/comparison.md"))
    given = parser.parse_args()
    try:
        compare(given.evaluations, given.families, given.document)
    except InputError as error:
        parser.error(str(error))


def compare(folder: Path, measured: Path, document: Path) -> None:
    """Write table and sentences into the document, and the figure once two rows have a score."""
    from components.reporting import figures

    cost = costs(measured)
    found = evaluations(folder, list(cost))
    lines = [*table(found, cost), "", *sentences(found, cost)]
    scored = {row: (cost[row][1], score) for row in found if (score := found[row].line(row)) is not None}
    if len(scored) > 1:
        picture = document.with_suffix(".png")
        picture.write_bytes(figures.against_time(scored, figures.LIGHT))
        lines += ["", f"![FVD against the milliseconds per clip]({picture.name})"]
    write(document, lines)


if __name__ == "__main__":
    main()
