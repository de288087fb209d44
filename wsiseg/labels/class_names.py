"""From the classes of files to ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from wsiseg.errors import UsageError
from wsiseg.labels.found import FoundImage, LabelFormat
from wsiseg.labels.options import IGNORED_REGION, UNKNOWN_NUCLEUS, SetDescription

OUR_CLASSES = ("Epithelial", "Inflammatory", "Spindle", "Miscellaneous")
"""These come first, in this order, where no list is given."""


def names_of_keys(described: SetDescription, of: LabelFormat) -> dict[str, str]:
    """Return what is known before reading: our class of each value in the files.

    The user may name a value itself or by the publisher's name; what is not named keeps the
    format's own mapping.

    Raises
    ------
    UsageError
        If the user names a value that the format does not have.
    """
    values = {name.casefold(): value for value, name in of.value_names.items()}
    values |= {value: value for value in of.value_names}
    found = dict(of.class_of)
    for key, name in described.class_of_any.items():
        if not values or values.get(key.casefold()):
            found[values.get(key.casefold(), key)] = name
    for key, name in described.class_of.items():
        if values and key.casefold() not in values and key not in values:
            known = ", ".join(f"{v} ({n})" if v != n else v for v, n in of.value_names.items())
            raise UsageError(
                f"{described.name}: class_of names {key!r}, which the format {of.name} does not "
                f"have; it has {known}"
            )
        found[values.get(key.casefold(), key)] = name
    return found


def classes_of(
    found: FoundImage, known: Mapping[str, str], of: LabelFormat, set_name: str
) -> tuple[str, ...]:
    """Return our class of each nucleus of an image, `UNKNOWN_NUCLEUS` or `IGNORED_REGION`.

    Raises
    ------
    UsageError
        If a nucleus has a class that nothing is known of.
    """
    unknown = {key for key in found.class_keys if key is not None and key not in known}
    if unknown and not of.names_classes:
        key = sorted(unknown)[0]
        n = sum(one == key for one in found.class_keys)
        said = ", ".join(f"{value} → {name or 'unknown'}" for value, name in known.items())
        raise UsageError(
            f"{found.where}: {n} nuclei are of the class {key!r}, which is not known for "
            f"{set_name} (known: {said or 'none'}); say what it is in a TOML file that describes "
            f'the set, for example class_of = {{ "{key}" = "Epithelial" }}, "" for a nucleus of '
            'unknown class, "-" for a region to ignore'
        )
    return tuple(
        UNKNOWN_NUCLEUS if key is None else known.get(key, key) for key in found.class_keys
    )


def common_list(given: Sequence[str], of_sets: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Return the common list of classes.

    Parameters
    ----------
    given : sequence of str
        The user's list; empty for all classes that are annotated, ours first, then the others in
        the order in which they appear.
    of_sets : iterable of (str, sequence of str)
        Name and classes of each set.

    Raises
    ------
    UsageError
        If a set has a class that is not in the given list.
    """
    found: dict[str, None] = {}
    for set_name, names in of_sets:
        for name in names:
            if given and name not in given:
                raise UsageError(
                    f"{set_name} has nuclei of the class {name!r}, which is not among the classes "
                    f"{', '.join(given)}; add it to them, or say in a TOML file which of them it "
                    f'is: class_of = {{ "{name}" = "{given[0]}" }}, "" for a nucleus of unknown '
                    'class, "-" for a region to ignore'
                )
            found[name] = None
    if given:
        return list(given)
    return [name for name in OUR_CLASSES if name in found] + [
        name for name in found if name not in OUR_CLASSES
    ]


def real_names(names: Iterable[str]) -> list[str]:
    """Return the classes among what values stand for, each once, in order."""
    return list(dict.fromkeys(n for n in names if n not in (UNKNOWN_NUCLEUS, IGNORED_REGION)))
