"""The one error that means 'the input is wrong and here is what to do about it'."""


class UserError(Exception):
    """Bad input. The message is one line: what is wrong (file, field, value) and the remedy."""
