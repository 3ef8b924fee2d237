"""The clock of larger images: what is scaled, and what is timed."""

import sys

import pytest
import torch

from benchmarks import sizes
from gmlvm_book.records import read_record


def test_every_part_is_timed_at_every_size(small_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sizes.datasets, "mnist", lambda: small_data)
    monkeypatch.setattr(sizes, "SIZES", ((1, 8), (3, 12)))
    path = tmp_path / "sizes.json"
    monkeypatch.setattr(sys, "argv", ["sizes", "--json", str(path)])
    sizes.main()
    found = read_record(path)["sizes"]
    assert list(found) == ["1 x 8 x 8", "3 x 12 x 12"]
    for row in found.values():
        assert set(row) == {"refinement", "training", "training, convolutions"}
        assert min(row.values()) > 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(found)


def test_images_are_scaled_and_nothing_else():
    images = torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8)
    larger = sizes.scaled(images, 3, 8)
    assert larger.dtype == torch.uint8
    assert larger.shape == (2, 3, 8, 8)
    assert torch.equal(larger[:, 0], larger[:, 2])
    assert torch.equal(sizes.scaled(images, 1, 4), images)
    assert larger.float().mean().item() == pytest.approx(images.float().mean().item(), abs=1)
