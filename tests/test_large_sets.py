"""predict with format=parquet: a row for each image whatever happens, none twice, and no more work than is missing."""

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle, make_images, spotted
from toy import command, flat, save

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import images_in, left_out_of, walked

pa = pytest.importorskip("pyarrow", reason="format=parquet needs the extra scale")
pytest.importorskip("fsspec", reason="format=parquet needs the extra scale")
from pyarrow import parquet  # noqa: E402

from anomaly_lightning.deploy.scale import fetching, place, scorer  # noqa: E402
from anomaly_lightning.deploy.scale.done import is_done, key  # noqa: E402
from anomaly_lightning.deploy.scale.listing import Listing, named, write_listing  # noqa: E402
from anomaly_lightning.deploy.scale.place import Place  # noqa: E402
from anomaly_lightning.deploy.scale.schema import ROWS, parquet_bytes, unreadable  # noqa: E402
from anomaly_lightning.deploy.scale.summary import count  # noqa: E402
from anomaly_lightning.deploy.scale.worst import histogram, worst  # noqa: E402

COUNT = 40


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """40 images, one of them truncated and one that is a text."""
    folder = make_images(tmp_path_factory.mktemp("images"), COUNT)
    cut = folder / "0" / "0007.png"
    cut.write_bytes(cut.read_bytes()[:200])
    (folder / "0" / "0008.png").write_text("no image")
    return folder


@pytest.fixture
def predict(bundle, tmp_path):
    def run(what, *more, out="out"):
        given = (f"checkpoint={bundle}", f"input={what}", f"output={tmp_path / out}", "part=8", "threads=1")
        return command("predict", *given, "format=parquet", *more, cwd=tmp_path)

    return run


def rows(out):
    """Rows by path; fails where a path comes twice."""
    table = pa.concat_tables([parquet.read_table(path) for path in sorted((out / "rows").glob("*.parquet"))])
    assert table.schema.equals(ROWS)
    listed = table.to_pylist()
    assert len({row["path"] for row in listed}) == len(listed), "a row twice"
    return {row["path"]: row for row in listed}


def facts(out):
    return json.loads((out / "scoring.json").read_text())


