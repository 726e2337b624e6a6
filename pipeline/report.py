"""One Markdown file on what changed against another revision: gate, params, metrics, plots, figures."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import vl_convert

from pipeline.command import one_line
from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.gate import Gate, Sides, dvc, is_number, judge, metrics, summary, table
from pipeline.params import load_yaml

COMMENT_LENGTH = 60_000  # characters; GitHub refuses a comment of more than 65,536
NUMBERS = {".csv", ".json", ".tsv"}


def gate_section(rules: Path, sides: Sides, against: str) -> str:
    """Return the gate's verdicts, or why there are none."""
    try:
        return summary(judge(load_yaml(rules, Gate), sides, against), against)
    except PipelineError as error:
        return f"No verdict: {error}."


def changes(kind: str, sides: Sides, against: str) -> str:
    """Return a table of the values that differ, or the sentence that none does."""
    changed = {name: sides[name] for name in sides if sides[name][0] != sides[name][1]}
    if not changed:
        return f"No {kind} changed."

    def change(old: Any, new: Any) -> float | None:
        return float(new - old) if is_number(old) and is_number(new) else None

    return table((kind, against, "here", "change"), [(name, *pair, change(*pair)) for name, pair in changed.items()])


def params(against: str) -> Sides:
    """Return the params that differ, by key."""
    files = json.loads(dvc("params", "diff", against, "--json"))
    return {name: (value.get("old"), value.get("new")) for values in files.values() for name, value in sorted(values.items())}


def curve(content: dict[str, Any]) -> bytes | None:
    """Return a Vega-Lite plot of both sides as PNG, drawn offline; None when the sides do not differ."""
    points: dict[str, list[Any]] = {}
    for row in content["data"]["values"]:
        points.setdefault(row["rev"], []).append({key: value for key, value in row.items() if key != "rev"})
    if len(points) == 2 and len({json.dumps(rows) for rows in points.values()}) == 1:
        return None
    return vl_convert.vegalite_to_png(content, scale=2, allowed_base_urls=[])


def pictures(against: str, out: Path) -> Iterator[str]:
    """Write the plots and images that differ into a folder, and yield the Markdown that shows them."""
    with tempfile.TemporaryDirectory() as folder:
        plots = json.loads(dvc("plots", "diff", against, "--json", "--out", folder)).get("data", {})
        for name, views in sorted(plots.items()):
            file = re.sub(r"[^\w.-]+", "_", name)  # fit for a link, and for an artifact's zip
            for view in views:
                # A file of numbers itself is drawn as its last column by row; the plots of dvc.yaml show what is in it.
                if view["type"] == "vega" and Path(name).suffix not in NUMBERS and (drawn := curve(view["content"])):
                    write(out / f"{file}.png", drawn)
                    yield f"### {name}\n\n![{name}]({file}.png)"
            images = {
                "new" if view["revisions"] == ["workspace"] else "old": Path(view["url"]).read_bytes()
                for view in views
                if view["type"] == "image"
            }
            if images.get("old") != images.get("new"):
                for side, content in images.items():
                    write(out / f"{side}_{file}", content)
                cells = [f"![{name}, {side}]({side}_{file})" if side in images else None for side in ("old", "new")]
                yield f"### {name}\n\n{table((against, 'here'), [cells])}"


@click.command()
@click.option("--against", default="origin/main", show_default=True, help="The revision to compare with.")
@click.option("--out", default="report", show_default=True, type=Path, help="Folder of report.md, its pictures and comment.md.")
@click.option("--rules", default="gate.yaml", show_default=True, type=Path)
@one_line()
def main(against: str, out: Path, rules: Path) -> None:
    """Write what changed since another revision: report.md with pictures, and comment.md with the tables alone."""
    sides = metrics(against)
    sections = {
        "Gate": gate_section(rules, sides, against),
        "Params": changes("param", params(against), against),
        "Metrics": changes("metric", sides, against),
    }
    tables = "\n\n".join([f"# Against {against}", *(f"## {title}\n\n{text}" for title, text in sections.items())])
    shown = "\n\n".join(pictures(against, out)) or "No plot or figure changed."
    write(out / "report.md", f"{tables}\n\n## Pictures\n\n{shown}\n")
    comment = tables if len(tables) < COMMENT_LENGTH else tables[:COMMENT_LENGTH].rsplit("\n", 1)[0] + "\n\n(cut here)"
    write(out / "comment.md", f"{comment}\n\nPlots and figures of both sides are in report.md of the uploaded `report`.\n")
    click.echo(f"wrote {out / 'report.md'} and {out / 'comment.md'}")


if __name__ == "__main__":
    main()
