"""What the scripts share: states, linear maps between them, read-outs, metrics, files and plots."""


class Problem(Exception):  # noqa: N818  (it is the person's problem before it is an error)
    """Something the person at the terminal can mend; the message says what was got and what to do.

    Scripts print it as one line and end with exit code 1. Any other exception is a defect of ours.
    """
