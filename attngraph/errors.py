"""The error that users can put right themselves."""


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong (file, field, value) and the remedy."""
