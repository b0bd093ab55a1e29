// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "../src/ContributionLedger.sol";
import {Dao} from "./Dao.sol";
import {Payouts} from "./Payouts.sol";

/// @notice Who is paid what for a run.
contract ClaimsTest is Dao {
    address[] private accounts;

    function setUp() public {
        deployDao();
        openRun();
        for (uint256 i = 0; i < 5; ++i) {
            accounts.push(vm.addr(1 + i));
        }
    }

    function test_anyone_claims_for_an_account() public {
        bytes32[] memory leaves = postPayouts(1, amounts([uint256(10), 20, 30, 40, 50]), 150);
        vm.expectEmit(address(ledger));
        emit ContributionLedger.Claimed(RUN, accounts[2], accounts[2], 30);
        ledger.claim(RUN, accounts[2], 30, Payouts.proof(leaves, 2));
        vm.assertEq(token.balanceOf(accounts[2]), 30, "balance");
        vm.assertEq(token.getVotes(accounts[2]), 0, "votes not counted yet");
        vm.assertEq(ledger.claimed(RUN, accounts[2]), 30, "claimed");
        (,,,, uint256 claimedTotal) = ledger.runs(RUN);
        vm.assertEq(claimedTotal, 30, "claimed of the run");
    }

    function test_later_rounds_pay_the_difference() public {
        bytes32[] memory leaves = postPayouts(1, amounts([uint256(10), 20, 30, 40, 50]), 150);
        ledger.claim(RUN, accounts[4], 50, Payouts.proof(leaves, 4));
        postPayouts(2, amounts([uint256(20), 40, 60, 80, 100]), 300); // nobody claims this one
        leaves = postPayouts(7, amounts([uint256(21), 41, 61, 81, 101]), 305);
        ledger.claim(RUN, accounts[4], 101, Payouts.proof(leaves, 4));
        ledger.claim(RUN, accounts[0], 21, Payouts.proof(leaves, 0));
        vm.assertEq(token.balanceOf(accounts[4]), 101, "claimed twice");
        vm.assertEq(token.balanceOf(accounts[0]), 21, "claimed once");
    }

    function test_a_payment_is_made_once() public {
        bytes32[] memory leaves = postPayouts(1, amounts([uint256(10), 20, 30, 40, 50]), 150);
        bytes32[] memory proof = Payouts.proof(leaves, 1);
        ledger.claim(RUN, accounts[1], 20, proof);
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.NothingToClaim.selector));
        ledger.claim(RUN, accounts[1], 20, proof);
    }

    function test_a_shrunken_amount_pays_nothing() public {
        bytes32[] memory leaves = postPayouts(1, amounts([uint256(10), 20, 30, 40, 50]), 150);
        ledger.claim(RUN, accounts[1], 20, Payouts.proof(leaves, 1));
        leaves = postPayouts(2, amounts([uint256(10), 15, 30, 40, 50]), 150);
        bytes32[] memory proof = Payouts.proof(leaves, 1);
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.NothingToClaim.selector));
        ledger.claim(RUN, accounts[1], 15, proof);
    }

    function test_nobody_is_paid_anothers_earnings() public {
        bytes32[] memory leaves = postPayouts(1, amounts([uint256(10), 20, 30, 40, 50]), 150);
        bytes32[] memory proof = Payouts.proof(leaves, 4);
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.InvalidProof.selector, RUN, accounts[0], 50));
        ledger.claim(RUN, accounts[0], 50, proof);
    }

    function test_only_the_latest_root_pays() public {
        bytes32[] memory leaves = postPayouts(1, amounts([uint256(10), 20, 30, 40, 50]), 150);
        postPayouts(2, amounts([uint256(11), 21, 31, 41, 51]), 155);
        bytes32[] memory proof = Payouts.proof(leaves, 4);
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.InvalidProof.selector, RUN, accounts[4], 50));
        ledger.claim(RUN, accounts[4], 50, proof);
    }

    function test_a_run_without_rounds_pays_nothing() public {
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.InvalidProof.selector, RUN, accounts[0], 1));
        ledger.claim(RUN, accounts[0], 1, new bytes32[](0));
    }

    function test_a_root_pays_no_more_than_its_attested_total() public {
        bytes32[] memory leaves = postPayouts(1, amounts([uint256(10), 20, 30, 40, 50]), 89); // leaves sum to 150
        ledger.claim(RUN, accounts[4], 50, Payouts.proof(leaves, 4));
        bytes32[] memory proof = Payouts.proof(leaves, 3);
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.ClaimExceedsTotal.selector, RUN, 40, 39));
        ledger.claim(RUN, accounts[3], 40, proof);
        ledger.claim(RUN, accounts[2], 30, Payouts.proof(leaves, 2));
    }

    function test_runs_are_paid_apart() public {
        bytes32 other = keccak256("another run");
        vm.prank(address(timelock));
        ledger.openRun(other, SPEC, ROUNDS, REWARD);
        bytes32[] memory leaves = postPayouts(1, amounts([uint256(10), 20, 30, 40, 50]), 150);
        bytes32[] memory proof = Payouts.proof(leaves, 1);
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.InvalidProof.selector, other, accounts[1], 20));
        ledger.claim(other, accounts[1], 20, proof);
    }

    function test_earnings_go_where_the_account_says() public {
        address wallet = vm.addr(77);
        vm.assertEq(ledger.payoutOf(accounts[0]), accounts[0], "before");
        vm.expectEmit(address(ledger));
        emit ContributionLedger.PayoutChanged(accounts[0], wallet);
        vm.prank(accounts[0]);
        ledger.setPayout(wallet);
        vm.assertEq(ledger.payoutOf(accounts[0]), wallet, "after");

        bytes32[] memory leaves = postPayouts(1, amounts([uint256(10), 20, 30, 40, 50]), 150);
        vm.expectEmit(address(ledger));
        emit ContributionLedger.Claimed(RUN, accounts[0], wallet, 10);
        ledger.claim(RUN, accounts[0], 10, Payouts.proof(leaves, 0));
        vm.assertEq(token.balanceOf(wallet), 10, "balance of the wallet");
        vm.assertEq(token.balanceOf(accounts[0]), 0, "balance of the account");

        vm.expectEmit(address(ledger));
        emit ContributionLedger.PayoutChanged(accounts[0], accounts[0]);
        vm.prank(accounts[0]);
        ledger.setPayout(address(0));
        vm.assertEq(ledger.payoutOf(accounts[0]), accounts[0], "reset");
    }

    function test_the_ledger_cannot_mint_once_its_role_is_taken() public {
        bytes32[] memory leaves = postPayouts(1, amounts([uint256(10), 20, 30, 40, 50]), 150);
        bytes32 role = token.MINTER_ROLE();
        vm.prank(address(timelock));
        token.revokeRole(role, address(ledger));
        bytes32[] memory proof = Payouts.proof(leaves, 0);
        vm.expectPartialRevert(bytes4(keccak256("AccessControlUnauthorizedAccount(address,bytes32)")));
        ledger.claim(RUN, accounts[0], 10, proof);
        vm.assertEq(ledger.claimed(RUN, accounts[0]), 0, "claimed");
    }

    /// @dev Trees of every size: each account gets its amount, and no amount fits another account.
    function testFuzz_every_leaf_is_paid_exactly(uint8 size, uint64[20] memory earned, uint8 thief) public {
        uint256 count = bound(size, 1, 20);
        address[] memory who = new address[](count);
        uint256[] memory cumulative = new uint256[](count);
        uint256 total = 0;
        for (uint256 i = 0; i < count; ++i) {
            (who[i], cumulative[i]) = (vm.addr(1 + i), 1 + uint256(earned[i]));
            total += cumulative[i];
        }
        bytes32[] memory leaves = Payouts.leaves(who, cumulative);
        post(1, Payouts.root(leaves), total);
        for (uint256 i = 0; i < count; ++i) {
            bytes32[] memory proof = Payouts.proof(leaves, i);
            address other = vm.addr(1000 + thief);
            vm.expectPartialRevert(ContributionLedger.InvalidProof.selector);
            ledger.claim(RUN, other, cumulative[i], proof);
            vm.expectPartialRevert(ContributionLedger.InvalidProof.selector);
            ledger.claim(RUN, who[i], cumulative[i] + 1, proof);
            ledger.claim(RUN, who[i], cumulative[i], proof);
            vm.assertEq(token.balanceOf(who[i]), cumulative[i], "paid");
        }
        (,,,, uint256 claimedTotal) = ledger.runs(RUN);
        vm.assertEq(claimedTotal, total, "claimed of the run");
    }

    /// @dev An inner node of a tree is not a payment.
    function testFuzz_noise_proves_nothing(address account, uint256 cumulative, bytes32[] memory proof) public {
        vm.assume(cumulative > 0);
        for (uint256 i = 0; i < accounts.length; ++i) {
            vm.assume(account != accounts[i]);
        }
        postPayouts(1, amounts([uint256(10), 20, 30, 40, 50]), 150);
        vm.expectPartialRevert(ContributionLedger.InvalidProof.selector);
        ledger.claim(RUN, account, cumulative, proof);
    }

    // ------------------------------------------------------------------ building blocks

    function postPayouts(uint64 round, uint256[] memory cumulative, uint256 total)
        private
        returns (bytes32[] memory leaves)
    {
        leaves = Payouts.leaves(accounts, cumulative);
        post(round, Payouts.root(leaves), total);
    }

    function amounts(uint256[5] memory fixed_) private pure returns (uint256[] memory list) {
        list = new uint256[](5);
        for (uint256 i = 0; i < 5; ++i) {
            list[i] = fixed_[i];
        }
    }
}
