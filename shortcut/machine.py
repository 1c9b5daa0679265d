"""The machine that a pickle is a program for, with the instructions that build data and no others.

Values are None, bool, int, float, str, bytes (a view of the file, never a copy), list, tuple, dict and
set; beyond these, what the functions of a table make, which is given for each kind of pickle. Nothing
is imported, looked up in a module or called that is not in the table.

What a file may cost is bounded before it costs it, see `Budget`.
"""

import pickletools
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shortcut import Problem

CODES = {info.name: ord(info.code) for info in pickletools.opcodes}
NAMES = {code: name for name, code in CODES.items()}
PROTOCOL = 5
CALL = 16  # steps that a call counts as
LOAD = 4  # steps that beginning a pickle counts as
STEPS = {  # that an instruction counts as besides its own, by the time or the memory it takes
    "GLOBAL": 5, "STACK_GLOBAL": 2, "MARK": 1, "EMPTY_LIST": 1, "EMPTY_DICT": 1, "EMPTY_SET": 4, "FROZENSET": 4,
    "SHORT_BINUNICODE": 1, "BINUNICODE": 1, "BINUNICODE8": 1,
}  # fmt: skip


class Budget:
    """What the rest of a file may cost: a pickle of 9 bytes may claim gigabytes, one of 30 repeat itself 2^30 times.

    A step takes about half a microsecond and at most 100 bytes. A plainly pickled sentence of one token, the
    densest value here, takes one in two bytes; large files are mostly numbers, and take far fewer. Every
    tensor has its bytes in the file, so all of them cannot have more than the file has.

    Args:
        size: bytes of the file.
    """

    def __init__(self, size: int):
        self.steps = max(2_000_000, min(size, 5_000_000 + size // 16))
        self.bytes = 4 * size  # each is read to be checked, copied, and cut to the part that is seen

    def step(self, n: int) -> None:
        """Count n steps. Raises Problem if there were too many."""
        self.steps -= n
        if self.steps < 0:
            raise Problem("refused: it takes more steps than a file of its size can need")

    def copy(self, n: int) -> None:
        """Count n bytes that are about to be read or copied. Raises Problem if there were too many."""
        self.bytes -= n
        if self.bytes < 0:
            raise Problem("refused: its values are larger than the file")


@dataclass(frozen=True)
class Global:
    """A name of a module that a pickle mentions.

    Attributes:
        name: "module.name".
        value: what stands for it here: a function, which gets the budget first, or something only named.
    """

    name: str
    value: Any


Table = Mapping[tuple[str, str], Any]


class Machine:
    """Runs the pickles that lie one after another in `data`.

    Attributes:
        position: where the next one begins.
    """

    def __init__(self, data: memoryview, table: Table, budget: Budget, persistent: Callable[[Any], Any] | None = None):
        """Set up.

        Args:
            data: the pickles.
            table: what stands for each (module, name) that they may mention.
            budget: what they may cost.
            persistent: makes an object of its persistent id; None: they may hold none.
        """
        self.data = data
        self.position = 0
        self.table = table
        self.budget = budget
        self.persistent = persistent

    def load(self) -> Any:
        """The value of the pickle at `position`, which moves behind it.

        Raises:
            Problem: it is truncated, asks for anything but data, or costs too much.
            IndexError, KeyError, TypeError, ValueError and others: it is damaged.
        """
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: list[Any] = []
        data, end, stop, budget = self.data, len(self.data), CODES["STOP"], self.budget
        budget.step(LOAD)
        while self.position < end and (code := data[self.position]) != stop:
            self.position += 1
            if code not in INSTRUCTIONS:
                name = NAMES.get(code, f"instruction {code:#04x}")
                raise Problem(f"refused: it uses {name}, which data does not need, or is damaged")
            instruction, steps = INSTRUCTIONS[code]
            budget.steps -= steps  # not by a call of `step`: this is where reading spends its time
            if budget.steps < 0:
                budget.step(0)
            instruction(self)
        self.take(1)
        (value,) = self.stack
        self.stack, self.marks, self.memo = [], [], []  # the value is the caller's to keep or not
        return value

    def take(self, n: int) -> memoryview:
        """The next n bytes. Raises Problem if there are fewer."""
        start, self.position = self.position, self.position + n
        if self.position > len(self.data):
            raise Problem("is truncated or damaged: it claims more bytes than it has")
        return self.data[start : self.position]

    def number(self, n: int) -> int:
        """The next n bytes as a number, unsigned."""
        return int.from_bytes(self.take(n), "little")

    def text(self, n: int) -> str:
        """The next n bytes as text."""
        return str(self.take(n), "utf-8")

    def line(self) -> str:
        """The text up to the next newline, as in the name of a global."""
        length = bytes(self.data[self.position : self.position + 200]).index(b"\n")
        line = self.text(length)
        self.take(1)
        return line

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def top(self, n: int) -> list[Any]:
        """Take the last n values from the stack."""
        if n > len(self.stack):
            raise ValueError("nothing on the stack")
        values = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return values

    def marked(self) -> list[Any]:
        """Take all values above the last mark."""
        values, self.stack = self.stack, self.marks.pop()
        return values


def hashable(value: Any) -> Any:
    """The value itself, if it can be hashed at once.

    A tuple of tuples of the same tuples takes exponential time, and large integers, or tuples of more than
    two, can be chosen to collide, so keys and members of sets are str, int of 32 bits, or a pair of these.

    Raises:
        Problem: it is none of these.
    """
    for part in value if type(value) is tuple and len(value) == 2 else (value,):
        if type(part) is not str and not (type(part) is int and abs(part) < 2**31):
            raise Problem("refused: a key or member of a set is neither str, int nor a pair of these")
    return value


def shown(name: str) -> str:
    """A name out of a file, safe to print on one line."""
    return ascii(name)[1:-1][:60]


def _remember(m: Machine, k: int) -> None:
    """Keep the last value as number k of the memo, which every pickler fills in order."""
    if k > len(m.memo):
        raise ValueError("a memo with a gap")
    m.memo[k : k + 1] = [m.stack[-1]]


def _append(m: Machine, values: Iterable[Any]) -> None:
    if type(m.stack[-1]) is not list:
        raise Problem("refused: it appends to what is no list")
    m.stack[-1].extend(values)


def _set_items(m: Machine, values: list[Any]) -> None:
    target = m.stack[-1]
    if type(target) is not dict:  # an OrderedDict stands for the hooks of a tensor, which has none
        raise Problem("refused: it sets items of what is no dict")
    for key, value in zip(values[::2], values[1::2], strict=True):
        target[hashable(key)] = value


def _add_items(m: Machine, values: list[Any]) -> None:
    if type(m.stack[-1]) is not set:
        raise Problem("refused: it adds items to what is no set")
    m.stack[-1].update(map(hashable, values))


def _global(m: Machine, module: Any, name: Any) -> None:
    if type(module) is not str or type(name) is not str:
        raise Problem("refused: it asks for something whose name is no text")
    if (module, name) not in m.table:
        raise Problem(f"refused: it asks for {shown(module)}.{shown(name)}, which is not data")
    m.push(Global(f"{module}.{name}", m.table[module, name]))


def _call(m: Machine) -> None:
    function, arguments = m.top(2)
    m.budget.step(CALL)
    if type(function) is not Global or not callable(function.value) or type(arguments) is not tuple:
        name = function.name if type(function) is Global else "something that is no function"
        raise Problem(f"refused: it calls {name}")
    m.push(function.value(m.budget, *arguments))


def _build(m: Machine) -> None:
    (state,) = m.top(1)
    if not hasattr(m.stack[-1], "restore"):
        raise Problem("refused: it sets the state of something that has none")
    m.stack[-1].restore(m.budget, state)


def _persistent(m: Machine) -> None:
    (key,) = m.top(1)
    if m.persistent is None:
        raise Problem("refused: it asks for a persistent object, which is not data")
    m.push(m.persistent(key))


def _protocol(m: Machine) -> None:
    if (protocol := m.number(1)) > PROTOCOL:
        raise Problem(f"refused: pickle protocol {protocol}, expected at most {PROTOCOL}")


def _frame(m: Machine) -> None:
    if m.number(8) > len(m.data) - m.position:
        raise Problem("is truncated or damaged: it claims more bytes than it has")


def _long(m: Machine) -> None:
    if (n := m.number(1)) > 16:
        raise Problem(f"refused: an integer of {n} bytes")
    m.push(int.from_bytes(m.take(n), "little", signed=True))


INSTRUCTIONS: dict[int, tuple[Callable[[Machine], None], int]] = {  # each with the steps it counts as
    CODES[name]: (instruction, 1 + STEPS.get(name, 0))
    for name, instruction in {
        "PROTO": _protocol,
        "FRAME": _frame,
        "NONE": lambda m: m.push(None),
        "NEWTRUE": lambda m: m.push(True),
        "NEWFALSE": lambda m: m.push(False),
        "BININT": lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
        "BININT1": lambda m: m.push(m.number(1)),
        "BININT2": lambda m: m.push(m.number(2)),
        "LONG1": _long,
        "BINFLOAT": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        "SHORT_BINUNICODE": lambda m: m.push(m.text(m.number(1))),
        "BINUNICODE": lambda m: m.push(m.text(m.number(4))),
        "BINUNICODE8": lambda m: m.push(m.text(m.number(8))),
        "SHORT_BINBYTES": lambda m: m.push(m.take(m.number(1))),
        "BINBYTES": lambda m: m.push(m.take(m.number(4))),
        "BINBYTES8": lambda m: m.push(m.take(m.number(8))),
        "BYTEARRAY8": lambda m: m.push(m.take(m.number(8))),
        "MARK": lambda m: (m.marks.append(m.stack), setattr(m, "stack", [])),
        "POP": lambda m: m.top(1),
        "POP_MARK": lambda m: m.marked(),
        "EMPTY_LIST": lambda m: m.push([]),
        "APPEND": lambda m: _append(m, m.top(1)),
        "APPENDS": lambda m: _append(m, m.marked()),
        "EMPTY_TUPLE": lambda m: m.push(()),
        "TUPLE": lambda m: m.push(tuple(m.marked())),
        "TUPLE1": lambda m: m.push(tuple(m.top(1))),
        "TUPLE2": lambda m: m.push(tuple(m.top(2))),
        "TUPLE3": lambda m: m.push(tuple(m.top(3))),
        "EMPTY_DICT": lambda m: m.push({}),
        "SETITEM": lambda m: _set_items(m, m.top(2)),
        "SETITEMS": lambda m: _set_items(m, m.marked()),
        "EMPTY_SET": lambda m: m.push(set()),
        "ADDITEMS": lambda m: _add_items(m, m.marked()),
        "FROZENSET": lambda m: m.push(frozenset(map(hashable, m.marked()))),
        "BINPUT": lambda m: _remember(m, m.number(1)),
        "LONG_BINPUT": lambda m: _remember(m, m.number(4)),
        "MEMOIZE": lambda m: m.memo.append(m.stack[-1]),
        "BINGET": lambda m: m.push(m.memo[m.number(1)]),
        "LONG_BINGET": lambda m: m.push(m.memo[m.number(4)]),
        "GLOBAL": lambda m: _global(m, m.line(), m.line()),
        "STACK_GLOBAL": lambda m: _global(m, *m.top(2)),
        "REDUCE": _call,
        "BUILD": _build,
        "BINPERSID": _persistent,
    }.items()
}
