"""The store of decisions and marks: what was acknowledged is there, pages are found without a walk through all."""

import csv
import random
import re
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from reviewed import START, new
from toy import command

from anomaly_lightning.data.manifest import read_manifest
from anomaly_lightning.errors import ReviewError
from anomaly_lightning.review import database
from anomaly_lightning.review.exporting import TABLE, write_manifest, write_table
from anomaly_lightning.review.marks import MarkedSinceError
from anomaly_lightning.review.records import Filter
from anomaly_lightning.review.store import ReviewStore
from anomaly_lightning.runtime.decision import VERDICTS

HERE = Path(__file__).parent


@pytest.fixture
def store(tmp_path):
    with ReviewStore(tmp_path / "marks.db", create=True) as store:
        yield store


def numbers(page):
    return [int(one.name.partition(".")[0]) for one in page.decisions]


def kept(store, number, **given):
    """A decision whose image lies in the store's folder."""
    path = store.path.parent / "images" / f"{number}.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"image")
    return store.record(new(number, image=f"images/{number}.png", image_bytes=5, **given))


# ---- What is recorded is found -----------------------------------------------------------------------------------


def test_a_decision_is_found_as_it_was_recorded(tmp_path):
    region = {"box": [1, 2, 3, 4], "area": 12, "peak": 0.9, "contour": [[1, 2], [4, 2], [4, 6], [1, 6]]}
    given = new(3, regions=[region], region_count=1, reason="dark", review=8.0, bundle_version="2", name="\u00dc '\"\n")
    with ReviewStore(tmp_path / "a" / "marks.db", create=True) as store:
        number = store.record(given)
    with ReviewStore(tmp_path / "a" / "marks.db") as store:
        found = store.decision(number)
    assert {key: getattr(found, key) for key in vars(given)} == vars(given)
    assert (found.mark, found.mark_id, found.removed) == (None, None, None)


def test_the_latest_mark_counts_and_all_stay_in_the_history(store):
    number = store.record(new(verdict="NG"))
    for mark, who in (("right", "Ann"), ("false_alarm", " Bob "), (None, "Ann")):
        store.mark(number, mark, who)
        assert store.decision(number).mark == mark
    assert [(one.mark, one.who) for one in store.history(number)] == [
        ("right", "Ann"), ("false_alarm", "Bob"), (None, "Ann"),
    ]  # fmt: skip
    times = [one.time for one in store.history(number)]
    assert times == sorted(times)
    assert abs(datetime.now(times[0].tzinfo) - times[0]) < timedelta(seconds=60)


@pytest.mark.parametrize(
    ("verdict", "mark", "who", "words"),
    [
        ("OK", "false_alarm", "Ann", "A decision OK can't be marked false_alarm: expected one of right, missed_defect"),
        ("NG", "missed_defect", "Ann", "can't be marked missed_defect"),
        ("REVIEW", "right", "Ann", "can't be marked right"),
        ("OK", "good", "Ann", "mark=good: expected one of right"),
        ("OK", "right", "  ", "expected the name of who marks"),
        ("OK", "right", "A" * 81, "at most 80"),
    ],
)
def test_a_mark_that_makes_no_sense_is_refused(store, verdict, mark, who, words):
    number = store.record(new(verdict=verdict))
    with pytest.raises(ReviewError, match=words):
        store.mark(number, mark, who)
    assert store.history(number) == ()
    with pytest.raises(ReviewError, match="no decision 77"):
        store.mark(77, "right", "Ann")


def test_who_did_not_see_the_last_mark_is_told(store):
    number = store.record(new(verdict="NG"))
    first = store.mark(number, "right", "Ann", seen=0)
    with pytest.raises(MarkedSinceError, match="Ann marked it right in the meantime"):
        store.mark(number, "false_alarm", "Bob", seen=0)
    store.mark(number, "false_alarm", "Bob", seen=first.id)
    assert [one.who for one in store.history(number)] == ["Ann", "Bob"]


