// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "../src/ContributionLedger.sol";
import {Rounds} from "../src/Rounds.sol";
import {Streams} from "../src/Streams.sol";
import {Validators} from "../src/Validators.sol";
import {Dao} from "./Dao.sol";
import {Money} from "./Money.sol";
import {Payouts} from "./Payouts.sol";

/// @notice What happens to a root between its posting and the moment from which it pays.
contract WindowsTest is Dao {
    uint32 private constant WINDOW_S = 1 days;
    uint128 private constant BOND = 50e18;
    address private guardian = vm.addr(900);

    function setUp() public {
        deployDao();
        openRun();
        for (uint256 i = 0; i < VALIDATORS; ++i) {
            address validator = vm.addr(keys[i]);
            token.mint(validator, BOND);
            vm.prank(validator);
            token.approve(address(ledger), BOND);
            vm.prank(validator);
            ledger.bond(validator, BOND);
        }
        setWindow(WINDOW_S);
    }

    // ------------------------------------------------------------------ when a root pays

    function test_a_root_pays_after_its_window() public {
        uint64 at = uint64(block.timestamp) + WINDOW_S;
        Rounds.RoundRoot memory root = roundRoot(1, keccak256("one"), 5);
        bytes[] memory signed = signatures(root, keys, QUORUM);
        vm.expectEmit(address(ledger));
        emit Rounds.RoundInWindow(RUN, 1, at);
        ledger.postRound(root, signed);
        requirePaying(0);
        requirePending(0, 0, 1, at);
        vm.warp(at - 1);
        requirePaying(0);
        vm.warp(at);
        requirePaying(1);
        requirePending(0, 0, 0, 0);
    }

    function test_a_later_root_does_not_hold_up_an_earlier() public {
        uint256 start = block.timestamp;
        post(1, 0, 1);
        vm.warp(start + WINDOW_S / 2);
        post(2, 0, 2);
        requirePending(1, uint64(start) + WINDOW_S, 2, uint64(start) + WINDOW_S * 3 / 2);
        vm.warp(start + WINDOW_S);
        requirePaying(1);
        requirePending(0, 0, 2, uint64(start) + WINDOW_S * 3 / 2);
        vm.warp(start + WINDOW_S * 3 / 2);
        requirePaying(2);
    }

    /// @dev Rounds every tenth of a window: whatever was earned pays within two windows.
    function test_fast_rounds_pay_within_two_windows() public {
        uint256 start = block.timestamp;
        for (uint64 round = 1; round <= 60; ++round) {
            vm.warp(start + round * WINDOW_S / 10);
            post(round, 0, round);
            (uint64 paying,,,,) = ledger.paying(RUN);
            if (round > 20) vm.assertLe(round - 20, paying, "paid in time");
            vm.assertLe(paying, round > 10 ? round - 10 : 0, "not before its window");
            (uint64 head,,,,) = ledger.head(RUN);
            vm.assertEq(head, round, "head");
        }
    }

    function test_a_window_that_is_closed_holds_up_no_later_root() public {
        post(1, 0, 1);
        setWindow(0);
        post(2, 0, 2);
        requirePaying(2);
        post(3, 0, 3);
        requirePaying(3);
        setWindow(WINDOW_S);
        post(4, 0, 4);
        requirePaying(3);
    }

    /// @dev Any order of posts and waits, against a list of everything that was posted.
    function testFuzz_no_root_pays_early_and_each_pays_in_time(uint32[12] memory waits, uint8 windows) public {
        uint256[13] memory postedAt;
        uint256[13] memory claimableAt;
        for (uint64 round = 1; round <= 12; ++round) {
            uint32 window = windows >> (round % 8) & 1 == 1 ? WINDOW_S : WINDOW_S / 3;
            setWindow(window);
            post(round, 0, round);
            (postedAt[round], claimableAt[round]) = (block.timestamp, block.timestamp + window);
            vm.warp(block.timestamp + waits[round - 1] % WINDOW_S);
            (uint64 paying,,,, uint256 total) = ledger.paying(RUN);
            vm.assertTrue(paying == 0 || block.timestamp >= claimableAt[paying], "not early");
            vm.assertEq(total, paying, "its own total");
            for (uint64 older = 1; older <= round; ++older) {
                if (block.timestamp >= postedAt[older] + 2 * WINDOW_S) vm.assertLe(older, paying, "in time");
            }
        }
    }

    /// @dev Claims go by the root that pays, while later ones wait: minted, and from funds.
    function test_claims_go_by_the_root_that_pays() public {
        Money money = new Money();
        money.give(address(this), 100);
        money.approve(address(ledger), 100);
        bytes32 funded = ledger.openFunded(RUN, Streams.Kind.Revenue, SPEC, ROUNDS, REWARD, money);
        ledger.fund(funded, 100);
        bytes32[2] memory ids = [RUN, funded];
        for (uint256 i = 0; i < 2; ++i) {
            earn(ids[i], 1, 30);
        }
        vm.warp(block.timestamp + WINDOW_S);
        for (uint256 i = 0; i < 2; ++i) {
            ledger.claim(ids[i], vm.addr(1), 10, new bytes32[](0)); // the only leaf
            earn(ids[i], 2, 60);
            vm.expectRevert(abi.encodeWithSelector(ContributionLedger.InvalidProof.selector, ids[i], vm.addr(1), 20));
            ledger.claim(ids[i], vm.addr(1), 20, new bytes32[](0));
            (,,,, uint256 claimedTotal) = ledger.runs(ids[i]);
            vm.assertEq(claimedTotal, 10, "claimed of the run");
        }
        vm.warp(block.timestamp + WINDOW_S);
        for (uint256 i = 0; i < 2; ++i) {
            ledger.claim(ids[i], vm.addr(1), 20, new bytes32[](0));
        }
        vm.assertEq(token.balanceOf(vm.addr(1)), 20, "minted");
        vm.assertEq(money.balanceOf(vm.addr(1)), 20, "paid");
    }

    function test_what_waits_bounds_nothing_yet() public {
        earn(RUN, 1, 5); // the leaf says 10
        vm.warp(block.timestamp + WINDOW_S);
        earn(RUN, 2, 60);
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.ClaimExceedsTotal.selector, RUN, 10, 5));
        ledger.claim(RUN, vm.addr(1), 10, new bytes32[](0));
    }

    function test_what_was_dropped_bounds_nothing_any_more() public {
        earn(RUN, 1, 5); // the leaf says 10
        vm.warp(block.timestamp + WINDOW_S);
        earn(RUN, 2, 60);
        vm.prank(guardian);
        ledger.veto(RUN, 2);
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.ClaimExceedsTotal.selector, RUN, 10, 5));
        ledger.claim(RUN, vm.addr(1), 10, new bytes32[](0));
        (,,,, uint256 claimedTotal) = ledger.runs(RUN);
        vm.assertEq(claimedTotal, 0, "claimed of the run");
        earn(RUN, 3, 25);
        vm.warp(block.timestamp + WINDOW_S);
        vm.expectRevert(abi.encodeWithSelector(ContributionLedger.ClaimExceedsTotal.selector, RUN, 30, 25));
        ledger.claim(RUN, vm.addr(1), 30, new bytes32[](0));
    }

    // ------------------------------------------------------------------ vetoes

    function test_the_guardian_vetoes_a_root_in_its_window() public {
        post(1, keccak256("bad"), 5);
        vm.expectEmit(address(ledger));
        emit Rounds.RoundDropped(RUN, 1, guardian);
        vm.prank(guardian);
        ledger.veto(RUN, 1);
        vm.warp(block.timestamp + WINDOW_S);
        requirePaying(0);
        (uint64 head,,,,) = ledger.head(RUN);
        vm.assertEq(head, 0, "head");
        Rounds.RoundRoot memory again = roundRoot(1, 0, 0);
        bytes[] memory signed = signatures(again, keys, QUORUM);
        vm.expectRevert(abi.encodeWithSelector(Rounds.RoundNotLater.selector, RUN, 1, 1));
        ledger.postRound(again, signed);
        post(2, 0, 3); // less than the dropped one claimed
        vm.warp(block.timestamp + WINDOW_S);
        requirePaying(2);
    }

    function test_after_a_veto_nothing_is_pending() public {
        post(1, 0, 0);
        vm.prank(guardian);
        ledger.veto(RUN, 1);
        requirePending(0, 0, 0, 0);
        vm.prank(address(timelock));
        ledger.closeStream(RUN, address(timelock)); // which would wait for a window
    }

    function test_the_dao_may_veto_and_nobody_else() public {
        post(1, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(Rounds.OnlyGuardian.selector, address(this), guardian));
        ledger.veto(RUN, 1);
        vm.prank(address(timelock));
        ledger.veto(RUN, 1);
    }

    function test_nothing_else_can_be_vetoed() public {
        post(1, 0, 0);
        requireNoVeto(2);
        vm.warp(block.timestamp + WINDOW_S);
        requireNoVeto(1);
        requireNoVeto(0);
    }

    function test_the_older_root_may_be_dropped() public {
        post(1, 0, 0);
        post(2, 0, 0);
        vm.prank(guardian);
        ledger.veto(RUN, 1);
        (uint64 waiting,, uint64 head,) = ledger.pending(RUN);
        vm.assertEq(waiting, 0, "waiting");
        vm.assertEq(head, 2, "head");
        vm.warp(block.timestamp + WINDOW_S);
        requirePaying(2);
    }

    function test_the_later_root_may_be_dropped() public {
        post(1, 0, 0);
        post(2, 0, 0);
        vm.prank(guardian);
        ledger.veto(RUN, 2);
        (uint64 head, bytes32 checkpoint,,,) = ledger.head(RUN);
        vm.assertEq(head, 1, "head");
        vm.assertEq(checkpoint, keccak256(abi.encode("checkpoint", uint64(1))), "its checkpoint");
        post(3, 0, 0);
        requirePending(1, uint64(block.timestamp) + WINDOW_S, 3, uint64(block.timestamp) + WINDOW_S);
        vm.prank(guardian);
        ledger.veto(RUN, 3);
        vm.prank(guardian);
        ledger.veto(RUN, 1);
        vm.warp(block.timestamp + WINDOW_S);
        requirePaying(0);
    }

    // ------------------------------------------------------------------ equivocation

    function test_who_signs_two_statements_loses_its_bond() public {
        (Rounds.RoundRoot memory one, Rounds.RoundRoot memory two) = twins(1);
        address validator = vm.addr(keys[3]);
        vm.expectEmit(address(ledger));
        emit Rounds.Equivocated(validator, RUN, 1, ledger.roundDigest(one), ledger.roundDigest(two));
        vm.expectEmit(address(ledger));
        emit Validators.ValidatorSlashed(validator, BOND);
        prove(keys[3], one, two);
        vm.assertTrue(ledger.isSlashed(validator), "slashed");
        vm.assertTrue(!ledger.isValidator(validator), "out of the set");
        vm.assertEq(token.balanceOf(address(timelock)), BOND, "the treasury has the bond");
        (uint128 amount, uint128 leaving,) = ledger.bondOf(validator);
        vm.assertEq(uint256(amount) + leaving, 0, "bond");

        bytes memory used = abi.encodeWithSelector(Rounds.NotAccountable.selector, validator);
        proveRefused(keys[3], one, keys[3], two, used);
        vm.expectRevert(abi.encodeWithSelector(Validators.SlashedValidator.selector, validator));
        ledger.bond(validator, 1);
        address[] memory named = new address[](1);
        named[0] = validator;
        setWindow(0);
        vm.expectRevert(abi.encodeWithSelector(Validators.SlashedValidator.selector, validator));
        setValidators(named, 1);
    }

    function test_what_is_being_unbonded_is_slashed_too() public {
        address validator = vm.addr(keys[0]);
        vm.prank(validator);
        ledger.unbond(BOND);
        (Rounds.RoundRoot memory one, Rounds.RoundRoot memory two) = twins(1);
        prove(keys[0], one, two);
        vm.assertEq(token.balanceOf(address(timelock)), BOND, "the treasury has it");
        vm.expectPartialRevert(Validators.NotWithdrawable.selector);
        vm.prank(validator);
        ledger.withdrawBond();
    }

    function test_a_root_left_without_quorum_is_dropped() public {
        (Rounds.RoundRoot memory one, Rounds.RoundRoot memory two) = twins(1);
        ledger.postRound(one, signatures(one, keys, QUORUM));
        vm.expectEmit(address(ledger));
        emit Rounds.RoundDropped(RUN, 1, address(this));
        prove(keys[0], two, one);
        (uint64 head,,,,) = ledger.head(RUN);
        vm.assertEq(head, 0, "dropped");
    }

    function test_a_root_that_keeps_its_quorum_stays() public {
        (Rounds.RoundRoot memory one, Rounds.RoundRoot memory two) = twins(1);
        ledger.postRound(one, signatures(one, keys, QUORUM + 1));
        prove(keys[0], one, two);
        requireHead(1);
        prove(keys[4], one, two); // it is not among the signers
        requireHead(1);
        prove(keys[1], one, two);
        requireHead(0);
    }

    function test_a_root_out_of_its_window_stays() public {
        (Rounds.RoundRoot memory one, Rounds.RoundRoot memory two) = twins(1);
        ledger.postRound(one, signatures(one, keys, QUORUM));
        vm.warp(block.timestamp + WINDOW_S);
        prove(keys[0], one, two);
        requireHead(1);
        requirePaying(1);
    }

    function test_a_former_validator_answers_for_a_root_in_its_window() public {
        (Rounds.RoundRoot memory one, Rounds.RoundRoot memory two) = twins(1);
        ledger.postRound(one, signatures(one, keys, QUORUM));
        uint256[] memory others = keysByAddress(200, 3);
        setWindow(0); // they need no bond
        setValidators(addressesOf(others), 2);
        prove(keys[0], one, two);
        requireHead(0);
    }

    function test_only_two_statements_on_one_round_count() public {
        (Rounds.RoundRoot memory one, Rounds.RoundRoot memory two) = twins(1);
        proveRefused(keys[0], one, keys[0], one, noEquivocation(one, one));
        two.round = 2;
        proveRefused(keys[0], one, keys[0], two, noEquivocation(one, two));
        (two.round, two.run) = (1, keccak256("another run"));
        proveRefused(keys[0], one, keys[0], two, noEquivocation(one, two));
    }

    function test_only_one_signers_two_statements_count() public {
        (Rounds.RoundRoot memory one, Rounds.RoundRoot memory two) = twins(1);
        address first = vm.addr(keys[0]);
        address second = vm.addr(keys[1]);
        bytes memory differ = abi.encodeWithSelector(Rounds.SignersDiffer.selector, first, second);
        proveRefused(keys[0], one, keys[1], two, differ);
        address stranger = vm.addr(5);
        bytes memory nothing = abi.encodeWithSelector(Rounds.NotAccountable.selector, stranger);
        proveRefused(5, one, 5, two, nothing);
    }

    function test_malformed_evidence_is_refused() public {
        (Rounds.RoundRoot memory one, Rounds.RoundRoot memory two) = twins(1);
        bytes memory good = signature(keys[0], ledger.roundDigest(one));
        vm.expectRevert(abi.encodeWithSelector(Validators.MalformedSignature.selector, 0));
        ledger.proveEquivocation(one, new bytes(64), two, good);
        vm.expectRevert(abi.encodeWithSelector(Validators.MalformedSignature.selector, 1));
        ledger.proveEquivocation(one, good, two, new bytes(64));
    }

    /// @dev A signature for another ledger is no evidence here: the digest holds chain and contract.
    function testFuzz_noise_slashes_nobody(bytes32 a, bytes32 b, uint8 which) public {
        (Rounds.RoundRoot memory one, Rounds.RoundRoot memory two) = twins(1);
        uint256 key = keys[which % VALIDATORS];
        vm.assume(a != ledger.roundDigest(one));
        vm.expectRevert();
        ledger.proveEquivocation(one, signature(key, a), two, signature(key, b));
    }

    // ------------------------------------------------------------------ building blocks

    function setWindow(uint32 window) private {
        vm.prank(address(timelock));
        ledger.setTerms(Validators.Terms(window, 7 days, window == 0 ? 0 : BOND, guardian));
    }

    /// @dev Attests ten units a round for one account, and some total.
    function earn(bytes32 id, uint64 round, uint256 total) private {
        Rounds.RoundRoot memory root = roundRoot(round, Payouts.leaf(vm.addr(1), 10 * round), total);
        root.run = id;
        ledger.postRound(root, signatures(root, keys, QUORUM));
    }

    function twins(uint64 round) private pure returns (Rounds.RoundRoot memory one, Rounds.RoundRoot memory two) {
        one = roundRoot(round, keccak256("one"), 1);
        two = roundRoot(round, keccak256("two"), 1);
    }

    function prove(uint256 key, Rounds.RoundRoot memory one, Rounds.RoundRoot memory two) private {
        bytes memory first = signature(key, ledger.roundDigest(one));
        bytes memory second = signature(key, ledger.roundDigest(two));
        ledger.proveEquivocation(one, first, two, second);
    }

    function proveRefused(
        uint256 key,
        Rounds.RoundRoot memory one,
        uint256 other,
        Rounds.RoundRoot memory two,
        bytes memory error
    ) private {
        bytes memory first = signature(key, ledger.roundDigest(one));
        bytes memory second = signature(other, ledger.roundDigest(two));
        vm.expectRevert(error);
        ledger.proveEquivocation(one, first, two, second);
    }

    function noEquivocation(Rounds.RoundRoot memory one, Rounds.RoundRoot memory two)
        private
        view
        returns (bytes memory)
    {
        return abi.encodeWithSelector(Rounds.NoEquivocation.selector, ledger.roundDigest(one), ledger.roundDigest(two));
    }

    function requireNoVeto(uint64 round) private {
        vm.expectRevert(abi.encodeWithSelector(Rounds.NotInWindow.selector, RUN, round));
        vm.prank(guardian);
        ledger.veto(RUN, round);
    }

    function requireHead(uint64 expected) private view {
        (uint64 round,,,,) = ledger.head(RUN);
        vm.assertEq(round, expected, "head");
    }

    function requirePaying(uint64 expected) private view {
        (uint64 round, bytes32 checkpoint,,,) = ledger.paying(RUN);
        vm.assertEq(round, expected, "paying");
        if (expected != 0) vm.assertEq(checkpoint, keccak256(abi.encode("checkpoint", expected)), "checkpoint");
    }

    function requirePending(uint64 waiting, uint64 waitingAt, uint64 head, uint64 headAt) private view {
        (uint64 w, uint64 wAt, uint64 h, uint64 hAt) = ledger.pending(RUN);
        vm.assertEq(w, waiting, "waiting");
        vm.assertEq(wAt, waitingAt, "waiting until");
        vm.assertEq(h, head, "head");
        vm.assertEq(hAt, headAt, "head until");
    }
}
