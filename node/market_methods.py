"""The market in plain JSON values: what is offered, and taking, making and withdrawing offers."""

from typing import Any

from eigen.chain.account_calls import AccountCalls, Asset, NotPossible
from eigen.chain.market import Market, Offer
from eigen.chain.models import Models
from eigen.config.addresses import format_address, parse_address
from eigen.node.asset_amounts import units_of
from eigen.node.control import Method
from eigen.protocol.types import Address, Digest

CREATION_HEX_DIGITS = 64
DAY_S = 86_400


class MarketMethods:
    """One coroutine a call; `table` names them."""

    def __init__(self, calls: AccountCalls) -> None:
        self._calls = calls
        self._market = Market(calls)

    def table(self) -> dict[str, Method]:
        """Methods by name."""
        return {
            "offers": self.offers,
            "offer": self.offer,
            "sell": self.sell,
            "buy": self.buy,
            "withdraw_offer": self.withdraw,
        }

    async def offers(self, params: dict[str, Any]) -> dict[str, Any]:
        """Offers of this DAO's models and works, or of `everything`, below the id `before`."""
        before = params.get("before")
        contracts = self._calls.contracts
        ours = [at for at in (contracts.registry, contracts.creations) if at]
        found, go_on = await self._market.offers(
            None if before is None else int(before), None if params.get("everything") else ours
        )
        return {"offers": [self._view(offer) for offer in found], "go_on_before": go_on}

    async def offer(self, params: dict[str, Any]) -> dict[str, Any]:
        """One offer, and what this account holds of what it is paid in."""
        offer = await self._market.offer(int(params["id"]))
        held = await self._calls.balance(offer.asset.at)
        return {"offer": self._view(offer), "held": offer.asset.shown(held)}

    async def sell(self, params: dict[str, Any]) -> dict[str, Any]:
        """Offer a model or a work, or licences to use it where `terms` names their text."""
        nft, token = await self._token(str(params["id"]), creation=bool(params.get("creation")))
        asset = await self._paid_in(str(params["token"]))
        price = units_of(str(params["price"]), asset, "price", least=0)
        if params.get("terms"):
            terms = Digest(bytes.fromhex(params["terms"]))
            duration_s = int(params["days"]) * DAY_S
            made = await self._market.sell_licences(nft, token, asset, price, duration_s, terms)
        else:
            made = await self._market.sell(nft, token, asset, price)
        id_, receipt = made
        return {"offer": self._view(await self._market.offer(id_)), "tx": receipt.tx}

    async def buy(self, params: dict[str, Any]) -> dict[str, Any]:
        """Take an offer if it still is `agreed`, as `offer` told it."""
        agreed = dict(params["agreed"])
        offer = await self._market.offer(int(agreed["id"]))
        now = self._view(offer)
        if now != agreed:
            what = ", ".join(
                f"{name} is {now[name]}, not {agreed.get(name)}"
                for name in now
                if now[name] != agreed.get(name)
            )
            raise NotPossible(f"offer {offer.id} has changed: {what}; nothing was spent")
        receipt = await self._market.buy(offer)
        return {"offer": now, "tx": receipt.tx}

    async def withdraw(self, params: dict[str, Any]) -> dict[str, Any]:
        """Withdraw an offer of this account."""
        id_ = int(params["id"])
        receipt = await self._market.cancel(id_)
        return {"id": id_, "tx": receipt.tx}

    async def _token(self, id_: str, *, creation: bool) -> tuple[Address, int]:
        if not creation:
            run = await Models(self._calls).find(id_)
            return self._calls.contract("registry"), int.from_bytes(run)
        wanted = id_.removeprefix("0x")
        if len(wanted) != CREATION_HEX_DIGITS:
            raise NotPossible(f"a work's id has {CREATION_HEX_DIGITS} hexadecimal digits")
        return self._calls.contract("creations"), int(wanted, 16)

    async def _paid_in(self, name: str) -> Asset:
        if name == "coin":
            raise NotPossible("the market takes tokens (ERC-20): name the wrapped coin's address")
        at = self._calls.contracts.token if name == "dao" else parse_address(name)
        return await self._calls.asset(at)

    def _view(self, offer: Offer) -> dict[str, Any]:
        kinds = {
            self._calls.contracts.registry: "model",
            self._calls.contracts.creations: "creation",
        }
        return {
            "id": offer.id,
            "sells": "licence" if offer.licence else "token",
            "kind": kinds.get(offer.nft, "other"),
            "contract": format_address(offer.nft),
            "token": offer.token.to_bytes(32).hex(),
            "price": offer.asset.shown(offer.price),
            "asset": format_address(offer.asset.at),
            "symbol": offer.asset.symbol,
            "dao_token": offer.asset.at == self._calls.contracts.token,
            "seller": format_address(offer.seller),
            "ours": offer.seller == self._calls.address,
            "duration_s": offer.duration_s,
            "terms": offer.terms.hex() if offer.licence else "",
            "stands": offer.stands,
        }
