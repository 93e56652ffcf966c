"""The errors that are a user's to fix: one readable paragraph, shown without a traceback by the command lines."""


class UserError(Exception):
    """Something given by the user can't be done; the message says what was expected, what came, where, what to do."""


class MissingExtraError(UserError):
    """A package that an extra brings is not installed.

    Args:
        what: What needs it.
        package: Its name.
        extra: What brings it.
    """

    def __init__(self, what: str, package: str | None, extra: str = "train") -> None:
        super().__init__(f"{what} needs {package}, which is not here: pip install 'anomaly-lightning[{extra}]'")


class DataError(UserError):
    """Images, masks or folders are missing, unreadable or contradictory."""


class WeightsError(UserError):
    """Pretrained weights can't be had, or don't fit the backbone."""


class CheckpointError(UserError):
    """A checkpoint is missing, foreign, damaged or unsafe to load."""


class BundleError(CheckpointError):
    """An exported bundle is missing, damaged, changed, or of another version; nothing of it was used."""


class TrainingError(UserError):
    """A training went wrong; what came out is of no use."""


class ExportError(UserError):
    """A model can't be exported, or what was exported is not equal to it; nothing was kept."""


class NotCalibratedError(UserError):
    """A decision was asked of a module whose threshold was never fitted."""

    def __init__(self) -> None:
        super().__init__(
            "This model has no threshold yet: its run ended before the calibration on validation normals. "
            "Finish it (train with ckpt=<its last.ckpt>), or use the best.ckpt of a finished run."
        )


class UsedFolderError(UserError):
    """Outputs of another run lie where new ones are to go."""


class CalibrationError(UserError):
    """The scores of the normals can't give the threshold that was asked for."""


class CacheError(UserError):
    """The feature store can't be read, written or trusted; what it held stays as it was."""


class ReviewError(UserError):
    """The store of decisions and marks can't be read or written, or a mark makes no sense; what it held stays."""
