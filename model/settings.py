"""Settings, each declared once: a dataclass field with its default, help, limits and stages.

The command line, the checks of `SpanReader.load`, the configuration in run.json, the Flex
Template's parameters and the manual's table of options are all generated from these declarations.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

ANNOTATE, AUDIT, COMPARE = "annotate", "audit", "compare"
"""The stages: the three commands of run_pipeline."""

BOTH = (ANNOTATE, AUDIT)
"""The stages that read text with a network."""

Group = TypeVar("Group")
"""A dataclass whose fields declare settings."""


class SettingError(ValueError):
    """A setting has an unusable value; the message starts with name=value and names the limit."""


@dataclass(frozen=True)
class Kind:
    """The type and the limits of a setting.

    words    the limits, as they appear in messages: "a whole number from 1 to 1000"
    read     converts text from a command line; raises ValueError or KeyError
    takes    returns whether a value is within the limits
    metavar  placeholder for the value in help
    pattern  regular expression that the text of every valid value matches
    """

    words: str
    read: Callable[[str], Any]
    takes: Callable[[Any], bool]
    metavar: str
    pattern: str = ".*"

    def checked(self, name: str, value: Any) -> Any:
        """Return the value of a setting, converted if it is text, as in library calls.

        Raises SettingError if it is outside the limits.
        """
        try:
            converted = self.read(value) if isinstance(value, str) else value
        except (ValueError, KeyError):
            converted = math.nan  # which no kind takes
        if not self.takes(converted):
            raise SettingError(f"{name}={value}: must be {self.words}")
        return converted


def whole(low: int, high: int) -> Kind:
    """Return the kind of whole numbers from `low` to `high`, both included."""
    words = f"a whole number from {low:g} to {high:g}"
    return Kind(
        words, int, lambda value: type(value) is int and low <= value <= high, "N", "[0-9]+"
    )


def number(low: float, high: float) -> Kind:
    """Return the kind of finite numbers from `low` to `high`, both included."""

    # The exact type, because bool is a subclass of int.
    def takes(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value) and low <= value <= high

    return Kind(
        f"a number from {low:g} to {high:g}",
        float,
        takes,
        "X",
        r"-?[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?",
    )


def amount(most: int) -> Kind:
    """Return the kind of "all", a whole number from 1 to `most`, or a share between 0 and 1."""

    def read(written: str) -> Any:
        if written == "all":
            return written
        return int(written) if re.fullmatch("[0-9]+", written) else float(written)

    # The exact type: an int is a number, a float a share, and bool is a subclass of int.
    def takes(value: Any) -> bool:
        if type(value) is int:
            return 1 <= value <= most
        return value == "all" or (type(value) is float and 0 < value < 1)

    return Kind(
        f"all, a whole number from 1 to {most:g}, or a share above 0 and below 1",
        read,
        takes,
        "N|SHARE",
        r"all|[1-9][0-9]*|0?\.[0-9]+",
    )


def one_of(**values: Any) -> Kind:
    """Return the kind of a fixed choice: command line word -> the value that it selects."""
    *most, last = values
    takes = list(values.values()).__contains__
    return Kind(
        f"{', '.join(most)} or {last}",
        values.__getitem__,
        takes,
        "|".join(values),
        "|".join(values),
    )


def flag() -> Kind:
    """Return the kind of true or false; on the command line, no value means true."""
    values = {"true": True, "false": False}
    takes = [True, False].__contains__
    return Kind(
        "true or false", lambda written: values[written.lower()], takes, "true|false", "true|false"
    )


def text(metavar: str, pattern: str = ".*", words: str = "text") -> Kind:
    """Return the kind of text that `pattern` matches as a whole; messages call it `words`."""

    def takes(value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL) is not None

    return Kind(words, str, takes, metavar, pattern)


def split_names(listed: str) -> tuple[str, ...]:
    r"""Return the names in a comma-separated list, each once; `\,` is a comma in a name."""
    given = (name.strip().replace("\\,", ",") for name in re.split(r"(?<!\\),", listed))
    return tuple(dict.fromkeys(filter(None, given)))


def names() -> Kind:
    """Return the kind of a tuple of distinct names, separated by commas on the command line."""

    return Kind(
        "names separated by commas", split_names, lambda value: isinstance(value, tuple), "A,B"
    )


def some_of(*allowed: str) -> Kind:
    """Return the kind of a tuple of distinct words out of a few, in the order of `allowed`."""

    def read(listed: str) -> tuple[str, ...]:
        given = split_names(listed)
        unknown = [name for name in given if name not in allowed]
        # `takes` refuses the unknown ones; the known ones have one order, so that the order in
        # which they are given changes nothing.
        return (*(name for name in allowed if name in given), *unknown)

    word = "|".join(allowed)
    return Kind(
        f"a comma-separated choice of {', '.join(allowed)}",
        read,
        lambda value: isinstance(value, tuple) and set(value) <= set(allowed),
        "A,B",
        rf"({word})(,({word}))*",
    )


def fractions() -> Kind:
    """Return the kind of a tuple of numbers between 0 and 1, separated by commas on a line."""

    def read(written: str) -> tuple[float, ...]:
        return tuple(sorted({float(each) for each in split_names(written)}))

    def takes(value: Any) -> bool:
        return isinstance(value, tuple) and bool(value) and all(0 < each < 1 for each in value)

    return Kind("numbers between 0 and 1 separated by commas", read, takes, "X,Y")


PRECISION = "precision:"
"""Prefix of a threshold that is given by the precision for which the checkpoint stores it."""


def probability() -> Kind:
    """Return the kind of probabilities: a number from 0 to 1, or precision:X."""
    limits = number(0, 1)

    def read(written: str) -> float | str:
        return written if written.startswith(PRECISION) else float(written)

    def takes(value: Any) -> bool:
        if isinstance(value, str):
            wanted = value.removeprefix(PRECISION)
            return re.fullmatch(r"0?\.[0-9]+", wanted) is not None and float(wanted) > 0
        return limits.takes(value)

    return Kind(
        f"{limits.words}, or {PRECISION}X with X between 0 and 1",
        read,
        takes,
        f"X|{PRECISION}X",
        rf"{limits.pattern}|{PRECISION}0?\.[0-9]+",
    )


def days(most: int = 366) -> Kind:
    """Return the kind of a tuple of consecutive days, at most `most`.

    Text is a range A..B, or the one day A; YYYY-MM-DD each.
    """

    def read(written: str) -> tuple[datetime.date, ...]:
        first, _, last = written.partition("..")
        begin, end = (
            datetime.datetime.strptime(each, "%Y-%m-%d").date() for each in (first, last or first)
        )
        # One day too many is enough for `takes` to refuse the range.
        count = min((end - begin).days, most) + 1
        return tuple(begin + datetime.timedelta(days=day) for day in range(count))

    words = f"a day YYYY-MM-DD, or a range A..B that goes forward over at most {most} days"
    day = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
    return Kind(
        words,
        read,
        lambda value: isinstance(value, tuple) and 0 < len(value) <= most,
        "DAY|A..B",
        rf"{day}(\.\.{day})?",
    )


@dataclass(frozen=True)
class Setting:
    """What a field declares in addition to its default.

    unset     in words, what leaving the setting out means where that depends on the job; the value
              is then None until it is resolved, and the field's default only serves instances made
              in Python
    stages    the stages that take the setting
    identity  the stages whose answers or chunk boundaries depend on it, which makes it part of a
              run's identity
    option    whether users set it; if not, the checkpoint does
    optional  whether run.json has it only where it differs from its default, so that a feature that
              is off leaves a run's identity as it was
    """

    kind: Kind
    help: str
    unset: str
    stages: tuple[str, ...]
    identity: tuple[str, ...]
    option: bool
    optional: bool


def setting(
    default: Any,
    kind: Kind,
    help: str,
    *,
    unset: str = "",
    stages: tuple[str, ...] = BOTH,
    identity: tuple[str, ...] = (),
    option: bool = True,
    optional: bool = False,
) -> Any:
    """Declare a setting as the field of a dataclass. `Setting` explains the arguments."""
    declaration = Setting(kind, help, unset, stages, identity, option, optional)
    return dataclasses.field(default=default, metadata={"setting": declaration})


def declared(group: Any) -> Iterator[tuple[str, Any, Setting]]:
    """Yield name, default (None if it depends on the job) and declaration of each setting."""
    for field in dataclasses.fields(group):
        if "setting" in field.metadata:
            declaration: Setting = field.metadata["setting"]
            yield field.name, None if declaration.unset else field.default, declaration


def make(group: type[Group], values: Mapping[str, Any]) -> Group:
    """Make a group of settings from values by name; ignore names that the group does not declare.

    Text is converted as on the command line. Raises SettingError for a value outside its limits.
    """
    given = {}
    for name, default, declaration in declared(group):
        value = values.get(name, default)
        # A default need not be within the limits: None means that the setting depends on the job.
        given[name] = value if value is default else declaration.kind.checked(name, value)
    return group(**given)


def make_all(groups: Sequence[type[Any]], values: Mapping[str, Any]) -> list[Any]:
    """Make every group from the values that it declares.

    Raises TypeError for a name that no group declares, SettingError for a value outside its limits.
    """
    known = sorted(
        name for group in groups for name, _, declaration in declared(group) if declaration.option
    )
    unknown = sorted(values.keys() - set(known))
    if unknown:
        raise TypeError(f"{unknown[0]!r} is not a setting; the settings are {', '.join(known)}")
    return [make(group, values) for group in groups]


def identity_of(group: Any, stage: str) -> dict[str, Any]:
    """Return by name the values on which a stage's answers or chunk boundaries depend."""
    # The field's own default, also of a setting that depends on the job.
    defaults = {field.name: field.default for field in dataclasses.fields(group)}
    values = {}
    for name, _, declaration in declared(group):
        value = getattr(group, name)
        off = declaration.optional and value == defaults[name]
        if stage in declaration.identity and not off:
            values[name] = value
    return values
