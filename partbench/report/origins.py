"""Where the methods, readers and probes that are not partbench's own come from."""

from collections.abc import Iterable, Mapping
from typing import Any

from partbench.report.read import Results

WORDS = {"methods": "method", "data": "reader", "probes": "probe"}


def origin(plugin: Mapping[str, Any]) -> str:
    """Return a plugin's record in words, see `partbench.provenance.origin`."""
    where = (
        f"{plugin['distribution']} {plugin['version']}"
        if "distribution" in plugin
        else f"the folder {plugin['folder']}"
    )
    commit = plugin["commit"]
    at = f"commit {commit[:10]}" if " " not in commit else commit
    changed = " with uncommitted changes" if plugin["dirty"] else ""
    return f"{WORDS[plugin['kind']]} {plugin['name']}: {where}, {at}{changed}"


def origins(results: Results) -> list[str]:
    """Return each plugin in words that trainings, data sets and cells were made with, once."""
    records = [run.record for run in results.runs]
    for cells in results.cells.values():
        # One cell tells whether the probe is a plugin.
        if cells and _plugins(cells[0].record):
            records += [cell.record for cell in cells]
    found = [plugin for record in records for plugin in _plugins(record)]
    found += [data.reader for data in results.data if data.reader]
    return sorted(set(map(origin, found)))


def _plugins(record: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    plugins: list[Mapping[str, Any]] = record.get("provenance", {}).get("plugins", [])
    return plugins
