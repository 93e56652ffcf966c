"""Pixel metrics of more images than memory should hold: what is kept in a file is what was counted."""

import numpy as np
import pytest
import torch

from anomaly_lightning.metrics import PixelMetrics, kept


@pytest.mark.parametrize("max_pixels", [10**9, 100])
def test_images_in_a_file_and_sums_in_parts_give_the_same_metrics(monkeypatch, max_pixels):
    def gathered():
        rng, gathering = np.random.default_rng(0), PixelMetrics(threshold=0.8, max_pixels=max_pixels)
        for number in range(12):
            mask = np.zeros((30, 20), bool)
            mask[3 : 3 + number % 4, 2:9] = True
            values = torch.from_numpy(rng.random((30, 20)) + mask)
            gathering.update(values, torch.from_numpy(mask), "scratch" if mask.any() else "good")
        return gathering

    here = gathered()
    wanted, by_defect = here.compute(bootstrap=20), here.auroc_by_defect()
    monkeypatch.setattr(kept, "IN_MEMORY", 1)
    monkeypatch.setattr(kept, "ENTRIES", 700)
    there = gathered()
    there._images.append(next(iter(there._images)))  # a write between reads
    assert len(list(there._images)) == 13
    there = gathered()
    assert there._images._file._rolled, "they are in a file"
    assert there.compute(bootstrap=20) == (approximately(wanted[0]), wanted[1])
    assert there.auroc_by_defect() == pytest.approx(by_defect)


def approximately(block):
    """Numbers but for rounding, in dicts and lists alike."""
    return {
        name: {key: pytest.approx(own) for key, own in value.items()}
        if isinstance(value, dict)
        else pytest.approx(value)
        for name, value in block.items()
    }
