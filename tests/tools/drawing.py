"""Figures as the tests draw them: with all that they show, in a third of the time."""

from shortcut.show import canvas

AS_USERS_HAVE_IT, TYPE = canvas.Plot.render, canvas.STYLE["pdf.fonttype"]


def render_fast(plot, ending):
    """Render a figure without looking for room for its labels, which takes half of the time, and with large dots."""

    def draw():
        figure = plot.draw()
        figure._layout_engine = None
        save = figure.savefig
        figure.savefig = lambda file, **how: save(file, **how | {"dpi": 50})
        return figure

    return AS_USERS_HAVE_IT(plot._replace(draw=draw), ending)


canvas.Plot.render = render_fast
canvas.STYLE["pdf.fonttype"] = 3  # also faster; `figures_as_users_have_them` undoes both, as do processes of their own
