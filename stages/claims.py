"""Test the claims of the tutorial on RESULTS, files or folders of one or several seeds; write verdicts, a table and a figure."""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

from collections import Counter
from pathlib import Path

import click

from pipeline.errors import IntegrityError
from pipeline.params import Params
from stages import results_files, run, stage


@stage(__doc__, "params", metrics="metrics/claims.json", table="results/claims.md", figure="metrics/claims/claims.png")
@click.argument("results", nargs=-1, required=True, type=Path)
def main(results: tuple[Path, ...], params: Params, metrics: Path, table: Path, figure: Path) -> None:
    from pipeline.claims.ledger import ledger, line, markdown, remarks
    from pipeline.evaluation.results import load_results
    from pipeline.figures import png
    from pipeline.figures.claims import claims_figure
    from pipeline.storage import save_json, write
    from pipeline.tracking import events, store

    try:
        evaluated = [load_results(file) for file in results_files(results)]
        claims = ledger(evaluated)
    except ValueError as error:
        raise IntegrityError(f"{', '.join(map(str, results))}: {error}; run `dvc repro -P` to evaluate them alike") from None
    save_json(metrics, {"models": {f"{one.model}_{one.seed}": one.weights_md5 for one in evaluated}, "claims": claims})
    verdicts = Counter(entry["verdict"] for entry in claims.values())
    counts = {"claims/held": verdicts["holds"], "claims/failed": verdicts["fails"], "claims/open": verdicts["inconclusive"]}
    save_json(metrics.with_name("claims_summary.json"), counts)
    write(table, markdown(claims))
    write(figure, png(claims_figure(claims, remarks(claims)), params.figures.dpi))
    for name, entry in claims.items():
        click.echo(f"{name}: {line(entry)}")
    for remark in remarks(claims):
        click.echo(remark)
    for one in evaluated:
        found = store.find(one.weights_md5)
        events.log_claims(found, claims)
        events.log_figures(found, "claims", [figure])


if __name__ == "__main__":
    run(main)
