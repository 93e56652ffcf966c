"""What a service was asked to be, checked before anything is loaded."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from anomaly_lightning.errors import UserError
from anomaly_lightning.review.keeping import Keep
from anomaly_lightning.serving.drifts import DriftSettings

AUTO = "auto"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of conf/serve.yaml, where they are explained.

    Raises:
        UserError: A number that makes no sense, options that contradict each other, or a host that others can reach
            while nobody has to show a token.
    """

    bundle: str | Sequence[str] | Mapping[str, str]
    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    token_file: str | None = None
    read_token: str | None = None
    read_token_file: str | None = None
    hosts: Sequence[str] | None = None
    insecure: bool = False
    workers: int = 1
    queue: int = 8
    timeout_s: float = 30.0
    upload_s: float = 15.0
    shutdown_s: float = 30.0
    max_mb: float = 32.0
    max_pixels: int = 50_000_000
    max_images: int = 8
    recent: int = 100
    marks: str | None = AUTO
    keep: Keep = "flagged"
    keep_mb: float = 5000.0
    device: str = "auto"
    threads: int | None = None
    compile: bool = False
    validity: bool = True
    drift: DriftSettings = field(default_factory=DriftSettings)
    trust: Sequence[str] = ()

    def __post_init__(self) -> None:
        counts = ("workers", "queue", "max_pixels", "max_images", "recent")
        positive = (*counts, "timeout_s", "upload_s", "shutdown_s", "max_mb", "keep_mb")
        if wrong := next((name for name in positive if getattr(self, name) <= 0), None):
            raise UserError(f"{wrong}={getattr(self, wrong)}: expected a number above 0.")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads={self.threads}: expected a number above 0, or null for the engine's own choice.")
        if not 0 <= self.port <= 65535:
            raise UserError(f"port={self.port}: expected 0 (any that is free) to 65535.")
        if self.max_images > self.queue:
            raise UserError(
                f"max_images={self.max_images} contradicts queue={self.queue}: a request of so many images would "
                "never get in. Make the queue longer, or allow fewer images a request."
            )
        if self.token is not None and self.token_file is not None:
            raise UserError("token and token_file contradict each other: set one of them (or unset $ANOMALY_TOKEN).")
        if self.read_token is not None and self.read_token_file is not None:
            raise UserError("read_token and read_token_file contradict each other: set one of them.")
        if not self.is_local and self.secret is None and not self.insecure:
            raise UserError(
                f"host={self.host} can be reached from other machines, and there is no token: whoever reaches it may "
                "use it. Set $ANOMALY_TOKEN or token_file=..., keep host=127.0.0.1 behind a proxy that asks for a "
                "password, or set insecure=true if the network itself is closed."
            )

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> "Settings":
        """Settings of a composed config, whose keys are theirs.

        Raises:
            UserError: A value is of the wrong type, besides what the class says.
        """
        try:
            return msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            what, _, where = str(error).partition(" - at `$.")
            choices = get_args(get_type_hints(cls).get(where.rstrip("`"))) if "enum" in what else ()
            expected = f" Expected one of {', '.join(choices)}." if choices else ""
            raise UserError(f"{where.rstrip('`')}: {what}.{expected}") from error

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def secret(self) -> str | None:
        """The bearer token of clients that may do all; None = nobody has to show one.

        Raises:
            UserError: The file can't be read, or the token is empty.
        """
        return _token("token", self.token, self.token_file)

    @property
    def read_secret(self) -> str | None:
        """The bearer token of clients that may only look; None = there are none.

        Raises:
            UserError: The file can't be read, the token is empty, the other one's, or the only one.
        """
        token = _token("read_token", self.read_token, self.read_token_file)
        if token is not None and self.secret is None:
            raise UserError(
                "There is a read_token, but no token: without one nobody has to show any, and all may mark. Set "
                "$ANOMALY_TOKEN or token_file=..., too."
            )
        if token is not None and token == self.secret:
            raise UserError("token and read_token are the same: whoever looks could mark. Set two.")
        return token

    @property
    def keep_bytes(self) -> int:
        """Bytes of kept images from which on the oldest unmarked are deleted."""
        return int(self.keep_mb * 1_000_000)

    @property
    def max_bytes(self) -> int:
        """Most bytes of a request's body."""
        return int(self.max_mb * 1_000_000)

    @property
    def known_hosts(self) -> list[str]:
        """Names that a request may call the service by; "*" = any.

        A page from elsewhere that a browser on this machine shows can point its own name at 127.0.0.1 (DNS
        rebinding) and read the answers: hence a local service without a token goes by its local names alone.
        """
        if self.hosts is not None:
            return list(self.hosts)
        return [*LOOPBACK_NAMES, self.host] if self.is_local and self.secret is None else ["*"]


def _token(name: str, token: str | None, file: str | None) -> str | None:
    if file is not None:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{name}_file={file} can't be read: {error}") from error
    if token is not None and not token.strip():
        raise UserError(f"The {name} is empty: anybody could show it. Unset it, or give it some 32 characters.")
    return token
