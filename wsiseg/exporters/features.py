"""`features.parquet`: more numbers of each nucleus, row by row beside the cell table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsiseg.exporters._finish import finished_file
from wsiseg.exporters._row_groups import RowGroups


def features_schema(columns: Sequence[str]) -> pa.Schema:
    """Return the columns of the file: `cell_id` and some float32, null where undefined."""
    numbers = [pa.field(name, pa.float32()) for name in columns]
    return pa.schema([pa.field("cell_id", pa.uint32(), nullable=False), *numbers])


class FeaturesWriter:
    """Writes `features.parquet` piece by piece; the file appears when the block ends well.

    It has the rows of `cells.parquet` in the same order and the same row groups.  Use as a
    context manager.  After an exception nothing is left.

    Parameters
    ----------
    path
        The file; an older one is replaced.
    columns
        Names of the numbers.

    Raises
    ------
    OutputNotWritable
        If the operating system refuses to write.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._schema = features_schema(columns)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            partial = stack.enter_context(finished_file(self._path))
            # Measured numbers hardly repeat; looking for what does takes as long as the rest.
            self._writer = pq.ParquetWriter(
                partial, self._schema, compression="zstd", use_dictionary=False
            )
            self._groups = RowGroups(self._writer, self._schema)
            stack.push(self._close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, cell_id: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Add nuclei, in the order of their ids.

        Parameters
        ----------
        cell_id : ndarray, (n,), int64
            Their ids.
        values : ndarray, (n, number of columns), float32
            Their numbers; NaN becomes null.

        Raises
        ------
        ValueError
            If the number of columns is another.
        OutputNotWritable
            If the operating system refuses to write.
        """
        n_columns = len(self._schema) - 1
        if values.shape != (len(cell_id), n_columns):
            raise ValueError(
                f"{len(cell_id)} nuclei came with numbers of shape {values.shape}; "
                f"{(len(cell_id), n_columns)} is needed"
            )
        ids = pa.array(cell_id).cast(pa.uint32())
        numbers = [
            pa.array(np.ascontiguousarray(values[:, k]), from_pandas=True) for k in range(n_columns)
        ]
        self._groups.add(pa.RecordBatch.from_arrays([ids, *numbers], schema=self._schema))

    def _close(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._groups.end()
        self._writer.close()
