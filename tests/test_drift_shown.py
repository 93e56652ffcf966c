"""Where drift shows: the service's API, page and metrics; a line's journal, sinks and heartbeat; resets of both."""

import json

import msgspec
import numpy as np
import pytest
from drifting import K
from lines import TRANSFORM, Given, Redness, image, line, lines
from served import TOKEN, encoded, serving
from toy import card

from anomaly_lightning.deploy.line.command import DRIFT, watched
from anomaly_lightning.runtime.card import ThresholdsCard
from anomaly_lightning.runtime.drift_fit import drift_card
from anomaly_lightning.runtime.drift_measures import measures
from anomaly_lightning.runtime.drift_watch import DriftWatch
from anomaly_lightning.runtime.inspector import Inspector

BEARER = {"Authorization": f"Bearer {TOKEN}"}
RESET = "/v1/models/toy/drift/reset"


def noisy(random, light=1.0):
    """(20, 30, 3) uint8."""
    return (light * random.integers(20, 60, (20, 30, 3))).astype(np.uint8)


def watched_inspector(engine=None):
    """One whose card knows what 20 noisy images measure."""
    plain = Inspector(card(TRANSFORM, thresholds=ThresholdsCard(score=0.5, pixel=0.4)), engine or Redness())
    random = np.random.default_rng(1)
    seen = np.array([measures(plain(noisy(random)), np.zeros((16, 16))) for _ in range(20)])
    known = drift_card(list(seen.T), np.zeros((16, 16)))
    return Inspector(plain.card.replace(drift=known), plain.engine)


@pytest.fixture(scope="module")
def stream():
    """Noisy images as usual, and darker ones."""
    random = np.random.default_rng(2)
    return [noisy(random) for _ in range(30)], [noisy(random, 0.7) for _ in range(25)]


# ---- The service ---------------------------------------------------------------------------------------------------


@pytest.fixture
def served_model(monkeypatch):
    pytest.importorskip("fastapi", reason="needs the extra serve")
    known = watched_inspector()
    monkeypatch.setattr("served.inspector", lambda engine: Inspector(known.card, engine))


def drift_of(service, **options):
    return service.get("/v1/models", **options).json()[0]["drift"]


def give(service, images, **options):
    for one in images:
        assert service.post("/v1/inspect", encoded(one), **options).status_code == 200


def test_a_service_says_what_has_changed_until_a_person_resets_it(served_model, stream, tmp_path):
    from anomaly_lightning.serving import schema

    usual, dark = stream
    with serving(tmp_path, drift={"state": str(tmp_path / "state")}) as service:
        give(service, usual)
        assert drift_of(service)["alarm"] is None
        assert service.metric('anomaly_drift_alarm{cause="camera or lighting",model="toy"}') == 0
        give(service, dark)
        found = drift_of(service)
        assert schema.DriftAnswer.model_validate(found).alarm.cause == "camera or lighting"
        assert (found["images"], found["images_per_alarm"]) == (55, 10_000)
        assert service.metric('anomaly_drift_alarm{cause="camera or lighting",model="toy"}') == 1
        assert service.metric('anomaly_drift_alarm{cause="more defects",model="toy"}') == 0
        assert service.metric('anomaly_drift_alarms_total{model="toy"}') == 1
        assert service.metric('anomaly_drift_evidence{model="toy"}') == 1
    with serving(tmp_path, drift={"state": str(tmp_path / "state")}) as service:
        assert drift_of(service)["alarm"] == found["alarm"]
        answer = service.post(RESET, json={"reference": "line"})
        assert (answer.status_code, answer.json()["alarm"]) == (200, None)
        assert answer.json()["compared_with"] == 0
        assert drift_of(service)["alarm"] is None


def test_a_reload_of_the_same_model_does_not_forget(served_model, stream, tmp_path):
    with serving(tmp_path, token=TOKEN) as service:
        give(service, stream[0], headers=BEARER)
        assert service.post("/v1/models/toy/reload", headers=BEARER).json()["drift"]["images"] == 30


