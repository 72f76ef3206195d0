"""What is raised about files that cannot be used."""

__all__ = ["DataError"]


class DataError(ValueError):
    """Data that cannot be used: the message names the file and the reason."""
