"""A package outside wsiseg that adds an exporter, found by its dist-info alone."""

LOADED_FROM = "two"


def export_nothing() -> str:
    """Return which package answered."""
    return LOADED_FROM
