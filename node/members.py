"""The membership service: this node's heartbeat out, everybody's heartbeats in."""

from collections.abc import Callable

import structlog
import trio

from eigen.node.gossip import Gossip, Said
from eigen.node.ports import Network, PeerConnected, PeerLost, PeerUnreachable
from eigen.node.upload import UploadMeter
from eigen.protocol import limits
from eigen.protocol.effects import PeerDown, PeerUp
from eigen.protocol.membership import Membership
from eigen.protocol.messages import Heartbeat
from eigen.protocol.types import Address

log = structlog.get_logger()

LOST_GRACE_S = 1.0
"""A connection that drops and is back within this was never gone. Where a peer's addresses refuse
a new one, as they do when its process was killed, there is nothing to wait for."""
GREETING_DELAY_S = 0.3
"""After a new peer, so that gossip has it in the mesh; several new peers cost one heartbeat."""

Watcher = Callable[[PeerDown | PeerUp | None], None]
"""Called with a peer that went or came, or None when a heartbeat changed who may be seated."""


class Members:
    """Keeps `Membership` fed and tells watchers what changed."""

    def __init__(
        self,
        membership: Membership,
        network: Network,
        gossip: Gossip,
        template: Heartbeat,
        heartbeat_s: float,
        upload: UploadMeter | None = None,
    ) -> None:
        """`upload` is what heartbeats tell of this node's line."""
        self._upload = upload or UploadMeter()
        self.membership = membership
        self._network = network
        self._gossip = gossip
        self._template = template
        self._heartbeat_s = heartbeat_s
        self._watchers: list[Watcher] = []
        self._beat_now = trio.Event()
        self._gone: dict[Address, trio.CancelScope] = {}
        gossip.on(Heartbeat, self._heard)

    def watch(self, watcher: Watcher) -> None:
        """Be told of changes; the call must not block."""
        self._watchers.append(watcher)

    def lines_of(self, role: str) -> tuple[tuple[Address, ...], tuple[int, ...]]:
        """See `Membership.lines_of`."""
        return self.membership.lines_of(role, trio.current_time())

    def with_role(self, role: str) -> tuple[Address, ...]:
        """Fresh members that offer a role."""
        return self.membership.with_role(role, trio.current_time())

    def _tell(self, change: PeerDown | PeerUp | None) -> None:
        for watcher in self._watchers:
            watcher(change)

    async def _heard(self, said: Said) -> None:
        now = trio.current_time()
        before = {m.address for m in self.membership.fresh(now)}
        if self.membership.heard(said.author, said.message, now) and said.author not in before:
            self._tell(PeerUp(said.author))
            self._tell(None)

    async def run(self) -> None:
        """Beat and watch the transport until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat)
            nursery.start_soon(self._expire)
            async for event in self._network.events():
                match event:
                    case PeerConnected(peer=peer):
                        if (scope := self._gone.pop(peer, None)) is not None:
                            scope.cancel()
                        self._beat_now.set()
                        self.membership.up(peer)
                        self._tell(PeerUp(peer))
                        self._tell(None)
                    case PeerLost(peer=peer):
                        scope = trio.CancelScope()
                        self._gone[peer] = scope
                        nursery.start_soon(self._lost, peer, scope)

    async def _lost(self, peer: Address, scope: trio.CancelScope) -> None:
        with scope:
            with trio.move_on_after(LOST_GRACE_S):
                await self._refused(peer)
            self._gone.pop(peer, None)
            if peer in self._network.peers():
                return
            self.membership.down(peer)
            self._tell(PeerDown(peer))
            self._tell(None)

    async def _refused(self, peer: Address) -> None:
        """Returns once nothing listens at the peer's addresses any more: its process has ended."""
        member = self.membership.member(peer)
        for addr in member.heartbeat.addrs if member else ():
            try:
                await self._network.connect(addr, timeout_s=LOST_GRACE_S)
            except (PeerUnreachable, ValueError):
                continue
            break
        else:
            if member is not None and member.heartbeat.addrs:
                return
        await trio.sleep_forever()

    async def _beat(self) -> None:
        while True:
            self._beat_now = trio.Event()
            beat = self.membership.beat(self._current(), trio.current_time())
            await self._gossip.publish(beat)
            self._tell(None)
            with trio.move_on_after(self._heartbeat_s):
                await self._beat_now.wait()
                await trio.sleep(GREETING_DELAY_S)

    def _current(self) -> Heartbeat:
        addrs = tuple(self._network.listen_addrs())[: limits.MULTIADDRS_MAX]
        fields = self._template
        return Heartbeat(
            fields.incarnation,
            fields.sequence,
            fields.roles,
            fields.payout,
            fields.sealing_key,
            tuple(a for a in addrs if len(a) <= limits.MULTIADDR_BYTES_MAX),
            fields.software,
            min(self._upload.kib_s, limits.UPLOAD_MAX),
        )

    async def _expire(self) -> None:
        """Silence is news too: say so when a member's heartbeat has run out."""
        while True:
            before = {m.address for m in self.membership.fresh(trio.current_time())}
            await trio.sleep(self._heartbeat_s)
            after = {m.address for m in self.membership.fresh(trio.current_time())}
            for peer in before - after:
                self._tell(PeerDown(peer))
            if before != after:
                self._tell(None)
