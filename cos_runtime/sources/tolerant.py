"""Decoding that does without damaged records, as long as they are few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from cos_runtime.errors import CorruptRecordError, UserError
from cos_runtime.sources.base import Decoder

# Before that many records no share is told from bad luck.
FEW = 1_000


@dataclass(frozen=True)
class Skipped:
    """What has been left out so far.

    Attributes:
        records: damaged records met; one met again in a later epoch counts again.
        seen: records met in all.
        example: the sentence about the last of them.
    """

    records: int
    seen: int
    example: str


class Tolerant:
    """A source's decoding with the place of a damaged record taken by the next sound one of its batch.

    So a batch keeps its size and every other record its place: what a step sees follows from its number alone.

    Args:
        source: decodes sound records.
        share: of damaged records among all, up to which the job goes on; 0 ends it at the first one.
        report: called after each batch with damaged records.
    """

    def __init__(self, source: Decoder, share: float, report: Callable[[Skipped], None]) -> None:
        self._source, self._share, self._report = source, share, report
        self._seen = self._corrupt = 0

    def decode(self, rows: pa.RecordBatch, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """As :meth:`cos_runtime.sources.base.DataSource.decode`.

        Raises:
            UserError: too many records are damaged, or all of these.
        """
        self._seen += rows.num_rows
        state = generator.bit_generator.state
        try:
            return self._source.decode(rows, generator)
        except CorruptRecordError as error:
            if not self._share:
                raise
            sound = self._sound(rows, error)
        # As if the damaged ones had never been looked at.
        generator.bit_generator.state = state
        chosen = np.array(sound)[np.searchsorted(sound, np.arange(rows.num_rows)) % len(sound)]
        return self._source.decode(rows.take(pa.array(chosen)), generator)

    def _sound(self, rows: pa.RecordBatch, error: CorruptRecordError) -> list[int]:
        """Indexes of the rows that can be decoded; the others are counted and reported."""
        sound = [index for index in range(rows.num_rows) if self._is_sound(rows.slice(index, 1))]
        self._corrupt += rows.num_rows - len(sound)
        if not sound or self._corrupt > self._share * max(self._seen, FEW):
            raise UserError(
                f"{error}; {self._corrupt} of {self._seen} records are damaged, and -corrupt_share "
                f"{self._share:g} allows no more: mend the data, or raise it"
            )
        self._report(Skipped(self._corrupt, self._seen, str(error)))
        return sound

    def _is_sound(self, row: pa.RecordBatch) -> bool:
        try:
            self._source.decode(row, np.random.default_rng(0))
        except CorruptRecordError:
            return False
        return True
