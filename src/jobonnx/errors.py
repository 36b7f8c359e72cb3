"""What jobonnx raises for what a user can mend."""


class JobonnxError(Exception):
    """A sentence for the user: it names the file, the value and the fix.

    The command line prints it on one line of stderr and exits with status 1. Misuse of the Python interface (a wrong type, say)
    raises `TypeError` or `ValueError` instead, as everywhere in Python.
    """


class CannotRunHereError(JobonnxError):
    """Nothing is wrong with the bundle: this machine lacks the provider that a variant needs, or the one asked for."""
