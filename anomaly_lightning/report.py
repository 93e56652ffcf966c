"""python -m anomaly_lightning.report run=outputs/train/...: make a run's report again from the files that it left."""

import sys
from pathlib import Path

from rich.console import Console

from anomaly_lightning.errors import UserError
from anomaly_lightning.reports.page.rebuild import rebuild


def main(arguments: list[str]) -> None:
    """Do what the command line says; exits with 1 and one paragraph where that can't be done."""
    try:
        if len(arguments) != 1 or not arguments[0].startswith("run="):
            raise UserError(f"Expected one argument, run=<folder of a run>; got {' '.join(arguments) or 'none'}.")
        path = rebuild(Path(arguments[0].removeprefix("run=")).expanduser())
    except UserError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    Console().print("report:", path, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main(sys.argv[1:])
