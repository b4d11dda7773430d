"""The root of the error tree. Each room draws its own branch where it raises it."""


class SluicewatchError(Exception):
    """Anything this product raises on purpose."""


class BadInput(SluicewatchError):
    """What a person or a device gave us cannot be used.

    The message is one line that names the field, what was allowed and what came; the command line prints it and ends with
    exit code 2.
    """
