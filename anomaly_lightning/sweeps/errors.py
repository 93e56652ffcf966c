"""What a user can mend about a sweep as a whole, said before or between its jobs."""

from hydra.errors import CompactHydraException

from anomaly_lightning.errors import UserError


class SweepError(UserError, CompactHydraException):
    """A sweep can't be started or go on; Hydra prints the text alone."""

    def __str__(self) -> str:
        return f"{type(self).__name__}: {super().__str__()}"
