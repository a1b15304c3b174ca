"""What the submitter's provider and classes held at the call, as a worker will have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

from espnet3.errors import ClassError, ConfigError
from espnet3.redaction import shown_value
from espnet3.specs.models import Argument, Assignment, ClassReference, ProviderSpec
from espnet3.specs.plain import is_omegaconf
from espnet3.user_code.equality import alike
from espnet3.user_code.instances import attributes_of, changed_attributes
from espnet3.user_code.references import refer_to
from espnet3.user_code.values import stored, stored_and_early
from espnet3.user_code.variables import (
    Holder,
    Variable,
    is_changed,
    must_be_refused,
    used_variables,
)


def describe_instance(
    provider: Any, cls: ClassReference, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> ProviderSpec:
    """A provider as its arguments at construction, and what was changed in it since.

    Raises:
        ConfigError: a worker could not have one of them alike; names it.
    """
    # The first argument of the published constructors is the config.
    names = ["config", *(f"argument {i + 1}" for i in range(1, len(args)))]
    return ProviderSpec(
        cls=cls,
        args=[stored(value, name) for value, name in zip(args, names, strict=False)],
        kwargs={name: stored(value, name) for name, value in kwargs.items()},
        attributes=_attributes(provider, [*args, *kwargs.values()]),
    )


def _attributes(provider: Any, given: Sequence[Any]) -> dict[str, Argument]:
    changed, gone = changed_attributes(provider)
    for name in gone:
        raise ConfigError(
            f"provider.{name}",
            "was deleted after the provider's construction; construct it without, so that a worker "
            "can",
        )
    attributes = {}
    for name, value in attributes_of(provider):
        if name in changed:
            try:
                attributes[name] = stored(value, f"provider.{name}")
            except ConfigError as error:
                problem = str(error).removeprefix(f"{error.field}: ")
                raise ConfigError(
                    error.field,
                    "was changed after the provider's construction, and a worker could not be "
                    f"given it: {problem} (or construct the provider anew)",
                ) from None
        elif is_omegaconf(value) and not any(alike(arg, value) for arg in given):
            # Made by the constructor, perhaps with other values for what its arguments refer to.
            argument, early = stored_and_early(value, f"provider.{name}")
            if early:
                attributes[name] = argument
    return attributes


def changed_variables(*classes: type[Any]) -> list[Assignment]:
    """Variables that code of classes may read, and that were changed since the import.

    Raises:
        ClassError: one was set to what a worker could not be given; names it.
    """
    found = {v.key: v for v in used_variables(classes, exact=True) if is_changed(v)}
    assignments = []
    for _, variable in sorted(found.items()):
        try:
            value = stored(variable.value, str(variable))
            _require_another(variable)
        except ConfigError as error:
            if must_be_refused(variable):
                shown = shown_value(variable.value, variable.name)
                raise ClassError(
                    str(variable),
                    f"was changed after the import, to {shown}, which a worker cannot be given; "
                    "change it where the module is imported, or pass plain values through the "
                    "provider",
                ) from error
            continue
        target = _target(variable)
        if target is not None:
            assignments.append(Assignment(target=target, name=variable.name, value=value))
    return assignments


def _require_another(variable: Variable) -> None:
    """Refuse a function that the import makes otherwise, and that would be found by its own name.

    Raises:
        ConfigError: the variable holds such a one.
    """
    if not isinstance(variable.value, FunctionType):
        return
    module, owner, name = variable.key
    own = f"{owner}.{name}" if owner else name
    if (variable.value.__module__, variable.value.__qualname__) == (module, own):
        raise ConfigError(
            str(variable), "is not the function of that name which a worker would import"
        )


def _target(variable: Variable) -> ClassReference | None:
    """Where a worker finds what has the variable; None where it finds nothing."""
    owner = variable.owner
    try:
        if isinstance(owner, type):
            return refer_to(owner)
        module, name = (owner.module, owner.name) if isinstance(owner, Holder) else (owner, "")
        of_module = type("", (), {"__module__": module.__name__})
        return refer_to(of_module).model_copy(update={"qualname": name})
    except ClassError:
        return None
