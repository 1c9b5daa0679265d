"""Files that are hostile, for tests/tools/fuzz.py to read; damaged.py has those that are valid or damaged.

Instructions of a pickle are written by hand where `pickle` would not write them: see `pickletools`.
"""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

HEAD = b"\x80\x04"


KEYS = ("tokenized_sentences", "token_positions", "score_mat", "score_id", "info", "topk")


class Call:
    """Pickles as a call of the function with the arguments."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class Stateful:
    """Pickles as an object that sets its state itself."""

    def __init__(self):
        self.x = 1

    def __setstate__(self, state):
        os.mkdir("pwned")


def archive(files, compression=zipfile.ZIP_STORED):
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", compression) as made:
            for name, content in files.items():
                made.writestr(name, content)
        return file.getvalue()


def text(value):
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def bare(content):
    """Without its frame, whose length would have to be right."""
    return content[:2] + content[11:] if content[2:3] == b"\x95" else content


def declared(numel, key="0", more=b""):
    """The pickle within a storage that says what it is."""
    told = text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(numel) + more
    return b"\x80\x02(" + told + b"tQ."


def storage(values=4, **changes):
    """A storage of the newer form, four zeros unless changed."""
    return archive({"a/data.pkl": declared(values), "a/byteorder": "little", "a/data/0": bytes(16), **changes})


def older(numel=4, key="0", keys=("0",), little=True, length=None, content=bytes(16)):
    system = {"protocol_version": 1001, "little_endian": little}
    start = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system))
    length = struct.pack("<q", numel if length is None else length)
    return start + declared(numel, key, b"N") + pickle.dumps([*keys], 2) + length + content


def tensor(content, offset=0, size=(2, 2), stride=(2, 1)):
    hooks = OrderedDict()
    return pickle.dumps(
        Call(torch._utils._rebuild_tensor_v2, Call(torch.storage._load_from_bytes, content), offset, size, stride,
             False, hooks)
    )  # fmt: skip


def saved(value, **options):
    with io.BytesIO() as file:
        torch.save(value, file, **options)
        return file.getvalue()


def array(shape, dtype="f8", content=b"\0" * 8):
    """An array whose state says what it is told."""
    whole = pickle.dumps(np.zeros(1, np.float64))
    state = pickle.dumps((1, shape, np.dtype(dtype), False, content))[11:-1]
    return whole[: whole.index(b"(K\x01K\x01\x85")] + state + b"b."


def hostile():
    """(name, content) that every reader must refuse, or read as what it promises."""
    zipped = storage()
    end = len(zipped) - 22
    yield from {
        "os.system": pickle.dumps(Call(os.system, "mkdir pwned")),
        "eval": pickle.dumps(Call(eval, "__import__('os').mkdir('pwned')")),
        "exec": b"c__builtin__\nexec\n(X\x01\0\0\0xtR.",
        "getattr": HEAD + text("builtins") + text("getattr") + b"\x93.",
        "an attribute of what is allowed": HEAD + text("collections") + text("OrderedDict.fromkeys") + b"\x93.",
        "torch.load": pickle.dumps(Call(torch.load, "x")),
        "open": pickle.dumps(Call(io.open, "pwned", "w")),
        "a class": pickle.dumps(Stateful()),
        "a class of protocol 2": pickle.dumps(Stateful(), 2),
        "a class of protocol 0": pickle.dumps(Stateful(), 0),
        "a path": pickle.dumps(Path("x")),
        "a class only named": pickle.dumps(Stateful),
        "INST": b"(S'mkdir pwned'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nX\x01\0\0\0xo.",
        "PERSID": b"Pmodule\n.",
        "BINPERSID": HEAD + b"K\x01Q.",
        "EXT": HEAD + b"\x82\x01.",
        "EXT2": HEAD + b"\x83\x01\0.",
        "EXT4": HEAD + b"\x84\x01\0\0\0.",
        "a buffer": b"\x80\x05\x97.",
        "BUILD of a list": HEAD + b"]}b.",
        "BUILD of a function": HEAD + text("collections") + text("OrderedDict") + b"\x93}b.",
        "BUILD of a tensor": bare(tensor(zipped))[:-1] + b"}b.",
        "BUILD of an array": bare(pickle.dumps(np.zeros(2)))[:-1] + b"}b.",
        "a function called with a list": HEAD + text("builtins") + text("set") + b"\x93]R.",
        "a number called": HEAD + b"K\x01)R.",
        "BINBYTES8": HEAD + b"\x8e" + b"\xff" * 8,
        "BINUNICODE8": HEAD + b"\x8d" + b"\xff" * 7 + b"\x7f",
        "BYTEARRAY8": b"\x80\x05\x96" + b"\xff" * 6 + b"\0\0",
        "BINBYTES": HEAD + b"B\xff\xff\xff\xff",
        "LONG4": HEAD + b"\x8b\xff\xff\xff\x7f" + b"\xff" * 100,
        "LONG1": HEAD + b"\x8a\xff" + b"\xff" * 255 + b".",
        "FRAME": HEAD + b"\x95" + b"\xff" * 8 + b"N.",
        "PUT": HEAD + b"Nr\xff\xff\xff\xff.",
        "protocol 99": b"\x80\x63N.",
        "a name without end": HEAD + b"c" + b"a" * 100_000,
        "a name with newlines": HEAD + text("a\nb\x1b[31m") + text("c\r\n") + b"\x93.",
        "a name that is a number": HEAD + b"K\x01K\x02\x93.",
        "text that is none": HEAD + b"\x8c" + b"\x02\xff\xff.",
        "half a surrogate": HEAD + b"\x8c" + b"\x03\xed\xa0\x80.",
        "nothing on the stack": HEAD + b".",
        "no end": HEAD + b"N",
        "two values on the stack": HEAD + b"NN.",
        "a list in itself": HEAD + b"]\x94h\0a.",
        "a dict in itself": HEAD + b"}\x94" + text("info") + b"h\0s.",
        "items of an OrderedDict": pickle.dumps(OrderedDict(a=1)),
        "a memo with a gap": HEAD + b"Nr\xff\xff\xff\x7f.",
        "a memo of nothing": HEAD + b"q\0.",
        "OrderedDict of something": pickle.dumps(Call(OrderedDict, [(1, 2)])),
        "numpy.ndarray called": b"\x80\x04cnumpy\nndarray\nJ\0\0\0\x10\x85R.",
        "an array larger than its data": array((10**6, 10**6)),
        "an array with a negative shape": array((-1,)),
        "an array of objects": array((1,), dtype="O"),
        "an array of records": array((1,), dtype=[("a", "f8")]),
        "an array of the other byte order": array((1,), dtype=">f8"),
        "a scalar of a list": bare(pickle.dumps(np.float64(1))).replace(b"C\x08" + struct.pack("<d", 1), b"]"),
        "a storage that is code": tensor(saved(Call(os.system, "mkdir pwned"))),
        "an older storage that is code": tensor(saved(Call(os.system, "x"), _use_new_zipfile_serialization=False)),
        "a storage in a storage": tensor(archive({"a/data.pkl": tensor(zipped)})),
        "a storage that is a tensor": tensor(saved(torch.zeros(4))),
        "a storage that is text": pickle.dumps(Call(torch.storage._load_from_bytes, "x" * 100)),
        "a storage of nothing": tensor(b""),
        "a storage of two bytes": tensor(b"PK"),
        "a tensor of text": pickle.dumps(Call(torch._utils._rebuild_tensor_v2, "x", 0, (2,), (1,))),
        "a storage too small": tensor(zipped, size=(3, 2)),
        "an offset too large": tensor(zipped, offset=1),
        "a negative offset": tensor(zipped, offset=-1),
        "negative strides": tensor(zipped, stride=(-2, 1)),
        "a negative size": tensor(zipped, size=(-2, 2)),
        "huge sizes": tensor(zipped, size=(2**62, 2**62)),
        "huge sizes and none": tensor(zipped, size=(0, 2**62), stride=(1, 1)),
        "a value repeated": tensor(zipped, size=(2**20, 2**20), stride=(0, 0)),
        "sizes that are floats": tensor(zipped, size=(2.0, 2.0)),
        "more declared than there": tensor(storage(2**40)),
        "less declared than there": tensor(storage(3)),
        "a negative number declared": tensor(storage(-4)),
        "without values": tensor(archive({"a/data.pkl": declared(4)})),
        "without a declaration": tensor(archive({"a/data/0": bytes(16)})),
        "values in another file": tensor(archive({"a/data.pkl": declared(4, "../../../../etc/passwd")})),
        "absolute names": tensor(archive({"/data.pkl": declared(4), "/data/0": bytes(16), "/etc/passwd": "x"})),
        "big-endian": tensor(storage(**{"a/byteorder": "big"})),
        "a compressed storage": tensor(
            archive({"a/data.pkl": declared(2**24), "a/data/0": bytes(2**26)}, zipfile.ZIP_DEFLATED)
        ),
        "a directory elsewhere": tensor(zipped[: end + 16] + b"\xff\xff\xff\x7f" + zipped[end + 20 :]),
        "a directory of 65,535": tensor(zipped[: end + 8] + b"\xff" * 4 + zipped[end + 12 :]),
        "a directory that lies": tensor(zipped.replace(struct.pack("<II", 16, 16), struct.pack("<II", *[2**31] * 2))),
        "a wrong checksum": tensor(zipped.replace(bytes(16), b"\1" + bytes(15))),
        "an older storage that claims more": tensor(older(2**60)),
        "an older storage that has less": tensor(older(content=bytes(12))),
        "an older storage of two lengths": tensor(older(length=5)),
        "an older storage of a negative length": tensor(older(-1)),
        "an older storage of another key": tensor(older(keys=("1",))),
        "an older storage from elsewhere": tensor(older(little=False)),
        "an empty file": b"",
        "zeros": bytes(1000),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "a page": b"<html><body>Not found</body></html>",
        "None": pickle.dumps(None),
        "ten thousand values": pickle.dumps(None) * 10_000,
        "protocol 0": pickle.dumps({"a": [1, 2.0, "x"]}, 0),
    }.items()
