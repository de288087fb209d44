"""`wsiseg` and `python -m wsiseg`: what signals do is settled before all else is loaded."""

from __future__ import annotations

from importlib import import_module

from wsiseg.signals import end_at_once_on_signals


def main() -> None:
    """Run the command line."""
    end_at_once_on_signals()
    import_module("wsiseg.cli").main()


# A process that is spawned imports this under another name, and keeps its own signals.
if __name__ == "__main__":
    main()
