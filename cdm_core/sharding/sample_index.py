"""An index of samples: where a sample id occurs, found by binary search in a table that stays on disk.

A manifest is sorted by stage and owner, so Parquet's row-group statistics find an owner; a sample id is a digest, lies anywhere, and
every row group's range holds it. The index is the manifest's (sample id, owner key, stage) sorted by sample id, in an Arrow file of fixed
widths without compression: 41 bytes a row. Mapped into memory, a look-up reads the few pages that its binary search touches and nothing
else, whatever the number of rows. Digests are spread evenly, so comparing their first 8 bytes decides nearly always; the whole id decides.
"""

import io
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from cdm_core.errors import InvalidInputError

_ID_BYTES, _KEY_BYTES = 32, 8
_SCHEMA = pa.schema([("sample_id", pa.binary(_ID_BYTES)), ("owner_key", pa.binary(_KEY_BYTES)), ("stage", pa.uint8())])
_STAMP = b"manifest"

_NIBBLES = np.full(256, 255, dtype=np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16, dtype=np.uint8)


def parse_hexadecimal(texts: pa.ChunkedArray, num_bytes: int, source: str) -> np.ndarray:
    """uint8 [N, num_bytes] of a column of lower-case hexadecimal texts.

    Raises:
        InvalidInputError: one has another length or another character.
    """
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    if array.null_count or not pa.compute.all(pa.compute.equal(pa.compute.binary_length(array), 2 * num_bytes), min_count=0).as_py():
        raise InvalidInputError(f"{source}: not {2 * num_bytes} lower-case hexadecimal digits everywhere")
    text = np.frombuffer(b"" if len(array) == 0 else array.buffers()[2], dtype=np.uint8)
    start = 2 * num_bytes * array.offset
    nibbles = _NIBBLES[text[start : start + 2 * num_bytes * len(array)].reshape(len(array), 2 * num_bytes)]
    if (nibbles == 255).any():
        raise InvalidInputError(f"{source}: not {2 * num_bytes} lower-case hexadecimal digits everywhere")
    packed: np.ndarray = nibbles[:, ::2] << 4 | nibbles[:, 1::2]
    return packed


def build_index(sample_ids: np.ndarray, owner_keys: np.ndarray, stages: np.ndarray, *, stamp: str) -> bytes:
    """The index file of uint8 arrays [N, 32], [N, 8], [N]; `stamp` names what it was made from."""
    order = np.argsort(_prefixes(sample_ids), kind="stable")
    columns = [_fixed(sample_ids[order]), _fixed(owner_keys[order]), pa.array(stages[order], type=pa.uint8())]
    sink = io.BytesIO()
    schema = _SCHEMA.with_metadata({_STAMP: stamp.encode()})
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue()


class SampleIndex:
    """An index file that is mapped into memory."""

    def __init__(self, source: pa.NativeFile) -> None:
        """Raises InvalidInputError if `source` is no such file."""
        try:
            reader = pa.ipc.open_file(source)
            if not reader.schema.equals(_SCHEMA) or reader.num_record_batches != 1:
                raise InvalidInputError("sample index: another form")
            batch = reader.get_batch(0)
        except pa.ArrowInvalid as error:
            raise InvalidInputError("sample index: damaged") from error
        self.stamp = (reader.schema.metadata or {}).get(_STAMP, b"").decode()
        self.num_rows: int = batch.num_rows
        buffers = [np.frombuffer(batch.column(name).buffers()[1] or b"", dtype=np.uint8) for name in _SCHEMA.names]
        self._ids = buffers[0][: _ID_BYTES * self.num_rows].reshape(self.num_rows, _ID_BYTES)
        self._owners = buffers[1][: _KEY_BYTES * self.num_rows].reshape(self.num_rows, _KEY_BYTES)
        self._stages = buffers[2]

    def find(self, sample_ids: Iterable[str]) -> list[tuple[str, str, int]]:
        """(sample id, owner key, stage) of every row that has one of the ids; what isn't an id is found nowhere."""
        found = []
        for sample_id in sorted(set(sample_ids)):
            wanted = _to_bytes(sample_id)
            if wanted is None:
                continue
            row = self._first_at_least(wanted[:8])
            while row < self.num_rows and (content := self._ids[row].tobytes())[:8] == wanted[:8]:
                if content == wanted:
                    found.append((sample_id, self._owners[row].tobytes().hex(), int(self._stages[row])))
                row += 1
        return found

    def _first_at_least(self, prefix: bytes) -> int:
        low, high = 0, self.num_rows
        while low < high:
            middle = (low + high) // 2
            if self._ids[middle, :8].tobytes() < prefix:
                low = middle + 1
            else:
                high = middle
        return low


def _to_bytes(sample_id: str) -> bytes | None:
    if len(sample_id) != 2 * _ID_BYTES or set(sample_id) - set("0123456789abcdef"):
        return None
    return bytes.fromhex(sample_id)


def _prefixes(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows[:, :8]).view(">u8").ravel().astype(np.uint64)


def _fixed(rows: np.ndarray) -> pa.Array:
    width = rows.shape[1]
    return pa.Array.from_buffers(pa.binary(width), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows).tobytes())])
