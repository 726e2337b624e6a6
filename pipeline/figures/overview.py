"""The whole story on one page."""

from matplotlib.figure import Figure

from pipeline.figures.history import curves, key, terms
from pipeline.figures.images import interpolation_panel, manifold_panel, reconstructions_panel, samples_panel, traversals_panel
from pipeline.figures.latent import class_name, color_bar, scatter
from pipeline.figures.style import WIDTH, Page, label, new_figure


def overview(page: Page) -> Figure:
    """Latent scatters, the plane that the last model decodes, training curves, prior samples and reconstructions."""
    models = list(page.models.values())
    columns, shown, last = len(models) + 1, terms(page), models[-1]
    figure = new_figure(1)
    rows = figure.add_gridspec(3, 1)
    top, middle, bottom = (figure.add_subfigure(rows[line]) for line in range(3))

    axes = top.subplots(1, columns)
    for ax, results in zip(axes, models, strict=False):
        scatter(ax, results, page.points, min(WIDTH / columns / 5.5, 1))
    color_bar(top, axes[-2], class_name(last))
    if last.manifold_range.size:
        manifold_panel(axes[-1], last)
    else:
        (traversals_panel if last.traversals.size else interpolation_panel)(axes[-1], last)
    axes[-1].set_title(f"Decoded: {label(last)}")

    left, right = middle.subfigures(1, 2, squeeze=False, width_ratios=[1.5, 1])[0]
    for ax, term in zip(left.subplots(1, max(len(shown), 1), squeeze=False)[0], shown, strict=False):
        curves(ax, page, term)
    if shown:
        left.legend(handles=key(left.axes[0]), loc="outside lower center", ncols=5 if len(models) < 3 else 3)
    axes = right.subplots(1, len(models), squeeze=False)[0]
    for ax, results in zip(axes, models, strict=True):
        samples_panel(ax, results)
        ax.set(title="", xlabel=label(results), anchor="N")
    axes[0].set_title("Samples, z ~ N(0, I)")

    tallness = reconstructions_panel(bottom.add_subplot(), page)
    heights = [WIDTH / columns, 3.9, tallness * (WIDTH - 1.5) + 0.6]
    rows.set_height_ratios(heights)
    figure.set_figheight(sum(heights))
    return figure
