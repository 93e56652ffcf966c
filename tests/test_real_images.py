"""One run on real images, where they are at hand."""

import json
import os
from pathlib import Path

import pytest
from toy import command

ROOT = Path(os.environ.get("MVNET_REAL", Path(__file__).parents[2] / "shared" / "data"))


@pytest.mark.slow
@pytest.mark.real_images
@pytest.mark.skipif(not (ROOT / "metal_plate").is_dir(), reason=f"no real images in {ROOT} (state MVNET_REAL)")
def test_an_easy_category_is_told_apart(tmp_path):
    given = ("category=custom", "category.name=metal_plate", f"data.root={ROOT}", "backbone=efficientnet_lite0")
    ran = command("train", *given, "model=padim", "bootstrap=0", "data.image_size=128", cwd=tmp_path)
    assert ran.code == 0, ran.out
    metrics = json.loads(next(tmp_path.glob("outputs/train/metal_plate/*/*/metrics.json")).read_text())
    assert metrics["image"]["auroc"] > 0.9
    assert metrics["image"]["f1"] > metrics["image"]["f1_floor"]
