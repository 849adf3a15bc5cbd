"""The error that users can put right themselves."""


class UserError(ValueError):
    """Invalid input. The message is one line: the problem (file, field, value) and the remedy."""
