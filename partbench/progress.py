"""Progress of long work: a bar in a terminal, a line a minute in a log."""

import sys
import time
from typing import Self

from tqdm import tqdm


class Progress:
    """Counts `total` units of work called `label`, or units whose number is not known: None.

    In a terminal a tqdm bar is drawn on stderr; elsewhere one plain line is printed there at
    most once a minute, and one at the end. Not `shown`, it is silent: of several processes that
    do one work, one speaks.
    """

    def __init__(
        self, label: str, total: int | None, unit: str, initial: int = 0, shown: bool = True
    ) -> None:
        self.shown = shown
        self.label, self.total, self.unit, self.done = label, total, unit, initial
        self._start = self._last = time.monotonic()
        self._first = initial
        self._bar = (
            tqdm(total=total, initial=initial, desc=label, unit=f" {unit}", leave=False)
            if shown and sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.close()
        self._line("")

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more; `note` is shown beside the count."""
        self.done += amount
        if self._bar:
            self._bar.update(amount)
            self._bar.set_postfix_str(note, refresh=False)
        elif time.monotonic() - self._last >= 60:
            self._last = time.monotonic()
            self._line(note)

    def _line(self, note: str) -> None:
        if not self.shown:
            return
        seconds = time.monotonic() - self._start
        rate = (self.done - self._first) / max(seconds, 1e-9)
        count = f"{self.done}" if self.total is None else f"{self.done} of {self.total}"
        text = f"{self.label}: {count} {self.unit}, {rate:.3g}/s"
        print(f"{text}, {note}" if note else text, file=sys.stderr, flush=True)
