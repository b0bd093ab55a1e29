"""What a node's pool means by its reply to signed bytes; each client has its own words."""

from enum import Enum, auto
from typing import Final

from eigen.chain.port import EndpointRefused


class Answer(Enum):
    """What to do after the reply."""

    PENDING = auto()  # it is there, or may be later: look for a receipt, send again
    NO_MONEY = auto()
    REFUSED = auto()


_PENDING_WORDS: Final = (
    "already known",  # geth, erigon, reth
    "already imported",  # anvil
    "already in mempool",
    "known transaction",  # besu
    "alreadyknown",  # nethermind
    "nonce too low",  # mined meanwhile: the receipt will tell
    "nonce is too low",
    "oldnonce",  # nethermind
    "underpriced",  # the fee is raised when it has waited
    "fee too low",
    "less than block base fee",
    "replacementnotallowed",  # nethermind: another transaction has the nonce; one of them is mined
    "pool is full",
)
_NO_MONEY_WORDS: Final = ("insufficient funds", "insufficient balance", "upfront cost exceeds")


def classified(error: EndpointRefused) -> Answer:
    """The meaning of a refusal of `eth_sendRawTransaction` or of `eth_estimateGas`."""
    words = str(error).lower()
    if any(known in words for known in _PENDING_WORDS):
        return Answer.PENDING
    if any(known in words for known in _NO_MONEY_WORDS):
        return Answer.NO_MONEY
    return Answer.REFUSED