def test_an_image_of_the_model_before_says_nothing_of_the_one_that_is_served(stream):
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from anomaly_lightning.serving.drifts import Drifts, DriftSettings
    from anomaly_lightning.serving.inspecting import Inspected
    from anomaly_lightning.serving.models import Model

    known, drifts = watched_inspector(), Drifts(DriftSettings())
    other = msgspec.structs.replace(known.card.drift, thumbnail=[1.0] * len(known.card.drift.thumbnail))
    before = Model("toy", None, "a", "", known)
    after = Model("toy", None, "b", "", Inspector(known.card.replace(drift=other), known.engine))
    drifts.serving(before)
    waiting = drifts.watched(before, lambda: (Inspected(known(stream[0][0])), None))
    drifts.serving(after)
    waiting()
    assert drifts.status(after)["images"] == 0


def test_who_may_reset(served_model, tmp_path):
    with serving(tmp_path, token=TOKEN) as service:
        assert service.post(RESET, json={}).status_code == 401
        assert service.post(RESET, json={}, headers=BEARER).status_code == 200
        assert service.post(RESET, json={"reference": "now"}, headers=BEARER).status_code == 422
        # What a form of a page from elsewhere could send without asking the browser first.
        assert service.post(RESET, "{}", headers={**BEARER, "Content-Type": "text/plain"}).status_code == 422
        assert service.post(RESET.replace("toy", "other"), json={}, headers=BEARER).status_code == 404


@pytest.mark.parametrize(
    ("options", "why"), [({}, "export the checkpoint again"), ({"watch": False}, "drift.watch=false")]
)
def test_a_service_says_that_drift_is_not_watched(options, why, stream, tmp_path):
    pytest.importorskip("fastapi", reason="needs the extra serve")
    with serving(tmp_path, drift=options) as service:
        give(service, stream[0][:1])
        assert why in drift_of(service)["why"]
        assert service.metric('anomaly_drift_watched{model="toy"}') == 0
        assert service.post(RESET, json={}).status_code == 422


# ---- A line -------------------------------------------------------------------------------------------------------


def run(folder, images, monkeypatch, **settings):
    """Run a line over images, with what a line before it knew; returns its rows."""
    known = watched_inspector()
    monkeypatch.setattr("lines.inspector", lambda seconds: known)
    before, watch = len(lines(folder)), DriftWatch(known.card.drift, file=folder / DRIFT)
    line(Given(images), folder, watch=watch, **settings).run()
    return lines(folder)[before:]


def test_a_line_says_it_in_its_journal_and_heartbeat(stream, tmp_path, monkeypatch):
    usual, dark = stream
    rows = run(tmp_path, [*usual, *dark], monkeypatch, heartbeat_s=0.05)
    causes = [row["drift"] for row in rows]
    first = causes.index("camera or lighting")
    assert causes == [None] * first + ["camera or lighting"] * (len(causes) - first)
    assert 30 <= first < 50
    beat = json.loads((tmp_path / "heartbeat.json").read_text())["drift"]
    assert (beat["alarm"]["image"], beat["images"]) == (first + 1, 55)
    assert {row["decision"] for row in rows} == {"OK"}


def test_a_line_goes_on_after_a_restart_and_is_reset_by_a_file(stream, tmp_path, monkeypatch, caplog):
    usual, dark = stream
    run(tmp_path, [*usual, *dark], monkeypatch)
    assert [row["drift"] for row in run(tmp_path, usual[:2], monkeypatch)] == ["camera or lighting"] * 2
    (tmp_path / DRIFT).with_suffix(".reset").write_text("line\n")
    assert [row["drift"] for row in run(tmp_path, dark, monkeypatch)] == [None] * 25
    assert not (tmp_path / DRIFT).with_suffix(".reset").exists()
    (tmp_path / DRIFT).with_suffix(".reset").write_text("now")
    run(tmp_path, dark[:1], monkeypatch)
    assert "expected one of seen, calibration, line" in caplog.text


def test_parts_without_a_verdict_say_nothing_of_drift(stream, tmp_path, monkeypatch):
    rows = run(tmp_path, [image(blue=True), stream[0][0]], monkeypatch)
    assert [(row["outcome"], row["drift"]) for row in rows] == [("failed", None), ("verdict", None)]


def test_the_start_of_a_line_says_whether_drift_is_watched():
    known = watched_inspector().card.drift
    assert len(known.normals) == K
    assert watched(DriftWatch(known)) == "Drift is watched: at most one false alarm in 10000 parts."
    assert "export the checkpoint again" in watched(DriftWatch(None))
