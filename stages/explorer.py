"""Write the latent explorer, a single HTML page, and log it to the models' MLflow runs."""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

import html
from pathlib import Path

import click

from stages import run, stage


@stage(__doc__, "data", out="explorer/explorer.html")
@click.option("--results", default="results", show_default=True, type=Path, help="Folder of results.")
@click.option("--models", default="models", show_default=True, type=Path, help="Folder of weights.")
@click.option("--sweep", type=Path, multiple=True, help="Folder of VAEs with other betas: adds a beta slider; repeatable.")
def main(results: Path, models: Path, sweep: tuple[Path, ...], data: Path, out: Path) -> None:
    from pipeline.explorer.loading import add_sweep, load_explored
    from pipeline.explorer.networks import NotExplorable
    from pipeline.explorer.page import explorer
    from pipeline.storage import write
    from pipeline.tracking import store

    try:
        shown, images = load_explored(results, models, data)
        cards = add_sweep(shown, sweep, images) if sweep else [[one] for one in shown.values()]
        write(out, explorer(cards, images))
    except NotExplorable as error:  # a page with a note, so that the other stages' results stand
        head = '<!doctype html>\n<meta charset="utf-8">\n<title>Latent explorer</title>\n'
        write(out, f"{head}<p>No explorer: {html.escape(str(error))}.</p>\n")
        click.echo(f"explorer: {error}")
        return
    click.echo(f"explorer: {out}, {out.stat().st_size / 1e6:.1f} MB, {sum(map(len, cards))} models")
    for one in shown.values():
        store.find(one.results.weights_md5).log_file(out)


if __name__ == "__main__":
    run(main)
