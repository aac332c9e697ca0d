"""What is known of a configuration's data sets before they are prepared, for plans."""

from collections.abc import Mapping

from partbench.config import (
    Config,
    data_settings,
    load_reader,
    optical_flow,
    second_stream,
)
from partbench.data.catalogue import prepared_bytes
from partbench.data.reader import Reader
from partbench.errors import BadInput
from partbench.files import data_root
from partbench.method import DataInfo


def counts(config: Config, name: str) -> Mapping[str, int]:
    """Return the samples in each split that will be prepared.

    Where the reader does not know them, its files are listed; none is opened. Empty if they are
    not there.
    """
    reader = _reader(config, name)
    found = reader.counts
    if not found:
        try:
            found = {split: len(names) for split, names in reader.splits().items()}
        except BadInput:  # `partbench check` says what is wrong
            return {}
    limit = reader.settings.limit
    return {split: min(n, limit.get(split, n)) for split, n in found.items()}


def disk(config: Config, name: str, counts: Mapping[str, int]) -> int | None:
    """Return the bytes of a prepared data set; None if they are not known.

    Args:
        config: the configuration.
        name: of the data set.
        counts: samples in each split, see `counts`.
    """
    if second_stream(config, name):  # links, and features as long as the method makes them
        return None
    return prepared_bytes(_reader(config, name), counts) or None


def info(config: Config, name: str) -> DataInfo:
    """Return what the cost of a step depends on, of images that need not be there.

    A few classes or attributes, or many, make no difference; their names may stand in files.

    Raises:
        BadInput: the landmarks' names stand in files that are missing or wrong.
    """
    reader = _reader(config, name)
    return DataInfo(
        reader.settings.size,
        1000,
        len(reader.landmark_names),
        reader.frames if reader.frames > 1 else 0,
        attributes=1000,
        clusters=1000,
        is_flow=optical_flow(config, name) is not None,
    )


def _reader(config: Config, name: str) -> Reader:
    return load_reader(config, name)(data_root(), data_settings(config, name))
