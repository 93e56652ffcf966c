"""Which images are kept beside the decisions, and which go when there are too many; nothing goes without a word."""

import logging
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from served import encoded, inspector, spotted

from anomaly_lightning.errors import ReviewError
from anomaly_lightning.review.keeping import ImageKeeper, view_of
from anomaly_lightning.review.recording import MOST_CORNERS, MOST_REGIONS, Recorder, content_of, decided, printable
from anomaly_lightning.review.store import ReviewStore
from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.heatmap import heatmap
from anomaly_lightning.runtime.inspection import Inspection


@pytest.fixture
def store(tmp_path):
    with ReviewStore(tmp_path / "marks.db", create=True) as store:
        yield store


def recorder(store, keep="all", max_bytes=10**9):
    return Recorder(ImageKeeper(store, keep, max_bytes))


def record(recorder, level=255, source=None):
    values = spotted(level)
    return recorder("toy", "id", "part.png", source or encoded(values), inspector(review=0.3)(values))


def files(store):
    return sorted(path.relative_to(store.path.parent).as_posix() for path in images_in(store.path.parent, True))


LEVELS = {"NG": 255, "REVIEW": 100, "OK": 10}


@pytest.mark.parametrize(
    ("keep", "kept"), [("all", ["NG", "REVIEW", "OK"]), ("flagged", ["NG", "REVIEW"]), ("none", [])]
)
def test_images_are_kept_by_verdict(store, keep, kept):
    noted = recorder(store, keep)
    for verdict, level in LEVELS.items():
        assert store.decision(record(noted, level)).verdict == verdict
    there = {one.verdict: one for one in store.page().decisions if one.image}
    assert list(there) == kept[::-1]
    assert files(store) == sorted(one.image for one in there.values())
    for verdict, one in there.items():
        assert (store.path.parent / one.image).read_bytes() == encoded(spotted(LEVELS[verdict]))


def test_what_is_drawn_of_an_image_shows_it(store):
    values = spotted()
    known = store.decision(record(recorder(store)))
    small, heat = (Image.open(store.path.parent / view_of(known.image, view)) for view in ("small", "heatmap"))
    assert small.size == (60, 40)
    said = inspector()(values)
    assert np.array_equal(np.asarray(heat.convert("RGB")), heatmap(said.anomaly_map, said.pixel_threshold))
    sizes = [path.stat().st_size for path in store.path.parent.rglob("*.*g") if path.is_file()]
    assert store.kept().bytes == known.image_bytes == sum(sizes)


def test_a_large_image_is_drawn_small(store):
    wide = np.zeros((300, 900, 3), np.uint8)
    wide[100:140, 700:760, 0] = 255
    number = recorder(store)("toy", "id", "wide", wide, inspector()(wide))
    known = store.decision(number)
    small, heat = (Image.open(store.path.parent / view_of(known.image, view)) for view in ("small", "heatmap"))
    assert (small.size, heat.size) == ((320, 107), (256, 85))
    hot = np.asarray(heat.convert("RGB"))[33, 208]
    assert hot[0] > 100 > hot[2], "the spot is at its place"
    with Image.open(store.path.parent / known.image) as kept:
        assert (kept.format, np.array_equal(np.asarray(kept), wide)) == ("PNG", True)


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", ".jpg"), ("TIFF", ".tif"), ("PPM", ".ppm"), ("BMP", ".bmp")])
def test_an_image_is_called_by_what_it_is(store, kind, suffix):
    known = store.decision(record(recorder(store), source=encoded(spotted(), kind)))
    assert known.image.endswith(suffix)


def test_the_oldest_unmarked_images_go_first_and_it_is_said(store, caplog):
    noted = recorder(store)
    numbers = [record(noted) for _ in range(6)]
    each = store.kept().bytes // 6
    store.mark(numbers[0], "right", "Ann")
    noted.keeper.max_bytes = int(each * 4.5)
    with caplog.at_level(logging.WARNING):
        assert noted.keeper.trim() == 2
    assert [number for number in numbers if store.decision(number).image is None] == numbers[1:3]
    assert all(store.decision(number).removed for number in numbers[1:3])
    assert len(files(store)) == store.kept().images == 4
    assert (store.kept().bytes, store.kept().removed) == (4 * each, 2)
    assert "the oldest 2 without a mark are deleted" in caplog.text
    record(noted)  # the next one makes place for itself
    assert store.decision(numbers[3]).image is None
    assert store.kept().bytes <= noted.keeper.max_bytes


