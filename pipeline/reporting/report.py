"""What changed since another revision, in Markdown: gate and headline, params, claims, all numbers, plots, figures."""

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vl_convert

from pipeline.errors import IntegrityError, PipelineError
from pipeline.reporting.gate import Rule, change_table, changes, check, decision, load_rules, same_classifier
from pipeline.reporting.revision import Markdown, Sides, is_number, markdown, metrics, params, plots, prose, table
from pipeline.storage import md5, write
from pipeline.summary import HEADLINE, MODELS

COMMENT_LENGTH = 60_000  # characters; GitHub refuses a comment of more than 65,536
TOO_MANY = "More numbers changed than fit into a comment."
NUMBERS = {".csv", ".json", ".tsv"}
MOST = 20  # rows of what is not the metrics
FILES = [*MODELS, *(f"{model}_train" for model in MODELS), "classifier", "comparison", "data"]  # in the order of the report
SE = "\n\nSE: the standard error of the change over the test images. The tolerances also allow for another seed or CPU."


def param_changes(against: str) -> str:
    """Return the params that differ as one line."""
    changed = [f"{markdown(name)} {markdown(old)} → {markdown(new)}" for name, (old, new) in params(against).items()]
    shown = [*changed[:MOST], *([f"and {len(changed) - MOST} more"] if len(changed) > MOST else [])]
    return f"**Params**: {'; '.join(shown)}" if changed else "No param changed."


def claim_changes(sides: Sides, against: str) -> str:
    """Return a table of the claims whose verdict differs; says where the ledger is of other models than those that are here."""
    verdicts = {name: pair for name, pair in sides.items() if name.startswith("claims/claims/") and name.endswith("/verdict")}
    # By model and not by weights alone: with beta = 4 the VAE is that with which the claims compared the former one.
    seeds = {name.removeprefix("claims/models/"): here for name, (_, here) in sides.items() if name.startswith("claims/models/")}
    compared = {(name.rpartition("_")[0], here) for name, here in seeds.items()}
    models = {(path.stem, md5(path)) for path in Path("models").glob("*.safetensors") if path.stem != "classifier"}
    if compared and not models <= compared:
        return "The claims are of other models than these; `make claims` tests them anew."
    rows = []
    for name, (old, new) in verdicts.items():
        if old != new:
            key = name.removesuffix("/verdict")
            statement = next(filter(None, reversed(sides.get(f"{key}/claim", ()))), None)
            rows.append((key.removeprefix("claims/claims/"), statement, old, new))
    return table(("claim", "statement", against, "here"), rows[:MOST]) if rows else "No verdict of a claim changed."


def left_out(sides: Sides) -> Iterator[str]:
    """Yield, for each section of the models' metrics with a note, what is not measured here and why."""
    for name, (_, here) in sides.items():
        if name.partition("/")[0] in MODELS and name.endswith("/note") and here:
            yield f"**Left out** of {markdown(name.removesuffix('/note'))}: {prose(str(here))}."


def details(sides: Sides, against: str) -> Iterator[str]:
    """Yield, for each metrics file, all numbers that differ, by family, folded."""
    files: dict[str, dict[str, list[tuple[Any, ...]]]] = {}
    for name, (old, new) in sides.items():
        file, _, key = name.partition("/")
        shown = file if file in FILES else "other files"
        numbers = [value for value in (old, new) if is_number(value)]
        if old != new and numbers and file not in {"claims", "claims_summary", "summary"}:
            row = key if shown == file else name, old, new, float(new) - float(old) if len(numbers) == 2 else None
            family = "another classifier" if not same_classifier(name, sides) else key.split("/")[0]
            files.setdefault(shown, {}).setdefault(family, []).append(row)
    for file in sorted(files, key=[*FILES, "other files"].index):
        left_out, tables = len(files[file].pop("another classifier", [])), list[str]()
        for family, rows in files[file].items():
            tables.append(f"**{markdown(family)}**\n\n{table(('metric', against, 'here', 'change'), rows)}")
        note = [f"{left_out} numbers that another classifier measured are not compared."] if left_out else []
        count = sum(map(len, files[file].values()))
        yield "\n\n".join([f"<details><summary>{file}: {count} numbers changed</summary>", *note, *tables, "</details>"])


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


def write_report(against: str, out: Path, rules: Path | None) -> None:
    """Write comment.md, which fits a screen, and report.md, that with all pictures, to a folder.

    Raises ComparisonError when there is no such revision.
    """
    sides, allowed = metrics(against), dict[str, Rule]()
    try:
        gate, origin = load_rules(rules, against)
        check(gate, sides, against)
        allowed = gate.metrics
    except IntegrityError:
        raise
    except PipelineError as error:
        said = f"**No verdict**: {prose(str(error))}."
    names = [f"{model}/{key}" for model in MODELS for key in HEADLINE.values()]
    found = changes(dict.fromkeys([*names, *allowed]), allowed, sides, against)
    if allowed:
        said = f"**{decision(found)}** {origin}"
    changed = [change for change in found if change.old != change.new]
    unchanged = f" {len(found) - len(changed)} headline numbers did not change." if len(found) > len(changed) else ""
    headline = change_table(changed, against) + SE + unchanged if changed else "No headline number changed."
    parts = [f"### Compared with {markdown(against)}", said, param_changes(against), headline, claim_changes(sides, against)]
    parts += [*left_out(sides), "<!-- pictures -->"]
    for block in details(sides, against):
        if len("\n\n".join([*parts, block])) < COMMENT_LENGTH:
            parts.append(block)
        elif TOO_MANY not in parts:
            parts.append(TOO_MANY)
    tables = "\n\n".join(parts)
    shown = "\n\n".join(pictures(against, out)) or "No plot or figure changed."
    write(out / "comment.md", f"{tables}\n")
    write(out / "report.md", f"{tables}\n\n## Pictures\n\n{shown}\n")
