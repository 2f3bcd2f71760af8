"""CSV text as rows: whole blocks at once where every line is well-formed, else line by line.

A line stands alone unless ``multiLine`` is given, so a broken quote costs its own line only. Quotes
inside quotes are doubled (RFC 4180) or escaped by ``escape``, which is tried where doubling fails.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.engines.layout import Layout, Parsed
from shoal.engines.values import patterns_of, typed

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CsvBlocks", "Dialect", "dialect_of", "split_fields", "split_records"]

Field = tuple[str, bool]  # text, and whether it was quoted


class Dialect:
    """How a CSV file is written.

    Args:
        options: Reader options, names in lower case.
    """

    def __init__(self, options: dict[str, str]) -> None:
        self.separator = options.get("sep", options.get("delimiter", ",")).replace("\\t", "\t")
        self.quote = options.get("quote", '"')
        self.escape = options.get("escape", "\\")
        self.null = options.get("nullvalue", "")
        self.comment = options.get("comment", "")
        self.header = options.get("header", "false").lower() == "true"
        self.left = options.get("ignoreleadingwhitespace", "false").lower() == "true"
        self.right = options.get("ignoretrailingwhitespace", "false").lower() == "true"
        separator, quote = re.escape(self.separator), re.escape(self.quote or "\0")
        self.stray = re.compile(
            rf"[^{separator}\n{quote}]{quote}[^{separator}\n{quote}]"
            rf"|(?:^|[{separator}\n]){quote}{quote}[^{separator}\n{quote}]".encode()
        )

    @property
    def plain(self) -> bool:
        """Whether Arrow's parser knows all of it."""
        alone = len(self.separator) == 1 and self.separator.isascii()
        return alone and len(self.quote) <= 1 and self.quote.isascii() and not self.comment


def dialect_of(layout: Layout) -> Dialect:
    """The dialect that a read's options describe."""
    return Dialect(dict(layout.options))


