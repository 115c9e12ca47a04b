"""Parquet files with all kinds of damage, each determined by its number."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from tests.runs import examples

ROWS, ROW_GROUP = 48, 16


def sound(seed: int) -> bytes:
    """Return a file of three row groups.

    Codec, encoding, page size and kind of text depend on the seed.
    """
    choose = random.Random(seed)
    table = examples(ROWS, first=seed % 90)
    kind = choose.choice(["string", "large_string", "dictionary"])
    for name in ("question", "context"):
        column = table.column(name)
        cast = column.dictionary_encode() if kind == "dictionary" else column.cast(kind)
        table = table.set_column(table.column_names.index(name), name, cast)
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        compression=choose.choice(["none", "snappy", "zstd", "gzip", "lz4"]),
        use_dictionary=choose.random() < 0.5,
        data_page_size=choose.choice([64, 1024, 2**20]),
        data_page_version=choose.choice(["1.0", "2.0"]),
        write_page_index=choose.random() < 0.3,
        write_page_checksum=choose.random() < 0.3,
        store_schema=choose.random() < 0.7,
    )
    return sink.getvalue()


def _footer(content: bytes) -> int:
    """Return the offset of the footer."""
    return len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]


def _flip(content: bytes, begin: int, end: int, choose: random.Random, most: int) -> bytes:
    damaged = bytearray(content)
    for _ in range(choose.randint(1, most)):
        damaged[choose.randrange(begin, end)] = choose.randrange(256)
    return bytes(damaged)


def _pages(content: bytes, choose: random.Random) -> tuple[int, int]:
    """Return the offsets at which the pages of a random column chunk begin and end."""
    metadata = pq.ParquetFile(io.BytesIO(content)).metadata
    column = metadata.row_group(choose.randrange(metadata.num_row_groups)).column(
        choose.randrange(metadata.num_columns)
    )
    begin = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
    return begin, begin + column.total_compressed_size


def cut(content: bytes, choose: random.Random) -> bytes:
    return content[: choose.randrange(len(content))]


def footer_bytes(content: bytes, choose: random.Random) -> bytes:
    return _flip(content, _footer(content), len(content) - 8, choose, 4)


def footer_length(content: bytes, choose: random.Random) -> bytes:
    length = choose.choice([0, 1, 2**31 - 1, 2**32 - 1, len(content), choose.randrange(2**32)])
    return content[:-8] + struct.pack("<I", length) + content[-4:]


def page_headers(content: bytes, choose: random.Random) -> bytes:
    begin, end = _pages(content, choose)
    return _flip(content, begin, min(begin + 24, end), choose, 3)


def page_data(content: bytes, choose: random.Random) -> bytes:
    return _flip(content, *_pages(content, choose), choose, 12)


def declared_sizes(content: bytes, choose: random.Random) -> bytes:
    """Set the sizes in a page header to the largest values that their bytes can hold."""
    begin, _ = _pages(content, choose)
    damaged = bytearray(content)
    for place in range(begin + 1, min(begin + 12, len(damaged))):
        if damaged[place] & 0x80:
            damaged[place] = 0xFF
    return bytes(damaged)


def hole(content: bytes, choose: random.Random) -> bytes:
    """Remove some bytes from the middle, so that everything after them is shifted."""
    begin = choose.randrange(4, len(content) - 12)
    return content[:begin] + content[begin + choose.randint(1, 64) :]


def zeros(content: bytes, choose: random.Random) -> bytes:
    begin = choose.randrange(len(content))
    return content[:begin] + bytes(min(512, len(content) - begin)) + content[begin + 512 :]


def nothing(content: bytes, choose: random.Random) -> bytes:
    return choose.choice(
        [
            b"",
            b"PAR1",
            b"PAR1PAR1",
            choose.randbytes(300),
            b"id,question,context\n1,a,b\n",
            content[:4] * 50,
        ]
    )


def anywhere(content: bytes, choose: random.Random) -> bytes:
    return _flip(content, 0, len(content), choose, 6)


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    cut,
    footer_bytes,
    footer_length,
    page_headers,
    page_data,
    declared_sizes,
    hole,
    zeros,
    nothing,
    anywhere,
)


def damaged(number: int) -> tuple[str, bytes]:
    """Return the name of a damage and the content of the damaged file."""
    damage = DAMAGES[number % len(DAMAGES)]
    return damage.__name__, damage(sound(number), random.Random(number))


def odd_tables() -> dict[str, pa.Table]:
    """Return valid files that are not what an input should be."""
    table = wide = examples(4)
    for number in range(3000):
        wide = wide.append_column(f"c{number}", pa.array([number] * 4))
    deep = pa.array([None] * 4, pa.int8())
    for _ in range(40):
        deep = pa.StructArray.from_arrays([deep], ["x"])
    return {
        "thousands of columns": wide,
        "deep nesting": table.append_column("deep", deep),
        "binary texts": table.set_column(1, "question", table.column("question").cast(pa.binary())),
        "texts of null type": table.set_column(2, "context", pa.nulls(4)),
        "list of texts": table.set_column(1, "question", pa.array([["a"]] * 4)),
        "numbers": table.set_column(2, "context", pa.array([1.5] * 4)),
        "no context": table.drop_columns(["context"]),
        "no rows": table.slice(0, 0),
        "large_string": table.set_column(
            2, "context", table.column("context").cast(pa.large_string())
        ),
        "dictionary": table.set_column(2, "context", table.column("context").dictionary_encode()),
    }
