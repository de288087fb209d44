"""What a model's licence permits, as far as its SPDX expression says."""

from __future__ import annotations

import re
from collections.abc import Iterable

from wsiseg.errors import LicenceRefused, UsageError
from wsiseg.models.card import ModelCard

PERMISSIVE = frozenset(
    {
        *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0"),
        *("CC-BY-3.0", "CC-BY-4.0", "CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0"),
        *("Unlicense", "Zlib"),
    }
)
"""SPDX identifiers of licences that permit any use and ask for no more than to be named."""
COMMERCIAL = PERMISSIVE | {
    *("CC-BY-SA-3.0", "CC-BY-SA-4.0", "CDLA-Sharing-1.0", "EPL-2.0", "EUPL-1.2", "MPL-2.0"),
    *("AGPL-3.0-only", "AGPL-3.0-or-later", "GPL-2.0-only", "GPL-2.0-or-later"),
    *("GPL-3.0-only", "GPL-3.0-or-later", "LGPL-2.1-only", "LGPL-2.1-or-later"),
    *("LGPL-3.0-only", "LGPL-3.0-or-later"),
}
"""Those that permit commercial use, also where what is made of them must be shared alike."""
_GROUPS = {"permissive": PERMISSIVE, "commercial": COMMERCIAL}
_IDENTIFIER = re.compile(r"[A-Za-z0-9.+-]+(:[A-Za-z0-9.+-]+)?")
_TOKEN = re.compile(r"\s*([()]|[^\s()]+)")


def accepted_licences(required: str) -> frozenset[str]:
    """Return the SPDX identifiers, in lower case, that a requirement accepts.

    Parameters
    ----------
    required : str
        `commercial`, `permissive`, or SPDX identifiers separated by commas.

    Raises
    ------
    UsageError
        If it is none of these.
    """
    group = _GROUPS.get(required.strip().lower())
    if group is not None:
        return frozenset(name.lower() for name in group)
    names = [name.strip() for name in required.split(",")]
    if not all(_IDENTIFIER.fullmatch(name) for name in names):
        raise UsageError(
            f"licence {required!r}; commercial, permissive, or SPDX identifiers separated by "
            "commas (CC0-1.0,MIT) are needed"
        )
    return frozenset(name.lower() for name in names)


def permits(expression: str, required: str) -> bool:
    """Return whether a licence is sure to meet a requirement.

    Of an SPDX expression both sides of `AND` must, and one side of `OR`; an exception after
    `WITH` only adds to what is permitted.  What is no SPDX expression permits nothing.

    Parameters
    ----------
    expression : str
        SPDX licence expression (https://spdx.github.io/spdx-spec/, annex D).
    required : str
        As `accepted_licences` takes it.

    Raises
    ------
    UsageError
        If the requirement cannot be understood.
    """
    accepted = accepted_licences(required)
    tokens = _TOKEN.findall(expression)
    try:
        met = _either(tokens, accepted)
    except (IndexError, RecursionError, ValueError):
        return False
    return met and not tokens


def _either(tokens: list[str], accepted: frozenset[str]) -> bool:
    met = _both(tokens, accepted)
    while tokens and tokens[0].upper() == "OR":
        del tokens[0]
        other = _both(tokens, accepted)
        met = met or other
    return met


def _both(tokens: list[str], accepted: frozenset[str]) -> bool:
    met = _one(tokens, accepted)
    while tokens and tokens[0].upper() == "AND":
        del tokens[0]
        other = _one(tokens, accepted)
        met = met and other
    return met


def _one(tokens: list[str], accepted: frozenset[str]) -> bool:
    token = tokens.pop(0)
    if token == "(":  # noqa: S105
        met = _either(tokens, accepted)
        if tokens.pop(0) != ")":
            raise ValueError("no closing bracket")
        return met
    if not _IDENTIFIER.fullmatch(token) or token.upper() in ("AND", "OR", "WITH"):
        raise ValueError(f"{token} is no identifier")
    if tokens and tokens[0].upper() == "WITH":
        tokens.pop(0)
        addition = tokens.pop(0)
        # Conditions (`Commons-Clause`) are written like that too, though SPDX has none.
        if "exception" not in addition.lower():
            raise ValueError(f"{addition} is no exception")
    return token.lower() in accepted


def permitted_cards(cards: Iterable[ModelCard], required: str | None) -> list[ModelCard]:
    """Return those models whose licence meets a requirement; all of them for None."""
    return [card for card in cards if required is None or permits(card.licence, required)]


def refuse_licence(card: ModelCard, required: str | None, shipped: Iterable[ModelCard]) -> None:
    """Raise LicenceRefused if a model's licence does not meet a requirement.

    Parameters
    ----------
    card : ModelCard
        Of the model.
    required : str or None
        As `accepted_licences` takes it; None: any licence will do.
    shipped : iterable of ModelCard
        The models that may be named instead.
    """
    if required is None or permits(card.licence, required):
        return
    others = ", ".join(f"{one.name} ({one.licence})" for one in permitted_cards(shipped, required))
    raise LicenceRefused(
        f"model {card.name} has the licence {card.licence or 'unknown'} "
        f"({card.licence_note.rstrip('.')}); "
        f"{required} was required: "
        + (f"use --model {others}" if others else "no shipped model has it; name your own")
    )
