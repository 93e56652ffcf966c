"""Who may write to a store's folder, and who has it open: advisory locks that work across processes.

Lock files live beside the folders, in `<root>/.locks`, so that a folder can be removed while its lock is held.
"""

import hashlib
import uuid
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

LOCKS = ".locks"
_SLOTS = 64  # bounds the number of lock files


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

    def filling(self, keys: Iterable[str]) -> FileLock:
        """Lock, not yet acquired, for computing the features of exactly these keys, in whatever order.

        Others' sets of keys go on beside it, save one in `_SLOTS` that shares the lock by chance.
        """
        digest = hashlib.sha256("\n".join(sorted(set(keys))).encode()).digest()
        return FileLock(self._folder / f"{self._name}.{digest[0] % _SLOTS}.fill", thread_local=False)

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
            pass
    except Timeout:
        return False
    path.unlink(missing_ok=True)  # nobody waits for it: its name was its holder's alone
    return True