# ---- Pages -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """300 decisions: some at one time, of one score, without a score, or marked."""
    chance = random.Random(0)
    with ReviewStore(tmp_path_factory.mktemp("many") / "marks.db", create=True) as store:
        for number in range(300):
            moment = START + timedelta(seconds=number // 3)
            score = None if number % 50 == 0 else float(number // 2 % 70)
            store.record(new(number, time=moment, score=score, model="ab"[number % 7 == 0]))
            if chance.random() < 0.4:
                store.mark(number + 1, "not_a_part", "Ann")
        yield store


FILTERS = [
    Filter(),
    Filter(verdicts=["NG"]),
    Filter(verdicts=["OK", "REVIEW"], marks=["unmarked"]),
    Filter(marks=["not_a_part", "right"]),
    Filter(lowest=20, highest=40.0),
    Filter(lowest=60),
    Filter(since=START + timedelta(seconds=20), until=START + timedelta(seconds=60), verdicts=["INVALID", "NG"]),
    Filter(model="b", highest=30, marks=["unmarked"]),
    Filter(model="nobody"),
]


@pytest.mark.parametrize("order", ["newest", "oldest", "highest", "lowest"])
@pytest.mark.parametrize("wanted", FILTERS)
def test_pages_together_are_what_a_plain_walk_finds(many, wanted, order):
    def wants(one):
        score = float("inf") if one.score is None else one.score
        marked = one.mark or "unmarked"
        return (
            (not wanted.verdicts or one.verdict in wanted.verdicts)
            and (not wanted.marks or marked in wanted.marks)
            and (wanted.lowest is None or score >= wanted.lowest)
            and (wanted.highest is None or score <= wanted.highest)
            and (wanted.since is None or one.time >= wanted.since)
            and (wanted.until is None or one.time < wanted.until)
            and wanted.model in (None, one.model)
        )

    def key(one):
        return (one.time if order in ("newest", "oldest") else float("inf") if one.score is None else one.score, one.id)

    everything = [many.decision(number) for number in range(1, 301)]
    expected = sorted(filter(wants, everything), key=key, reverse=order in ("newest", "highest"))
    found, after, pages = [], None, 0
    while True:
        page = many.page(wanted, order, after, limit=7)
        found += page.decisions
        pages += 1
        if (after := page.next) is None:
            break
    assert [one.id for one in found] == [one.id for one in expected]
    assert pages == max(1, -(-len(expected) // 7)), "no page is empty but the only one"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"verdicts": ["ng"]}, "verdict=ng: expected some of NG"),
        ({"marks": ["none"]}, "mark=none: expected some of right"),
        ({"lowest": 3, "highest": 2}, "score ends before it begins"),
        ({"since": START, "until": START - timedelta(1)}, "time ends before"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(wanted, words):
    with pytest.raises(ReviewError, match=words):
        Filter(**wanted)


@pytest.mark.parametrize("after", ["x", "~3", "nan~3", "3~x", ""])
def test_a_cursor_that_is_none_is_refused(many, after):
    with pytest.raises(ReviewError, match="expected the `next` of the page before"):
        many.page(order="highest", after=after)


def filled(path, count):
    """A store with so many decisions, a tenth of which are marked, written in one go."""
    store = ReviewStore(path, create=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            """WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)
            INSERT INTO decisions (time, model, model_id, name, content, score, rank, threshold, pixel_threshold,
                verdict, width, height, regions, region_count, mark, mark_id)
            SELECT strftime('%Y-%m-%dT%H:%M:%f', 1760000000 + i, 'unixepoch') || '+00:00', 'toy', 'id', i || '.png', i,
                i * 7919 % 1000 / 100.0, i * 7919 % 1000 / 100.0, 9, 9, CASE WHEN i % 50 THEN 'OK' ELSE 'NG' END, 9, 9,
                '[]', 0, CASE WHEN i % 10 THEN NULL ELSE 'right' END, CASE WHEN i % 10 THEN NULL ELSE i END FROM n""",
            (count,),
        )
    return store


def steps(store, work):
    """Instructions of SQLite's machine that some work takes, in units of ten."""
    taken = 0

    def count():
        nonlocal taken
        taken += 1

    store._reader.set_progress_handler(count, 10)
    try:
        work()
    finally:
        store._reader.set_progress_handler(None, 0)
    return taken


@pytest.mark.parametrize("count", [30_000, pytest.param(300_000, marks=pytest.mark.slow)])
def test_a_page_of_many_decisions_takes_no_more_steps_than_one_of_few(tmp_path, count):
    with filled(tmp_path / "few.db", 3_000) as few, filled(tmp_path / "many.db", count) as many:
        for wanted in (Filter(), Filter(verdicts=["NG"]), Filter(marks=["unmarked"]), Filter(lowest=2, highest=8)):
            for order in ("newest", "oldest", "highest", "lowest"):
                for after in (None, few.page(wanted, order, limit=20).next):
                    taken = [steps(one, lambda one=one: one.page(wanted, order, after)) for one in (few, many)]  # noqa: B023
                    assert taken[1] <= 1.5 * taken[0] + 50, (wanted, order, after, taken)
        plan = many._reader.execute(f"EXPLAIN QUERY PLAN {plain(many)}").fetchall()
        assert not [row[3] for row in plan if row[3].startswith("SCAN decisions")]


def plain(store):
    seen = []
    store._reader.set_trace_callback(seen.append)
    store.page(Filter(lowest=3, verdicts=["NG", "OK"]))
    store._reader.set_trace_callback(None)
    return seen[0]


# ---- For recalibration, and other programs -----------------------------------------------------------------------


@pytest.fixture
def marked(store):
    """One decision of each verdict and mark that fit, with images; and an image decided upon twice."""
    pairs = [
        ("OK", "right"), ("NG", "false_alarm"), ("NG", "right"), ("OK", "missed_defect"), ("REVIEW", "missed_defect"),
        ("INVALID", "right"), ("OK", "not_a_part"), ("OK", None),
    ]  # fmt: skip
    for number, (verdict, mark) in enumerate(pairs):
        decision = kept(store, number, verdict=verdict)
        if mark:
            store.mark(decision, mark, "Ann")
    first, again = (kept(store, number, verdict="NG", content="twice") for number in (20, 21))
    store.mark(again, "right", "Ann")
    store.mark(first, "false_alarm", "Bob")  # the later mark, of the earlier decision
    store.mark(store.record(new(30, verdict="NG")), "false_alarm", "Bob")  # not kept
    return store


def test_marks_say_which_images_are_normal_and_which_show_defects(marked):
    found = {int(one.path.stem): one.truth for one in marked.marked()}
    assert found == {0: "normal", 1: "normal", 2: "defect", 3: "defect", 4: "defect", 20: "normal"}
    assert all(one.path.read_bytes() == b"image" for one in marked.marked())
    assert marked.marked_without_image() == 1


def test_marks_on_several_models_are_never_mixed(marked, tmp_path):
    marked.mark(kept(marked, 40, verdict="NG", model="other"), "right", "Ann")
    with pytest.raises(ReviewError, match="several models: other, toy"):
        list(marked.marked())
    with pytest.raises(ReviewError, match="several models"):
        write_manifest(marked, tmp_path / "m.csv")
    assert not list(tmp_path.glob("m.csv*"))
    assert [one.path.stem for one in marked.marked("other")] == ["40"]
    assert len(list(marked.marked("toy"))) == 6


def test_a_mark_that_was_taken_back_says_nothing(marked):
    marked.mark(1, None, "Bob")
    assert 0 not in {int(one.path.stem) for one in marked.marked()}


def test_an_image_that_is_gone_is_said_and_left_out(marked, caplog):
    (marked.path.parent / "images" / "2.png").unlink()
    assert 2 not in {int(one.path.stem) for one in marked.marked()}
    assert "decision 3: its image" in caplog.text


def test_marks_that_come_during_a_walk_do_not_disturb_it(marked):
    walk = marked.marked()
    next(walk)
    marked.mark(8, "right", "Ann")
    assert len(list(walk)) == 5


def test_the_manifest_is_read_as_data(marked, tmp_path):
    assert write_manifest(marked, tmp_path / "lists" / "new.csv") == 6
    found = read_manifest(tmp_path / "lists" / "new.csv", "parts")
    assert sorted(int(one.path.stem) for one in found.train) == [0, 1, 20]
    assert sorted((int(one.path.stem), one.defect) for one in found.test) == [
        (2, "defect"),
        (3, "defect"),
        (4, "defect"),
    ]
    assert "../images/0.png" in (tmp_path / "lists" / "new.csv").read_text()


def test_the_table_holds_every_mark(marked, tmp_path):
    assert write_table(marked, tmp_path / "marks.csv") == 10
    with (tmp_path / "marks.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == TABLE
    assert [(row["name"], row["verdict"], row["mark"], row["truth"], row["who"]) for row in rows[:3]] == [
        ("0.png", "OK", "right", "normal", "Ann"),
        ("1.png", "NG", "false_alarm", "normal", "Ann"),
        ("2.png", "NG", "right", "defect", "Ann"),
    ]
    assert [row["image"] for row in rows[-2:]] == ["images/21.png", ""]


# ---- The file ----------------------------------------------------------------------------------------------------


def test_a_backup_holds_what_was_there_and_takes_the_place_of_nothing(marked, tmp_path):
    marked.backup(tmp_path / "backup.db")
    marked.mark(1, "not_a_part", "Bob")
    with ReviewStore(tmp_path / "backup.db") as copy:
        assert copy.counts()[("OK", "right")] == 1
        assert copy.history(1) == marked.history(1)[:1]
    with pytest.raises(ReviewError, match="is there already"):
        marked.backup(tmp_path / "backup.db")
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.write_bytes(b"id,mark\n" * 500), "is no store of decisions, or is damaged"),
        (lambda path: foreign(path, "CREATE TABLE x (y)"), "is an SQLite file of another program"),
        (lambda path: foreign(path, "PRAGMA application_id = 7"), "is an SQLite file of another program"),
    ],
)
def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path, make, words):
    path = tmp_path / "marks.db"
    make(path)
    before = path.read_bytes() if path.exists() else None
    for create in (False, True)[: 1 if before is None else 2]:
        with pytest.raises(ReviewError, match=words):
            ReviewStore(path, create)
    assert (path.read_bytes() if path.exists() else None) == before


def foreign(path, statement):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_a_store_of_another_schema_is_refused(store):
    foreign(store.path, "PRAGMA user_version = 2")
    with pytest.raises(ReviewError, match="expected a store of schema 1, got 2"):
        ReviewStore(store.path)


def test_a_store_that_another_process_makes_while_it_is_looked_at_is_no_foreign_file(tmp_path):
    path = tmp_path / "marks.db"

    class Slow(sqlite3.Connection):
        """After its first answer another process makes the store."""

        def execute(self, *arguments):
            answer = super().execute(*arguments).fetchone()
            if not made:
                made.append(ReviewStore(path, create=True))
            return Answer(answer)

    class Answer:
        def __init__(self, row):
            self.row = row

        def fetchone(self):
            return self.row

    made = []
    with closing(sqlite3.connect(path, factory=Slow)) as connection:
        database._check(connection, path)
    made[0].close()


def test_two_reviewers_and_a_line_write_at_once(tmp_path):
    path = tmp_path / "marks.db"

    def work(who):
        with ReviewStore(path, create=True) as store:  # all make the file at once, too
            for number in range(20):
                store.mark(store.record(new(number, verdict="NG")), "right", who)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, ("Ann", "Bob", "line")))
    with ReviewStore(path) as store:
        assert store.counts() == {("NG", "right"): 60}
        assert sorted(store.history(one.id)[0].who for one in store.page(limit=99).decisions) == sorted(
            ["Ann", "Bob", "line"] * 20
        )


