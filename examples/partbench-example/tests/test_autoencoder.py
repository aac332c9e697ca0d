"""Does the method learn, and do its features say anything?"""

from pathlib import Path

from partbench.testing import losses, measured, prepared, trained


def test_it_learns(tmp_path: Path) -> None:
    """The loss falls, and the same seed gives the same losses."""
    data = prepared("toy", tmp_path, size=32, train=64, val=1, test=32)
    first, again = (
        losses(trained("autoencoder", data, tmp_path / name, epochs=10, batch_size=16))
        for name in ("first", "again")
    )
    assert first[-1] < 0.9 * first[0]
    assert first == again


def test_it_is_measured(tmp_path: Path) -> None:
    """Even untrained, it fits a probe; a run of no epochs is its floor control."""
    data = prepared("toy", tmp_path, size=32, train=64, val=1, test=32)
    model = trained("autoencoder", data, tmp_path, epochs=0)
    numbers = measured("linear", model, data, tmp_path, cs=[0.1])
    assert 0 <= numbers["top1"] <= 100
