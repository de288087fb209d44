"""Batches on their way into a parquet file, in row groups of one size."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 65_536
"""Most rows in a row group; also what is held in memory before it is written."""


class RowGroups:
    """Writes batches; row groups do not depend on how the rows are divided into batches.

    So tables that have a row for each nucleus have the same nuclei in the same row groups.
    """

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows; what is a whole row group is written."""
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        while self._pending_rows >= ROW_GROUP_ROWS:
            table = pa.Table.from_batches(self._pending, self._schema)
            self._writer.write_table(table[:ROW_GROUP_ROWS], row_group_size=ROW_GROUP_ROWS)
            self._pending = table[ROW_GROUP_ROWS:].to_batches()
            self._pending_rows -= ROW_GROUP_ROWS

    def end(self) -> None:
        """Write what is left."""
        if self._pending_rows:
            table = pa.Table.from_batches(self._pending, self._schema)
            self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
