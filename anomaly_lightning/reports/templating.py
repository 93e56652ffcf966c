"""The one way that templates become pages: escaped, and an unknown name in a template is an error."""

import jinja2


def templates(package: str) -> jinja2.Environment:
    """Environment of the folder `templates` of a package of this project, say "anomaly_lightning.reports.page"."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
