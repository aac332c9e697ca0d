"""SCOPS's centres in pixels, its inference and its warps, against the authors' numbers."""

from pathlib import Path

import numpy as np
import pytest
from conftest import tensor
from oracle_vectors import Vectors
from test_scops import NAMES, Case

from partbench.coordinates import of_borders, of_pixels
from partbench.methods import scops
from partbench.outputs.part_maps import centres_of_mass


@pytest.fixture(scope="module")
def vectors(oracles: Path) -> Vectors:
    return Vectors(oracles / "scops.npz")


@pytest.mark.parametrize("term", ["L_eqv", "L_lmeqv"])
def test_warps_take_the_grid_as_the_authors_torch_did(vectors: Vectors, term: str) -> None:
    """Read from border to border, as by today's default, the same grid gives other numbers."""
    case = Case(vectors)
    logits, moved, _, grid, features, saliency = case.leaves.values()
    side = grid.shape[1]
    borders = of_pixels(side).from_pixels(of_borders(side).to_pixels(grid))
    terms = case.method.terms(logits, moved, borders, [features], saliency.unsqueeze(1))
    today = vectors[f"{term}_align_corners_false"].item()
    assert terms[NAMES[term]].item() == pytest.approx(today, rel=1e-6)
    assert case.terms[NAMES[term]].item() != pytest.approx(today, rel=1e-3)


def test_centres_in_pixels(vectors: Vectors) -> None:
    centres, _ = centres_of_mass(tensor(vectors["logits1"]).softmax(1)[:, 1:].float())
    np.testing.assert_allclose(centres, vectors["infer_centres_px"], rtol=0, atol=1e-3)


def test_the_background_of_the_inference(vectors: Vectors) -> None:
    """One share everywhere; the parts' are relative to their greatest."""
    relative = vectors["infer_normalised"]
    np.testing.assert_allclose(relative[:, 0], scops.BACKGROUND, rtol=1e-6)
    found = scops.infer(tensor(vectors["logits1"]))
    np.testing.assert_array_equal(found.foreground, relative.argmax(1) > 0)
