"""INVALID: degraded and foreign images are caught, good ones are not refused; the checkpoint carries the check."""

import csv
import io
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import ndimage
from toy import command, save, texture

from anomaly_lightning.data.layouts import read_category
from anomaly_lightning.data.synthetic import CATEGORIES, generate
from anomaly_lightning.errors import CheckpointError
from anomaly_lightning.runtime.appearance import image_statistics
from anomaly_lightning.runtime.card import ValidityCard
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.reading import read_image
from anomaly_lightning.runtime.validity import Validity, fit_validity


def black(image):
    return image.point(lambda value: int(value * 0.03))


def overexposed(image):
    return image.point(lambda value: min(255, value * 4 + 100))


def blurred(image):
    return image.filter(ImageFilter.GaussianBlur(max(4, min(image.size) / 25)))


def moved(image):
    values = np.asarray(image, dtype=np.float32)
    return Image.fromarray(ndimage.uniform_filter1d(values, max(9, image.width // 10), axis=1).astype(np.uint8))


def foggy(image):
    return image.point(lambda value: int(128 + (value - 128) * 0.15))


def tinted(image):
    return Image.fromarray((np.asarray(image) * [1.6, 0.7, 0.5]).clip(0, 255).astype(np.uint8))


def quarter(image):
    return image.resize((image.width // 4, image.height // 4))


DEGRADED = {
    "black": black,
    "overexposed": overexposed,
    "blurred": blurred,
    "moved": moved,
    "foggy": foggy,
    "tinted": tinted,
    "quarter": quarter,
}


def grainy(image):
    noise = np.random.default_rng(0).normal(0, 4, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def compressed(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=75)
    return Image.open(stream).convert("RGB")


def brighter(image):
    return image.point(lambda value: min(255, int(value * 1.05)))


HARMLESS = (grainy, compressed, brighter)


def rates(category):
    """Good images, harmless changes among them, refused, all; defects refused; degraded missed, all, which."""
    known = fit_validity([sample.path for sample in category.train])
    good = [read_image(sample.path) for sample in category.test if not sample.label]
    bad = [read_image(sample.path) for sample in category.test if sample.label]
    shown = [f(image) for image in good for f in (Image.Image.copy, *HARMLESS)]
    refused, hidden = ([known.reason(image_statistics(p)) for p in images] for images in (shown, bad))
    reasons = {(n, i): known.reason(image_statistics(f(p))) for n, f in DEGRADED.items() for i, p in enumerate(good)}
    missed = [key for key, reason in reasons.items() if reason is None]
    counts = sum(r is not None for r in refused), len(shown), sum(r is not None for r in hidden)
    return (*counts, len(missed), len(reasons), missed)


def accepted_of_others(categories):
    """Good test images of each category that the checks of the others take for theirs, and all that were shown."""
    known = [fit_validity([sample.path for sample in category.train]) for category in categories]
    shown = [
        [image_statistics(read_image(sample.path)) for sample in category.test if not sample.label]
        for category in categories
    ]
    pairs = [(check, s) for i, check in enumerate(known) for j, own in enumerate(shown) if i != j for s in own]
    return sum(check.reason(s) is None for check, s in pairs), len(pairs)


@pytest.mark.parametrize("name", ["leather", "screw"])
def test_degraded_images_are_caught_and_good_ones_pass(name, tmp_path):
    made = read_category(generate(tmp_path, name, train=40, test_good=12, defects_each=2, size=(128, 160)), name)
    refused, good, hidden, missed, degraded, which = rates(made)
    assert refused == 0, f"{refused} of {good}"
    assert hidden == 0
    assert missed <= 0.01 * degraded, which


@pytest.mark.slow
def test_rates_over_all_synthetic_categories(tmp_path):
    made = [
        read_category(generate(tmp_path, name, train=60, test_good=20, defects_each=8), name) for name in CATEGORIES
    ]
    found = [rates(category) for category in made]
    refused, good, hidden, missed, degraded, which = zip(*found, strict=True)
    assert sum(refused) <= 0.01 * sum(good), found
    assert sum(hidden) == 0
    assert sum(missed) <= 0.01 * sum(degraded), which
    accepted, shown = accepted_of_others(made)
    assert accepted <= 0.05 * shown  # leather takes some brown hazelnuts for its own


def real_root():
    root = Path(os.environ.get("MVNET_REAL", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real images in {root}")
    return root


@pytest.mark.slow
@pytest.mark.real_images
def test_rates_on_real_images():
    made = [read_category(real_root(), name) for name in ("ball_screw", "cookie", "metal_plate", "commutator_tile")]
    found = [rates(category) for category in made]
    refused, good, hidden, missed, degraded, which = zip(*found, strict=True)
    assert sum(refused) <= 0.01 * sum(good), found
    assert sum(hidden) <= 0.005 * sum(sample.label for category in made for sample in category.test)
    assert sum(missed) <= 0.01 * sum(degraded), which
    accepted, shown = accepted_of_others(made)
    assert accepted <= 0.01 * shown


def statistics(rng, count, **changes):
    values = [texture(rng, **changes) for _ in range(count)]
    return [image_statistics(Image.fromarray(v)) for v in values]


def test_the_limit_lies_above_every_normal_and_the_reasons_name_the_cause():
    rng = np.random.default_rng(0)
    normals = statistics(rng, 40)
    known = Validity.fit(normals)
    assert all(known.reason(s) is None for s in normals)
    assert known.false_rate == pytest.approx(1 / 41)
    image = Image.fromarray(texture(rng))
    reasons = {name: known.reason(image_statistics(f(image))) for name, f in DEGRADED.items()}
    assert reasons["black"] == "black"
    assert reasons["overexposed"] == "overexposed"
    assert reasons["blurred"].startswith("blurred")
    assert reasons["quarter"] == "another size: 21x15"
    assert "colours" in reasons["tinted"]
    assert known.reason(image_statistics(image.resize((84, 90)))).startswith("another aspect: 84x90")


def test_more_texture_in_a_part_is_a_defect_and_everywhere_it_is_noise():
    rng = np.random.default_rng(2)
    normals = [texture(rng) for _ in range(40)]
    known = Validity.fit([image_statistics(Image.fromarray(values)) for values in normals])
    noise = rng.normal(0, 60, normals[0].shape)
    part = noise.copy()
    part[:, part.shape[1] // 4 :] = 0
    local, everywhere = (
        known.reason(image_statistics(Image.fromarray((normals[0] + added).clip(0, 255).astype(np.uint8))))
        for added in (part, noise)
    )
    assert local is None
    assert everywhere.startswith("noisy")


def test_new_normals_are_refused_no_more_often_than_stated():
    rng = np.random.default_rng(1)
    refused = total = 0
    for _ in range(5):
        known = Validity.fit(statistics(rng, 20, height=30, width=42))
        fresh = statistics(rng, 40, height=30, width=42)
        refused, total = refused + sum(known.reason(s) is not None for s in fresh), total + len(fresh)
    assert refused / total <= 1 / 21


def test_too_few_normals_know_nothing():
    assert Validity.fit(statistics(np.random.default_rng(0), 7)) is None


def test_it_survives_a_card_and_refuses_those_of_another_version():
    known = Validity.fit(statistics(np.random.default_rng(0), 10))
    card = msgspec.json.decode(msgspec.json.encode(known.card()), type=ValidityCard)
    assert Validity.from_card(card) == known
    with pytest.raises(CheckpointError, match="validity=false"):
        Validity.from_card(msgspec.structs.replace(card, measures=("brightness",)))


def decisions(folder):
    with (folder / "decisions.csv").open(newline="") as stream:
        return {Path(row["path"]).name: row for row in csv.DictReader(stream)}


def test_predict_says_invalid_with_a_reason_and_can_be_told_not_to(checkpoint, tmp_path):
    save(np.zeros((60, 84, 3), np.uint8), tmp_path / "in" / "black.png")
    save(texture(np.random.default_rng(5)), tmp_path / "in" / "good.png")
    given = (f"checkpoint={checkpoint}", f"input={tmp_path / 'in'}", "device=cpu")
    ran = command("predict", *given, f"output={tmp_path / 'on'}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert "1 INVALID" in ran.out
    rows = decisions(tmp_path / "on")
    assert (rows["black.png"]["decision"], rows["black.png"]["reason"]) == ("INVALID", "black")
    assert rows["good.png"]["decision"] in ("OK", "NG")
    assert rows["good.png"]["reason"] == ""
    command("predict", *given, f"output={tmp_path / 'off'}", "validity=false", cwd=tmp_path)
    assert decisions(tmp_path / "off")["black.png"]["decision"] in ("OK", "NG")


def test_the_checkpoint_carries_it_and_the_inspector_says_it(checkpoint):
    card = torch.load(checkpoint, weights_only=True)["card"]
    assert card["validity"]["normals"] == 15
    said = Inspector.load(checkpoint, "cpu")(Image.new("RGB", (84, 60)))
    assert (said.verdict, said.reason) == ("INVALID", "black")
    assert Inspector.load(checkpoint, "cpu", validity=False)(Image.new("RGB", (84, 60))).reason is None
