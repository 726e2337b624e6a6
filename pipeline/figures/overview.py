"""The main figures of all models on one page."""

from matplotlib.figure import Figure

from pipeline.figures.history import curves
from pipeline.figures.images import interpolation_panel, manifold_panel, reconstructions_panel, samples_panel, traversals_panel
from pipeline.figures.latent import class_bar, scatter
from pipeline.figures.style import WIDTH, Page, new_figure

_DECODED = {"manifold": manifold_panel, "traversals": traversals_panel, "interpolation_ends": interpolation_panel}


def overview(page: Page) -> Figure | None:
    """Draw latent scatters, the decoded plane of the last model, training curves, prior samples and reconstructions."""
    if not (models := page.having("reconstructions")):
        return None
    columns, last, figure = len(models) + 1, models[-1], new_figure(1)
    rows = figure.add_gridspec(3, 1)
    top, middle, bottom = (figure.add_subfigure(rows[line]) for line in range(3))

    axes = top.subplots(1, columns)
    for ax, results in zip(axes, models, strict=False):
        scatter(ax, results, page.points, min(WIDTH / columns / 3.2, 1))
    class_bar(top, axes[-2], last, most=12)
    decoded = next(panel for name, panel in _DECODED.items() if name in last)
    decoded(axes[-1], last)
    axes[-1].set_title(f"Decoded: {last.label}")

    left, right = middle.subfigures(1, 2, squeeze=False, width_ratios=[1.5, 1])[0]
    curves(left, page, legend_columns=3, with_data=False)
    axes = right.subplots(1, len(models), squeeze=False)[0]
    for ax, results in zip(axes, models, strict=True):
        samples_panel(ax, results)
        ax.set(title="", xlabel=results.label, anchor="N")
    axes[0].set_title("Samples, z ~ N(0, I)")

    heights = [WIDTH / columns, 2.5, reconstructions_panel(bottom.add_subplot(), page) * (WIDTH - 0.9) + 0.4]
    rows.set_height_ratios(heights)
    figure.set_figheight(sum(heights))
    for _ in range(2):  # long labels need more than one pass to get their room
        figure.draw_without_rendering()
    return figure
