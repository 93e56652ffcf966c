"""Who may write to a store's folder, and who has it open: advisory locks that work across processes.

Lock files live beside the folders, in `<root>/.locks`, so that a folder can be removed while its lock is held.
"""

import uuid
from pathlib import Path

from filelock import FileLock, Timeout

LOCKS = ".locks"


class Guard:
    """The locks of one store folder.

    Args:
        root: The cache's root folder.
        name: Name of the store's folder below root.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._folder = root / LOCKS
        self._name = name

    def exclusive(self, timeout: float = -1) -> FileLock:
        """Lock, not yet acquired, that one process at a time holds to write, to open or to remove the folder.

        Args:
            timeout: Seconds to wait, negative for as long as it takes; `filelock.Timeout` when it runs out.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self._folder / f"{self._name}.lock", timeout=timeout)

    def mark_in_use(self) -> FileLock:
        """Lock held until released: says that somebody has the folder open. Call it with `exclusive` held."""
        self.in_use()  # sweeps the marks of the dead
        mark = FileLock(self._folder / f"{self._name}.{uuid.uuid4().hex}.use", thread_local=False)
        mark.acquire()
        return mark

    def in_use(self) -> bool:
        """Whether a living process has the folder open; call it with `exclusive` held."""
        swept = [_swept(path) for path in self._folder.glob(f"{self._name}.*.use")]
        return not all(swept)


def _swept(path: Path) -> bool:
    """Whether nobody holds the mark any more; its file is removed then."""
    try:
        with FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
    except Timeout:
        return False
    return True
