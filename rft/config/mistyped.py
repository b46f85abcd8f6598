"""What is said of a value of the wrong type, in place of what OmegaConf says."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LIST = "takes a list, as in {key}=[…,…]"
_NULL = "may not be null; leave it out for its default, or give a value"
_SAID = (
    (r"is not a ListConfig, list or tuple|Cannot merge DictConfig with ListConfig", _LIST),
    (r"Cannot assign \w+ to Dict", "takes fields with values, as in {{name: value}}"),
    (r"Cannot merge ListConfig with DictConfig", "takes fields with values, not a list"),
    (r"Value '(?P<value>.*)' of type '\w+' could not be converted to Integer", "{value} is no whole number"),
    (r"Value '(?P<value>.*)' of type '\w+' could not be converted to Float", "{value} is no number"),
    (r"Value '(?P<value>.*)' is not a valid bool", "{value} is neither true nor false"),
    (r"Incompatible value 'None'|NoneType is not a subclass|incompatible with type hint .*None", _NULL),
    (r"Cannot convert '\w+' to string: '(?P<value>.*)'", "{value} is no text; put quotes around it"),
    (r"Value (?P<value>.*) \(\w+\) is incompatible with type hint 'str'", "{value} is no text; put quotes around it"),
    (r"'\w+' is incompatible with type hint .*str", "a list or fields with values stand where a text is wanted"),
    (r"(?P<value>\w+) is not a subclass of \w*Config\b", "has fields of its own; set one of them, as in {key}.FIELD=…"),
)
_CHOICE = re.compile(r"Invalid value '(?P<value>.*)', expected one of \[(?P<all>.*)\]")


def mistyped(error: Exception, key: str, overrides: Sequence[str] = ()) -> str:
    """One line: the key, what is wrong with its value and what is wanted; of what is not foreseen, what OmegaConf says.

    Args:
        error: OmegaConf's.
        key: the full key as OmegaConf knows it: of an item of a list it may have lost the list, of fields their name.
        overrides: which may tell the key that was lost.
    """
    said = str(error).strip().partition("\n")[0]
    key = _found(key, said, overrides)
    if choice := _CHOICE.search(said):
        return f"{key}={choice['value']}: no such choice; valid are {choice['all']}"
    for pattern, wanted in _SAID:
        if found := re.search(pattern, said):
            return f"{key}: {wanted.format(key=key, **found.groupdict())}"
    return f"{key}: {said}"


def _found(key: str, said: str, overrides: Sequence[str]) -> str:
    """The key with the name that OmegaConf has lost, if one override alone can be meant."""
    group, _, last = key.rpartition(".")
    if last and not last.isdigit():
        return key
    value = re.search(r"value: (.*)$", said)
    given = [one.lstrip("+").partition("=") for one in overrides]
    of_group = [(name, set_to) for name, _, set_to in given if name.startswith(f"{group}.")]
    likely = [name for name, set_to in of_group if (set_to.startswith("[") if last else value and set_to == value[1])]
    if len(likely) != 1:
        return group
    return f"{likely[0]}[{last}]" if last else likely[0]
