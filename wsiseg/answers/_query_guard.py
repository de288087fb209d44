"""What a query may hold: one SELECT over the tables of runs, that changes and opens nothing.

DuckDB's own locks (no external access, no configuration) are the wall; this is the gate before
it, which also stops what they let through, such as an INSERT within a WITH or functions that
switch on logging.  The statement is judged as DuckDB parsed it, never by its text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from wsiseg.errors import UsageError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TABLE_FUNCTIONS = ("generate_series", "range", "repeat", "unnest", "json_each")
"""The only functions that may stand for a table."""
_READING_NODES = ("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE")
_SECOND_HALVES = {"RECURSIVE_CTE_NODE": "right", "CTE_NODE": "child"}
"""Where the name that a node gives to a query is known."""
_FORBIDDEN_FUNCTIONS = (
    *("current_setting", "getenv", "getvariable", "nextval", "currval", "current_query"),
    *("sleep_ms", "write_log", "json_execute_serialized_sql", "add_parquet_key"),
)


def check_select(connection: DuckDBPyConnection, sql: str, tables: Collection[str]) -> Any:
    """Return a statement's tree; raise UsageError unless it only reads the tables.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Parses it.
    sql : str
        What was asked.
    tables : collection of str
        Names that may be read, besides those the statement makes itself (WITH).

    Raises
    ------
    UsageError
        If it is not exactly one SELECT, writes, names another table or file, or calls what
        reaches beyond the tables.
    """
    _check_kind(connection, sql)
    text = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    tree = json.loads(text[0][0])
    if tree.get("error"):
        raise UsageError(
            f"the query cannot be checked ({tree.get('error_message')}); write it as a plain SELECT"
        )
    for node, known in _scoped(tree, frozenset(name.casefold() for name in tables)):
        _check_node(node, known, tables)
    return tree


def names_in(tree: Any) -> set[str]:
    """Return the names of all tables and columns in a statement, and `*` if it has one."""
    found = set()
    for node in _dicts(tree):
        if node.get("type") == "BASE_TABLE":
            found.add(str(node["table_name"]).casefold())
        elif node.get("type") == "COLUMN_REF":
            found.update(str(name).casefold() for name in node["column_names"])
        elif node.get("type") == "STAR":
            found.add("*")
    return found


def _check_kind(connection: DuckDBPyConnection, sql: str) -> None:
    import duckdb

    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the query is no text: it holds bytes that are not UTF-8") from error
    try:
        kinds = [statement.type.name for statement in connection.extract_statements(sql)]
    except duckdb.Error as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"the query is no SQL: {first}") from error
    if kinds != ["SELECT"]:
        raise UsageError(
            f"the query holds {', '.join(kinds) or 'nothing'}; exactly one SELECT is needed: "
            "results are only read"
        )


def _check_node(node: dict[str, Any], known: Collection[str], tables: Collection[str]) -> None:
    kind = str(node.get("type", ""))
    may = f"it may read the tables {', '.join(tables)}, and nothing else"
    if kind.endswith("_NODE") and kind not in _READING_NODES:
        raise UsageError(
            f"the query holds {kind.split('_')[0]}; exactly one SELECT is needed: results are "
            "only read"
        )
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).casefold()
        if name not in TABLE_FUNCTIONS:
            raise UsageError(f"the query asks for what it may not ({name}); {may}")
    if kind == "BASE_TABLE" or (kind == "SHOW_REF" and node.get("query") is None):
        name = str(node["table_name"])
        if name.casefold() not in known or node.get("schema_name") or node.get("catalog_name"):
            raise UsageError(f"the query asks for what it may not (the table {name!r}); {may}")
    if node.get("class") == "FUNCTION":
        name = str(node.get("function_name", "")).casefold()
        if name in _FORBIDDEN_FUNCTIONS:
            raise UsageError(f"the query asks for what it may not ({name}); {may}")


def _dicts(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every node of a tree, without recursion: queries may be deeply nested."""
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield node
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)


def _scoped(tree: Any, known: frozenset[str]) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Yield every node with the names that stand for tables where it stands.

    A name of a WITH is known in the query that it belongs to and in later entries of that WITH,
    nowhere else; in its own text only where it is the second half of a recursive one.
    """
    left: list[tuple[Any, frozenset[str]]] = [(tree, known)]
    while left:
        node, known = left.pop()
        if isinstance(node, list):
            left.extend((each, known) for each in node)
        elif isinstance(node, dict):
            for entry in _with_entries(node):
                left.append((entry["value"], known))
                known |= {str(entry["key"]).casefold()}
            yield node, known
            itself = known | {str(node.get("cte_name", "")).casefold()}
            second = _SECOND_HALVES.get(str(node.get("type")))
            left.extend(
                (value, itself if key == second else known)
                for key, value in node.items()
                if key != "cte_map"
            )


def _with_entries(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    made = node.get("cte_map")
    return list(made["map"]) if isinstance(made, dict) else []
