"""The error that a user can mend."""


class BadInput(Exception):
    """Something the user gave is wrong: the message says what, where, and how to mend it.

    The command line prints the message alone and exits with status 1; no traceback, because
    the fault is not in the code.
    """
