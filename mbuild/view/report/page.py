"""One HTML page about one build, complete in itself: no scripts, nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.build.history import modelfile_text
from mbuild.core.units import human_duration, human_size, local_time
from mbuild.view.picture.svg import svg
from mbuild.view.picture.text import printable
from mbuild.view.report.drawing import look_of, picture_of_build
from mbuild.view.report.facts import layers_of, models_of, settings_of, users_of_layers, weights_of
from mbuild.view.report.timeline import timeline

if TYPE_CHECKING:
    from markupsafe import Markup

    from mbuild.build.history import BuildRecord
    from mbuild.build.request import Script
    from mbuild.store import Store

FOLDER = Path(__file__).parent


def page(record: BuildRecord, store: Store, modelfile: str | None = None) -> str:
    """The page of a build; what has gone from the store since is said to be gone.

    ``modelfile`` is shown in place of the Modelfile's text, which the store keeps.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        return printable(value) if type(value) is str else value

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    environment.filters |= {
        "size": human_size,
        "duration": human_duration,
        "count": _count,
        "arrows": _arrows,
    }
    models = models_of(record, store)
    users = users_of_layers(store)
    drawing = svg(picture_of_build(record), inline=True) if record.steps else ""
    wide = re.search(r' width="([\d.]+)"', drawing)
    names = record.names_by_step
    return environment.get_template("page.html").render(
        record=record,
        when=local_time(record.time),
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        graph=Markup(drawing),
        graph_width=float(wide[1]) if wide else 0.0,
        models=models,
        layers=[(model, layers_of(model, users, store)) for model in models],
        weights=[(model, weights_of(model, store)) for model in models],
        settings=settings_of(models, store),
        bars=timeline(record.steps, record.seconds, names),
        steps=[
            (number, step, look_of(step), ", ".join(names.get(number - 1, ())))
            for number, step in enumerate(record.steps, start=1)
        ],
        options=tuple(f"{flag} {value}".rstrip() for flag, value in record.request.flags()),
        modelfile=_modelfile(record.request.script, store) if modelfile is None else modelfile,
    )


def _count(number: int) -> str:
    """A number with its thousands apart, by a space that does not break."""
    return f"{number:,}".replace(",", "\N{NO-BREAK SPACE}")


def _arrows(text: str) -> Markup:
    """A reason in which no arrow is torn apart by the end of a line."""
    from markupsafe import Markup, escape

    arrow = Markup('<span class="arrow">-&gt;</span>')
    return arrow.join(escape(part) for part in printable(text).split("->"))


def _modelfile(script: Script | None, store: Store) -> str:
    data = modelfile_text(script.text, store) if script else None
    return "" if data is None else data.decode("utf-8", "replace")