def test_marked_images_are_never_deleted(store, caplog):
    noted = recorder(store)
    marked = [record(noted) for _ in range(3)]
    for number in marked:
        store.mark(number, "right", "Ann")
    noted.keeper.max_bytes = int(store.kept().bytes * 2.5 / 3)
    for _ in range(3):
        assert store.decision(record(noted)).image is None
    assert all(store.decision(number).image for number in marked)
    assert [one.getMessage().startswith("marked images alone") for one in caplog.records] == [False, True]
    for number in marked[:2]:
        store.mark(number, None, "Ann")
    assert store.decision(record(noted)).image, "there is room again"
    assert store.decision(marked[0]).image is None


def test_room_that_another_made_is_not_taken_for_a_full_disk(store, caplog, monkeypatch):
    noted, give_up = recorder(store), store.give_up
    for _ in range(3):
        record(noted)
    noted.keeper.max_bytes = int(store.kept().bytes * 2.5 / 3)

    def second(most_bytes):
        give_up(most_bytes)  # another worker's
        return give_up(most_bytes)

    monkeypatch.setattr(store, "give_up", second)
    assert noted.keeper.trim() == 0
    assert (noted.keeper.full, store.kept().images) == (False, 2)
    assert "marked images alone" not in caplog.text


def test_what_a_crash_left_to_be_deleted_is_deleted_at_the_next_start(store):
    noted = recorder(store)
    record(noted)
    record(noted)
    store.give_up(0)  # the process dies here
    assert len(files(store)) == 2
    assert len(store.doomed()) == 2
    recorder(store)
    assert (files(store), store.doomed()) == ([], [])
    assert not [path for path in (store.path.parent / "views").rglob("*.*g") if path.is_file()]


def test_an_image_that_cannot_be_written_records_nothing(store):
    (store.path.parent / "images").write_text("in the way")
    with pytest.raises(ReviewError, match="an image can't be kept"):
        record(recorder(store))
    assert store.counts() == {}


def test_regions_are_recorded_with_their_outlines():
    said = inspector()(spotted())
    (region,) = decided(said)["regions"]
    assert region["box"] == list(said.regions[0].box)
    assert region["contour"] == [list(point) for point in said.regions[0].contour]


def test_a_mask_in_pieces_does_not_blow_up_the_store():
    mask = np.zeros((200, 300), np.float32)
    mask[:100:4, ::4] = 1
    mask[100:] = 2 * (np.add.outer(np.arange(100), np.arange(300)) % 2)  # one region: its pixels touch by corners alone
    said = Inspection(Image.new("RGB", (300, 200)), 1.0, mask, 0.5, 0.5)
    found = decided(said)
    assert found["region_count"] == len(said.regions) > MOST_REGIONS
    assert len(found["regions"]) == MOST_REGIONS
    assert 300 < max(len(region["contour"]) for region in found["regions"]) <= MOST_CORNERS
    assert max(len(region.contour) for region in said.regions) > MOST_CORNERS


def test_a_score_that_is_no_number_is_none():
    said = inspector()(spotted())
    broken = type(said)(said.image, float("nan"), said.anomaly_map, 0.5, 0.4)
    assert (decided(broken)["score"], decided(broken)["verdict"]) == (None, "NG")


def test_content_tells_images_apart():
    stream = BytesIO(encoded(spotted()))
    assert content_of(stream.getvalue()) != content_of(encoded(spotted(1)))
    assert content_of(spotted()) == content_of(Image.fromarray(spotted())) != content_of(spotted(1))


def test_any_name_can_be_stored(store):
    noted = recorder(store, "none")
    for name in ("a/b.png", "\udcff.png", "", "x" * 900):
        number = noted("toy", "id", name, spotted(), inspector()(spotted()))
        assert store.decision(number).name == printable(name)
    assert datetime.now(UTC) >= store.decision(1).time