def test_a_table_says_what_the_csv_says(predict, images, tmp_path):
    ran = predict(images)
    assert ran.code == 1, "an image can't be read"
    assert f"{COUNT} images: 14 NG, 24 OK, 2 unreadable" in flat(ran.out)
    assert predict(images, "format=csv", out="csv").code == 1
    with (tmp_path / "csv" / "decisions.csv").open(newline="") as stream:
        decided = {row["path"]: row for row in csv.DictReader(stream)}
    with (tmp_path / "csv" / "regions.csv").open(newline="") as stream:
        regions = list(csv.DictReader(stream))
    found = rows(tmp_path / "out")
    assert set(found) == set(decided)
    for path, row in found.items():
        assert row["content_hash"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
        assert (row["verdict"] or "") == decided[path]["decision"]
        if row["error"]:
            assert decided[path]["error"] == f"{path}: {row['error']}"
            assert row["score"] is row["threshold"] is row["regions"] is None
            continue
        assert float(decided[path]["score"]) == pytest.approx(row["score"], rel=1e-6), "batches may differ"
        own = [region for region in regions if region["path"] == path]
        assert [list(map(float, list(region.values())[2:])) for region in own] == [
            list(region.values()) for region in row["regions"]
        ]
    assert sum(bool(row["regions"]) for row in found.values()) == 14


def test_a_second_start_does_what_is_missing_and_nothing_else(predict, images, bundle, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(images, folder)
    predict(folder)
    before = rows(out)
    assert (facts(out)["now"], facts(out)["before"]) == (COUNT, 0)
    ran = predict(folder)
    assert (facts(out)["now"], facts(out)["before"]) == (0, COUNT)
    assert ran.code == 1, "the table still holds unreadable images"
    assert rows(out) == before
    save(spotted(1000), folder / "0" / "0000a.png")  # every part from here on has other images than it had
    changed = folder / "0" / "0011.png"
    save(spotted(1001), changed)
    predict(folder)
    assert (facts(out)["now"], facts(out)["before"]) == (2, COUNT - 1)
    table = parquet.read_table(out / "rows").to_pylist()
    assert len(table) == COUNT + 2, "a row for what the changed file held, and for what it holds"
    assert len({row["content_hash"] for row in table if row["path"] == str(changed)}) == 2
    predict(folder, "validity=false")
    assert facts(out)["now"] == COUNT + 1, "another way to decide is another model"


def test_a_crash_at_any_moment_costs_no_row_and_makes_none_twice(predict, images, bundle, tmp_path, monkeypatch):
    predict(images, out="whole")
    wanted, write, written = rows(tmp_path / "whole"), Place.write, 0

    class Crash(BaseException):
        pass

    def failing(after):
        def wrapped(place, content):
            nonlocal written
            written += 1
            if place.path.endswith(".parquet") and "part-" in place.path:
                left = place.local.with_name(f".{place.local.name}.x.part")
                left.parent.mkdir(exist_ok=True)
                left.write_bytes(content[:100])  # what a killed writer leaves
                if written >= after:
                    raise Crash
            write(place, content)

        return wrapped

    for after in range(1, 12):
        written = 0
        monkeypatch.setattr(Place, "write", failing(after))
        try:
            predict(images)
        except Crash:
            pass
        else:
            break
    monkeypatch.setattr(Place, "write", write)
    assert after > 4, "it was cut off again and again"
    predict(images)
    assert rows(tmp_path / "out") == wanted, "to the last bit of each score"
    assert not list((tmp_path / "out" / "rows").glob(".*"))


def test_a_part_that_is_done_twice_is_one_file(bundle, images, tmp_path):
    """As when a worker is thought dead, and another does its part, too."""
    from anomaly_lightning.runtime.inspector import Inspector

    output = Place.at(str(tmp_path / "out"))
    write_listing(str(images), output / scorer.LISTING, 8)
    job = scorer.Job(str(tmp_path / "out"), "m", "none", 4, 1)
    work = scorer.Scorer(Inspector.load(bundle, threads=1), job, np.array([], "S16"))
    first = work(0)
    (file,) = (tmp_path / "out" / "rows").iterdir()
    content = file.read_bytes()
    second = work(0)
    assert (first.verdicts, first.unreadable, first.now) == (second.verdicts, second.unreadable, 8)
    assert [path.read_bytes() for path in (tmp_path / "out" / "rows").iterdir()] == [content]


def test_a_file_that_could_not_be_opened_is_tried_again(predict, images, tmp_path):
    there, missing = tmp_path / "a.png", tmp_path / "b.png"
    save(spotted(3), there)
    table = tmp_path / "manifest.csv"
    table.write_text("path,label\na.png,good\nb.png,good\n")
    assert predict(table).code == 1
    found = rows(tmp_path / "out")
    assert found[str(missing)]["error"] == "there is no such file"
    assert found[str(missing)]["content_hash"] is None
    save(spotted(4), missing)
    assert predict(table).code == 0
    assert [row["error"] for row in rows(tmp_path / "out").values()] == [None, None]
    assert facts(tmp_path / "out")["now"] == 1


def test_inputs_of_all_kinds_name_the_same_images(images, tmp_path):
    import fsspec

    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    save(spotted(1), folder / ".hidden" / "a.png")
    save(spotted(1), folder / "heatmaps" / "a.png")
    (folder / "scoring.json").write_text("{}")
    (folder / "notes.txt").write_text("no image")
    wanted = sorted(str(path) for path in images_in(folder, recursive=True))
    assert len(wanted) == COUNT
    below = [os.path.relpath(path, tmp_path) for path in wanted]
    (tmp_path / "m.csv").write_text("label,path\n" + "".join(f"good,{path}\n" for path in below))
    parquet.write_table(pa.table({"path": below, "other": range(COUNT)}), tmp_path / "m.parquet")
    for given in (folder, f"{folder}/**/*.png", tmp_path / "m.csv", tmp_path / "m.parquet"):
        assert sorted(named(str(given))) == wanted, given
    system = fsspec.filesystem("memory")
    for path in wanted:
        system.pipe_file(f"/set/{os.path.relpath(path, folder)}", Path(path).read_bytes())
    system.pipe_file("/set/.hidden/a.png", b"")
    there = [f"memory://set/{os.path.relpath(path, folder)}" for path in wanted]
    assert sorted(named("memory://set")) == there
    assert sorted(named("memory://set/**/*.png")) == there
    assert sorted(named("memory://set/0/00[01]*.png")) == there[:20]
    assert list(named(there[0])) == [there[0]]
    data = {path: why for path, why in walked(folder) if why is None}
    assert sorted(map(str, data)) == wanted
    others = left_out_of(folder)
    assert {why for _, why in walked(folder)} == {None, *others}


def test_names_that_are_no_text(predict, tmp_path):
    name = os.fsdecode(b"b\xe4d.png")
    save(spotted(0), tmp_path / "in" / "good.png")
    try:
        shutil.copy(tmp_path / "in" / "good.png", tmp_path / "in" / name)
    except OSError:
        pytest.skip("this file system takes no such names")
    assert predict(tmp_path / "in").code == 0
    assert sorted(Path(path).name for path in rows(tmp_path / "out")) == ["b\N{REPLACEMENT CHARACTER}d.png", "good.png"]
    predict(tmp_path / "in")
    assert facts(tmp_path / "out")["now"] == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.csv", "path\na.png\na.png\n", "twice"),
        ("m.csv", "file\na.png\n", "expected a column path; there are file"),
        ("m.csv", "path,label\na.png,x\n,x\n", "row 2: expected a path"),
        ("m.csv", "path\n", "names no image"),
        ("m.csv", 'path\n"a\n', "line 1: unexpected end of data"),
        ("m.parquet", "no parquet", "is no Parquet file"),
    ],
)
def test_manifests_that_are_none(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        write_listing(str(tmp_path / name), Place.at(str(tmp_path / "l.parquet")), 8)


def test_a_listing_is_read_part_by_part(images, tmp_path):
    target = Place.at(str(tmp_path / "l.parquet"))
    assert write_listing(str(images), target, 16) == COUNT
    listing = Listing(target)
    assert (listing.parts, listing.images) == (3, COUNT)
    assert [len(listing.part(number)) for number in range(3)] == [16, 16, 8]
    assert [path for number in range(3) for path in listing.part(number)] == list(named(str(images)))


@pytest.mark.parametrize(("heatmaps", "wanted"), [("none", 0), ("ng", 14), ("all", 38)])
def test_heatmaps_on_request(predict, images, tmp_path, heatmaps, wanted):
    predict(images, f"heatmaps={heatmaps}")
    named_in_rows = {row["heatmap"] for row in rows(tmp_path / "out").values()} - {None}
    files = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")]
    assert sorted(files) == sorted(named_in_rows)
    assert len(files) == wanted
    predict(images, f"heatmaps={heatmaps}", "format=csv", out="csv")
    assert sum(path.is_file() for path in (tmp_path / "csv" / "heatmaps").rglob("*.png")) == wanted


def test_an_address_as_output(bundle, images, tmp_path):
    import fsspec

    given = (f"checkpoint={bundle}", f"input={images}", "output=memory://results/1", "format=parquet", "heatmaps=ng")
    ran = command("predict", *given, cwd=tmp_path)
    assert "Rows: memory://results/1/rows (Parquet)" in flat(ran.out)
    system = fsspec.filesystem("memory")
    table = pa.concat_tables([parquet.read_table(system.open(path)) for path in system.glob("/results/1/rows/*")])
    assert table.num_rows == COUNT
    assert len(system.glob("/results/1/heatmaps/*/*/*.png")) == 14
    assert command("report", "run=memory://results/1", cwd=tmp_path).code == 0
    assert b"40 images scored" in system.cat_file("/results/1/scoring.html")
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}, "what Hydra writes"


