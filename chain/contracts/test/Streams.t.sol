// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "../src/ContributionLedger.sol";
import {Rounds} from "../src/Rounds.sol";
import {Streams} from "../src/Streams.sol";
import {Validators} from "../src/Validators.sol";
import {Dao} from "./Dao.sol";
import {Money} from "./Money.sol";
import {Payouts} from "./Payouts.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @notice Streams beside training runs: who opens them, what they are paid in, how they end; claims in batches.
contract StreamsTest is Dao {
    bytes32 private constant STREAM = keccak256("storage of 2027");
    Money private money;
    address[] private accounts;
    uint256[] private cumulative;

    function setUp() public {
        deployDao();
        money = new Money();
        for (uint256 i = 0; i < 5; ++i) {
            accounts.push(vm.addr(1 + i));
            cumulative.push(10 * (1 + i)); // 150 in all
        }
        money.give(address(this), 1000);
        money.approve(address(ledger), 1000);
    }

    // ------------------------------------------------------------------ opening

    function test_the_dao_opens_streams_of_every_kind() public {
        for (uint8 kind = 0; kind < 5; ++kind) {
            bytes32 id = keccak256(abi.encode(kind));
            vm.expectEmit(address(ledger));
            emit Streams.StreamOpened(id, Streams.Kind(kind), address(token), true, address(timelock), SPEC);
            openStream(id, Streams.Kind(kind), IERC20(address(0)));
            (Streams.Kind told, address asset, bool minted, bool closed, uint256 funded) = ledger.streams(id);
            vm.assertEq(uint256(told), kind, "kind");
            vm.assertEq(asset, address(token), "asset");
            vm.assertTrue(minted && !closed && funded == 0, "minted, open, not funded");
        }
    }

    function test_nobody_else_opens_a_minted_stream() public {
        vm.expectRevert(abi.encodeWithSelector(Validators.OnlyDao.selector, address(this), address(timelock)));
        ledger.openStream(STREAM, Streams.Kind.Storage, SPEC, ROUNDS, REWARD, IERC20(address(0)));
    }

    function test_anyone_opens_a_funded_stream_under_its_own_name() public {
        bytes32 id = ledger.fundedStream(address(this), STREAM);
        vm.expectEmit(address(ledger));
        emit Streams.StreamOpened(id, Streams.Kind.Revenue, address(money), false, address(this), SPEC);
        vm.assertEq(openFunded(), id, "id");
        vm.expectRevert(abi.encodeWithSelector(Streams.RunAlreadyOpen.selector, id));
        openFunded();
        vm.assertTrue(id != ledger.fundedStream(address(1), STREAM), "another's name");
        vm.expectRevert(abi.encodeWithSelector(Validators.ZeroAddress.selector, "asset"));
        ledger.openFunded(STREAM, Streams.Kind.Revenue, SPEC, ROUNDS, REWARD, IERC20(address(0)));
    }

    // ------------------------------------------------------------------ funding

    function test_money_comes_in() public {
        bytes32 id = openFunded();
        vm.expectEmit(address(ledger));
        emit Streams.StreamFunded(id, address(this), 100, 100);
        ledger.fund(id, 100);
        ledger.fund(id, 20);
        (,,,, uint256 funded) = ledger.streams(id);
        vm.assertEq(funded, 120, "funded");
        vm.assertEq(money.balanceOf(address(ledger)), 120, "held");
    }

    function test_money_for_nothing_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(Streams.UnknownRun.selector, STREAM));
        ledger.fund(STREAM, 1);
        openStream(STREAM, Streams.Kind.Storage, IERC20(address(0)));
        vm.expectRevert(abi.encodeWithSelector(Streams.StreamIsMinted.selector, STREAM));
        ledger.fund(STREAM, 1);
    }

    function test_an_asset_that_takes_fees_is_refused() public {
        bytes32 id = openFunded();
        money.setFee(10);
        vm.expectRevert(abi.encodeWithSelector(Streams.AssetInexact.selector, address(money), 100, 90));
        ledger.fund(id, 100);
    }

    // ------------------------------------------------------------------ paying

    function test_a_funded_stream_pays_what_it_holds() public {
        bytes32 id = openFunded();
        ledger.fund(id, 60);
        bytes32[] memory leaves = postPayouts(id, 1, 150);
        ledger.claim(id, accounts[4], 50, Payouts.proof(leaves, 4));
        vm.assertEq(money.balanceOf(accounts[4]), 50, "paid");
        bytes32[] memory proof = Payouts.proof(leaves, 3);
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.ClaimExceedsFunds.selector, id, 40, 10));
        ledger.claim(id, accounts[3], 40, proof);
        ledger.fund(id, 30);
        ledger.claim(id, accounts[3], 40, proof);
        vm.assertEq(money.balanceOf(accounts[3]), 40, "paid later");
        vm.assertEq(money.balanceOf(address(ledger)), 0, "nothing left");
    }

    function test_a_funded_stream_pays_no_more_than_was_attested() public {
        bytes32 id = openFunded();
        ledger.fund(id, 1000);
        bytes32[] memory leaves = postPayouts(id, 1, 60);
        ledger.claim(id, accounts[4], 50, Payouts.proof(leaves, 4));
        bytes32[] memory proof = Payouts.proof(leaves, 3);
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.ClaimExceedsTotal.selector, id, 40, 10));
        ledger.claim(id, accounts[3], 40, proof);
    }

    // ------------------------------------------------------------------ batches

    function test_a_batch_pays_many() public {
        openRun();
        bytes32[] memory leaves = postPayouts(RUN, 1, 150);
        vm.prank(accounts[1]);
        ledger.setPayout(vm.addr(77));
        uint256 count = ledger.multiClaim(RUN, earnings(leaves));
        vm.assertEq(count, 5, "paid");
        vm.assertEq(token.balanceOf(accounts[0]), 10, "an account");
        vm.assertEq(token.balanceOf(vm.addr(77)), 20, "a payee");
        (,,,, uint256 claimedTotal) = ledger.runs(RUN);
        vm.assertEq(claimedTotal, 150, "claimed of the run");
        vm.assertEq(token.totalSupply(), 150, "supply");
    }

    function test_a_batch_pays_from_funds() public {
        bytes32 id = openFunded();
        ledger.fund(id, 150);
        bytes32[] memory leaves = postPayouts(id, 1, 150);
        vm.assertEq(ledger.multiClaim(id, earnings(leaves)), 5, "paid");
        for (uint256 i = 0; i < 5; ++i) {
            vm.assertEq(money.balanceOf(accounts[i]), cumulative[i], "paid");
        }
    }

    function test_a_batch_skips_what_cannot_be_paid() public {
        openRun();
        bytes32[] memory leaves = postPayouts(RUN, 1, 100); // the leaves sum to 150
        ledger.claim(RUN, accounts[0], 10, Payouts.proof(leaves, 0));
        ContributionLedger.Earning[] memory batch = earnings(leaves);
        batch[1].cumulative = 21;
        batch[3] = batch[2]; // the same twice
        for (uint256 i = 0; i < 4; ++i) {
            if (i == 2) continue;
            vm.expectEmit(address(ledger));
            emit ContributionLedger.ClaimSkipped(RUN, batch[i].account);
        }
        vm.assertEq(ledger.multiClaim(RUN, batch), 2, "paid");
        vm.assertEq(token.balanceOf(accounts[2]), 30, "once");
        vm.assertEq(token.balanceOf(accounts[4]), 50, "beside bad ones");
        ContributionLedger.Earning[] memory one = new ContributionLedger.Earning[](1);
        one[0] = earnings(leaves)[3];
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.NothingToClaim.selector)); // 40 of 10 left
        ledger.multiClaim(RUN, one);
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.NothingToClaim.selector));
        ledger.multiClaim(RUN, new ContributionLedger.Earning[](0));
    }

    function test_a_batch_stops_at_the_attested_total() public {
        openRun();
        bytes32[] memory leaves = postPayouts(RUN, 1, 75); // the leaves sum to 150
        vm.expectEmit(address(ledger));
        emit ContributionLedger.ClaimSkipped(RUN, accounts[3]);
        vm.assertEq(ledger.multiClaim(RUN, earnings(leaves)), 3, "10, 20 and 30 are paid");
        vm.assertEq(token.totalSupply(), 60, "15 are left, for none of them");
    }

    // ------------------------------------------------------------------ the end

    function test_a_closed_stream_pays_what_it_owes_and_returns_the_rest() public {
        bytes32 id = openFunded();
        ledger.fund(id, 1000);
        bytes32[] memory leaves = postPayouts(id, 1, 150);
        ledger.claim(id, accounts[4], 50, Payouts.proof(leaves, 4));
        vm.expectEmit(address(ledger));
        emit Streams.StreamClosed(id, vm.addr(9), 850);
        close(id);
        vm.assertEq(money.balanceOf(vm.addr(9)), 850, "returned");
        ledger.claim(id, accounts[3], 40, Payouts.proof(leaves, 3));
        vm.assertEq(money.balanceOf(address(ledger)), 60, "still owed");

        bytes memory closed = abi.encodeWithSelector(Streams.RunClosed.selector, id);
        vm.expectRevert(closed);
        ledger.fund(id, 1);
        Rounds.RoundRoot memory root = roundRoot(2, 0, 150);
        root.run = id;
        bytes[] memory signed = signatures(root, keys, QUORUM);
        vm.expectRevert(closed);
        ledger.postRound(root, signed);
        vm.expectRevert(closed);
        close(id);
    }

    function test_a_minted_stream_ends_too() public {
        openRun();
        close(RUN);
        vm.expectRevert(abi.encodeWithSelector(Streams.RunAlreadyOpen.selector, RUN));
        openRun();
    }

    function test_an_underfunded_stream_returns_nothing() public {
        bytes32 id = openFunded();
        ledger.fund(id, 100);
        postPayouts(id, 1, 150);
        close(id);
        vm.assertEq(money.balanceOf(address(ledger)), 100, "kept for claims");
    }

    function test_closing_waits_for_the_window() public {
        vm.prank(address(timelock));
        ledger.setTerms(Validators.Terms(1 days, 1 days, 0, address(0)));
        openRun();
        postPayouts(RUN, 1, 150);
        uint64 at = uint64(block.timestamp + 1 days);
        vm.expectRevert(abi.encodeWithSelector(Streams.InWindow.selector, RUN, at));
        close(RUN);
        vm.warp(at);
        close(RUN);
    }

    function test_only_the_dao_closes_what_there_is() public {
        openRun();
        vm.expectRevert(abi.encodeWithSelector(Validators.OnlyDao.selector, address(this), address(timelock)));
        ledger.closeStream(RUN, address(this));
        vm.expectRevert(abi.encodeWithSelector(Validators.ZeroAddress.selector, "to"));
        vm.prank(address(timelock));
        ledger.closeStream(RUN, address(0));
        vm.expectRevert(abi.encodeWithSelector(Streams.UnknownRun.selector, STREAM));
        close(STREAM);
    }

    // ------------------------------------------------------------------ building blocks

    function openStream(bytes32 id, Streams.Kind kind, IERC20 asset) private {
        vm.prank(address(timelock));
        ledger.openStream(id, kind, SPEC, ROUNDS, REWARD, asset);
    }

    function openFunded() private returns (bytes32) {
        return ledger.openFunded(STREAM, Streams.Kind.Revenue, SPEC, ROUNDS, REWARD, money);
    }

    function close(bytes32 id) private {
        vm.prank(address(timelock));
        ledger.closeStream(id, vm.addr(9));
    }

    function postPayouts(bytes32 id, uint64 round, uint256 total) private returns (bytes32[] memory leaves) {
        leaves = Payouts.leaves(accounts, cumulative);
        Rounds.RoundRoot memory root = roundRoot(round, Payouts.root(leaves), total);
        root.run = id;
        ledger.postRound(root, signatures(root, keys, QUORUM));
    }

    function earnings(bytes32[] memory leaves) private view returns (ContributionLedger.Earning[] memory batch) {
        batch = new ContributionLedger.Earning[](accounts.length);
        for (uint256 i = 0; i < batch.length; ++i) {
            batch[i] = ContributionLedger.Earning(accounts[i], cumulative[i], Payouts.proof(leaves, i));
        }
    }
}
