"""The one way that templates become pages: escaped, and an unknown name in a template is an error."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from anomaly_lightning.reports.run_folder import write_text


def script_json(value: Any) -> Markup:
    """JSON that is safe inside a script element: no `<` can end it, and no byte is outside ASCII."""
    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("anomaly_lightning.reports", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["script_json"] = script_json


def write_page(path: Path, values: Mapping[str, Any]) -> Path:
    """Fill the template <name>.html.j2 of a page <folder>/<name>.html and write it, whole or not at all.

    Args:
        path: Of the page; returned.
        values: What the template names.
    """
    return write_text(path, _ENVIRONMENT.get_template(f"{path.name}.j2").render(values))
