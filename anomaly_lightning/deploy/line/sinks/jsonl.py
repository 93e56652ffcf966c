"""sinks=[jsonl]: a file of JSON lines for each day, for programs that read files; the same lines as the journal's."""

from pathlib import Path

from anomaly_lightning.deploy.line.records import Records, rows
from anomaly_lightning.deploy.line.sinks import DeliveryError, Message, Sink


class JsonLinesSink(Sink):
    """Appends to `<folder>/<day>.jsonl`, the day in UTC; each line once, since the last one tells what is there.

    Args:
        folder: Made where it is not there. Nothing else may write to its files.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._records: Records | None = None
        self._last: str | None = None

    def deliver(self, message: Message) -> None:
        """Append the line."""
        try:
            records = self._of(self.folder / f"{message.row['decided'][:10]}.jsonl")
            if self._last != message.id:
                records.write_line(message.body + b"\n")
        except OSError as error:
            self.close()
            raise DeliveryError(f"{self.folder}: {error.strerror or error}.") from error
        self._last = message.id

    def _of(self, file: Path) -> Records:
        """The day's file, open; where a process before left it, the id of its last line is found."""
        if self._records is None or self._records.file != file:
            self.close()
            self._records = Records(file)
            for row in rows(file):
                self._last = str(row["id"])
        return self._records

    def close(self) -> None:
        """Close the file."""
        if self._records is not None:
            self._records.close()
        self._records, self._last = None, None
