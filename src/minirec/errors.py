"""The one error that MiniRec raises on bad input."""

from click import ClickException


class InputError(ClickException, ValueError):
    """What was given cannot be used; the message says what, where and the way out.

    As a ``ClickException``, ``kedro run`` prints it as one line, without a traceback.
    """
