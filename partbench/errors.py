"""Errors that a user can fix."""


class BadInput(Exception):
    """Something the user gave is wrong; the message says what, where, and how to fix it.

    The command line prints the message alone and exits with status 1. It prints no traceback,
    because the fault is not in the code.
    """


def in_short(error: Exception) -> str:
    """Return the first sentence of an error's message.

    torch adds advice for its own users, such as to load the file unsafely.
    """
    return str(error).partition(". ")[0].partition("\n")[0] or type(error).__name__
