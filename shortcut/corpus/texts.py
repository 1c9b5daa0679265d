"""Text as it stands in a file: UTF-8 under any locale, cut at the line ends of text files alone.

One text that cannot be used stops no run: it is left out, and at the end one notice says how many, and why.
"""

import re
from dataclasses import dataclass, field

from shortcut import Problem

MARK = "\ufeff"  # of byte order, which stays where files are joined
HEAD = 65_536  # bytes of a file that tell UTF-16


class LeftOut(ValueError):  # noqa: N818  (it stops nothing)
    """Why one text is left out, in words that follow a number: 3 not UTF-8."""


@dataclass
class Tally:
    """How many texts were read, and which of them were left out."""

    read: int = 0
    left_out: dict[str, list] = field(default_factory=dict)  # by why: how many, and where the first one is

    def leave(self, why: str, first: str, n: int = 1) -> None:
        """Count n texts that are left out."""
        self.left_out.setdefault(why, [0, first])[0] += n

    def add(self, other: "Tally") -> None:
        """Count what another counted."""
        self.read += other.read
        for why, (n, first) in other.left_out.items():
            self.leave(why, first, n)

    def __str__(self) -> str:
        total = sum(n for n, _ in self.left_out.values())
        reasons = ", ".join(f"{n} {why} (first: {first})" for why, (n, first) in self.left_out.items())
        return f"left out {total} of {self.read} texts: {reasons}"


def text_of(value: object) -> str:
    """The value as text that UTF-8 can hold, byte order marks dropped. Raises LeftOut."""
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


def lines_of(content: bytes, name: str) -> list[bytes]:
    r"""The lines of a text: they end at \n, \r\n, \r and nowhere else. Raises Problem as `refuse_utf16`."""
    refuse_utf16(content[:HEAD], name)
    return re.split(rb"\r\n?|\n", content)


def refuse_utf16(head: bytes, name: str) -> None:
    """Raise Problem if a text begins as UTF-16 or UTF-32 does, whose lines may be UTF-8 by chance, full of NULs."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or 50 * head.count(0) > len(head):
        raise Problem(f"{name} is UTF-16 or UTF-32 text, or full of NULs: save it as UTF-8 text")
