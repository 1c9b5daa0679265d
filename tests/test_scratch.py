"""What is kept under a key, for corpus/."""

import pytest

from shortcut.files.scratch import Scratch


def test_what_is_kept_under_a_key_is_made_once(tmp_path):
    made, scratch = [], Scratch(tmp_path, "k", pytest.fail)

    def make():
        made.append(1)
        return b"%d" % len(made)

    assert [scratch.keep(make, group=group) for group in (1, 1, 2, 1)] == [b"1", b"1", b"2", b"1"]
    assert scratch.keep(lambda: b"", group=3) == b""
