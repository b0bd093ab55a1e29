"""Where each parameter lies in the one fp32 vector that peers exchange. Knows no torch."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Parameters in sorted-name order; the vector is their row-major values end to end."""

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> "Layout":
        """The layout of these parameters, whatever order they come in."""
        names = tuple(sorted(shapes))
        return cls(names, tuple(shapes[name] for name in names))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values of each parameter."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def values(self) -> int:
        """Length of the vector."""
        return sum(self.sizes)

    def slots(self) -> Iterator[tuple[str, Shape, slice]]:
        """Name, shape and place in the vector of each parameter."""
        stops = accumulate(self.sizes)
        for name, shape, size, stop in zip(self.names, self.shapes, self.sizes, stops, strict=True):
            yield name, shape, slice(stop - size, stop)
