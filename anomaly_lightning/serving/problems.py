"""What a client is told where it does not get what it asked for."""

from collections.abc import Mapping


class Problem(Exception):  # noqa: N818 - most of them are no error of this program
    """An answer other than the one that was asked for.

    Args:
        status: HTTP status code.
        detail: What was expected, what came, what to do.
        headers: Further headers of the answer.
        extra: Further keys of the answer's JSON.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.headers, self.extra = dict(headers or {}), dict(extra or {})
