"""What redaction costs a record: nothing to hide, credentials and keys, and users, over the messages of calls."""

import gc
import time
from collections.abc import Sequence
from pathlib import Path

from bench import calls
from bench.table import Row
from sipdump_core.masking.masker import Masker, Rules
from sipdump_core.masking.users import Tokens
from sipdump_core.record import Record

_ROUNDS = 5
_BATCH = 100


def cost(_: Path, quick: bool) -> list[Row]:
    """Measure the masker over the messages of whole calls, each of which comes once."""
    records = list(calls.records(150 if quick else 5_000))
    gc.collect()
    gc.freeze()
    rows = [
        _row("redact: credentials and keys", records, Rules(credentials=True, keys=True), 2),
        _row("redact: credentials, keys and users", records, Rules(credentials=True, keys=True, users=Tokens()), 12),
    ]
    gc.unfreeze()
    return rows


def _row(what: str, records: Sequence[Record], rules: Rules, aim: float) -> Row:
    best = min(_run(Masker(rules), records) for _ in range(_ROUNDS)) / len(records) * 1e6
    return Row(what, f"{best:.2f} µs a record", f"{1e6 / best:,.0f} records/s", "", f"at most {aim:g} µs", best <= aim)


def _run(masker: Masker, records: Sequence[Record]) -> float:
    begin = time.process_time()
    for at in range(0, len(records), _BATCH):
        _ = [masker.mask(record) for record in records[at : at + _BATCH]]
    return time.process_time() - begin
