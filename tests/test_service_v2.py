"""The Open Inference Protocol: what was asked of the inspector comes back, as JSON and in binary form."""

import asyncio
import base64
import json
import struct

import numpy as np
import pytest
from served import Redness, encoded, inspector, serving, spotted

pytest.importorskip("fastapi", reason="needs the extra serve")

LEVELS = (255, 90, 140)
HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("models"), max_images=3) as it:
        yield it


@pytest.fixture(scope="module")
def images():
    """(3, 40, 60, 3) uint8."""
    return np.stack([spotted(level) for level in LEVELS])


@pytest.fixture(scope="module")
def said(images):
    return [inspector()(image) for image in images]


def tensor(images, nested=False):
    data = images.tolist() if nested else images.ravel().tolist()
    return {"name": "images", "shape": list(images.shape), "datatype": "UINT8", "data": data}


def infer(service, *inputs, binary=b"", headers=None, **more):
    text = json.dumps({"inputs": inputs, **more}).encode()
    headers = {HEADER: str(len(text))} | (headers or {}) if binary else headers
    return service.post("/v2/models/toy/infer", text + binary, headers=headers)


def outputs(answer):
    assert answer.status_code == 200, answer.text
    return {output["name"]: output for output in answer.json()["outputs"]}


@pytest.mark.parametrize("nested", [False, True])
def test_scores_of_a_json_tensor_are_those_of_the_inspector(service, images, said, nested):
    answer = infer(service, tensor(images, nested), id="part 7")
    found = outputs(answer)
    assert (answer.json()["id"], answer.json()["model_name"]) == ("part 7", "toy")
    assert found["score"] == {"name": "score", "datatype": "FP32", "shape": [3], "data": [one.score for one in said]}
    assert found["threshold"]["data"] == [one.threshold for one in said]
    assert found["verdict"] == {
        "name": "verdict",
        "datatype": "BYTES",
        "shape": [3],
        "data": ["NG", "OK", "NG"],
    }
    assert set(found) == {"score", "threshold", "verdict", "reason"}


def test_files_come_as_base64_or_in_binary_form(service, images, said):
    files = [encoded(image) for image in images]
    text = [base64.b64encode(data).decode() for data in files]
    found = outputs(infer(service, {"name": "files", "shape": [3], "datatype": "BYTES", "data": text}))
    assert found["score"]["data"] == [one.score for one in said]
    packed = b"".join(struct.pack("<I", len(data)) + data for data in files)
    entry = {"name": "files", "shape": [3, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(packed)}}
    assert outputs(infer(service, entry, binary=packed))["score"]["data"] == [one.score for one in said]


def test_maps_masks_and_heatmaps_come_in_binary_form(service, images, said):
    entry = {**tensor(images), "parameters": {"binary_data_size": images.nbytes}}
    del entry["data"]
    names = ("anomaly_map", "mask", "heatmap", "verdict")
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in names] + [{"name": "score"}]
    answer = infer(service, entry, binary=images.tobytes(), outputs=wanted)
    assert answer.status_code == 200
    length = int(answer.headers[HEADER])
    head, rest = json.loads(answer.content[:length]), answer.content[length:]
    parts = {}
    for output in head["outputs"][:4]:
        size = output["parameters"]["binary_data_size"]
        parts[output["name"]], rest = (output["shape"], rest[:size]), rest[size:]
    assert rest == b""
    for name, dtype in (("anomaly_map", np.float32), ("mask", bool), ("heatmap", np.uint8)):
        shape, data = parts[name]
        expected = [getattr(one, name) for one in said]
        expected = [value() if callable(value) else value for value in expected]
        np.testing.assert_array_equal(np.frombuffer(data, dtype).reshape(shape), np.stack(expected))
    assert parts["verdict"][1] == b"\2\0\0\0NG\2\0\0\0OK\2\0\0\0NG"
    assert head["outputs"][4]["data"] == [one.score for one in said]


