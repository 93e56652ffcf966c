"""Where things lie outside of a run: the configs, the package's source, the cache."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# A wheel carries the configs inside the package, a checkout has them beside it.
CONFIG_DIR = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
FEATURES = "features"  # folder below cache.dir that computed features lie in


def cache_dir() -> str:
    """Folder for features and generated images: $ANOMALY_CACHE, else below the user's cache folder."""
    given = os.environ.get("ANOMALY_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(Path(given).expanduser() if given else home / "anomaly_lightning")