def test_an_object_store_is_reached_through_pyarrow(bundle, images, tmp_path, monkeypatch):
    """s3:// as far as it goes without a server: pyarrow's own file system stands in for its client of S3."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

    store, roots = tmp_path / "store", []
    shutil.copytree(images, store / "bucket" / "set")
    (store / "bucket" / "out" / "rows").mkdir(parents=True)

    def client(root):
        roots.append(root)
        return ArrowFSWrapper(SubTreeFileSystem(str(store), LocalFileSystem()))

    monkeypatch.setattr(place, "_of_arrow", client)
    given = (f"checkpoint={bundle}", "input=s3://bucket/set/**/*.png", "output=s3://bucket/out", "format=parquet")
    for now in (COUNT, 0):
        assert command("predict", *given, "part=16", cwd=tmp_path).code == 1, "two can't be read"
        assert facts(store / "bucket" / "out")["now"] == now
    found = rows(store / "bucket" / "out")
    assert sorted(found) == [f"s3://bucket/set/0/{number:04d}.png" for number in range(COUNT)]
    assert sum(row["verdict"] == "NG" for row in found.values()) == 14
    assert set(roots) == {"s3://bucket"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("engine=ray", "format=csv"), "engine=ray writes format=parquet"),
        (("engine=spark",), "engine=spark: expected local, ray"),
        (("format=json",), "format=json: expected null, csv, parquet"),
        (("heatmaps=some",), "heatmaps=some: expected null, none, ng, all"),
        (("maps=true",), "maps=true needs format=csv"),
        (("part=0",), "expected 1 or more"),
        (("ray.actors=0",), "ray.actors=0: expected 1 or more"),
        (("watch=here", "input=null"), "leave engine and format out"),
        (("format=csv", "input=s3://bucket/images"), "need format=parquet"),
        (("input=nothing://bucket/images",), "nothing://bucket/images can't be reached"),
        (("checkpoint=nowhere",), "There is no model nowhere"),
    ],
)
def test_mistakes_are_one_paragraph(predict, images, words, said):
    ran = predict(images, *words)
    assert ran.code == 1
    assert said in flat(ran.out)
    assert "Traceback" not in ran.out


def test_files_are_read_ahead_but_a_few(images):
    taken = 0

    def paths():
        nonlocal taken
        for path in images_in(images, recursive=True):
            taken += 1
            yield str(path)

    for number, file in enumerate(fetching.fetched(paths(), 2, 5), start=1):
        assert taken <= number + 5
        assert file.data == Path(file.path).read_bytes()
    assert number == COUNT


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_that_is_called_an_image_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert fetching.fetch(str(tmp_path / "a.png")).error == "is not a regular file"


def test_keys_are_found_as_a_set_finds_them():
    rng = np.random.default_rng(0)
    known = {rng.bytes(15) + bytes([last]) for last in (0, 0, 1, 255) for _ in range(50)}
    others = {key("a", str(number), "m") for number in range(50)} | {item[:15] + b"\1" for item in known}
    keys = np.sort(np.array(list(known), "S16"))
    for wanted in known | others:
        assert is_done(keys, wanted) == (wanted in known)
    assert not is_done(np.array([], "S16"), b"x" * 16)
    assert len({key(*parts) for parts in (("a", "b", "c"), ("ab", "", "c"), ("a", "", "bc"), ("a", "b", "d"))}) == 4


def made_table(folder, scores, verdicts, model="m"):
    """Rows by hand, in two files."""
    listed = [
        {
            **unreadable(f"/{number}.png", "0", "", model),
            "error": None,
            "score": score,
            "threshold": 1.0,
            "verdict": said,
        }
        for number, (score, said) in enumerate(zip(scores, verdicts, strict=True))
    ]
    listed += [unreadable(f"/x{number}.png", None, f"truncated after {number} bytes", model) for number in range(3)]
    for part in (0, 1):
        (Place.at(str(folder)) / f"part-{model}{part}.parquet").write(parquet_bytes(listed[part::2]))


def test_counts_histogram_and_worst_images_of_a_table(tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.gamma(2, 0.3, 500)
    verdicts = np.where(scores > 1, "NG", "OK").astype("U7")
    verdicts[::50] = "INVALID"
    made_table(tmp_path, scores.tolist(), verdicts.tolist())
    made_table(tmp_path, [99.0], ["NG"], model="other")
    table = Place.at(str(tmp_path))
    counts = count(table, "m")
    assert counts.verdicts == {name: int((verdicts == name).sum()) for name in ("OK", "NG", "INVALID")}
    assert counts.errors == {"truncated after N bytes": 3}
    valid = np.flatnonzero(verdicts != "INVALID")
    order = valid[np.argsort(-scores[valid])][:7]
    assert [row["path"] for row in worst(table, "m", 7)] == [f"/{number}.png" for number in order]
    drawn = histogram(table, "m")
    assert sum(bar["count"] for bar in drawn["bars"]) == len(valid)
    above = int((scores[valid] > 1).sum())
    assert abs(sum(bar["count"] for bar in drawn["bars"] if bar["bad"]) - above) <= drawn["most"], "but for one bin"
    assert histogram(table, "nobody") is None


def test_the_report_shows_the_worst_images_with_their_heatmaps(predict, images, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    predict(folder, "heatmaps=ng")
    first = max((row for row in rows(tmp_path / "out").values() if row["score"]), key=lambda row: row["score"])
    Path(first["path"]).unlink()
    ran = command("report", f"run={tmp_path / 'out'}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    page = (tmp_path / "out" / "scoring.html").read_text()
    assert page.count('alt="Heatmap"') == 38, "those that were written, and those that were made for the page"
    assert page.count("<img") == 38 + 37
    assert page.index(first["path"]) < page.index(str(folder / "0" / "0001.png"))
    assert "there is no such file" in page
    assert "truncated" in page


def test_the_report_of_a_table_without_its_model_says_so(bundle, images, tmp_path):
    shutil.copytree(bundle, tmp_path / "model")
    given = (f"input={images}", f"output={tmp_path / 'out'}", "format=parquet")
    command("predict", f"checkpoint={tmp_path / 'model'}", *given, cwd=tmp_path)
    shutil.rmtree(tmp_path / "model")
    assert command("report", f"run={tmp_path / 'out'}", cwd=tmp_path).code == 0
    page = (tmp_path / "out" / "scoring.html").read_text()
    assert "Heatmaps are left out" in page
    assert 'alt="Heatmap"' not in page
