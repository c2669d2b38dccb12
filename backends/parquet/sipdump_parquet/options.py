"""Options of the Parquet backend, and the names that its modules share."""

import re

import attrs

from sipdump_core.errors import ConfigError
from sipdump_core.settings.options import at_least, in_range, one_of, option
from sipdump_parquet.fields import FIELDS, canonical

__all__ = ["COLUMNS", "FIRST_COLUMNS", "NAME", "WAL_SUFFIX", "ParquetOptions", "column_of"]

NAME = "parquet"
"""The backend's name."""

COLUMNS = (
    "seq", "time", "tag", "pid", "procno", "proto", "af", "src_ip", "src_port", "dst_ip", "dst_port", "node",
    *FIELDS, "correlation_id", "buf",
)  # fmt: skip
"""The columns of a file, in their order; those of the option ``header`` come before ``buf``."""

FIRST_COLUMNS = (*COLUMNS[: COLUMNS.index("from_tag")], "buf")
"""The columns of schema version 1."""

_FOLDERS = ("date", "hour")
"""Columns that query engines make of the folders of the S3 backend."""
_HEADER_NAME = re.compile(r"[A-Za-z0-9.!%*_+`'~-]+")

WAL_SUFFIX = ".parquet.wal"

_REQUIRED = ("seq", "time")
_LEVELS = {"zstd": 22, "gzip": 9}
"""The highest level of each codec that has levels."""


def _header_name(name: str) -> str | None:
    """Refuse what is no header's name; a check of one setting, so that the error shows the place of the wrong one."""
    return None if _HEADER_NAME.fullmatch(name) else "cannot be a header's name, which is a token of RFC 3261"


def _own_column(header: str) -> str | None:
    """Refuse a header whose column has a name that is taken."""
    column = column_of(header)
    if column in COLUMNS:
        return f"would have the column {column}, which every file has already"
    if column in _FOLDERS:
        return f"would have the column {column}, as the folders of S3 are named"
    return _header_name(header)


@attrs.frozen
class ParquetOptions:
    """Options of the Parquet backend."""

    compression: str = option(
        "zstd",
        help="codec of the pages: zstd, gzip, snappy, lz4, none",
        check=one_of("zstd", "gzip", "snappy", "lz4", "none"),
    )
    level: int = option(3, help="compression level of zstd (1 to 22) or gzip (1 to 9); the others have none",
                        check=in_range(1, 22))  # fmt: skip
    row_group_records: int = option(
        100_000,
        unit="records",
        help="maximum length of a row group; it ends earlier at `memory` bytes",
        check=at_least(1),
    )
    columns: str = option("", help="columns to write, separated by commas; empty: all. seq and time must be among them")
    memory: int = option(
        64 << 20,
        unit="bytes",
        help="of records held at once while a file is made; that takes about four times as much memory",
        check=in_range(1 << 22, 1 << 29),
    )
    sync: int = option(
        -1,
        unit="seconds",
        help="between two fdatasync calls on the write-ahead file; 0: left to the kernel, -1: as for all backends",
        check=at_least(-1),
    )

    header: tuple[str, ...] = option(
        (), help="a header that gets a column of its own; may be given several times", check=_own_column
    )
    correlate: tuple[str, ...] = option(
        (),
        help="a header whose values go into the column correlation, too; may be given several times",
        check=_header_name,
    )

    @property
    def own(self) -> dict[str, str]:
        """The columns of the option ``header``, each with its header's name."""
        return {column_of(name): name for name in self.header}

    @property
    def names(self) -> list[str]:
        """The columns that are written, in their order in the file."""
        wanted = {name.strip() for name in self.columns.split(",")} if self.columns.strip() else set(COLUMNS)
        return [name for name in (*COLUMNS[:-1], *self.own, COLUMNS[-1]) if name in wanted or name in self.own]

    @property
    def keys(self) -> list[str]:
        """The columns that a file is sorted by."""
        return [name for name in ("call_id", "time", "seq") if name in self.names]

    @property
    def compression_level(self) -> int | None:
        """The level, if the codec has levels."""
        return self.level if self.compression in _LEVELS else None

    def check(self) -> None:
        """Check the options together.

        Raises:
            ConfigError: a column is unknown or a required one is missing, or the codec lacks the level.
        """
        self._check_headers()
        given = [name.strip() for name in self.columns.split(",")] if self.columns.strip() else list(COLUMNS)
        known = (*COLUMNS, *self.own)
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ConfigError(f"columns: there is no column {unknown[0]!r}; there are: {', '.join(known)}")
        missing = [name for name in _REQUIRED if name not in given]
        if missing:
            raise ConfigError(f"columns: {' and '.join(missing)} must be among them: records are ordered by them")
        highest = _LEVELS.get(self.compression, self.level)
        if self.level > highest:
            raise ConfigError(f"level: must be 1 to {highest} with {self.compression}")

    def _check_headers(self) -> None:
        """Check the options ``header`` and ``correlate``."""
        for given, names, check in (("header", self.header, _own_column), ("correlate", self.correlate, _header_name)):
            for name in names:
                refusal = check(name)
                if refusal:
                    raise ConfigError(f"{given}: {name!r} {refusal}")
        taken: dict[str, str] = {}
        for name in self.header:
            column = column_of(name)
            if column in taken:
                raise ConfigError(f"header: {taken[column]!r} and {name!r} would both have the column {column}")
            taken[column] = name
        if self.correlate and "correlation" not in self.names:
            raise ConfigError("correlate: the column correlation is not among columns")


def column_of(header: str) -> str:
    """Return the name of a header's own column: in lower case, with ``_`` for what is no letter or digit."""
    return re.sub(r"[^a-z0-9]", "_", canonical(header))
