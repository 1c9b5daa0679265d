"""Stages as the tests run them: files of a word or two, made by one script from others."""

from shortcut import manifest


def stage(layout, said, script="add_results.py", writes=None, reads=(), force=False, expects=None, **settings):
    """A stage; without `writes`, one that makes the results."""
    return manifest.Stage(
        layout, script, reads=list(reads), writes=writes or [layout.results], settings=settings, force=force,
        notice=said.append, expects=expects,
    )  # fmt: skip


def run(layout, said, value="x", **others):
    """A stage that makes the results; whether it had to."""
    with stage(layout, said, **others) as made:
        if made.made:
            return False
        made.save(layout.results, value)
        return True


def make(layout, said, script, path, value="x", **others):
    """Make one file, if it is not there."""
    with stage(layout, said, script, [path], **others) as made:
        if not made.made:
            made.save(path, value)
    return path


def make_upstream(layout, said, value, force=False, **settings):
    return make(layout, said, "add_tokenization.py", layout.tokenized("val"), value, force=force, **settings)
