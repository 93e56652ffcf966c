"""Layouts of published datasets, generated in their form."""

from pathlib import Path

import pytest

from anomaly_lightning.data.exclusion import Exclusion
from anomaly_lightning.data.layouts import read_layout
from anomaly_lightning.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(samples, root: Path) -> list[tuple]:
    return [(str(s.path.relative_to(root)), s.defect, s.mask and str(s.mask.relative_to(root))) for s in samples]


def test_btad_mixes_png_and_bmp(tmp_path):
    touch(tmp_path / "03", "train/ok/0000.bmp", "train/ok/0001.png", "test/ok/0000.bmp", "test/ko/0000.bmp")
    touch(tmp_path / "03", "test/ko/0001.png", "ground_truth/ko/0000.png", "ground_truth/ko/0001.bmp")
    category = read_layout(tmp_path, "03", "btad")
    root = tmp_path / "03"
    assert [path for path, *_ in listed(category.train, root)] == ["train/ok/0000.bmp", "train/ok/0001.png"]
    assert listed(category.test, root) == [
        ("test/ok/0000.bmp", "good", None),
        ("test/ko/0000.bmp", "ko", "ground_truth/ko/0000.png"),
        ("test/ko/0001.png", "ko", "ground_truth/ko/0001.bmp"),
    ]


def test_loco_has_folders_of_masks(tmp_path):
    root = tmp_path / "breakfast_box"
    touch(root, "train/good/000.png", "validation/good/000.png", "test/good/000.png")
    touch(root, "test/logical_anomalies/000.png", "test/structural_anomalies/000.png")
    touch(root, "ground_truth/logical_anomalies/000/000.png", "ground_truth/logical_anomalies/000/001.png")
    touch(root, "ground_truth/structural_anomalies/000/000.png", "defects_config.json")
    category = read_layout(tmp_path, "breakfast_box", "mvtec_loco")
    assert [path for path, *_ in listed(category.train, root)] == ["train/good/000.png", "validation/good/000.png"]
    assert listed(category.test, root) == [
        ("test/good/000.png", "good", None),
        ("test/logical_anomalies/000.png", "logical_anomalies", "ground_truth/logical_anomalies/000"),
        ("test/structural_anomalies/000.png", "structural_anomalies", "ground_truth/structural_anomalies/000"),
    ]


def test_ad_2_tests_on_what_is_public(tmp_path):
    root = tmp_path / "can"
    touch(root, "train/good/000_regular.png", "validation/good/000_regular.png", "test_private/000_regular.png")
    touch(root, "test_public/good/000_shift_1.png", "test_public/bad/000_regular.png")
    touch(root, "test_public/bad/000_overexposed.png", "test_public/ground_truth/bad/000_regular_mask.png")
    touch(root, "test_public/ground_truth/bad/000_overexposed_mask.png", "test_public/ground_truth/stray.png")
    category = read_layout(tmp_path, "can", "mvtec_ad_2")
    assert len(category.train) == 2
    assert listed(category.test, root / "test_public") == [
        ("good/000_shift_1.png", "good", None),
        ("bad/000_overexposed.png", "bad", "ground_truth/bad/000_overexposed_mask.png"),
        ("bad/000_regular.png", "bad", "ground_truth/bad/000_regular_mask.png"),
    ]


def visa(root: Path) -> None:
    rows = ["object,split,label,image,mask"]
    for name in ("candle", "pcb1"):
        normal, anomaly = f"{name}/Data/Images/Normal", f"{name}/Data/Images/Anomaly"
        touch(
            root, f"{normal}/0000.JPG", f"{normal}/0001.JPG", f"{anomaly}/000.JPG", f"{name}/Data/Masks/Anomaly/000.png"
        )
        rows += [f"{name},train,normal,{normal}/0000.JPG,", f"{name},test,normal,{normal}/0001.JPG,"]
        rows += [f"{name},test,anomaly,{anomaly}/000.JPG,{name}/Data/Masks/Anomaly/000.png"]
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\r\n".join(rows))


def test_visa_goes_by_its_split_file(tmp_path):
    visa(tmp_path)
    category = read_layout(tmp_path, "pcb1", "visa")
    root = tmp_path / "pcb1" / "Data"
    assert listed(category.train, root) == [("Images/Normal/0000.JPG", "good", None)]
    assert listed(category.test, root) == [
        ("Images/Normal/0001.JPG", "good", None),
        ("Images/Anomaly/000.JPG", "anomaly", "Masks/Anomaly/000.png"),
    ]


def test_visa_is_read_alike_where_files_are_excluded_and_labels_written_otherwise(tmp_path):
    visa(tmp_path)
    file, root = tmp_path / "split_csv" / "1cls.csv", tmp_path / "pcb1" / "Data"
    file.write_text(file.read_text().replace("normal", "Normal"))
    gone = Exclusion([root / "Images/Normal/0001.JPG", root / "Masks/Anomaly/000.png"])
    category = read_layout(tmp_path, "pcb1", "visa", gone)
    assert [sample.defect for sample in category.train] == ["good"]
    assert listed(category.test, root) == [("Images/Anomaly/000.JPG", "anomaly", None)]
    assert len(gone.met) == 2


def test_visa_without_its_files_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"1cls.csv.*data=folder data.normal=.*candle/Data/Images/Normal"):
        read_layout(tmp_path, "candle", "visa")
    visa(tmp_path)
    with pytest.raises(DataError, match="no object cable; it has candle, pcb1"):
        read_layout(tmp_path, "cable", "visa")
    (tmp_path / "candle/Data/Images/Anomaly/000.JPG").unlink()
    with pytest.raises(DataError, match=r"lists .*000.JPG, but there is no such file"):
        read_layout(tmp_path, "candle", "visa")
    (tmp_path / "split_csv" / "1cls.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="columns image, label"):
        read_layout(tmp_path, "candle", "visa")


def test_wrong_names_list_what_there_is(tmp_path):
    touch(tmp_path, "01/train/ok/1.png")
    with pytest.raises(DataError, match=r"expects images of good parts in .*02/train/ok, but .*: 01"):
        read_layout(tmp_path, "02", "btad")
    with pytest.raises(DataError, match="expected one of btad, mvtec_loco, mvtec_ad_2, visa"):
        read_layout(tmp_path, "01", "coco")


def test_a_layout_without_test_images_is_enough(tmp_path):
    touch(tmp_path, "01/train/ok/1.png")
    assert read_layout(tmp_path, "01", "btad").test == ()