def test_what_the_model_is(service):
    found = service.get("/v2/models/toy").json()
    version = found["versions"][0]
    assert [one["name"] for one in found["inputs"]] == ["images", "files"]
    assert {one["name"]: one["shape"] for one in found["outputs"]}["heatmap"] == [-1, -1, -1, 3]
    assert service.get(f"/v2/models/toy/versions/{version}").json() == found
    assert service.get(f"/v2/models/toy/versions/{version}/ready").json()["ready"] is True
    assert service.get("/v2/models/toy/versions/1").status_code == 404
    assert service.get("/v2/models/cable/ready").status_code == 404
    assert service.get("/v2").json()["extensions"] == ["binary_tensor_data"]


ONE = {"name": "images", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}
FILE = {"name": "files", "shape": [1], "datatype": "BYTES", "data": ["aGVsbG8="]}
REFUSED = {
    "no JSON": (b"nonsense", 400, "not as the Open Inference Protocol"),
    "no inputs": ({}, 400, "missing required field `inputs`"),
    "none": ({"inputs": []}, 400, "Expected one input"),
    "two": ({"inputs": [ONE, FILE]}, 400, "got images, files"),
    "name": ({"inputs": [{**ONE, "name": "x"}]}, 400, "got x"),
    "datatype": ({"inputs": [{**ONE, "datatype": "FP32"}]}, 400, "got FP32"),
    "kind": ({"inputs": [{**FILE, "name": "images"}]}, 400, "expected UINT8"),
    "kind of file": ({"inputs": [{**ONE, "name": "files"}]}, 400, "expected BYTES"),
    "count": ({"inputs": [{**ONE, "data": [1, 2]}]}, 400, "2 values for the shape"),
    "range": ({"inputs": [{**ONE, "data": [1, 2, 256]}]}, 400, "0 to 255"),
    "negative": ({"inputs": [{**ONE, "data": [1, 2, -1]}]}, 400, "0 to 255"),
    "fraction": ({"inputs": [{**ONE, "data": [1, 2, 0.5]}]}, 400, "whole numbers"),
    "text": ({"inputs": [{**ONE, "data": ["a", "b", "c"]}]}, 400, "whole numbers"),
    "ragged": ({"inputs": [{**ONE, "data": [[1, 2], [3]]}]}, 400, "images"),
    "no data": ({"inputs": [{**ONE, "data": None}]}, 400, "under data"),
    "shape": ({"inputs": [{**ONE, "shape": [3]}]}, 400, "[n, height, width, 3]"),
    "empty": ({"inputs": [{**ONE, "shape": [0, 1, 1, 3], "data": []}]}, 400, "0 values"),
    "base64": ({"inputs": [{**FILE, "data": ["?"]}]}, 400, "base64"),
    "files": ({"inputs": [{**FILE, "shape": [2]}]}, 400, "1 elements for the shape"),
    "no image": ({"inputs": [FILE]}, 422, "is no image"),
    "too many": ({"inputs": [{**ONE, "shape": [4, 1, 1, 3], "data": [1] * 12}]}, 413, "1 to 3 images"),
    "output": ({"inputs": [ONE], "outputs": [{"name": "x"}]}, 400, "There is no output 'x'"),
    "size": ({"inputs": [{**ONE, "parameters": {"binary_data_size": 9}}]}, 400, "0 bytes are left"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(service, case):
    body, status, words = REFUSED[case]
    answer = service.post("/v2/models/toy/infer", body if isinstance(body, bytes) else json.dumps(body))
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    service.until(0)


@pytest.mark.parametrize("length", ["x", "9999", "-1"])
def test_a_wrong_length_of_the_json_is_refused(service, length):
    answer = service.post("/v2/models/toy/infer", json.dumps({"inputs": [ONE]}), headers={HEADER: length})
    assert answer.status_code == 400


def test_binary_parts_that_do_not_fit_are_refused(service):
    entry = {"name": "files", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}}
    assert "beyond its end" in infer(service, entry, binary=b"\7\0\0\0ab").text
    assert "belong to no input" in infer(service, ONE, binary=b"more").text


def test_images_of_different_sizes_have_no_common_map(service):
    text = [base64.b64encode(encoded(spotted(width=width))).decode() for width in (60, 70)]
    entry = {"name": "files", "shape": [2], "datatype": "BYTES", "data": text}
    assert outputs(infer(service, entry))["verdict"]["data"] == ["NG", "NG"]
    answer = infer(service, entry, outputs=[{"name": "anomaly_map"}])
    assert (answer.status_code, "different sizes" in answer.text) == (400, True)


def test_a_score_that_is_no_number_is_null(tmp_path, images):
    class Nothing(Redness):
        def run(self, images):
            return np.full_like(images[:, 0], np.nan), np.full(len(images), np.nan, np.float32)

    with serving(tmp_path, engine=Nothing()) as it:
        found = outputs(infer(it, tensor(images[:1])))
        assert (found["score"]["data"], found["verdict"]["data"]) == ([None], ["NG"])


def test_the_client_of_triton(service, images, said):
    """pip install 'tritonclient[http]' to run it: its pins of two packages contradict this project's."""
    client_of = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    client = client_of.InferenceServerClient(service.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    assert client.get_server_metadata()["name"] == "anomaly_lightning"
    version = client.get_model_metadata("toy")["versions"][0]
    expected = [one.score for one in said]
    for binary in (True, False):
        entry = client_of.InferInput("images", list(images.shape), "UINT8")
        entry.set_data_from_numpy(images, binary_data=binary)
        wanted = [client_of.InferRequestedOutput(name, binary_data=binary) for name in ("score", "verdict", "mask")]
        answer = client.infer("toy", [entry], outputs=wanted, model_version=version, request_id="7")
        assert answer.as_numpy("score").tolist() == expected
        assert [bytes(word).decode() if binary else word for word in answer.as_numpy("verdict")] == ["NG", "OK", "NG"]
        np.testing.assert_array_equal(answer.as_numpy("mask"), np.stack([one.mask for one in said]))
    entry = client_of.InferInput("files", [3], "BYTES")
    entry.set_data_from_numpy(np.array([encoded(image) for image in images], dtype=object))
    assert client.infer("toy", [entry]).as_numpy("score").tolist() == expected
    refusal = pytest.importorskip("tritonclient.utils").InferenceServerException
    with pytest.raises(refusal, match="There is no model"):
        client.infer("cable", [entry])
    client.close()


def test_the_client_of_kserve(service, images, said, monkeypatch):
    """pip install kserve to run it: its pins of a package contradict this project's."""
    kserve = pytest.importorskip("kserve", reason="needs kserve")
    config = kserve.RESTConfig(protocol="v2")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # a test's proxy leads nowhere, and this client asks it for all hosts

    async def asked():
        client = kserve.InferenceRESTClient(config)
        assert await client.is_server_live(service.url)
        assert await client.is_server_ready(service.url)
        assert await client.is_model_ready(service.url, "toy")
        assert not await client.is_model_ready(service.url, "cable")
        for binary in (True, False):
            entry = kserve.InferInput("images", list(images.shape), "UINT8")
            entry.set_data_from_numpy(images, binary_data=binary)
            wanted = [kserve.protocol.infer_type.RequestedOutput(name) for name in ("score", "verdict", "mask")]
            request = kserve.InferRequest("toy", [entry], request_id="7", request_outputs=wanted)
            answer = await client.infer(service.url, request, model_name="toy")
            found = {output.name: output.as_numpy() for output in answer.outputs}
            assert answer.id == "7"
            assert found["score"].tolist() == [one.score for one in said]
            assert list(found["verdict"]) == ["NG", "OK", "NG"]
            np.testing.assert_array_equal(found["mask"], np.stack([one.mask for one in said]))
        await client.close()

    asyncio.run(asked())
