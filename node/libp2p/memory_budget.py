"""How much memory peers may make this process hold, over all their connections."""

from collections.abc import Hashable

from eigen.node.libp2p.bounds import (
    BUFFERED_BYTES_MAX,
    BUFFERED_PER_CONNECTION_BYTES_MAX,
    WINDOW_GRANTED_BYTES_MAX,
)


class MemoryBudget:
    """Counts windows granted beyond the initial one, and bytes received and not yet read."""

    def __init__(
        self,
        *,
        granted_bytes_max: int = WINDOW_GRANTED_BYTES_MAX,
        buffered_bytes_max: int = BUFFERED_BYTES_MAX,
        buffered_per_connection_bytes_max: int = BUFFERED_PER_CONNECTION_BYTES_MAX,
    ) -> None:
        self._granted_max = granted_bytes_max
        self._buffered_max = buffered_bytes_max
        self._per_connection_max = buffered_per_connection_bytes_max
        self.granted_bytes = 0
        self.buffered_bytes = 0
        self._buffered: dict[Hashable, int] = {}

    def grant(self, wanted_bytes: int) -> int:
        """All of the wanted window, or 0 where the budget is used up."""
        if self.granted_bytes + wanted_bytes > self._granted_max:
            return 0
        self.granted_bytes += wanted_bytes
        return wanted_bytes

    def return_grant(self, count: int) -> None:
        """A stream with a grown window has ended."""
        self.granted_bytes -= count

    def charge_buffer(self, connection: Hashable, count: int) -> bool:
        """Whether these bytes may be held; if so they are counted."""
        held = self._buffered.get(connection, 0) + count
        if held > self._per_connection_max or self.buffered_bytes + count > self._buffered_max:
            return False
        self._buffered[connection] = held
        self.buffered_bytes += count
        return True

    def release_buffer(self, connection: Hashable, count: int) -> None:
        """Bytes were read or dropped."""
        if connection in self._buffered:
            self._buffered[connection] -= count
            self.buffered_bytes -= count

    def forget(self, connection: Hashable) -> None:
        """The connection has ended; whatever it still held is dropped."""
        self.buffered_bytes -= self._buffered.pop(connection, 0)
