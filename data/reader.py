"""The reader: whole batches in the order's order, carried by grain."""

import time
from collections.abc import Iterator

import numpy as np

from data.corpus import Corpus
from data.order import Order, locate
from refused import Refused

# Windows are located and gathered for this many tokens at once; single batches of small runs
# would spend their time in numpy's call overhead.
BLOCK_TOKENS = 1 << 18

ENDLESS = 2**31 - 1  # Items in the source: a run may be cut or extended at any step.


class BatchSource:
    """A grain random-access source whose item i is batch i of a piece: an array [rows, L+1].

    `rows` are this process's rows of the global batch. Items have the corpus's own integer type.
    """

    def __init__(self, corpus: Corpus, order: Order, piece: int, sequences: int, rows: slice):
        self.corpus, self.order, self.piece = corpus, order, piece
        self.sequences, self.rows = sequences, rows
        self.context = order.pieces[piece].context
        self.tables = order.tables(piece)
        self.steps = max(1, BLOCK_TOKENS // (sequences * self.context))
        self.block, self.number = None, -1

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> np.ndarray:
        number, inside = divmod(int(index), self.steps)
        if number != self.number:
            self.block, self.number = self.gather(number * self.steps), number
        return self.block[inside]

    def gather(self, step: int) -> np.ndarray:
        """Reads the batches [steps, rows, L+1] from a step on."""
        row = np.arange(self.sequences)[self.rows]
        slots = np.arange(step, step + self.steps)[:, None] * self.sequences + row
        if slots[-1, -1] >= 2**32:
            raise Refused("step", step, f"fewer than 2^32 sequences, here {self.sequences} a step")
        domain, window = locate(self.tables, slots.astype(np.uint32))
        streams = [d.train for d in self.corpus.domains.values()]
        dtype = next(iter(streams)).dtype
        out = np.empty((*slots.shape, self.context + 1), dtype)
        for number, stream in enumerate(streams):
            chosen = domain == number
            if chosen.any():
                starts = window[chosen].astype(np.int64) * self.context
                out[chosen] = stream[starts[:, None] + np.arange(self.context + 1)]
        return out


class Reader:
    """Iterates over a piece's batches; its whole state is `step`, the number of the next one.

    `sequences` is the global batch; of `process_count` processes each reads its own contiguous
    rows of it. `Refused` when the rows do not divide.
    """

    def __init__(
        self,
        corpus: Corpus,
        order: Order,
        piece: int,
        sequences: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ):
        import grain

        if sequences % process_count:
            raise Refused("batch sequences", sequences, f"a multiple of {process_count} processes")
        rows = sequences // process_count
        own = slice(process_index * rows, (process_index + 1) * rows)
        self.batches = grain.MapDataset.source(BatchSource(corpus, order, piece, sequences, own))
        self.step = start_step

    def read(self, count: int) -> np.ndarray:
        """Returns the next `count` batches as one array [count, rows, L+1]."""
        begin, self.step = self.step, self.step + count
        return np.stack([self.batches[i] for i in range(begin, self.step)])

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        return self.read(1)[0]


def tokens_per_second(corpus: Corpus, order: Order, sequences: int, steps: int = 4096) -> float:
    """Measures how fast a piece is read, in predicted tokens a second."""
    reader = Reader(corpus, order, 0, sequences)
    reader.read(32)
    began = time.perf_counter()
    for _ in range(steps // 32):
        reader.read(32)
    return steps * sequences * order.pieces[0].context / (time.perf_counter() - began)
