"""What torch refuses in passing: a BatchNorm in training that has a single value of each channel."""

from collections.abc import Iterator
from contextlib import contextmanager

from anomaly_lightning.errors import TrainingError


@contextmanager
def told_of_lone_values() -> Iterator[None]:
    """Say what to do where a BatchNorm has one value a channel to normalise by, as torch says it in passing."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "A batch of a single image, of which the network keeps one position, has no variance to normalise by "
            f"({error}). Expected two images or two positions: choose a data.batch_size that leaves no image over, "
            "more images, a finer features.grid, a smaller model.pool or fewer model.network.stages."
        ) from error