class CsvBlocks:
    """Reads one CSV file's blocks, first to last.

    Args:
        layout: The columns.
        by_name: Take columns by the names in the file's header, not by their position.
    """

    def __init__(self, layout: Layout, *, by_name: bool) -> None:
        self.layout = layout
        self.dialect = dialect_of(layout)
        self.patterns = patterns_of(layout.options)
        self.by_name = by_name and self.dialect.header
        self.header = self.dialect.header
        self.columns: list[str] = list(layout.data)

    def start(self, header: Sequence[Field]) -> None:
        """Takes the columns' names from a header line."""
        if self.by_name:
            self.columns = [name for name, _ in header]

    def parse(self, data: bytes) -> Parsed:
        """The rows of a block of whole lines; blank ones are left out.

        Args:
            data: UTF-8 without a byte order mark, lines ended by a line feed.
        """
        if self.header:
            data = data.lstrip(b"\n")
            line, _, data = data.partition(b"\n")
            text = line.decode("utf-8", "replace")
            if text.strip():
                self.header = False
                self.start(split_fields(text, self.dialect) or [])
        found = self._quick(data) if self.dialect.plain else None
        return found if found is not None else self.parse_lines(data)

    def _quick(self, data: bytes) -> Parsed | None:
        """The block read at once; None unless each line is one record of the right width."""
        import pyarrow as pa

        data = data.strip(b"\n")
        if not data or not self.columns or b"\r" in data or b"\n\n" in data:
            return None
        quote = self.dialect.quote.encode()
        quoted = bool(quote) and quote in data
        if quoted and not self._well_quoted(data, quote):
            return None
        try:
            data.decode("ascii" if data.isascii() else "utf-8")
        except UnicodeDecodeError:
            return None
        table = self._table(data, self._direct(data), quoted=quoted)
        if table is None:
            table = self._table(data, [pa.string()] * len(self.columns), quoted=quoted)
        if table is None:
            return None
        if table.num_rows != data.count(b"\n") + 1:
            return None
        texts = [column.combine_chunks() for column in table.columns]
        if len(texts) == 1 and any(not str(t or "").strip() for t in texts[0].to_pylist()):
            return None  # a blank line, or a null: only the line tells
        parsed = Parsed(rows=table.num_rows, columns={})
        parsed.lines = lambda: data.decode("utf-8").split("\n")
        self._fill(parsed, texts)
        return parsed

    def _direct(self, data: bytes) -> list[pa.DataType]:
        """The types that Arrow may make of the columns, and take the same texts as `typed`."""
        import pyarrow as pa

        dialect, hexadecimal = self.dialect, _has_hexadecimal(data)
        if dialect.null or dialect.left or dialect.right:
            return [pa.string()] * len(self.columns)
        kinds = []
        for name in self.columns:
            kind = self.layout.types[name] if name in self.layout.data else pa.string()
            is_ = pa.types
            own = is_.is_boolean(kind) or is_.is_floating(kind)
            own = own or (is_.is_integer(kind) and not hexadecimal)
            own = own or (is_.is_date(kind) and self.patterns.date is None)
            if is_.is_timestamp(kind):
                own = (self.patterns.time if kind.tz else self.patterns.local) is None
                kind = pa.timestamp("us")
            kinds.append(kind if own else pa.string())
        return kinds

    def _table(self, data: bytes, kinds: Sequence[pa.DataType], *, quoted: bool) -> pa.Table | None:
        """The block's columns with these types; None where a text does not fit."""
        import pyarrow as pa
        import pyarrow.csv as pc

        names = [str(index) for index in range(len(kinds))]
        try:
            return pc.read_csv(
                pa.BufferReader(data),
                read_options=pc.ReadOptions(column_names=names, block_size=1 << 20),
                parse_options=pc.ParseOptions(
                    delimiter=self.dialect.separator,
                    quote_char=self.dialect.quote if quoted else False,
                    double_quote=quoted,
                    newlines_in_values=False,
                    ignore_empty_lines=False,
                ),
                convert_options=pc.ConvertOptions(
                    column_types=dict(zip(names, kinds, strict=True)),
                    null_values=[""],
                    true_values=["true", "True", "TRUE"],
                    false_values=["false", "False", "FALSE"],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=self.dialect.null == "",
                ),
            )
        except pa.ArrowException:
            return None

    def _well_quoted(self, data: bytes, quote: bytes) -> bool:
        """Whether quotes stand only around fields, or doubled inside of them."""
        import numpy as np

        escape = self.dialect.escape.encode()
        if escape and escape != quote and escape + quote in data:
            return False
        if len(quote) == len(self.dialect.separator.encode()) == 1:
            letters = np.frombuffer(b"\n" + data + b"\n", np.uint8)
            at = np.flatnonzero(letters == quote[0])
            ends = np.zeros(256, dtype=bool)
            ends[[ord("\n"), ord(self.dialect.separator)]] = True
            opening, closing = ends[letters[at - 1]], ends[letters[at + 1]]
            # Each quote opens a field or closes it, in turns.
            if (opening != closing).all() and opening[::2].all() and closing[1::2].all():
                return len(at) % 2 == 0
        return self.dialect.stray.search(data) is None

    def parse_lines(self, data: bytes) -> Parsed:
        """The same rows as `parse` gives, with each line looked at on its own."""
        lines = [line for line in data.decode("utf-8", "replace").split("\n") if line.strip()]
        lines = [line.rstrip("\r") for line in lines]
        if self.dialect.comment:
            lines = [line for line in lines if not line.startswith(self.dialect.comment)]
        return self.parse_records([split_fields(line, self.dialect) for line in lines], lines)

    def parse_records(self, records: Sequence[list[Field] | None], lines: Sequence[str]) -> Parsed:
        """Rows from split records; None, or another number of fields, counts as malformed."""
        import pyarrow as pa

        width = len(self.columns)
        parsed = Parsed(rows=len(records), columns={}, lines=lambda: lines)
        parsed.bad = {i for i, record in enumerate(records) if record is None}
        for index, record in enumerate(records):
            if record is None or len(record) == width:
                continue
            # As in Spark: fields that are there are kept, and the line counts as malformed.
            if self.layout.rescued and len(record) > width:
                over = enumerate(record[width:], width)
                parsed.extra[index] = {f"_c{at}": text for at, (text, _) in over}
            elif not self.layout.rescued:
                parsed.bad.add(index)
        kept = [(record or [])[:width] for record in records]
        texts = [
            pa.array([self._null(row[at]) if at < len(row) else None for row in kept], pa.string())
            for at in range(width)
        ]
        self._fill(parsed, texts)
        return parsed

    def _null(self, field: Field) -> str | None:
        text, quoted = field
        return None if not text and (self.dialect.null == "" or not quoted) else text

    def _fill(self, parsed: Parsed, texts: Sequence[pa.Array]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        known = set(self.layout.data)
        for name, given in zip(self.columns, texts, strict=True):
            if not pa.types.is_string(given.type):
                parsed.columns[name] = pc.cast(given, self.layout.types[name])
                continue
            column = pc.utf8_ltrim_whitespace(given) if self.dialect.left else given
            column = pc.utf8_rtrim_whitespace(column) if self.dialect.right else column
            if self.dialect.null:
                column = pc.if_else(pc.equal(column, self.dialect.null), None, column)
            if name not in known:
                self._left(parsed, name, column)
                continue
            kind = self.layout.types[name]
            if pa.types.is_binary(kind):
                values, misfit = pc.cast(column, kind), False
            else:
                values, misfit = typed(column, kind, self.patterns)
            parsed.columns[name] = values
            if misfit:
                parsed.misfit(name, column, values)

    def _left(self, parsed: Parsed, name: str, column: pa.Array) -> None:
        """Keeps a column that the table does not have, where one for such is asked for."""
        if not self.layout.rescued:
            return
        for row, text in enumerate(column.to_pylist()):
            if text is not None:
                parsed.extra.setdefault(row, {})[name] = text


def _has_hexadecimal(data: bytes) -> bool:
    # One letter is looked for much faster than two.
    return any(letter in data and b"0" + letter in data for letter in (b"x", b"X"))


def split_fields(line: str, dialect: Dialect) -> list[Field] | None:
    """The fields of one line; None where its quotes are broken."""
    records = _split(line, dialect, doubled=True, many=False)
    if records is None and dialect.escape and dialect.escape != dialect.quote:
        records = _split(line, dialect, doubled=False, many=False)
    return records[0] if records else None


def split_records(text: str, dialect: Dialect) -> list[list[Field]] | None:
    """The records of a text whose quoted fields may hold line ends; None if quotes are broken."""
    records = _split(text, dialect, doubled=True, many=True)
    if records is None and dialect.escape and dialect.escape != dialect.quote:
        records = _split(text, dialect, doubled=False, many=True)
    return records


def _split(text: str, dialect: Dialect, *, doubled: bool, many: bool) -> list[list[Field]] | None:
    separator, quote = dialect.separator, dialect.quote
    escape = quote if doubled else dialect.escape
    end = re.compile(f"{re.escape(separator)}|\n" if many else re.escape(separator))
    records: list[list[Field]] = [[]]
    at = 0
    while True:
        if quote and text.startswith(quote, at):
            found = _quoted(text, at + len(quote), quote, escape)
            if found is None:
                return None
            word, at = found
            records[-1].append((word, True))
        else:
            stop = end.search(text, at)
            to = stop.start() if stop else len(text)
            records[-1].append((text[at:to], False))
            at = to
        if at == len(text):
            break
        if text.startswith(separator, at):
            at += len(separator)
        elif many and text[at] == "\n":
            records.append([])
            at += 1
        else:
            return None
    return [r for r in records if not many or any(word.strip() for word, _ in r) or len(r) > 1]


def _quoted(text: str, at: int, quote: str, escape: str) -> tuple[str, int] | None:
    """A quoted field from behind its first quote, and where it ends."""
    pieces: list[str] = []
    start = at
    while True:
        close = text.find(quote, at)
        mark = text.find(escape, at) if escape != quote else -1
        if mark >= 0 and (close < 0 or mark < close):
            if text.startswith((quote, escape), mark + 1):
                pieces += [text[start:mark], text[mark + 1]]
                start = at = mark + 2
            else:
                at = mark + 1
            continue
        if close < 0:
            return None
        if escape == quote and text.startswith(quote, close + len(quote)):
            pieces.append(text[start : close + len(quote)])
            start = at = close + 2 * len(quote)
            continue
        pieces.append(text[start:close])
        return "".join(pieces), close + len(quote)
