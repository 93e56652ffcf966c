"""The service keeps its decisions, shows them, and takes marks: who may, what is refused, what is left on the disk."""

import csv
import io
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta

import numpy as np
import pytest
from PIL import Image
from served import TOKEN, encoded, inspector, serving, spotted
from toy import command

pytest.importorskip("fastapi", reason="needs the extra serve")

from anomaly_lightning.data.manifest import read_manifest
from anomaly_lightning.errors import ReviewError, UserError
from anomaly_lightning.serving import models, reviewing
from anomaly_lightning.serving import review_schema as schema
from anomaly_lightning.serving.settings import Settings

READ = "one that may only look"
LOOKING, WRITING = ({"Authorization": f"Bearer {token}"} for token in (READ, TOKEN))
LEVELS = (255, 90, 255, 10)  # NG, OK, NG, OK


@pytest.fixture
def service(tmp_path):
    with serving(tmp_path, marks="auto", keep="all", token=TOKEN, read_token=READ) as it:
        yield it


@pytest.fixture
def decided(service):
    """A service that has decided four times."""
    for number, level in enumerate(LEVELS):
        give(service, f"{number}.png", level)
    return service


def give(service, name, level=255, **options):
    answer = service.post(
        "/v1/inspect", files=[("image", (name, encoded(spotted(level))))], headers=WRITING, **options
    ).json()
    return answer["images"][0]


def look(service, path="", **options):
    return service.get(f"/v1/review{path}", headers=LOOKING, **options)


def mark(service, number, mark, who="Ann", headers=WRITING, **given):
    wish = {"mark": mark, "who": who, **given}
    return service.post(f"/v1/review/decisions/{number}/marks", json=wish, headers=headers)


def test_what_was_decided_is_kept_beside_the_bundle(decided, tmp_path):
    assert (tmp_path / "toy.review" / "marks.db").is_file()
    page = look(decided, "/decisions").json()
    schema.Decisions.model_validate(page)
    assert [one["name"] for one in page["decisions"]] == ["3.png", "2.png", "1.png", "0.png"]
    assert [one["verdict"] for one in page["decisions"]] == ["OK", "NG", "OK", "NG"]
    whole = look(decided, "/decisions/1").json()
    schema.WholeDecision.model_validate(whole)
    said = inspector()(spotted())
    assert (whole["score"], whole["threshold"], whole["model"]) == (said.score, said.threshold, "toy")
    assert whole["model_id"] == decided.service.models.get("toy").id
    assert whole["bundle_version"] is None, "a single file has no versions"
    assert whole["regions"][0]["box"] == list(said.regions[0].box)
    assert [path.read_bytes() for path in sorted(tmp_path.glob("toy.review/images/*/*"))].count(encoded(spotted())) == 2


def test_an_answer_names_the_decision_that_can_be_marked(service):
    found = give(service, "a.png")
    assert found["timings_ms"]["keep"] > 0
    answer = mark(service, found["decision"], "right")
    schema.WholeDecision.model_validate(answer.json())
    assert (answer.status_code, answer.json()["mark"], answer.json()["truth"]) == (200, "right", "defect")


def test_tensors_are_kept_too(service):
    values = spotted()[None].tolist()
    body = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 40, 60, 3], "data": values}]}
    assert service.post("/v2/models/toy/infer", json=body, headers=WRITING).status_code == 200
    (known,) = look(service, "/decisions").json()["decisions"]
    picture = look(service, f"/decisions/{known['id']}/original")
    np.testing.assert_array_equal(Image.open(io.BytesIO(picture.content)), spotted())


def test_pages_follow_each_other_and_filters_hold(decided):
    first = look(decided, "/decisions?limit=3").json()
    second = look(decided, f"/decisions?limit=3&after={first['next']}").json()
    assert [one["id"] for one in first["decisions"] + second["decisions"]] == [4, 3, 2, 1]
    assert second["next"] is None
    mark(decided, 1, "right")
    for query, expected in {
        "verdict=NG": [3, 1],
        "verdict=NG&mark=unmarked": [3],
        "mark=right&mark=false_alarm": [1],
        "lowest=0.3&highest=0.5": [2],
        "order=lowest": [4, 2, 1, 3],
        "since=2020-01-01T00:00:00Z&order=oldest": [1, 2, 3, 4],
        "until=2020-01-01T00:00:00Z": [],
        "model=nobody": [],
    }.items():
        assert [one["id"] for one in look(decided, f"/decisions?{query}").json()["decisions"]] == expected, query


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/decisions?verdict=ng", 422, "verdict=ng: expected some of"),
        ("/decisions?lowest=2&highest=1", 422, "ends before it begins"),
        ("/decisions?since=2026-01-01T00:00:00", 422, "expected one with a time zone"),
        ("/decisions?after=x", 422, "expected the `next`"),
        ("/decisions?limit=501", 422, "limit"),
        ("/decisions/99", 404, "There is no decision 99"),
        ("/decisions/99/original", 404, "There is no decision 99"),
        ("/decisions/1/marks.db", 422, "original"),
    ],
)
def test_what_makes_no_sense_is_said(decided, path, status, words):
    answer = look(decided, path)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_images_come_as_they_are_and_as_browsers_show_them(service):
    data = encoded(spotted(), "TIFF")
    number = service.post("/v1/inspect", data, headers=WRITING).json()["images"][0]["decision"]
    original = look(service, f"/decisions/{number}/original")
    assert original.content == data
    assert original.headers["X-Content-Type-Options"] == "nosniff"
    for what, size in (("shown", (60, 40)), ("small", (60, 40)), ("heatmap", (60, 40))):
        answer = look(service, f"/decisions/{number}/{what}")
        assert answer.headers["Content-Type"] == ("image/jpeg" if what == "small" else "image/png")
        assert "immutable" in answer.headers["Cache-Control"]
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.size == size


