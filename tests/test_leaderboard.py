"""The leaderboard: what the runs left, means and deviations, the files, the page and the words."""

import csv
import io
import json
import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console
from toy import command, flat

from anomaly_lightning.reports.leaderboard import read_rows, show, summarise, write_leaderboard
from anomaly_lightning.training.callbacks.leaderboard import LeaderboardCallback

LONG = (
    "DataError: There are no images of category 'cable' (data.root=/data, as set): expected the folder "
    "/data/cable/train/good.\nState data.root=<folder that holds cable/train/good> | or another <b>category</b>."
)


def make_run(folder: Path, category="leather", auroc=0.9, model="autoencoder", seed=0, backbone="tiny", overrides=()):
    folder.mkdir(parents=True)
    (folder / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / ".hydra" / "overrides.yaml")
    image = {"precision": None, "recall": 0.5, "f1": auroc - 0.1, "f1_floor": 0.7, "f1_oracle": 0.95, "auroc": auroc}
    image["ci95"] = {"auroc": [auroc - 0.05, auroc + 0.05], "f1": [0.4, 0.9]}
    names = {"category": category, "model": model, "backbone": backbone, "seed": seed}
    measured = {
        "image": image,
        "pixel": {"auroc": 0.8, "aupro": 0.6},
        "timing": {"total_s": 12.3},
        "peak_memory_mb": 900,
    }
    (folder / "metrics.json").write_text(json.dumps(names | measured))
    run = {"status": "finished", "identity": str(folder), "validation_loss": 0.25, "seed": seed}
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def make_failure(folder: Path, category="cable", model="autoencoder", seed=0):
    folder.mkdir(parents=True)
    names = {"category": category, "model": model, "backbone": "tiny", "seed": str(seed)}
    (folder / "error.json").write_text(json.dumps({"names": names, "error": LONG}))
    return folder


@pytest.fixture
def sweep(tmp_path):
    """Two models, two seeds, three categories: one fails with both models, one seed of grid fails."""
    folder, job = tmp_path / "multirun" / "now", 0
    for model, better in (("autoencoder", 0.0), ("pca", 0.02)):
        for category, base in (("leather", 0.7), ("grid", 0.8), ("cable", None)):
            for seed in (0, 1):
                place = folder / str(job)
                if base is None or (category == "grid" and seed == 1):
                    make_failure(place, category, model, seed)
                else:
                    make_run(place, category, base + better + 0.1 * seed, model, seed)
                job += 1
    return folder


