"""The writer, watched: a process can die at any point of it."""

import os
import signal
import sys

from shortcut.files import store
from shortcut.pipeline import partial as partial_results


def watch_the_writer(kill_at: int | None) -> list[None]:
    """Count the points of the writer as they are passed, and die at number `kill_at`.

    Each file has four: half of its bytes written, all of them, before it takes its name, after. Partial results have
    two a flush, before and after.
    """
    passed = []

    def point() -> None:
        passed.append(None)
        if kill_at == len(passed):
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function, before=True, after=True):
        def watched(*args, **kwargs):
            if before:
                point()
            result = function(*args, **kwargs)
            if after:
                point()
            return result

        return watched

    class Halting:
        """A file of which the first write stops half-way for a moment."""

        def __init__(self, file):
            self.file, self.begun = file, False

        def write(self, data):
            if self.begun:
                return self.file.write(data)
            self.begun, half = True, len(data) // 2
            self.file.write(memoryview(data)[:half])
            self.file.flush()
            point()
            return half + self.file.write(memoryview(data)[half:])

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

    store.os = type(sys)("os")  # the writer's own view of the system
    store.os.__dict__.update(os.__dict__)
    store.open = lambda path, mode: Halting(open(path, mode))  # noqa: SIM115
    store.os.fsync = around(os.fsync, before=False)
    store.os.replace = around(os.replace)
    partial_results.np.memmap.flush = around(partial_results.np.memmap.flush)
    return passed
