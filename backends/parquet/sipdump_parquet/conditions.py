"""What a question asks of columns: conditions that leave at least the rows which can be an answer."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import attrs
import pyarrow as pa
import pyarrow.compute as pc

from sipdump_core.calls.legs import without_suffix
from sipdump_core.drivers.query import Endpoint, Query
from sipdump_parquet.table import encoded

__all__ = ["Condition", "conditions", "within"]

Mask = Any
"""A :class:`pyarrow.BooleanArray` without nulls, with a value for each row."""


@attrs.frozen
class Condition:
    """A condition on the rows of a table."""

    columns: Sequence[str]
    test: Callable[[Any], Mask]
    """Takes a :class:`pyarrow.Table` of these columns."""
    bounds: tuple[int | None, int | None] = (None, None)
    """The lowest and the highest value of the first column for which it can hold."""


def conditions(query: Query, names: Collection[str]) -> list[Condition]:
    """Return the conditions of a question, the cheapest first.

    Args:
        query: the question.
        names: the columns that a file has; what needs others is left out.
    """
    asked = _about_flows(query)
    if query.since_us is not None or query.until_us is not None:
        asked.insert(0, within("time", query.since_us, query.until_us))
    if query.call_ids:
        ids = pa.array(sorted(query.call_ids), pa.string())
        asked.append(
            Condition(["call_id"], lambda table: _accepted(table["call_id"], lambda each: pc.is_in(each, ids)))
        )
    if query.correlations:
        asked.append(_correlated(query.correlations))
    asked += _about_messages(query, names)
    return [each for each in asked if set(each.columns) <= set(names)]


def within(column: str, first: int | None, end: int | None) -> Condition:
    """Return the condition that a column of integers, or of times, has values from one on and below another."""

    def test(table: Any) -> Mask:
        values = _whole(table[column]).cast(pa.int64())
        masks = [] if first is None else [pc.greater_equal(values, first)]
        masks += [] if end is None else [pc.less(values, end)]
        return _all_of(masks)

    return Condition([column], test, (first, None if end is None else end - 1))


def _about_flows(query: Query) -> list[Condition]:
    asked = [
        _equals(column, values)
        for column, values in (("tag", query.tags), ("node", query.nodes), ("proto", query.protos))
        if values
    ]
    if query.endpoints:
        columns = ["src_ip", "src_port", "dst_ip", "dst_port"]
        asked.append(Condition(columns, lambda table: _any_of(_ends(table, each) for each in query.endpoints)))
    return asked


def _about_messages(query: Query, names: Collection[str]) -> list[Condition]:
    """Return the conditions on what was parsed from messages.

    What has neither a method nor a status may be SIP all the same, in a form that only one of two parsers understands,
    so it always remains. So do requests where the user of their URI is no column (schema version 1).
    """
    asked = []
    if query.methods:
        asked.append(_lenient(["method"], lambda table: _among(table["method"], _is_upper(query.methods))))
    if query.statuses:
        statuses = pa.array(sorted(query.statuses), pa.int32())
        asked.append(_lenient(["status"], lambda table: pc.is_in(_whole(table["status"]), statuses)))
    if query.agents:
        asked.append(_lenient(["user_agent"], lambda table: _among(table["user_agent"], _has_part(query.agents))))
    target = ["to_user", "request_uri_user"] if "request_uri_user" in names else ["to_user"]
    for users, columns in (
        (query.from_users, ["from_user"]),
        (query.to_users, target),
        (query.users, ["from_user", *target]),
    ):
        if users:
            asked.append(_of_users(users, columns))
    return asked


def _of_users(users: Collection[str], columns: Sequence[str]) -> Condition:
    plain, patterns = _user_parts(users)

    def test(table: Any) -> Mask:
        masks = []
        for column in columns:
            values = _whole(table[column])
            masks.append(pc.is_in(values, pa.array(plain, pa.string())))
            masks += [pc.match_like(values, pattern) for pattern in patterns]
        if columns[-1] == "to_user":
            masks.append(pc.is_valid(table["method"]))
        return _any_of(masks)

    return _lenient(columns, test)


def _user_parts(users: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return what to look for in columns of users: texts as they are, and patterns as SQL's LIKE has them."""
    plain: set[str] = set()
    patterns: set[str] = set()
    for user in users:
        for name in {user, user.rpartition("@")[0] or user}:
            plain.add(name)
            if "*" in name:
                escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
                patterns.add(escaped.replace("*", "%"))
    return sorted(plain), sorted(patterns)


