"""sinks=[webhook]: each line as a signed POST, delivered when the answer is 2xx.

Signed as Standard Webhooks 1.0 has it (https://www.standardwebhooks.com), for which most languages have a library:
`webhook-id` is the part's id, `webhook-timestamp` the seconds of this try, and `webhook-signature` is
"v1," + base64(HMAC-SHA256(secret, id + "." + timestamp + "." + body)).
"""

import base64
import binascii
import hashlib
import hmac
import os
import time
from typing import Any

from anomaly_lightning.deploy.line.sinks import DeliveryError, Message, RefusedError, Sink
from anomaly_lightning.errors import MissingExtraError, UserError

# The receiver read it and says that it is wrong. All others, 401 and 404 too, can be put right at the other end.
REFUSED = (400, 413, 422)
PREFIX = "whsec_"


def signature(secret: bytes, part_id: str, timestamp: int, body: bytes) -> str:
    """What `webhook-signature` holds."""
    signed = b".".join((part_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def read_secret(variable: str) -> bytes:
    """The secret in an environment variable.

    Raises:
        UserError: It is not set, or not of the form that libraries for the other end expect.
    """
    text = os.environ.get(variable, "")
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith(PREFIX) or len(secret) < 24:
        raise UserError(
            f"sinks=webhook signs what it sends: expected {PREFIX} and 24 to 64 random bytes in base64 in the "
            f"environment variable {variable}. This makes one: echo {PREFIX}$(head -c 32 /dev/urandom | base64)"
        )
    return secret


class WebhookSink(Sink):
    """Posts to one address.

    Args:
        url: http:// or https://; redirects are not followed.
        secret_env: Name of the environment variable that holds the secret.
        timeout_s: Seconds to wait for a connection, and for each piece of the answer.
    """

    def __init__(self, url: str | None, secret_env: str, timeout_s: float) -> None:
        try:
            import requests
        except ModuleNotFoundError as error:
            raise MissingExtraError("sinks=webhook", "requests", "line") from error
        if url is None or not url.startswith(("http://", "https://")):
            raise UserError(f"sink.webhook.url={url}: expected http://... or https://... .")
        self._requests: Any = requests
        self._session = requests.Session()
        self.url, self.timeout_s, self._secret = url, timeout_s, read_secret(secret_env)

    def deliver(self, message: Message) -> None:
        """Post a line, and wait for the answer."""
        now = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": message.id,
            "webhook-id": message.id,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(self._secret, message.id, now, message.body),
        }
        try:
            answer = self._session.post(
                self.url, data=message.body, headers=headers, timeout=self.timeout_s, allow_redirects=False
            )
        except self._requests.RequestException as error:
            raise DeliveryError(f"{self.url} gives no answer: {type(error).__name__}.") from error
        if answer.status_code in REFUSED:
            raise RefusedError(f"the answer is {answer.status_code}.")
        if not 200 <= answer.status_code < 300:
            raise DeliveryError(f"{self.url} answers {answer.status_code}.")

    def close(self) -> None:
        """Close the connection."""
        self._session.close()
