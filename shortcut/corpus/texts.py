"""Decode text as UTF-8 under any locale.

A text that cannot be used does not stop a run: it is left out, and a notice at the end counts such texts by reason.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

MARK = "\ufeff"  # byte order mark; joining files leaves it inside the text
LINE_END = re.compile(rb"\r\n?|\n")  # in text files; U+2028 and form feeds do not end a line


class LeftOut(ValueError):  # noqa: N818  (it does not stop a run)
    """The reason for leaving out a text, worded to follow a number, as in "3 not UTF-8"."""


@dataclass
class Tally:
    """The number of texts read, and the reason and place of each text left out."""

    read: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def each(self, use: Callable[[Any], Any], texts: Iterable[tuple[str, Any]]) -> Iterator[Any]:
        """Yield `use(text)` for each (place, text). A text is left out if `use` raises LeftOut."""
        for place, text in texts:
            self.read += 1
            try:
                yield use(text)
            except LeftOut as why:
                self.left_out.append((str(why), place))

    def __str__(self) -> str:
        counts, first = Counter(why for why, _ in self.left_out), dict(reversed(self.left_out))
        reasons = ", ".join(f"{n} {why} (first: {first[why]})" for why, n in counts.items())
        return f"left out {len(self.left_out)} of {self.read} texts: {reasons}"


def text_of(value: object) -> str:
    """The value as text without byte order marks. Raises LeftOut if it is not text that UTF-8 can encode."""
    if isinstance(value, bytes) and 0 in value:  # UTF-16 whose bytes may be valid UTF-8
        raise LeftOut("with NULs, as UTF-16 and UTF-32 have")
    try:
        text = value.decode() if isinstance(value, bytes) else value
        if not isinstance(text, str):
            raise LeftOut("without a text" if value is None else f"with a text of type {type(value).__name__}")
        text.encode()
    except UnicodeDecodeError as error:
        raise LeftOut("not UTF-8") from error
    except UnicodeEncodeError as error:
        raise LeftOut("with half of a surrogate pair") from error
    return text.replace(MARK, "")