def test_an_image_that_is_not_there_says_why(decided, tmp_path):
    store = decided.service.reviewing.store
    store.give_up(store.kept().bytes - 1)
    assert "was deleted because of the size limit" in look(decided, "/decisions/1/original").text
    for path in tmp_path.glob("toy.review/images/*/*"):
        path.unlink()
    assert "is gone from the disk" in look(decided, "/decisions/4/shown").text


# ---- Marks -------------------------------------------------------------------------------------------------------


def test_two_reviewers_see_each_others_marks(decided):
    assert mark(decided, 1, "right", "Ann", seen=0).status_code == 200
    answer = mark(decided, 1, "false_alarm", "Bob", seen=0)
    assert answer.status_code == 409
    schema.Conflict.model_validate(answer.json())
    assert answer.json()["latest"]["who"] == "Ann"
    assert mark(decided, 1, "false_alarm", "Bob", seen=answer.json()["latest"]["id"]).status_code == 200
    whole = look(decided, "/decisions/1").json()
    assert [(one["who"], one["mark"]) for one in whole["history"]] == [("Ann", "right"), ("Bob", "false_alarm")]
    assert mark(decided, 1, None, "Bob").json()["mark"] is None


@pytest.mark.parametrize(
    ("wish", "status", "words"),
    [
        ({"mark": "right", "who": ""}, 422, "expected the name"),
        ({"mark": "missed_defect", "who": "Ann"}, 422, "can't be marked missed_defect"),
        ({"mark": "good", "who": "Ann"}, 422, "mark"),
        ({"who": "Ann"}, 422, "mark"),
        ({"mark": "right", "who": "Ann", "when": 3}, 422, "when"),
    ],
)
def test_a_mark_that_makes_no_sense_is_refused(decided, wish, status, words):
    answer = decided.post("/v1/review/decisions/1/marks", json=wish, headers=WRITING)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert look(decided, "/decisions/1").json()["history"] == []


def test_marks_of_many_at_once_are_all_kept(decided):
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda who: mark(decided, 1, "right", f"reviewer {who}"), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(look(decided, "/decisions/1").json()["history"]) == 24


