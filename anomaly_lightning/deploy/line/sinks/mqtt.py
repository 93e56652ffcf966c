"""sinks=[mqtt]: each line as a message with QoS 1, delivered when the broker has acknowledged it.

`<topic>/result` gets the lines, `<topic>/heartbeat` the heartbeat, and `<topic>/status` is "online" or, by the broker
where the connection ends without a goodbye, "offline" (retained).
"""

import os
import time
from contextlib import suppress
from threading import Event
from typing import Any

from anomaly_lightning.deploy.line.sinks import DeliveryError, Message, Sink
from anomaly_lightning.errors import MissingExtraError, UserError

CHECK_S = 0.05  # seconds between two looks at whether the connection still stands


class MqttSink(Sink):
    """One connection to one broker, made anew with a clean session after each failure: the journal is the memory.

    Args:
        host: Of the broker.
        port: 1883, or 8883 with TLS, by custom.
        topic: Prefix of all topics.
        client_id: Distinct for each client of the broker.
        username: None = none.
        password_env: Name of the environment variable that holds the password.
        tls: Encrypt, and check the broker's certificate.
        ca_file: Certificates to trust; None = the system's.
        keepalive_s: Seconds after which the broker calls a silent line offline, times 1.5.
        timeout_s: Seconds to wait for a connection or an acknowledgement.
    """

    def __init__(
        self,
        host: str | None,
        port: int,
        topic: str,
        client_id: str,
        username: str | None,
        password_env: str,
        tls: bool,
        ca_file: str | None,
        keepalive_s: int,
        timeout_s: float,
    ) -> None:
        try:
            from paho.mqtt import client
        except ModuleNotFoundError as error:
            raise MissingExtraError("sinks=mqtt", "paho-mqtt", "line") from error
        if not host:
            raise UserError("sinks=[mqtt] needs sink.mqtt.host=<name or address of the broker>.")
        if not topic or any(sign in topic for sign in "+#\0"):
            raise UserError(f"sink.mqtt.topic={topic}: expected a topic without + and #.")
        self._paho: Any = client
        self.host, self.port, self.topic, self.client_id = host, port, topic.strip("/"), client_id
        self.username, self.password = username, os.environ.get(password_env)
        if username is not None and self.password is None:
            raise UserError(f"sink.mqtt.username is set: put its password into the environment as {password_env}.")
        self.tls, self.ca_file, self.keepalive_s, self.timeout_s = tls, ca_file, keepalive_s, timeout_s
        self._client: Any = None

    def keep(self) -> None:
        """Connect where there is no connection."""
        if self._client is None or not self._client.is_connected():
            self._drop()
            self._connect()

    def deliver(self, message: Message) -> None:
        """Publish a line, and wait for the broker's acknowledgement."""
        self.keep()
        try:
            self._acknowledged(self._client.publish(f"{self.topic}/result", message.body, qos=1))
        except DeliveryError:
            self._drop()
            raise

    def beat(self, body: bytes) -> None:
        """Publish the heartbeat with QoS 0."""
        client = self._client
        if client is not None and client.is_connected():
            client.publish(f"{self.topic}/heartbeat", body, qos=0)

    def close(self) -> None:
        """Say goodbye: offline."""
        if self._client is None:
            return
        with suppress(DeliveryError):
            self._acknowledged(self._client.publish(f"{self.topic}/status", b"offline", qos=1, retain=True))
        self._drop()

    def _connect(self) -> None:
        """Connect, and wait for the broker's word on it."""
        answered, answer = Event(), list[Any]()

        def on_connect(client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
            answer.append(reason)
            answered.set()

        made = self._made()
        made.on_connect = on_connect
        where = f"the broker {self.host}:{self.port}"
        try:
            made.connect(self.host, self.port, self.keepalive_s)
        except (OSError, ValueError) as error:
            raise DeliveryError(f"{where} can't be reached: {error}.") from error
        made.loop_start()
        self._client = made
        if not answered.wait(self.timeout_s) or answer[0].is_failure:
            self._drop()
            raise DeliveryError(f"{where} refuses: {answer[0]}." if answer else f"{where} does not answer.")
        made.publish(f"{self.topic}/status", b"online", qos=1, retain=True)

    def _made(self) -> Any:
        """A client that is not connected."""
        made = self._paho.Client(
            self._paho.CallbackAPIVersion.VERSION2, client_id=self.client_id, reconnect_on_failure=False
        )
        made.connect_timeout = self.timeout_s
        made.will_set(f"{self.topic}/status", b"offline", qos=1, retain=True)
        if self.username is not None:
            made.username_pw_set(self.username, self.password)
        if self.tls:
            made.tls_set(ca_certs=self.ca_file)
        return made

    def _acknowledged(self, sent: Any) -> None:
        """Wait until the broker has acknowledged a message."""
        until = time.monotonic() + self.timeout_s
        try:
            while time.monotonic() < until and self._client.is_connected():
                sent.wait_for_publish(CHECK_S)
                if sent.is_published():
                    return
        except (RuntimeError, ValueError) as error:
            raise DeliveryError(f"the broker {self.host}:{self.port} is gone: {error}.") from error
        raise DeliveryError(f"the broker {self.host}:{self.port} did not acknowledge a message.")

    def _drop(self) -> None:
        """Give the connection up."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()
