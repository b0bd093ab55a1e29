"""The chain's market, for one account: offers of tokens and of licences, made, taken, withdrawn.

It holds nothing and belongs to nobody: what we allow it to take is the price and no more.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from eigen.chain.account_calls import AccountCalls, Asset, NotPossible
from eigen.chain.artifacts import load
from eigen.chain.bindings import MARKET, REGISTRY
from eigen.chain.port import EndpointRefused, Receipt, TransactionReverted, WrongChain
from eigen.protocol.types import Address, Digest

OFFERS_READ_MAX: Final = 200
"""Looked at in one call, newest first: each is a request, and the market is the whole chain's."""
PRICE_MAX: Final = (1 << 96) - 1
"""What a listing has room for, base units."""
DURATION_S_MAX: Final = (1 << 40) - 1
NOBODY: Final = Address(bytes(20))


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer; it never changes. `price` in base units of `asset`.

    A licence runs for `duration_s` seconds, 0 for ever, under the text with this SHA-256.
    `stands` says whether the seller owns the token, without which nobody can take it.
    """

    id: int
    seller: Address
    price: int
    nft: Address
    token: int
    asset: Asset
    licence: bool
    duration_s: int
    terms: Digest
    stands: bool


class Market:
    """Every write checks first what can be checked, and says in words what is missing.

    All methods raise `ChainError`, of it `NotPossible` where nothing was signed.
    """

    def __init__(self, calls: AccountCalls) -> None:
        self._calls = calls
        self._checked = False

    async def offers(
        self, before: int | None = None, of: Collection[Address] | None = None
    ) -> tuple[list[Offer], int]:
        """Offers that were not withdrawn or taken, newest first, and the id to go on before; 0
        where these were the last. `of` are the contracts whose tokens count; None: all."""
        at = await self._at()
        newest = int(await self._calls.read(at, MARKET, "count"))
        first = newest if before is None else min(before - 1, newest)
        last = max(first - OFFERS_READ_MAX, 0)
        ids = range(first, last, -1)
        found = [offer for id_ in ids if (offer := await self._offer(id_, of))]
        return found, last + 1 if last else 0

    async def offer(self, id_: int) -> Offer:
        """One offer. Raises `NotPossible` where it is gone."""
        offer = await self._offer(id_)
        if offer is None:
            raise NotPossible(f"there is no offer {id_}: it was taken, withdrawn or never made")
        return offer

    async def sell(self, nft: Address, token: int, asset: Asset, price: int) -> tuple[int, Receipt]:
        """Offer a token of ours, and let the market move it. The offer's id."""
        at = await self._at()
        self._check_price(asset, price)
        await self._check_mine(nft, token)
        await self._let_move(at, nft, token)
        data = MARKET.calldata("list", nft, token, asset.at, price)
        return await self._listed(f"sell {nft.hex()} {token} {asset.at.hex()} {price}", data)

    async def sell_licences(
        self, nft: Address, token: int, asset: Asset, price: int, duration_s: int, terms: Digest
    ) -> tuple[int, Receipt]:
        """Offer licences to use a token of ours, any number of them. The offer's id."""
        await self._at()
        self._check_price(asset, price)
        if not 0 <= duration_s <= DURATION_S_MAX:
            raise NotPossible(f"a licence runs for 0 (for ever) to {DURATION_S_MAX} seconds")
        await self._check_mine(nft, token)
        data = MARKET.calldata("offerLicence", nft, token, asset.at, price, duration_s, terms)
        what = f"license {nft.hex()} {token} {asset.at.hex()} {price} {duration_s} {terms.hex()}"
        return await self._listed(what, data)

    async def cancel(self, id_: int) -> Receipt:
        """Withdraw an offer of ours."""
        offer = await self.offer(id_)
        if offer.seller != self._calls.address:
            raise NotPossible(f"offer {id_} is 0x{offer.seller.hex()}'s, who alone may withdraw it")
        data = MARKET.calldata("cancel", id_)
        return await self._calls.write(f"cancel {id_}", await self._at(), data)

    async def buy(self, agreed: Offer) -> Receipt:
        """Take an offer at the price that was agreed to, for our account.

        It is read again first: after a reorganisation another may have its id.
        """
        at = await self._at()
        now = await self.offer(agreed.id)
        if now != agreed and now.stands:
            raise NotPossible(f"offer {agreed.id} is not what it was: look at it again")
        if not now.stands:
            raise NotPossible(f"offer {now.id}: its seller does not own the token any more")
        if now.seller == self._calls.address:
            raise NotPossible(f"offer {now.id} is your own; withdraw it with: eigen market cancel")
        if not now.licence and not await self._may_move(at, now.nft, now.token, now.seller):
            raise NotPossible(f"offer {now.id}: its seller has not let the market move the token")
        await self._calls.require(now.asset, now.price)
        await self._calls.allow(now.asset.at, at, now.price)
        data = MARKET.calldata("buy", now.id, self._calls.address)
        return await self._calls.write(f"buy {now.id}", at, data)

    # Internals ----------------------------------------------------------------------------------

    async def _at(self) -> Address:
        """The market, once its code is found to be ours: it is allowed to move money."""
        at = self._calls.contract("market")
        if not self._checked:
            if await self._calls.code(at) != load("ModelMarket").deployed_bytecode:
                raise NotPossible(f"contracts.market: 0x{at.hex()} is not our ModelMarket")
            self._checked = True
        return at

    async def _offer(self, id_: int, of: Collection[Address] | None = None) -> Offer | None:
        if not 0 < id_ < 1 << 256:
            return None
        row = await self._calls.read(await self._at(), MARKET, "listings", id_)
        seller, price, nft, licence, duration_s, asset, token, terms = row
        if not any(seller) or (of is not None and nft not in of):
            return None
        return Offer(
            id=id_,
            seller=Address(seller),
            price=price,
            nft=Address(nft),
            token=token,
            asset=await self._asset(Address(asset)),
            licence=licence,
            duration_s=duration_s,
            terms=Digest(terms),
            stands=await self._owner(Address(nft), token) == seller,
        )

    async def _asset(self, at: Address) -> Asset:
        try:
            return await self._calls.asset(at)
        except NotPossible:  # anybody may ask to be paid in nonsense; its amounts are base units
            return Asset(at, "units", 0)

    async def _owner(self, nft: Address, token: int) -> Address | None:
        try:
            return Address(await self._calls.read(nft, REGISTRY, "ownerOf", token))
        except (TransactionReverted, EndpointRefused, WrongChain):  # anybody writes such contracts
            return None

    async def _check_mine(self, nft: Address, token: int) -> None:
        owner = await self._owner(nft, token)
        if owner is None:
            raise NotPossible("there is no such token")
        if owner == self._calls.contracts.timelock:
            raise NotPossible("the DAO owns it: only a vote can sell it (a proposal of calls)")
        if owner != self._calls.address:
            raise NotPossible(f"this account does not own it: 0x{owner.hex()} does")

    def _check_price(self, asset: Asset, price: int) -> None:
        if not 0 <= price <= PRICE_MAX:
            raise NotPossible(f"the price may be at most {PRICE_MAX} base units of {asset.symbol}")

    async def _may_move(self, at: Address, nft: Address, token: int, owner: Address) -> bool:
        one = await self._calls.read(nft, REGISTRY, "getApproved", token)
        return one == at or bool(
            await self._calls.read(nft, REGISTRY, "isApprovedForAll", owner, at)
        )

    async def _let_move(self, at: Address, nft: Address, token: int) -> None:
        if not await self._may_move(at, nft, token, self._calls.address):
            data = REGISTRY.calldata("approve", at, token)
            await self._calls.write(f"let {at.hex()} move {token}", nft, data)

    async def _listed(self, what: str, data: bytes) -> tuple[int, Receipt]:
        at = await self._at()
        receipt = await self._calls.write(what, at, data)
        args: Any = await self._calls.event(receipt, at, MARKET, "Listed")
        return int(args["id"]), receipt
