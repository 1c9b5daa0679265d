"""The bytes of a tensor's storage, as `torch.save` writes them: today's zip archive, and what it was before.

`pickle.dump(tensor)` holds the older form, and so do the published matrices; our own files hold the
newer one, since equal values have equal bytes in it. Either is read in place, and nothing is loaded.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import torch

from shortcut import Problem
from shortcut.machine import Budget, Global, Machine

FILE = 4  # steps that a file of an archive counts as
NAME = 200  # bytes of its name at most
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the older form
DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ByteStorage": torch.uint8,
}
TABLE = {("torch", name): dtype for name, dtype in DTYPES.items()}
END = struct.Struct("<4sHHHHIIH")  # of a zip archive: its directory's entries, size and place
ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")  # of the directory
HEAD = struct.Struct("<4sHHHHHIIIHH")  # of a file in the archive


@dataclass(frozen=True)
class Storage:
    """The values that tensors are cut from.

    Attributes:
        data: their bytes, where they lie in the file.
        dtype: of each.
    """

    data: memoryview
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.data) // self.dtype.itemsize


@dataclass(frozen=True)
class _Declared:
    """What the pickle of a storage says of it."""

    dtype: torch.dtype
    key: str
    length: int


def read(budget: Budget, content: Any) -> Storage:
    """The storage that `torch.save` wrote as `content`, on whatever device it was.

    Raises:
        Problem: it is not of either form, or not whole.
    """
    if not isinstance(content, memoryview):
        raise Problem("refused: a tensor's storage that is no bytes")
    return _archive(budget, content) if content[:2] == b"PK" else _older(budget, content)


def _older(budget: Budget, content: memoryview) -> Storage:
    """Pickles of a magic number, a version, the machine, the declaration and its key; length, values."""
    budget.copy(len(content))
    machine = Machine(content, TABLE, budget, _declared)
    if [machine.load(), machine.load()] != [MAGIC, VERSION]:
        raise Problem("refused: a tensor's storage that torch did not save")
    system = machine.load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Problem("refused: a tensor's storage that is not little-endian")
    declared = machine.load()
    keys = machine.load()
    if not isinstance(declared, _Declared) or keys != [declared.key] or machine.number(8) != declared.length:
        raise Problem("refused: a tensor's storage that is not what it declares")
    return _checked(declared, content[machine.position :])


def _archive(budget: Budget, content: memoryview) -> Storage:
    """Files data.pkl, the declaration; data/<key>, the values; byteorder; all in one folder, uncompressed."""
    files = _files(budget, content)
    declared = "data.pkl" in files and Machine(files["data.pkl"], TABLE, budget, _declared).load()
    if not isinstance(declared, _Declared):
        raise Problem("refused: a tensor's storage that does not say what it is")
    if files.get("byteorder", b"little") != b"little":
        raise Problem("refused: a tensor's storage that is not little-endian")
    if f"data/{declared.key}" not in files:
        raise Problem("refused: a tensor's storage without its values")
    return _checked(declared, files[f"data/{declared.key}"])


def _files(budget: Budget, content: memoryview) -> dict[str, memoryview]:
    """The files of an archive by their names below its folder, each checked against its checksum.

    A directory may name the same bytes any number of times, so every entry counts.
    """
    files = {}
    end = len(content) - END.size
    mark, *_, entries, size, place, _ = END.unpack_from(content, max(end, 0))
    if mark != b"PK\5\6" or place + size > end:
        raise Problem("is truncated or damaged: a tensor's storage has lost its end")
    for _ in range(entries):
        mark, _, _, _, method, _, _, checksum, stored, length, n, extra, comment, _, _, _, head = ENTRY.unpack_from(
            content, place
        )
        if n > NAME:
            raise Problem("refused: a tensor's storage in an archive that torch did not save")
        name = str(content[place + ENTRY.size : place + ENTRY.size + n], "utf-8")
        place += ENTRY.size + n + extra + comment
        if mark != b"PK\1\2" or method != 0 or stored != length:
            raise Problem("refused: a tensor's storage in an archive that is compressed or damaged")
        mark, *_, n, extra = HEAD.unpack_from(content, head)
        start = head + HEAD.size + n + extra
        if mark != b"PK\3\4" or start + length > end:
            raise Problem("is truncated or damaged: a tensor's storage claims more bytes than it has")
        data = content[start : start + length]
        budget.step(FILE)
        budget.copy(length)
        if zlib.crc32(data) != checksum:
            raise Problem("is damaged: a tensor's storage does not fit its checksum")
        files[name.partition("/")[2]] = data
    return files


def _declared(key: Any) -> _Declared:
    """What a persistent id says: "storage", its type, its name, the device it was on, its length."""
    known = type(key) is tuple and len(key) in (5, 6) and key[5:] in ((), (None,))
    if not known or key[0] != "storage" or type(key[1]) is not Global or [*map(type, key[2:5])] != [str, str, int]:
        raise Problem("refused: a tensor's storage of another kind")
    return _Declared(key[1].value, key[2], key[4])


def _checked(declared: _Declared, data: memoryview) -> Storage:
    if len(data) != declared.length * declared.dtype.itemsize:
        raise Problem(f"refused: a tensor's storage of {len(data)} bytes declares {declared.length:.4g} values")
    return Storage(data, declared.dtype)