def test_marks_come_out_as_a_table_and_as_a_manifest(decided, tmp_path):
    for number, said in ((1, "right"), (2, "right"), (3, "false_alarm"), (4, "missed_defect")):
        mark(decided, number, said)
    rows = list(csv.DictReader(io.StringIO(look(decided, "/marks.csv").text)))
    assert [(row["id"], row["mark"], row["truth"]) for row in rows] == [
        ("1", "right", "defect"),
        ("2", "right", "normal"),
        ("3", "false_alarm", "normal"),
        ("4", "missed_defect", "defect"),
    ]
    answer = look(decided, "/manifest.csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="manifest.csv"'
    (tmp_path / "manifest.csv").write_text(answer.text)
    found = read_manifest(tmp_path / "manifest.csv", "parts")
    # Decisions 1 and 3 are on the same image: the later mark, a false alarm, is what is known of it.
    assert (len(found.train), len(found.test)) == (2, 1)


# ---- Who may -----------------------------------------------------------------------------------------------------


def test_who_may_only_look_changes_nothing(decided):
    assert look(decided).json()["may_mark"] is False
    assert decided.get("/v1/review", headers=WRITING).json()["may_mark"] is True
    schema.Summary.model_validate(look(decided).json())
    image = encoded(spotted())
    for path, body in (
        ("/v1/review/decisions/1/marks", None),
        ("/v1/inspect", image),
        ("/v1/heatmap", image),
        ("/v1/map", image),
        ("/v1/models/toy/reload", None),
        ("/v2/models/toy/infer", b"{}"),
    ):
        options = {"data": body} if body else {"json": {"mark": "right", "who": "Ann"}}
        answer = decided.ask("POST", path, headers=LOOKING, **options)
        assert (answer.status_code, "may only look" in answer.text) == (403, True), path
    assert len(look(decided, "/decisions").json()["decisions"]) == 4
    for path in ("/v1/models", "/v1/decisions", "/metrics", "/v2/models/toy"):
        assert decided.get(path, headers=LOOKING).status_code == 200


def test_who_shows_no_token_sees_nothing(decided):
    for path in ("", "/decisions", "/decisions/1", "/decisions/1/original", "/marks.csv", "/manifest.csv"):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            assert decided.get(f"/v1/review{path}", headers=headers).status_code == 401


def test_without_a_token_a_page_from_elsewhere_marks_nothing(tmp_path):
    with serving(tmp_path, marks=str(tmp_path / "m.db")) as service:
        service.post("/v1/inspect", encoded(spotted()))
        for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), (None, 200)):
            headers = {} if site is None else {"Sec-Fetch-Site": site}
            assert mark(service, 1, "right", headers=headers).status_code == status
        text = '{"mark": "right", "who": "Ann"}'  # what a form of another page could send unasked
        headers = {"Content-Type": "text/plain"}
        assert service.post("/v1/review/decisions/1/marks", text, headers=headers).status_code == 422


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"read_token": "a"}, "a read_token, but no token"),
        ({"read_token": "a", "token": "a"}, "are the same"),
        ({"read_token": " ", "token": "a"}, "The read_token is empty"),
        ({"read_token": "a", "read_token_file": "b", "token": "c"}, "contradict each other"),
        ({"keep_mb": 0}, "keep_mb=0: expected a number above 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(given, words):
    with pytest.raises(UserError, match=words):
        _ = Settings(bundle="x", **given).read_secret


# ---- The disk ----------------------------------------------------------------------------------------------------


def test_by_default_flagged_images_are_kept_and_what_is_deleted_is_counted(tmp_path):
    with serving(tmp_path, marks="auto") as service:
        for level in LEVELS:
            service.post("/v1/inspect", encoded(spotted(level)))
        keeper = service.service.reviewing.keeper
        assert [one["image"] for one in service.get("/v1/review/decisions").json()["decisions"]] == [False, True] * 2
        before = service.metric("anomaly_kept_bytes")
        assert before == sum(one.image_bytes for one in keeper.store.page().decisions)
        keeper.max_bytes = int(before * 1.2)
        service.post("/v1/inspect", encoded(spotted()))
        assert service.metric("anomaly_kept_removed") == 1
        assert service.metric("anomaly_kept_bytes") == before
        assert service.metric("anomaly_kept_bytes_limit") == keeper.max_bytes
        assert service.get("/v1/review").json()["images"]["removed"] == 1


def test_nothing_is_kept_where_that_is_asked_for(tmp_path):
    with serving(tmp_path, marks=None) as service:
        (found,) = service.post("/v1/inspect", encoded(spotted())).json()["images"]
        assert found["decision"] is None
        schema.Summary.model_validate(service.get("/v1/review").json())
        assert service.get("/v1/review").json()["enabled"] is False
        assert "start it with marks=<file>" in service.get("/v1/review/decisions").json()["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_a_disk_that_takes_nothing_costs_no_answer(tmp_path, caplog):
    with serving(tmp_path, marks=str(tmp_path / "m.db")) as service:
        with closing(sqlite3.connect(tmp_path / "m.db")) as other:
            other.execute("DROP TABLE decisions")
        (found,) = service.post("/v1/inspect", encoded(spotted())).json()["images"]
        assert (found["verdict"], found["decision"]) == ("NG", None)
        assert service.metric('anomaly_decisions_unrecorded_total{model="toy"}') == 1
        assert "is not recorded" in caplog.text
        assert service.get("/v1/review/decisions").status_code == 503
        assert not list(tmp_path.glob("images/*/*")), "no image stays without its decision"


def test_a_place_that_cannot_be_written_is_an_error_where_it_was_chosen(tmp_path, caplog):
    (tmp_path / "toy.review").write_text("in the way")
    with serving(tmp_path, marks="auto") as service:
        assert service.get("/v1/review").json()["enabled"] is False
    assert "decisions are not kept for review" in caplog.text
    with pytest.raises(ReviewError, match="can't be opened"), serving(tmp_path, marks=f"{tmp_path}/toy.review/m.db"):
        pass


def test_a_store_that_is_damaged_is_never_passed_over(tmp_path):
    place = reviewing.beside(tmp_path / "toy")
    place.parent.mkdir()
    place.write_bytes(b"no database" * 100)
    with pytest.raises(ReviewError, match="no store of decisions, or is damaged"), serving(tmp_path, marks="auto"):
        pass


def test_all_versions_of_a_bundle_have_one_store(tmp_path):
    for name in ("line", "line@2", "line@latest"):
        assert reviewing.beside(tmp_path / name) == tmp_path / "line.review" / "marks.db"
    for name, version in (("line", "1"), ("line@2", "2")):
        (tmp_path / name).mkdir()
        assert models._version(tmp_path / name) == version


def test_times_are_those_of_the_decisions(decided):
    moments = [decided.service.reviewing.store.decision(number).time for number in range(1, 5)]
    assert moments == sorted(moments)
    assert moments[-1] - moments[0] < timedelta(minutes=1)


def test_a_wrong_policy_is_one_paragraph(tmp_path):
    ran = command("serve", "bundle=x", "keep=some", cwd=tmp_path)
    assert (ran.code, "keep" in ran.out, "Traceback" in ran.out) == (1, True, False)