def test_marks_that_were_acknowledged_survive_a_kill(tmp_path):
    path = tmp_path / "marks.db"
    with ReviewStore(path, create=True) as store:
        for number in range(40):
            store.record(new(number, verdict=VERDICTS[number % 4]))
    chance, said = random.Random(1), []
    for _ in range(4):
        command = [sys.executable, str(HERE / "reviewed.py"), str(path)]
        reviewers = [
            subprocess.Popen([*command, who], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(HERE.parent)})
            for who in ("Ann", "Bob")
        ]
        for _ in range(chance.randint(6, 10)):  # marks, however long they take
            said += [one.stdout.readline() for one in reviewers]
        time.sleep(chance.uniform(0, 0.1))
        for one in reviewers:
            one.kill()
            said += one.communicate()[0].splitlines(keepends=True)
    acknowledged = [line.split() for line in said if line.endswith("\n")]
    assert len(acknowledged) > 40
    with ReviewStore(path) as store:
        assert store._reader.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        there = {entry.id: entry for number in range(1, 41) for entry in store.history(number)}
        for entry, decision, mark, who in acknowledged:
            found = there[int(entry)]
            assert (found.decision, found.mark, found.who) == (int(decision), mark, who)
        for number in range(1, 41):
            history = store.history(number)
            assert store.decision(number).mark == (history[-1].mark if history else None)


# ---- The command -------------------------------------------------------------------------------------------------


def test_the_command_writes_what_is_asked_for(marked, tmp_path):
    ran = command("marks", f"store={marked.path}", "backup=b.db", "table=t.csv", "manifest=m.csv", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert {"b.db", "t.csv", "m.csv"} <= {path.name for path in tmp_path.iterdir()}
    assert "m.csv, 6 images" in ran.out
    assert "nothing can be learned of them: 1" in ran.out
    assert re.search(r"^NG +2 +3 +0 +0 +0$", ran.out, re.MULTILINE)
    ran = command("marks", "store=nowhere.db", cwd=tmp_path)
    assert (ran.code, "there is no such file" in ran.out, "Traceback" in ran.out) == (1, True, False)
    assert not (tmp_path / "nowhere.db").exists()