def _lenient(columns: Sequence[str], test: Callable[[Any], Mask]) -> Condition:
    def lenient(table: Any) -> Mask:
        nothing = pc.and_(pc.is_null(_whole(table["method"])), pc.is_null(_whole(table["status"])))
        return pc.or_(_set(test(table)), nothing)

    return Condition(list(dict.fromkeys([*columns, "method", "status"])), lenient)


def _correlated(values: Collection[str]) -> Condition:
    """Return the condition that a message names a value: its Call-ID, with or without a suffix, or ``correlation``."""
    wanted = pa.array(sorted(values), pa.string())

    def are_linked(call_ids: Any) -> Mask:
        suffixed = call_ids.filter(pc.match_substring_regex(call_ids, "b2b|-leg")).to_pylist()
        linked = [each for each in suffixed if without_suffix(each) in values]
        return pc.is_in(call_ids, pa.concat_arrays([wanted, pa.array(linked, pa.string())]))

    def test(table: Any) -> Mask:
        listed = _whole(table["correlation"])
        parts = listed.flatten()
        found = pc.or_(pc.is_in(parts, wanted), pc.is_in(pc.ascii_lower(parts), wanted))
        rows = pc.list_parent_indices(listed).filter(found)
        named = pc.is_in(pa.arange(0, len(listed)), rows.cast(pa.int64()))
        return pc.or_(_accepted(table["call_id"], are_linked), named)

    return Condition(["call_id", "correlation"], test)


def _named(call_ids: Collection[str]) -> Condition:
    wanted = pa.array(sorted(call_ids), pa.string())
    return Condition(["call_id"], lambda table: _accepted(table["call_id"], lambda values: pc.is_in(values, wanted)))


def _equals(column: str, values: Collection[str]) -> Condition:
    return Condition([column], lambda table: _among(table[column], values.__contains__))


def _ends(table: Any, endpoint: Endpoint) -> Mask:
    """Return which rows have an endpoint at either end."""
    masks = []
    for ip, port in (("src_ip", "src_port"), ("dst_ip", "dst_port")):
        mask = _among(table[ip], lambda text: text is None or endpoint.holds(text, endpoint.port or 0))
        if endpoint.port is not None:
            mask = pc.and_(mask, _set(pc.equal(_whole(table[port]), endpoint.port)))
        masks.append(mask)
    return _any_of(masks)


def _is_upper(methods: Collection[str]) -> Callable[[str | None], bool]:
    return lambda method: method is not None and method.upper() in methods


def _has_part(parts: Collection[str]) -> Callable[[str | None], bool]:
    return lambda agent: any(part in (agent or "").lower() for part in parts)


def _among(column: Any, accepts: Callable[[str | None], bool]) -> Mask:
    """Return which rows of a column of texts have a value, or null, that is accepted; each is looked at once."""
    return _accepted(column, lambda values: pa.array(map(accepts, values.to_pylist()), pa.bool_()), accepts(None))


def _accepted(column: Any, accept: Callable[[Any], Mask], null: bool = False) -> Mask:
    """Return which rows of a column of texts have a value that is accepted, given an array of the different ones."""
    values, indexes = encoded(column)
    return accept(values).take(indexes).fill_null(null)


def _whole(column: Any) -> Any:
    """Return a chunked array as one array."""
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _set(mask: Mask) -> Mask:
    """Return a mask with false for null."""
    return mask.fill_null(False)


def _all_of(masks: Iterable[Mask]) -> Mask:
    first, *others = masks
    for mask in others:
        first = pc.and_(first, mask)
    return _set(first)


def _any_of(masks: Iterable[Mask]) -> Mask:
    first, *others = map(_set, masks)
    for mask in others:
        first = pc.or_(first, mask)
    return first
