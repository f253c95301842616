"""The one exception that a user sees."""


class TroveStepsError(Exception):
    """A mistake in the configuration, a broken input or a damaged file.

    Its text is the whole message: what is wrong, where (file, line, key) and what to do.
    Commands print it without a traceback and end with exit status 1.
    """
