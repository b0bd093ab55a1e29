"""What the engine returns: plain values that cross a process boundary. Knows no torch."""

from dataclasses import dataclass

from eigen.training.frames import Files

FRESH_WEIGHT = 0.5
"""An update that fits all data better than the average is no worse for it: half is taken off."""


@dataclass(frozen=True, slots=True)
class LocalDelta:
    """One trainer's work of one round before it is encoded.

    `delta` is the pseudo-gradient (fp32, little endian), `moments` are the encoded parts of the
    second moment where trainers share it. The rest is as in `LocalUpdate`.
    """

    delta: bytes
    moments: list[bytes]
    samples: int
    loss_trace: list[float]
    sketch: bytes
    kept: bytes = b""

    def encoded(self, encoded: "Encoded") -> "LocalUpdate":
        """The update that comes of it."""
        return LocalUpdate(
            encoded.parts + self.moments,
            encoded.residual,
            self.samples,
            self.loss_trace,
            self.sketch,
            self.kept,
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """A pseudo-gradient and an old residual, encoded part by part; what is left out is new."""

    parts: list[bytes]
    residual: bytes | Files


@dataclass(frozen=True, slots=True)
class LocalUpdate:
    """One trainer's work of one round, ready to be committed to and sent.

    `parts` are the encoded slices of the pseudo-gradient plus the old residual; `residual` is what
    the codec left out (fp32, little endian; empty for a lossless codec) and goes into the next
    round; a worker may leave it in a file. `loss_trace` has one fp32 value a step; `sketch` is 64
    fp32 values, little endian. `kept` is the optimizer's state where the run keeps it (see
    `optimizer`), else empty.
    """

    parts: list[bytes]
    residual: bytes | Files
    samples: int
    loss_trace: list[float]
    sketch: bytes
    kept: bytes = b""


@dataclass(frozen=True, slots=True)
class PartAverage:
    """One aggregated part, encoded once for everybody, and what its owner keeps for the next round.

    `carried` is state of the part that only who has all inputs can compute: what the result's codec
    left out, and what the aggregation rule remembers. It is opaque, and empty where there is none.
    """

    data: bytes
    carried: bytes


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean cross-entropy in nats, share of samples whose top logit is the label, sample count."""

    loss: float
    accuracy: float
    samples: int


TIPPED_UNITS = 10.0
"""Rounding on few values may come to so many times what it may on most."""


@dataclass(frozen=True, slots=True)
class Replay:
    """How far a trainer's claims are from the same work done again: relative L2 distances.

    `deviation` is that of the pseudo-gradient on the opened chunks, their median, or, where that is
    further off, of the second moment that trainers share. `whole_deviation` is the larger of that
    on all opened chunks together and of the sketch. `encoding_deviation` is that of what was sent
    from what an honest encoder sends for it; it hardly depends on the machine. `samples` is what an
    honest trainer has seen. A distance is infinite where something is claimed and nothing comes of
    the work.
    """

    deviation: float
    trace_deviation: float
    whole_deviation: float
    encoding_deviation: float
    samples: int

    @property
    def furthest(self) -> float:
        """The largest distance that depends on who computes.

        What was left out shows in every chunk. Rounding that tips a single unit moves its weights
        by whole steps, and all others hardly, so much more of that is allowed.
        """
        return max(self.deviation, self.trace_deviation, self.whole_deviation / TIPPED_UNITS)


@dataclass(frozen=True, slots=True)
class Gap:
    """How much better than the round's average an update is, as a drop of the mean loss (nats).

    On samples that it was to learn, and on `fresh` ones. Both are within `gap.LOSS_MAX` either way.
    """

    assigned: float
    fresh: float

    @property
    def value(self) -> float:
        """What work on the assigned samples gives; compared with the other trainers' values."""
        return self.assigned - FRESH_WEIGHT * self.fresh
