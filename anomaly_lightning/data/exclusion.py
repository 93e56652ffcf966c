"""Files that are left out because somebody, or an audit, names them: they count as not there."""

from collections.abc import Iterable
from pathlib import Path

from anomaly_lightning.runtime.files import images_in


class Exclusion:
    """What `data.exclude` names: files, or folders with all that is in them.

    Args:
        paths: Absolute.

    Attributes:
        met: Excluded files that would have been used, in the order in which they were met.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self.paths, self.met = frozenset(paths), dict[Path, None]()

    def keeps(self, path: Path) -> bool:
        """Whether a file that would be used may be."""
        whole = path.absolute()
        if self.paths.isdisjoint((whole, *whole.parents)):
            return True
        self.met[path] = None
        return False

    def images_in(self, folder: Path, recursive: bool = False) -> list[Path]:
        """`runtime.files.images_in` less what is excluded."""
        found = images_in(folder, recursive)
        return [path for path in found if self.keeps(path)] if self.paths else found
