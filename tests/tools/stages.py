"""Outputs as the tests make them: files of a word or two, made by one script from others."""

from shortcut.files import store
from shortcut.pipeline.manifest import Provenance
from shortcut.pipeline.outputs import Outputs


def outputs(
    files, said, script="add_results.py", writes=None, reads=(), force=False, renew=False, expects=None, **settings
):
    """Outputs of a script; without `writes`, the results."""
    return Outputs(
        Provenance(files, lambda *_: expects or {}), script, reads=list(reads), writes=writes or [files.results],
        settings=settings, force=force, renew=renew, notice=said.append,
    )  # fmt: skip


def save(made, path, value):
    """Pickle a value as one of the outputs."""
    with made.writing(path) as file:
        store.dump(file, value)


def run(files, said, value="x", **others):
    """Make the results; whether there was anything to do."""
    with outputs(files, said, **others) as made:
        if made.todo:
            save(made, files.results, value)
        return bool(made.todo)


def make(files, said, script, path, value="x", **others):
    """Make one file, if it is not there."""
    with outputs(files, said, script, [path], **others) as made:
        if made.todo:
            save(made, path, value)
    return path


def make_upstream(files, said, value, force=False, **settings):
    return make(files, said, "add_tokenization.py", files.split("val"), value, force=force, **settings)
