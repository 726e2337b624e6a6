"""One Markdown file on what changed since another revision: gate, params, metrics, plots, figures."""

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vl_convert

from pipeline.errors import IntegrityError, PipelineError
from pipeline.reporting.gate import load_rules, summary, verdicts
from pipeline.reporting.revision import Markdown, Sides, is_number, markdown, metrics, params, plots, prose, table
from pipeline.storage import md5, write

COMMENT_LENGTH = 60_000  # characters; GitHub refuses a comment of more than 65,536
NUMBERS = {".csv", ".json", ".tsv"}


def changes(kind: str, sides: Sides, against: str) -> str:
    """Return a table of the values that differ, or the sentence that none does."""
    changed = [(name, old, new) for name, (old, new) in sides.items() if old != new]
    rows = [
        (name, old, new, float(new) - float(old) if is_number(old) and is_number(new) else None) for name, old, new in changed
    ]
    return table((kind, against, "here", "change"), rows) if rows else f"No {kind} changed."


def curve(content: dict[str, Any]) -> bytes | None:
    """Return a Vega-Lite plot of both sides as PNG, drawn offline; None when the sides do not differ."""
    points: dict[str, list[Any]] = {}
    for row in content["data"]["values"]:
        points.setdefault(str(row["rev"]), []).append({key: value for key, value in row.items() if key != "rev"})
    if len(points) == 2 and len(set(map(json.dumps, points.values()))) == 1:
        return None
    try:
        return vl_convert.vegalite_to_png(content, scale=2, allowed_base_urls=[])
    except ValueError as error:  # a template that is none
        print(f"note: a plot cannot be drawn ({str(error)[:200]})", file=sys.stderr)
        return None


def pictures(against: str, out: Path) -> Iterator[str]:
    """Write the plots and images that differ into a folder, and yield the Markdown that shows them."""
    with tempfile.TemporaryDirectory() as folder:
        for name, views in plots(against, folder).items():
            file = re.sub(r"[^\w.-]+", "_", name)[-100:]  # fit for a link, and for an artifact's zip
            for view in views:
                # A file of numbers itself is drawn as its last column by row; the plots of dvc.yaml show what is in it.
                if view["type"] == "vega" and Path(name).suffix not in NUMBERS and (drawn := curve(view["content"])):
                    write(out / f"{file}.png", drawn)
                    yield f"### {markdown(name)}\n\n![{file}]({file}.png)"
            shown = [view for view in views if view["type"] == "image"]
            images = {"new" if view["revisions"] == ["workspace"] else "old": Path(view["url"]).read_bytes() for view in shown}
            if images.get("old") != images.get("new"):
                for side, content in images.items():
                    write(out / f"{side}_{file}", content)
                cells = [Markdown(f"![{file}, {side}]({side}_{file})") if side in images else None for side in ("old", "new")]
                yield f"### {markdown(name)}\n\n{table((against, 'here'), [cells])}"


def ledger_note(sides: Sides) -> str:
    """Return a sentence where the ledger of claims was made of other models than those that are here now."""
    compared = {here for name, (_, here) in sides.items() if name.startswith("claims/models/")}
    models = {md5(path) for path in Path("models").glob("*.safetensors") if path.stem != "classifier"}
    note = "The claims are of other models than these; `make claims` tests them anew.\n\n"
    return note if compared and not models <= compared else ""


def write_report(against: str, out: Path, rules: Path | None) -> None:
    """Write report.md, and comment.md without pictures, to a folder. Raises ComparisonError when there is no such revision."""
    sides = metrics(against)
    try:
        gate, origin = load_rules(rules, against)
        decision = f"{summary(verdicts(gate, sides, against), against)}\n\n{origin}"
    except IntegrityError:
        raise
    except PipelineError as error:
        decision = f"No verdict: {prose(str(error))}."
    sections = {"Gate": decision, "Params": changes("param", params(against), against)}
    sections["Metrics"] = ledger_note(sides) + changes("metric", sides, against)
    tables = "\n\n".join([f"# Against {markdown(against)}", *(f"## {title}\n\n{text}" for title, text in sections.items())])
    shown = "\n\n".join(pictures(against, out)) or "No plot or figure changed."
    write(out / "report.md", f"{tables}\n\n## Pictures\n\n{shown}\n")
    comment = tables if len(tables) < COMMENT_LENGTH else tables[:COMMENT_LENGTH].rsplit("\n", 1)[0] + "\n\n(cut here)"
    write(out / "comment.md", f"{comment}\n\nPlots and figures of both sides are in report.md of the uploaded `report`.\n")
