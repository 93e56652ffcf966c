"""What belongs to a folder of images, and what is never data."""

import os
import unicodedata

import pytest
from PIL import Image

from anomaly_lightning.deploy.inputs import find_images
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime import files
from anomaly_lightning.runtime.files import ABOVE, HIDDEN, NOWHERE, OWN, images_in, left_out_of, mark_cache, on_disk
from anomaly_lightning.runtime.left_out import left_out_below
from anomaly_lightning.runtime.reading import FORMATS

NFC, NFD = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def test_nothing_hidden_or_kept_by_the_system_is_data(tmp_path):
    hidden = [".Trash-1000/files/a.png", ".ipynb_checkpoints/b.png", "cam/._1.png", "@eaDir/1.png/thumb.jpg"]
    touch(tmp_path, "1.png", "cam/1.png", *hidden)
    assert names(images_in(tmp_path, recursive=True), tmp_path) == ["1.png", "cam/1.png"]
    assert sorted(names(left_out_of(tmp_path)[HIDDEN], tmp_path)) == sorted(hidden)
    (group,) = left_out_below([tmp_path])
    assert group.words().startswith("4 file(s) left out (hidden")


def test_a_folder_below_a_hidden_one_is_data_when_it_is_asked_for(tmp_path):
    touch(tmp_path, ".cache/images/1.png")
    assert len(images_in(tmp_path / ".cache" / "images", recursive=True)) == 1


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "good/1.png", "elsewhere/2.png", "elsewhere/deep/3.png", "test/bad/4.png")
    good = tmp_path / "good"
    (good / "cam2").symlink_to(tmp_path / "elsewhere")
    (good / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(good)
    (good / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (good / "up").symlink_to(tmp_path)
    found = images_in(good, recursive=True)
    assert sorted(path.name for path in found) == ["1.png", "2.png", "3.png"]
    assert {why: names(paths, good) for why, paths in left_out_of(good).items()} == {
        ABOVE: ["up"],
        NOWHERE: ["gone.png"],
    }


def test_what_is_there_comes_before_links_and_hidden_folders_last(tmp_path):
    touch(tmp_path, ".store/1.png", "b/2.png")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "cam").symlink_to(tmp_path / ".store")
    assert names(images_in(tmp_path, recursive=True), tmp_path) == ["b/2.png", "cam/1.png"]


@pytest.mark.parametrize("marker", files.MARKERS)
def test_the_outputs_of_runs_are_no_data(tmp_path, marker):
    own = ["decided/heatmaps/1.png", "decided/masks/1.png"]
    touch(tmp_path, "1.png", "cam/2.png", f"decided/{marker}", *own)
    assert names(images_in(tmp_path, recursive=True), tmp_path) == ["1.png", "cam/2.png"]
    assert names(left_out_of(tmp_path)[OWN], tmp_path) == own
    found, _ = find_images(str(tmp_path / "**" / "*.png"))
    assert names(found, tmp_path) == ["1.png", "cam/2.png"]


def test_outputs_beside_the_images_leave_the_images_data(tmp_path):
    touch(tmp_path, "1.png", "decisions.csv", "heatmaps/1.png", "masks/1.png", "cam/2.png")
    assert names(images_in(tmp_path, recursive=True), tmp_path) == ["1.png", "cam/2.png"]
    assert len(images_in(tmp_path / "heatmaps", recursive=True)) == 1


def test_folders_called_like_outputs_are_data_without_the_marker(tmp_path):
    touch(tmp_path, "masks/1.png", "maps/2.png")
    assert len(images_in(tmp_path, recursive=True)) == 2


def test_a_folder_and_a_glob_take_the_same_files(tmp_path):
    suffixes = [".jp2", ".jfif", ".gif", ".ppm", ".PNG", ".tiff"]
    touch(tmp_path, *(f"{number}{suffix}" for number, suffix in enumerate(suffixes)), "notes.txt")
    (tmp_path / "up").symlink_to(tmp_path)
    folder, _ = find_images(str(tmp_path))
    matched, _ = find_images(str(tmp_path / "**" / "*"))
    assert folder == matched == images_in(tmp_path, recursive=True)
    assert [path.suffix for path in folder] == suffixes
    with pytest.raises(DataError, match="as a glob it matches no image"):
        find_images(str(tmp_path / "*.txt"))


def test_every_suffix_is_decoded_and_none_is_missing():
    Image.init()
    decoded = {suffix for suffix, form in Image.registered_extensions().items() if form in FORMATS}
    assert set(files.IMAGE_SUFFIXES) <= decoded | {".jpe", ".apng", ".pfm"}
    assert decoded <= set(files.IMAGE_SUFFIXES)


def test_a_glob_ends_where_links_lead_upwards_and_tells_what_it_leaves_out(tmp_path, caplog):
    touch(tmp_path, "1.png", "cam/2.png", "cam/@eaDir/2.png", ".Trash-1000/3.png")
    for number in range(3):  # Python's own glob would follow each of them at each of 40 levels
        (tmp_path / "cam" / f"up{number}").symlink_to(tmp_path)
    found, base = find_images(str(tmp_path / "**" / "*.png"))
    assert (names(found, tmp_path), base) == (["1.png", "cam/2.png"], tmp_path)
    assert "2 file(s) left out (hidden" in caplog.text
    assert names(find_images(str(tmp_path / "*" / "*.png"))[0], tmp_path) == ["cam/2.png"]
    assert names(find_images(str(tmp_path / ".Trash-1000" / "*"))[0], tmp_path) == [".Trash-1000/3.png"]


def test_links_in_a_circle_are_told(tmp_path):
    touch(tmp_path, "1.png")
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert names(images_in(tmp_path, recursive=True), tmp_path) == ["1.png"]
    assert {why: names(paths, tmp_path) for why, paths in left_out_of(tmp_path).items()} == {
        NOWHERE: ["a.png", "b.png", "self"]
    }


def test_caches_and_bundles_are_no_data_below_a_folder(tmp_path):
    touch(tmp_path, "1.png", "cache/tiles/ab/tile_0.png", "bundle/bundle.json", "bundle/references/1.png")
    mark_cache(tmp_path / "cache")
    assert names(images_in(tmp_path, recursive=True), tmp_path) == ["1.png"]
    with pytest.raises(DataError, match="matches no image"):
        find_images(str(tmp_path / "*" / "*" / "*.png"))
    assert len(images_in(tmp_path / "cache" / "tiles" / "ab")) == 1


@pytest.mark.parametrize(("stored", "asked"), [(NFC, NFD), (NFD, NFC)])
def test_names_in_another_unicode_form_are_found(tmp_path, stored, asked):
    touch(tmp_path, f"{stored}/{stored}.png")
    assert on_disk(tmp_path / asked / f"{asked}.png") == tmp_path / stored / f"{stored}.png"
    assert on_disk(tmp_path / "none" / asked) == tmp_path / "none" / asked
    assert len(find_images(str(tmp_path / asked))[0]) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everywhere")
def test_a_folder_that_cannot_be_opened_is_named(tmp_path):
    touch(tmp_path, "1.png", "locked/2.png")
    (tmp_path / "locked").chmod(0)
    assert left_out_of(tmp_path) == {files.CLOSED: [tmp_path / "locked"]}
