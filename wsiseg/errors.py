"""Everything wsiseg raises on purpose.

WsisegError
├── UsageError (ValueError)              an option or argument cannot be used
│   ├── MissingScale                     µm per pixel is not in the file and was not given
│   ├── ScaleRefused                     the scale contradicts the file or does not suit the model
│   ├── LabelsNotReadable                annotated images cannot be read, or contradict themselves
│   └── OutputExists                     the output belongs to another run, or is in the way
├── SlideNotReadable (OSError)           a slide or image cannot be opened
│   ├── UnknownFormat                    … by this reader: it is of a kind for another
│   └── TileNotReadable                  … or a part of it cannot be decoded
├── TileCrashed                          a tile ended the process it ran in, twice
├── OutputNotWritable (OSError)          results cannot be written
├── UnknownName (LookupError)            no model, class, format or plug-in of that name
├── ModelNotUsable (ValueError)          a model file is damaged or of a newer format
├── ResultNotReadable (ValueError)       a run or tile file is damaged, unfinished or newer
├── WarningsRefused                      a run has warnings, and --strict was asked for
├── MissingDependency (ImportError)      an optional package is needed
└── Interrupted                          stopped by a signal; the same command continues

Messages say what came, what was needed, and what to do.
"""

from __future__ import annotations


class WsisegError(Exception):
    """Base of all errors wsiseg raises on purpose."""


class UsageError(WsisegError, ValueError):
    """An option or argument cannot be used."""


class MissingScale(UsageError):
    """The slide's µm per pixel is not in the file and was not given."""


class ScaleRefused(UsageError):
    """The scale given contradicts the file, or does not suit the model."""


class LabelsNotReadable(UsageError):
    """Annotated images cannot be read, or contradict themselves."""


class OutputExists(UsageError):
    """The output belongs to another run, or is in the way."""


class SlideNotReadable(WsisegError, OSError):
    """A slide or image cannot be opened."""


class UnknownFormat(SlideNotReadable):
    """A reader does not know this kind of file; another may."""


class TileNotReadable(SlideNotReadable):
    """A part of a slide cannot be decoded."""


class TileCrashed(WsisegError):
    """A tile ended the worker process it ran in, and did so again when it ran alone."""


class OutputNotWritable(WsisegError, OSError):
    """Results cannot be written."""


class UnknownName(WsisegError, LookupError):
    """No model, class, format or plug-in has that name."""


class ModelNotUsable(WsisegError, ValueError):
    """A model file is damaged, incomplete or of a newer format."""


class TrainingFailed(WsisegError):
    """A training went wrong; its last checkpoint is intact."""


class ResultNotReadable(WsisegError, ValueError):
    """A run directory or tile file is damaged, unfinished or of a newer format."""


class WarningsRefused(WsisegError):
    """A run has warnings, and strictness was asked for."""


class MissingDependency(WsisegError, ImportError):
    """An optional package is needed and not installed."""


class Interrupted(WsisegError):
    """Stopped by a signal; finished tiles are kept and the same command continues."""
