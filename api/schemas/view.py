"""Making an answer of a domain object."""

from typing import Any, TypeVar

from msgspec import Struct

V = TypeVar("V", bound=Struct)


def view_of(view: type[V], source: object, **others: Any) -> V:
    """Make a view: the fields in `others`, and for each of its other fields the source's attribute of that name."""
    same = {name: getattr(source, name) for name in view.__struct_fields__ if name not in others}
    return view(**same, **others)