def records(folder: Path) -> list[dict[str, str]]:
    with (folder / "leaderboard.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def printed(board, width=80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    show(board, [], console)
    return console.file.getvalue()


def test_a_row_a_run_in_natural_order_with_metrics_and_intervals(tmp_path):
    for job in (10, 9, 2):
        make_run(tmp_path / str(job), seed=job)
    rows = read_rows([tmp_path])
    assert [row.names["seed"] for row in rows] == ["2", "9", "10"]
    assert rows[0].metrics["auroc"] == 0.9
    assert rows[0].metrics["precision"] is None
    assert rows[0].metrics["validation_loss"] == 0.25
    assert rows[0].metrics["peak_memory_mb"] == 900
    assert rows[0].intervals == {"auroc": pytest.approx((0.85, 0.95)), "f1": (0.4, 0.9)}


def test_seeds_are_a_mean_and_a_sample_deviation_and_categories_weigh_the_same(sweep):
    board = summarise(read_rows([sweep]))
    assert [one.names["category"] for one in board.of_seeds] == ["leather", "leather"]
    leather = board.of_seeds[0]
    assert leather.means["auroc"] == pytest.approx(0.75)
    assert leather.deviations["auroc"] == pytest.approx(statistics.stdev([0.7, 0.8]))
    assert leather.deviations["precision"] is None
    autoencoder, pca = board.by_method
    assert (autoencoder.runs, autoencoder.failed) == (2, 1)
    assert autoencoder.means["auroc"] == pytest.approx((0.75 + 0.8) / 2)  # not (0.7 + 0.8 + 0.8) / 3
    assert pca.means["auroc"] == pytest.approx((0.77 + 0.82) / 2)


def test_settings_that_differ_make_another_method_and_shared_ones_are_not_told(tmp_path):
    for job, latent in enumerate((16, 16, 32)):
        told = ["data=synthetic", "category=leather", f"seed={job}", f"model.latent={latent}", "data.root=/x"]
        make_run(tmp_path / str(job), seed=job, overrides=told)
    board = summarise(read_rows([tmp_path]))
    assert [row.settings for row in board.rows] == [("model.latent=16",), ("model.latent=16",), ("model.latent=32",)]
    assert [one.runs for one in board.by_category] == [2, 1]


def test_the_csv_keeps_all_digits_and_the_whole_error(sweep):
    write_leaderboard(summarise(read_rows([sweep])), sweep)
    lines = records(sweep)
    kinds = [line["kind"] for line in lines]
    assert (kinds.count("run"), kinds.count("seeds_mean"), kinds.count("seeds_sd")) == (12, 2, 2)
    assert kinds.count("categories_mean") == 2
    second = next(line for line in lines if line["kind"] == "run" and line["seed"] == "1")
    assert float(second["auroc"]) == 0.7 + 0.1
    assert float(second["auroc_low"]) == 0.7 + 0.1 - 0.05
    assert second["precision"] == ""
    assert second["run"] == "1"
    failed = [line for line in lines if line["kind"] == "run" and line["error"]]
    assert len(failed) == 6
    assert all(line["error"] == LONG for line in failed)
    assert not list(sweep.glob("*.part"))


def test_the_markdown_is_one_table_with_as_many_cells_in_each_line(sweep):
    write_leaderboard(summarise(read_rows([sweep])), sweep)
    lines = (sweep / "leaderboard.md").read_text().splitlines()
    assert len(lines) == 2 + 12 + 4 + 2
    assert len({line.count("|") for line in lines}) == 1


def test_the_words_fit_80_columns_and_tell_errors_whole(sweep):
    text = printed(summarise(read_rows([sweep])))
    assert max(map(len, text.splitlines())) <= 80
    table, _, below = text.partition("grid (model autoencoder, seed 1); ")
    assert "DataError" not in table
    assert f"cable (model pca, seed 1): {' '.join(LONG.split())}" in " ".join(below.split())
    assert below.count("DataError") == 1
    assert re.search(r"leather +autoencoder +0 +0\.700 +0\.600 +0\.700 +0\.600 +12 +900", table)
    assert re.search(r"leather +autoencoder +mean of 2 +0\.750", table)
    assert re.search(r"± sd +0\.071", table)
    assert re.search(r"mean of 2 \(of 3\) +pca +0\.795", table)
    assert "backbone tiny" in table.splitlines()[0]


def test_names_fold_before_numbers_do(tmp_path):
    for job, name in enumerate(("efficientnet_lite0", "wide_resnet50_2")):
        make_run(tmp_path / str(job), category="a_category_with_quite_a_long_name", backbone=name, seed=job)
        make_run(tmp_path / f"1{job}", model="patchcore", backbone=name, overrides=[f"model.bank={job}00"])
    text = printed(summarise(read_rows([tmp_path])))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("0.900") >= 4


def test_a_run_that_was_taken_over_comes_once_and_a_lost_one_says_so(tmp_path):
    original = make_run(tmp_path / "first" / "0")
    for name in ("second", "third"):
        folder = tmp_path / name / "0"
        folder.mkdir(parents=True)
        (folder / "reused.json").write_text(json.dumps({"run": "../../first/0"}))
        (row,) = read_rows([tmp_path / name])
        assert row.folder == original
        assert row.metrics["auroc"] == 0.9
    assert len(read_rows([tmp_path])) == 1
    shutil.rmtree(original)
    (row,) = read_rows([tmp_path / "third"])
    assert "which is gone" in row.error
    assert row.folder == tmp_path / "third" / "0"


def test_a_cut_off_run_is_a_row_until_it_was_run_again(tmp_path):
    cut_off = make_run(tmp_path / "first" / "0")
    run = {"status": "training", "identity": "same", "seed": 3, "resolved": {"category": "tile", "model": "pca"}}
    (cut_off / "run.json").write_text(json.dumps(run | {"resolved": run["resolved"] | {"backbone": "tiny (as set)"}}))
    (row,) = read_rows([tmp_path])
    assert row.error == "cut off with status 'training'"
    assert row.names == {"category": "tile", "model": "pca", "backbone": "tiny", "seed": "3"}
    done = make_run(tmp_path / "second" / "0")
    (done / "run.json").write_text(json.dumps({"status": "finished", "identity": "same"}))
    (row,) = read_rows([tmp_path])
    assert row.folder == done


def test_broken_files_are_no_reason_to_lose_the_other_rows(tmp_path):
    (make_run(tmp_path / "0") / "run.json").write_text('{"status": "train')
    (make_run(tmp_path / "1") / "metrics.json").write_text("")
    make_run(tmp_path / "2")
    rows = read_rows([tmp_path])
    assert len(rows) == 3
    assert rows[2].metrics["auroc"] == 0.9


class Page(HTMLParser):
    """Rows of the table of runs, links, and anything that would ask another place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.runs, self.links, self.outside, self.inside = 0, [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "table":
            self.inside = attributes.get("id") == "runs"
        self.runs += tag == "tr" and self.inside
        if tag == "a":
            self.links.append(attributes["href"])
        sources = [value for name, value in attrs if name in ("src", "srcset", "href") and tag != "a"]
        self.outside += [source for source in sources if not source.startswith("data:")]


def test_the_page_is_one_file_with_relative_links_and_escaped_words(sweep):
    (sweep / "0" / "report.html").write_text("<p>report</p>")
    write_leaderboard(summarise(read_rows([sweep])), sweep)
    text = (sweep / "leaderboard.html").read_text()
    page = Page(text)
    assert page.runs == 1 + 12
    assert page.outside == []
    assert not re.search(r"@import|url\(|fetch\(|https?://", text)
    assert page.links[:3] == ["#main", "0/report.html", "1"]
    assert all((sweep / link).exists() for link in page.links[1:])
    assert "&lt;b&gt;category&lt;/b&gt;" in text
    assert "<b>category</b>" not in text
    assert "6 failed" in text
    assert "0.650 to 0.750" in text
    assert "± 0.0707" in text
    assert text.count('class="compared"') == 4


def test_one_category_needs_no_means_and_no_comparison(tmp_path):
    make_run(tmp_path / "0")
    write_leaderboard(summarise(read_rows([tmp_path])), tmp_path)
    text = (tmp_path / "leaderboard.html").read_text()
    assert "Means over categories" not in text
    assert "Several seeds" not in text
    assert "mean of" not in printed(summarise(read_rows([tmp_path])))


def test_the_command_takes_folders_and_writes_into_the_first_or_where_asked(sweep, tmp_path):
    other = make_run(tmp_path / "train" / "wood" / "now", "wood", 0.99).parent
    ran = command("leaderboard", f"runs=[{sweep},{other}]", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert sum(line["kind"] == "run" for line in records(sweep)) == 13
    assert "wood" in ran.out
    assert command("leaderboard", f"runs={other}", f"output={tmp_path / 'elsewhere'}", cwd=tmp_path).code == 0
    (line,) = (line for line in records(tmp_path / "elsewhere") if line["kind"] == "run")
    assert line["run"] == "../train/wood/now"
    assert not (tmp_path / "outputs").exists()


def test_the_command_says_what_is_wrong_in_one_paragraph(tmp_path):
    for given, words in (("runs=nowhere", "No such folder: nowhere."), ("runs=.", "No run below .: expected")):
        ran = command("leaderboard", given, cwd=tmp_path)
        assert ran.code == 1
        assert words in flat(ran.out)
        assert "Traceback" not in ran.out
    assert "There is no default for runs" in flat(command("leaderboard", cwd=tmp_path).out)


def test_a_metric_that_no_run_has_gets_no_column(sweep):
    write_leaderboard(summarise(read_rows([sweep])), sweep)
    text = (sweep / "leaderboard.html").read_text()
    assert ">F1 oracle</th>" in text
    assert ">precision</th>" not in text


def test_a_sweep_ends_with_status_1_where_a_run_failed_and_not_otherwise(sweep, tmp_path, capsys):
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(sweep)}}})
    with pytest.raises(SystemExit) as stop:
        LeaderboardCallback().on_multirun_end(config)
    assert stop.value.code == 1
    assert (sweep / "leaderboard.html").is_file()
    make_run(tmp_path / "good" / "0")
    config.hydra.sweep.dir = str(tmp_path / "good")
    LeaderboardCallback().on_multirun_end(config)
    assert (tmp_path / "good" / "leaderboard.csv").is_file()
    capsys.readouterr()


@pytest.mark.browser
def test_in_a_browser_heads_sort_and_nothing_is_asked_of_a_network(sweep):
    pytest.importorskip("playwright.sync_api", reason="needs playwright")
    from browsers import CHROMIUM, chromium

    if CHROMIUM is None:
        pytest.skip("needs chromium on the PATH")
    write_leaderboard(summarise(read_rows([sweep])), sweep)
    asked, troubles = [], []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto((sweep / "leaderboard.html").as_uri())

        heads = page.locator("#runs thead th").all_inner_texts()

        def column(name):
            values = "(rows, at) => rows.map(row => row.cells[5].colSpan > 1 ? '' : row.cells[at].innerText)"
            return page.eval_on_selector_all("#runs tbody tr", values, heads.index(name))

        page.locator("#runs").get_by_role("button", name="AUROC", exact=True).focus()
        page.keyboard.press("Enter")
        rising = [text.split()[0] for text in column("AUROC")[:6]]
        assert rising == sorted(rising)
        assert column("AUROC")[6:] == [""] * 6
        page.keyboard.press("Enter")
        assert [text.split()[0] for text in column("AUROC")[:6]] == rising[::-1]
        assert column("AUROC")[6:] == [""] * 6
        assert page.locator("th[aria-sort=descending]").inner_text().startswith("AUROC")
        assert page.locator("#sorted").inner_text() == "Sorted by AUROC, descending."
        page.locator("#runs").get_by_role("button", name="category").click()
        categories = page.locator("#runs tbody th").all_inner_texts()
        assert categories == ["cable"] * 4 + ["grid"] * 4 + ["leather"] * 4

        assert page.locator(".compared:visible").count() == 1
        page.get_by_label("Metric").select_option("f1")
        assert page.locator("#compared-f1").is_visible()
        assert page.locator("#compared-f1 tbody tr").first.locator(".best").inner_text().startswith("0.67")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert troubles == []
    assert asked == [(sweep / "leaderboard.html").as_uri()]
