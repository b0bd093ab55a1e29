"""Run specs by their digests, as signed proposals brought them: the chain holds digests alone."""

import structlog
import trio

from eigen.crypto.errors import BadSignature
from eigen.node.gossip import Gossip
from eigen.node.ports import Network, NetworkError
from eigen.protocol.limits import GOSSIP_MESSAGE_BYTES_MAX, PROPOSALS_MAX
from eigen.protocol.messages import Envelope, Proposal
from eigen.protocol.requests import PROPOSAL, ProposalQuery, ProposalReply
from eigen.protocol.run import RunSpec, spec_digest
from eigen.protocol.types import Address, Digest
from eigen.protocol.wire import WireError, decode, encode

log = structlog.get_logger()

SPECS_MAX = 4 * PROPOSALS_MAX
"""Specs remembered, 1 KB each; one that was forgotten is asked of peers again."""
ASK_TIMEOUT_S = 5.0
"""For one peer's answer."""


class SpecBook:
    """What specs are known, with the proposals that prove who wrote them."""

    def __init__(self, network: Network, gossip: Gossip, poll_s: float) -> None:
        self._network = network
        self._gossip = gossip
        self._poll_s = poll_s
        self._known: dict[Digest, tuple[RunSpec, Envelope]] = {}
        network.serve(PROPOSAL, self._serve, request_bytes_max=256)

    def keep(self, proposal: Proposal, envelope: Envelope) -> bool:
        """Remember a proposal's specs. Returns whether one of them was news."""
        news = False
        for spec in proposal.specs:
            digest = spec_digest(spec)
            if digest not in self._known:
                if len(self._known) >= SPECS_MAX:
                    del self._known[next(iter(self._known))]
                self._known[digest] = (spec, envelope)
                news = True
        return news

    def get(self, digest: Digest) -> RunSpec | None:
        """A spec that is known here."""
        known = self._known.get(digest)
        return known[0] if known else None

    async def find(self, digest: Digest) -> RunSpec:
        """A spec, asked of peers again and again until one has it; cancel to give up."""
        while True:
            known = self.get(digest)
            if known is not None:
                return known
            await self._ask(digest)
            if digest not in self._known:
                await trio.sleep(self._poll_s)

    async def _ask(self, digest: Digest) -> None:
        for peer in sorted(self._network.peers()):
            try:
                reply = await self._network.request(
                    peer,
                    PROPOSAL,
                    encode(ProposalQuery(digest)),
                    reply_bytes_max=GOSSIP_MESSAGE_BYTES_MAX,
                    timeout_s=ASK_TIMEOUT_S,
                )
                for envelope in decode(reply, ProposalReply).envelopes:
                    proposal = self._gossip.read_any(envelope).message
                    if isinstance(proposal, Proposal) and any(
                        spec_digest(spec) == digest for spec in proposal.specs
                    ):
                        self.keep(proposal, envelope)
                        return
            except (NetworkError, WireError, BadSignature) as error:
                log.debug("no proposal from a peer", peer=peer.hex(), why=str(error))

    async def _serve(self, _peer: Address, payload: bytes) -> bytes:
        known = self._known.get(decode(payload, ProposalQuery).spec)
        return encode(ProposalReply((known[1],) if known else ()))
