"""Requests and answers of the Open Inference Protocol, version 2: JSON, and its binary tensor data extension.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import base64
import binascii
import math
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.serving.problems import Problem

HEADER = "Inference-Header-Content-Length"
SIZE, BINARY, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"


class Input(msgspec.Struct):
    """An input tensor as it was sent; its values are here, or in the binary part."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()


class Output(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """The JSON of a request."""

    inputs: list[Input]
    outputs: list[Output] = []
    id: str = ""
    parameters: dict[str, Any] = {}

    def binary_outputs(self) -> set[str]:
        """Names of the outputs that are to come in binary form; "*" = whatever does not say otherwise."""
        wanted = {one.name for one in self.outputs if one.parameters.get(BINARY, self.parameters.get(ALL_BINARY))}
        return wanted | ({"*"} if not self.outputs and self.parameters.get(ALL_BINARY) else set())


@dataclass(frozen=True)
class Tensor:
    """An output: an array, or strings of the shape (n,)."""

    name: str
    datatype: str
    values: NDArray[Any] | list[str]

    @property
    def shape(self) -> list[int]:
        """Its dimensions."""
        return [len(self.values)] if isinstance(self.values, list) else list(self.values.shape)


def read(body: bytes, header_length: str | None) -> tuple[InferRequest, list[list[bytes] | NDArray[np.uint8]]]:
    """A request and the values of its inputs: (…) uint8 of the stated shape, or the strings of a BYTES tensor.

    Args:
        body: Of the HTTP request.
        header_length: Value of the header that says how many bytes of it are JSON; None = all.

    Raises:
        Problem: 400, the body is not as the protocol has it, or a tensor is neither UINT8 nor BYTES.
    """
    if header_length is not None and not (header_length.isdecimal() and int(header_length) <= len(body)):
        raise Problem(400, f"{HEADER}: expected a number up to the body's {len(body)} bytes, got {header_length!r}.")
    end = len(body) if header_length is None else int(header_length)
    try:
        request = msgspec.json.decode(body[:end], type=InferRequest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, f"The request is not as the Open Inference Protocol has it: {error}") from error
    values, rest = [], memoryview(body)[end:]
    for one in request.inputs:
        size = one.parameters.get(SIZE)
        if size is None:
            values.append(_from_json(one))
            continue
        if not isinstance(size, int) or not 0 <= size <= len(rest):
            raise Problem(400, f"Input {one.name}: {SIZE}={size}, but {len(rest)} bytes are left of the body.")
        values.append(_from_binary(one, bytes(rest[:size])))
        rest = rest[size:]
    if len(rest):
        raise Problem(400, f"{len(rest)} bytes of the body belong to no input: set {SIZE} in its parameters.")
    return request, values


def write(head: dict[str, Any], tensors: Sequence[Tensor], binary: Collection[str]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an answer.

    Args:
        head: Its keys beside `outputs`.
        tensors: Its outputs.
        binary: As `InferRequest.binary_outputs` gives it.
    """
    outputs, parts = [], []
    for tensor in tensors:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if tensor.name in binary or "*" in binary:
            part = _packed(tensor)
            entry["parameters"] = {SIZE: len(part)}
            parts.append(part)
        else:
            entry["data"] = _plain(tensor)
        outputs.append(entry)
    text = msgspec.json.encode({**head, "outputs": outputs})
    headers = {HEADER: str(len(text))} if parts else {}
    return b"".join((text, *parts)), {**headers, "Content-Type": _kind(bool(parts))}


def _kind(binary: bool) -> str:
    return "application/octet-stream" if binary else "application/json"


def _from_json(one: Input) -> list[bytes] | NDArray[np.uint8]:
    try:
        values: Any = msgspec.json.decode(one.data, type=list)
    except msgspec.DecodeError as error:
        raise Problem(400, f"Input {one.name}: expected its values under data, or {SIZE}.") from error
    if one.datatype == "BYTES":
        try:
            found = [base64.b64decode(value, validate=True) for value in values]
        except (TypeError, ValueError, binascii.Error) as error:
            raise Problem(400, f"Input {one.name}: expected BYTES as base64 in JSON.") from error
        return _counted(one, found)
    _check_type(one)
    try:
        array = np.array(values)
    except ValueError as error:
        raise Problem(400, f"Input {one.name}: {error}") from error
    if array.size and (array.dtype.kind not in "iu" or not 0 <= array.min() <= array.max() <= 255):
        raise Problem(400, f"Input {one.name}: expected whole numbers from 0 to 255.")
    return _shaped(one, array.astype(np.uint8))


def _from_binary(one: Input, part: bytes) -> list[bytes] | NDArray[np.uint8]:
    if one.datatype != "BYTES":
        _check_type(one)
        return _shaped(one, np.frombuffer(part, np.uint8))
    found, place = list[bytes](), 0
    while place < len(part):
        length = int.from_bytes(part[place : place + 4], "little")
        if place + 4 + length > len(part):
            raise Problem(400, f"Input {one.name}: the length of its element {len(found)} leads beyond its end.")
        found.append(part[place + 4 : place + 4 + length])
        place += 4 + length
    return _counted(one, found)


def _check_type(one: Input) -> None:
    if one.datatype != "UINT8":
        raise Problem(400, f"Input {one.name}: expected UINT8 or BYTES, got {one.datatype}.")


def _shaped(one: Input, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if min(one.shape, default=0) < 1 or values.size != math.prod(one.shape):
        raise Problem(400, f"Input {one.name}: {values.size} values for the shape {one.shape}.")
    return values.reshape(one.shape)


def _counted(one: Input, found: list[bytes]) -> list[bytes]:
    if one.shape not in ([len(found)], [len(found), 1]):
        raise Problem(400, f"Input {one.name}: {len(found)} elements for the shape {one.shape}.")
    return found


def _packed(tensor: Tensor) -> bytes:
    if isinstance(tensor.values, list):
        encoded = [value.encode() for value in tensor.values]
        return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
    return np.ascontiguousarray(tensor.values).tobytes()


def _plain(tensor: Tensor) -> list[Any]:
    """Row-major values; one that is no number is null, which msgspec makes of it."""
    return tensor.values if isinstance(tensor.values, list) else tensor.values.ravel().tolist()
