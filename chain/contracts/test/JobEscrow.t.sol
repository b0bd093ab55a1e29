// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "../src/ContributionLedger.sol";
import {JobEscrow} from "../src/JobEscrow.sol";
import {Rounds} from "../src/Rounds.sol";
import {Streams} from "../src/Streams.sol";
import {Foundry} from "./Foundry.sol";
import {Money} from "./Money.sol";
import {Payouts} from "./Payouts.sol";
import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";

/// @notice A private job's money, from the client to contributors or back.
contract JobEscrowTest is Foundry {
    uint128 private constant PRICE = 1000e6;
    uint32 private constant DISPUTE_S = 3 days;
    uint16 private constant JOB_ROUNDS = 2;
    bytes32 private constant ID = keccak256("job");

    Money private money;
    address private client = vm.addr(800);
    address[] private accounts;
    uint256[] private cumulative;
    uint40 private deadline;
    bytes32 private job;

    function setUp() public {
        money = new Money();
        foundDao(address(money));
        money.give(client, 10 * PRICE);
        vm.prank(client);
        money.approve(address(escrow), type(uint256).max);
        accounts = [vm.addr(1), vm.addr(2)];
        cumulative = [600e6, 300e6];
        deadline = uint40(block.timestamp + 30 days);
        job = escrow.jobId(client, ID);
    }

    // ------------------------------------------------------------------ the usual way

    function test_a_job_is_delivered_released_and_claimed() public {
        bytes32 stream = escrow.streamOf(job);
        vm.expectEmit(address(escrow));
        emit JobEscrow.JobOpened(job, client, stream, address(money), PRICE, SPEC, deadline);
        open();
        vm.assertEq(money.balanceOf(address(escrow)), PRICE, "held");
        (Streams.Kind kind, address asset, bool minted,,) = ledger.streams(stream);
        vm.assertTrue(kind == Streams.Kind.PrivateJob && asset == address(money) && !minted, "its stream");

        bytes32[] memory leaves = attest(JOB_ROUNDS, 900e6);
        uint40 at = uint40(block.timestamp + DISPUTE_S);
        bytes32 result = keccak256(abi.encode("checkpoint", uint64(JOB_ROUNDS)));
        vm.expectEmit(address(escrow));
        emit JobEscrow.JobDelivered(job, result, 900e6, at);
        escrow.deliver(job);
        JobEscrow.Job memory j = escrow.jobs(job);
        vm.assertEq(j.result, result, "result");
        vm.assertTrue(j.state == JobEscrow.State.Delivered, "delivered");

        vm.expectRevert(abi.encodeWithSelector(JobEscrow.TooEarly.selector, job, at));
        escrow.release(job);
        vm.warp(at);
        vm.expectEmit(address(escrow));
        emit JobEscrow.JobClosed(job, stream, 900e6, 100e6);
        escrow.release(job);
        ledger.claim(stream, accounts[0], cumulative[0], Payouts.proof(leaves, 0));
        ledger.claim(stream, accounts[1], cumulative[1], Payouts.proof(leaves, 1));
        vm.assertEq(money.balanceOf(accounts[0]), 600e6, "paid");

        vm.expectEmit(address(escrow));
        emit JobEscrow.JobRefunded(job, client, 100e6);
        escrow.refund(job);
        vm.assertEq(money.balanceOf(client), 9 * PRICE + 100e6, "the rest is back");
        vm.assertEq(money.balanceOf(address(escrow)), 0, "nothing is left");
        requireWrong(JobEscrow.State.Closed);
        escrow.refund(job);
    }

    function test_the_dao_adds_its_own_tokens() public {
        open();
        bytes32[] memory leaves = attest(JOB_ROUNDS, 900e6);
        bytes32 bonus = keccak256("bonus");
        vm.prank(address(timelock));
        ledger.openStream(bonus, Streams.Kind.PrivateJob, SPEC, JOB_ROUNDS, 900e6, money20(address(0)));
        Rounds.RoundRoot memory root = roundRoot(JOB_ROUNDS, Payouts.root(leaves), 900e6);
        root.run = bonus;
        ledger.postRound(root, signatures(root, keys, QUORUM));
        ledger.claim(bonus, accounts[0], cumulative[0], Payouts.proof(leaves, 0));
        vm.assertEq(token.balanceOf(accounts[0]), 600e6, "DAO tokens");
    }

    function test_an_attested_total_above_the_price_pays_the_price() public {
        open();
        attest(JOB_ROUNDS, PRICE + 1);
        escrow.deliver(job);
        vm.warp(block.timestamp + DISPUTE_S);
        escrow.release(job);
        vm.assertEq(money.balanceOf(address(ledger)), PRICE, "paid");
        requireWrong(JobEscrow.State.Closed);
        escrow.refund(job);
    }

    // ------------------------------------------------------------------ delivery

    function test_only_the_last_round_delivers() public {
        open();
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.NotAttested.selector, job, 0, JOB_ROUNDS));
        escrow.deliver(job);
        attest(1, 10e6);
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.NotAttested.selector, job, 1, JOB_ROUNDS));
        escrow.deliver(job);
        attest(JOB_ROUNDS, 900e6);
        escrow.deliver(job);
        requireWrong(JobEscrow.State.Delivered);
        escrow.deliver(job);
    }

    function test_nothing_is_delivered_after_the_deadline() public {
        open();
        attest(JOB_ROUNDS, 900e6);
        vm.warp(uint256(deadline) + 1);
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.TooLate.selector, job, deadline));
        escrow.deliver(job);
    }

    function test_what_is_not_delivered_goes_back() public {
        open();
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.TooEarly.selector, job, uint256(deadline) + 1));
        escrow.refund(job);
        vm.warp(uint256(deadline) + 1);
        vm.expectEmit(address(escrow));
        emit JobEscrow.JobClosed(job, escrow.streamOf(job), 0, PRICE);
        escrow.refund(job);
        vm.assertEq(money.balanceOf(client), 10 * PRICE, "all of it");
        requireWrong(JobEscrow.State.Closed);
        escrow.deliver(job);
    }

    // ------------------------------------------------------------------ disputes

    function test_the_arbiter_splits_a_dispute() public {
        bytes32[] memory leaves = disputed();
        bytes32 ruling = escrow.rulingStreamOf(job);
        vm.expectEmit(address(escrow));
        emit JobEscrow.JobClosed(job, ruling, 450e6, PRICE - 450e6);
        resolve(450e6);
        escrow.refund(job);
        vm.assertEq(money.balanceOf(client), 10 * PRICE - 450e6, "the client's part");

        (cumulative[0], cumulative[1]) = (300e6, 150e6);
        leaves = Payouts.leaves(accounts, cumulative);
        Rounds.RoundRoot memory root = roundRoot(1, Payouts.root(leaves), 450e6);
        root.run = ruling;
        ledger.postRound(root, signatures(root, keys, QUORUM));
        ledger.claim(ruling, accounts[0], 300e6, Payouts.proof(leaves, 0));
        ledger.claim(ruling, accounts[1], 150e6, Payouts.proof(leaves, 1));
        vm.assertEq(money.balanceOf(address(ledger)), 0, "all of it is paid");
    }

    function test_a_ruling_may_confirm_the_attestation() public {
        bytes32[] memory leaves = disputed();
        resolve(900e6);
        ledger.claim(escrow.streamOf(job), accounts[0], 600e6, Payouts.proof(leaves, 0));
        vm.assertEq(money.balanceOf(accounts[0]), 600e6, "paid");
    }

    function test_a_ruling_may_give_contributors_nothing() public {
        disputed();
        resolve(0);
        escrow.refund(job);
        vm.assertEq(money.balanceOf(client), 10 * PRICE, "all of it");
    }

    function test_only_the_arbiter_rules_and_not_beyond_what_is_held() public {
        open();
        attest(JOB_ROUNDS, 900e6);
        escrow.deliver(job);
        vm.expectRevert(wrong(JobEscrow.State.Delivered));
        resolve(1);
        dispute();
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.NotAllowed.selector, address(this), address(timelock)));
        escrow.resolve(job, 1);
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.SplitTooLarge.selector, job, PRICE + 1, PRICE));
        resolve(PRICE + 1);
    }

    function test_a_silent_arbiter_leaves_the_attestation() public {
        disputed();
        uint256 at = block.timestamp + escrow.ARBITRATION_S();
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.TooEarly.selector, job, at));
        escrow.release(job);
        vm.warp(at);
        escrow.release(job);
        vm.assertEq(money.balanceOf(address(ledger)), 900e6, "released");
    }

    function test_only_the_client_disputes_and_in_time() public {
        open();
        vm.expectRevert(wrong(JobEscrow.State.Open));
        dispute();
        attest(JOB_ROUNDS, 900e6);
        escrow.deliver(job);
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.NotAllowed.selector, address(this), client));
        escrow.dispute(job);
        uint256 until = block.timestamp + DISPUTE_S;
        vm.warp(until);
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.TooLate.selector, job, until));
        dispute();
    }

    function test_the_dao_names_an_arbiter() public {
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.NotAllowed.selector, address(this), address(timelock)));
        escrow.setArbiter(address(1));
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.ZeroAddress.selector, "arbiter"));
        vm.prank(address(timelock));
        escrow.setArbiter(address(0));
        vm.expectEmit(address(escrow));
        emit JobEscrow.ArbiterChanged(vm.addr(5));
        vm.prank(address(timelock));
        escrow.setArbiter(vm.addr(5));
        disputed();
        vm.prank(vm.addr(5));
        escrow.resolve(job, 1);
    }

    // ------------------------------------------------------------------ opening

    function test_a_job_opens_once_and_within_bounds() public {
        open();
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.JobExists.selector, job));
        open();
        uint256 max = escrow.DELAY_S_MAX();
        bytes32 other = keccak256("other");
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.PriceOutOfRange.selector, 0, type(uint128).max));
        escrow.open(other, SPEC, money, 0, deadline, DISPUTE_S, 1);
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.DelayOutOfRange.selector, "deadline", 0, max));
        escrow.open(other, SPEC, money, 1, uint40(block.timestamp), DISPUTE_S, 1);
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.DelayOutOfRange.selector, "deadline", max + 1, max));
        escrow.open(other, SPEC, money, 1, uint40(block.timestamp + max + 1), DISPUTE_S, 1);
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.DelayOutOfRange.selector, "disputeS", max + 1, max));
        escrow.open(other, SPEC, money, 1, deadline, uint32(max + 1), 1);
        vm.expectPartialRevert(Streams.RoundsOutOfRange.selector);
        escrow.open(other, SPEC, money, 1, deadline, DISPUTE_S, 0);
    }

    function test_an_asset_that_takes_fees_is_refused() public {
        money.setFee(1);
        vm.expectRevert(
            abi.encodeWithSelector(JobEscrow.AssetInexact.selector, address(money), PRICE, PRICE * 99 / 100)
        );
        open();
    }

    function test_a_job_that_never_was() public {
        requireWrong(JobEscrow.State.None);
        escrow.release(job);
        requireWrong(JobEscrow.State.None);
        escrow.refund(job);
    }

    function test_a_clone_needs_a_ledger() public {
        (,,,,, address code,,,,) = factory.parts();
        JobEscrow clone = JobEscrow(Clones.clone(code));
        vm.expectRevert(abi.encodeWithSelector(JobEscrow.ZeroAddress.selector, "ledger"));
        clone.initialize(ContributionLedger(address(0)));
    }

    /// @dev Whatever is attested and ruled, the price is what contributors and client get together.
    function testFuzz_the_price_is_conserved(uint128 total, uint128 toContributors, bool disputes) public {
        open();
        total = uint128(bound(total, 0, uint256(PRICE) * JOB_ROUNDS));
        attest(JOB_ROUNDS, total);
        escrow.deliver(job);
        if (disputes) {
            dispute();
            resolve(uint128(bound(toContributors, 0, PRICE)));
        } else {
            vm.warp(block.timestamp + DISPUTE_S);
            escrow.release(job);
        }
        JobEscrow.Job memory j = escrow.jobs(job);
        vm.assertEq(money.balanceOf(address(escrow)), j.held, "held");
        if (j.held != 0) escrow.refund(job);
        uint256 spent = 10 * uint256(PRICE) - money.balanceOf(client);
        vm.assertEq(spent, money.balanceOf(address(ledger)), "spent, paid");
        vm.assertEq(money.balanceOf(address(escrow)), 0, "nothing is left");
    }

    // ------------------------------------------------------------------ building blocks

    function open() private {
        vm.prank(client);
        escrow.open(ID, SPEC, money, PRICE, deadline, DISPUTE_S, JOB_ROUNDS);
    }

    function attest(uint64 round, uint256 total) private returns (bytes32[] memory leaves) {
        leaves = Payouts.leaves(accounts, cumulative);
        Rounds.RoundRoot memory root = roundRoot(round, Payouts.root(leaves), total);
        root.run = escrow.streamOf(job);
        ledger.postRound(root, signatures(root, keys, QUORUM));
    }

    function disputed() private returns (bytes32[] memory leaves) {
        open();
        leaves = attest(JOB_ROUNDS, 900e6);
        escrow.deliver(job);
        vm.expectEmit(address(escrow));
        emit JobEscrow.JobDisputed(job, uint40(block.timestamp) + escrow.ARBITRATION_S());
        dispute();
    }

    function dispute() private {
        vm.prank(client);
        escrow.dispute(job);
    }

    function resolve(uint128 toContributors) private {
        vm.prank(address(timelock));
        escrow.resolve(job, toContributors);
    }

    function wrong(JobEscrow.State state) private view returns (bytes memory) {
        return abi.encodeWithSelector(JobEscrow.WrongState.selector, job, state);
    }

    function requireWrong(JobEscrow.State state) private {
        vm.expectRevert(wrong(state));
    }

    function money20(address asset) private pure returns (Money) {
        return Money(asset);
    }
}
