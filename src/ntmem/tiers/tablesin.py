"""Tables as users have them (mapping of arrays, DataFrame, Arrow) as arrays of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..instants import MAX_INSTANT
from .series import EXACT, MOST_FIELDS, RESERVED, Column, Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TIMES = ("ts_event", "ts_known")


def check_field(name: Any) -> str:
    """Return the name of a field, or raise what is wrong with it."""
    if not isinstance(name, str):
        raise TypeError(f"names of fields are str, one was {type(name).__name__}")
    if not name or "\0" in name:
        raise ValueError(f"the name of a field is not empty and holds no NUL, was {name!r}")
    if name in RESERVED:
        raise ValueError(f"{name!r} is a column that every row has or may have; call the field something else")
    return name


def _arrays_of(table: Any) -> dict[Any, Any]:
    if isinstance(table, Mapping):
        return dict(table)
    if hasattr(table, "column_names"):  # Arrow: Table, RecordBatch
        return {name: table.column(i) for i, name in enumerate(table.column_names)}
    if hasattr(table, "schema") and hasattr(table, "column"):
        return {name: table.column(i) for i, name in enumerate(table.schema.names)}
    if hasattr(table, "columns") and hasattr(table, "__getitem__"):  # pandas, polars
        return {name: table[name] for name in table.columns}
    raise TypeError(
        f"columns must be a mapping of names to arrays, a DataFrame or an Arrow table, was {type(table).__name__}"
    )


def _array(values: Any, name: Any) -> NDArray[Any]:
    zone = getattr(getattr(values, "dtype", None), "tz", None)
    if zone is not None:  # pandas, with a zone: its numbers are in UTC
        values = getattr(values, "dt", values).tz_convert("UTC")  # a series has it there, an index itself
        values = getattr(values, "dt", values).tz_localize(None)
    if hasattr(values, "to_numpy"):
        values = _to_numpy(values)
    if np.ma.is_masked(values):
        raise ValueError(f"column {name!r} has masked numbers; fill them, with NaN for instance")
    array = np.asarray(values)
    if isinstance(values, list | tuple) and array.dtype.kind == "f":
        large = next((it for it in values if isinstance(it, int) and abs(it) > EXACT), None)
        if large is not None:
            raise ValueError(f"column {name!r} has floats and {large}, which float64 does not have")
    if array.ndim != 1:
        raise ValueError(f"column {name!r} must have one dimension, had shape {array.shape}")
    return array


def _to_numpy(values: Any) -> Any:
    try:
        return values.to_numpy()
    except ValueError:  # Arrow, in several pieces or with gaps
        return values.to_numpy(zero_copy_only=False)


def _instants(array: NDArray[Any], name: str) -> NDArray[np.int64]:
    if array.dtype.kind == "M":
        if np.isnat(array).any():
            raise ValueError(f"column {name!r} has instants that are missing (NaT)")
        in_ns = array.astype("datetime64[ns]")
        if (in_ns.astype(array.dtype) != array).any():
            raise ValueError(f"column {name!r} has instants that int64 nanoseconds cannot hold (1970 to 2262)")
        array = in_ns.view(np.int64)
    elif len(array) and array.dtype.kind not in "iu":
        raise TypeError(f"column {name!r} must be int64 nanoseconds UTC or datetime64, was {array.dtype}")
    if len(array) and (int(array.min()) < 0 or int(array.max()) > MAX_INSTANT):
        raise ValueError(f"column {name!r} must lie between 1970 and 2262 in nanoseconds UTC")
    return np.ascontiguousarray(array, np.int64)


def _numbers(array: NDArray[Any], name: str) -> tuple[str, NDArray[Any]]:
    """Return "f" or "i", and the numbers as float64 or int64."""
    kind = array.dtype.kind
    if kind == "f" and array.dtype.itemsize <= 8:
        return "f", np.ascontiguousarray(array, np.float64)
    if kind in "bi" or (kind == "u" and (not len(array) or int(array.max()) <= MAX_INSTANT)):
        return "i", np.ascontiguousarray(array, np.int64)
    if kind == "u":
        raise ValueError(f"column {name!r} has {int(array.max())}; whole numbers are int64, up to 2**63 - 1")
    raise TypeError(f"column {name!r} must be of floats, whole numbers or bool, was {array.dtype}")


def rows_of(table: Any, known_after: int | None) -> tuple[Rows, tuple[str, ...], str]:
    """Return a table's rows, the names of its fields and their kinds.

    Raises
    ------
    TypeError, ValueError
        It is no table, lacks a column of times, has columns of different lengths, or of what are no numbers.
    """
    arrays = _arrays_of(table)
    if "ts_event" not in arrays:
        raise ValueError(f"there must be a column 'ts_event', were {', '.join(map(repr, arrays)) or 'none'}")
    if ("ts_known" in arrays) == (known_after is not None):
        raise ValueError(
            "say when each row was known: by a column 'ts_known' or by known_after= (seconds after ts_event), "
            + ("not by both" if known_after is not None else "were neither; now would hide all of it from as_of")
        )
    event = _instants(_array(arrays.pop("ts_event"), "ts_event"), "ts_event")
    if known_after is None:
        known = _instants(_array(arrays.pop("ts_known"), "ts_known"), "ts_known")
    else:
        if len(event) and int(event.max()) > MAX_INSTANT - known_after:
            raise ValueError("ts_event and known_after lie beyond 2262")
        known = event + known_after
    if not arrays:
        raise ValueError("there must be a column beside the times: rows have at least one field")
    if len(arrays) > MOST_FIELDS:
        raise ValueError(f"rows have at most {MOST_FIELDS} fields, had {len(arrays)}")
    columns, kinds = {}, ""
    for name, values in arrays.items():
        kind, numbers = _numbers(_array(values, check_field(name)), name)
        columns[kind + name] = Column(numbers)
        kinds += kind
    lengths = {name: len(it.values) for name, it in columns.items()} | {" ts_known": len(known)}
    wrong = next((name for name, length in lengths.items() if length != len(event)), None)
    if wrong is not None:
        raise ValueError(
            f"columns must be of one length: 'ts_event' has {len(event)} rows, {wrong[1:]!r} has {lengths[wrong]}"
        )
    return Rows(event, known, columns), tuple(arrays), kinds
