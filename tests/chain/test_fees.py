"""Fees: every replacement is accepted, no lie of an endpoint costs more than the limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigen.chain.fees import (
    GWEI,
    MAX_FEE_WEI,
    PRIORITY_WEI_MAX,
    PRIORITY_WEI_MIN,
    Fee,
    offer,
    replacement,
)
from eigen.chain.pool import Answer, classified
from eigen.chain.port import EndpointRefused, FeeTooHigh

wei = st.integers(0, 2**256 - 1)


@given(wei, st.lists(wei, max_size=8))
def test_an_offer_stays_within_the_limits(base_fee_wei: int, tips_wei: list[int]) -> None:
    try:
        fee = offer(base_fee_wei, tips_wei)
    except FeeTooHigh:
        assert base_fee_wei + PRIORITY_WEI_MAX > MAX_FEE_WEI
        return
    assert fee.priority_wei <= fee.max_wei <= MAX_FEE_WEI
    assert PRIORITY_WEI_MIN <= fee.priority_wei <= PRIORITY_WEI_MAX
    assert fee.max_wei >= base_fee_wei + fee.priority_wei


@given(wei, st.lists(wei, max_size=8), st.integers(1, MAX_FEE_WEI), st.integers(1, MAX_FEE_WEI))
def test_a_replacement_raises_both_fees_by_an_eighth(
    base_fee_wei: int, tips_wei: list[int], one_wei: int, other_wei: int
) -> None:
    previous = Fee(max(one_wei, other_wei), min(one_wei, other_wei))
    raised = replacement(previous, base_fee_wei, tips_wei)
    if raised is None:
        highest_wei = max(previous.max_wei * 1125, (PRIORITY_WEI_MAX + 1) * 1000)
        assert -(-highest_wei // 1000) > MAX_FEE_WEI
        return
    assert raised.max_wei * 1000 >= previous.max_wei * 1125
    assert raised.priority_wei * 1000 >= previous.priority_wei * 1125
    assert raised.priority_wei <= raised.max_wei <= MAX_FEE_WEI


def test_offers_follow_the_market() -> None:
    assert offer(10 * GWEI, [1 * GWEI, 2 * GWEI, 9 * GWEI]) == Fee(22 * GWEI, 2 * GWEI)
    assert offer(0, []) == Fee(PRIORITY_WEI_MIN, PRIORITY_WEI_MIN)
    assert offer(8 * GWEI, [], ceiling_wei=10 * GWEI).max_wei == 10 * GWEI
    with pytest.raises(FeeTooHigh, match=r"costs 12\.001 gwei now, the ceiling is 10\.000"):
        offer(12 * GWEI, [], ceiling_wei=10 * GWEI)


def test_a_replacement_follows_a_market_that_rose() -> None:
    assert replacement(Fee(10, 1), 100 * GWEI, []) == Fee(
        200 * GWEI + PRIORITY_WEI_MIN, PRIORITY_WEI_MIN
    )


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("already known", Answer.PENDING),  # geth
        ("transaction already imported", Answer.PENDING),  # anvil
        ("AlreadyKnown", Answer.PENDING),  # nethermind
        ("Known transaction", Answer.PENDING),  # besu
        ("nonce too low: next nonce 5, tx nonce 4", Answer.PENDING),
        ("OldNonce, Current nonce: 5", Answer.PENDING),
        ("replacement transaction underpriced", Answer.PENDING),
        ("max fee per gas less than block base fee: address 0x…", Answer.PENDING),
        ("txpool is full", Answer.PENDING),
        ("insufficient funds for gas * price + value: have 0 want 1", Answer.NO_MONEY),
        ("Insufficient funds for gas * price + value", Answer.NO_MONEY),
        ("Upfront cost exceeds account balance", Answer.NO_MONEY),
        ("invalid sender", Answer.REFUSED),
        ("exceeds block gas limit", Answer.REFUSED),
        ("", Answer.REFUSED),
    ],
)
def test_each_client_says_it_in_its_own_words(words: str, answer: Answer) -> None:
    assert classified(EndpointRefused(words)) is answer
