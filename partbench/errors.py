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


def shown(value: object) -> str:
    """Return a value as it stands in a message: in one line, and cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:197]}..."
