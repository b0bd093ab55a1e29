// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Validators} from "../src/Validators.sol";
import {Dao} from "./Dao.sol";

/// @notice What validators stake, how they leave, and what they lose.
contract ValidatorsTest is Dao {
    uint128 private constant BOND = 50e18;
    uint32 private constant WINDOW_S = 1 days;
    uint32 private constant DELAY_S = 7 days;
    address private guardian = vm.addr(900);

    function setUp() public {
        deployDao();
    }

    // ------------------------------------------------------------------ terms

    function test_the_dao_sets_terms() public {
        vm.expectEmit(address(ledger));
        emit Validators.TermsChanged(WINDOW_S, DELAY_S, BOND, guardian);
        setTerms();
        Validators.Terms memory terms = ledger.terms();
        vm.assertEq(terms.challengeWindowS, WINDOW_S, "window");
        vm.assertEq(terms.unbondingDelayS, DELAY_S, "delay");
        vm.assertEq(terms.bond, BOND, "bond");
        vm.assertEq(terms.guardian, guardian, "guardian");
    }

    function test_nobody_else_sets_terms() public {
        vm.expectRevert(abi.encodeWithSelector(Validators.OnlyDao.selector, address(this), address(timelock)));
        ledger.setTerms(instant());
    }

    function test_a_validator_cannot_leave_within_a_window() public {
        uint256 max = ledger.DELAY_S_MAX();
        requireTermsRefused(Validators.Terms(2, 1, 0, address(0)), 2, 1, max);
        requireTermsRefused(Validators.Terms(0, uint32(max + 1), 0, address(0)), 0, max + 1, max);
    }

    // ------------------------------------------------------------------ bonds

    function test_a_bond_goes_on_voting() public {
        address validator = vm.addr(keys[0]);
        token.mint(validator, BOND);
        vm.prank(validator);
        token.approve(address(ledger), BOND);
        vm.expectEmit(address(ledger));
        emit Validators.Bonded(validator, validator, BOND, BOND);
        vm.prank(validator);
        ledger.bond(validator, BOND);
        address keeper = ledger.keeperOf(validator);
        vm.assertEq(token.balanceOf(keeper), BOND, "kept");
        vm.assertEq(token.balanceOf(validator), 0, "balance");
        vm.assertEq(token.getVotes(validator), BOND, "votes");
        token.mint(validator, 1);
        bondOwn(validator, 1);
        vm.assertEq(ledger.keeperOf(validator), keeper, "one keeper");
        requireBond(validator, BOND + 1, 0, 0);
    }

    function test_anyone_may_bond_for_a_validator() public {
        address validator = vm.addr(keys[0]);
        token.mint(address(this), BOND);
        token.approve(address(ledger), BOND);
        ledger.bond(validator, BOND);
        requireBond(validator, BOND, 0, 0);
    }

    function test_bonds_have_an_amount_and_an_owner() public {
        vm.expectRevert(abi.encodeWithSelector(Validators.AmountOutOfRange.selector, 0, type(uint128).max));
        ledger.bond(vm.addr(1), 0);
        vm.expectRevert(abi.encodeWithSelector(Validators.ZeroAddress.selector, "validator"));
        ledger.bond(address(0), 1);
    }

    function test_a_named_validator_must_have_bonded() public {
        setTerms();
        address[] memory one = new address[](1);
        one[0] = vm.addr(1);
        vm.expectRevert(abi.encodeWithSelector(Validators.BondTooSmall.selector, one[0], 0, BOND));
        setValidators(one, 1);
        token.mint(one[0], BOND);
        bondOwn(one[0], BOND);
        setValidators(one, 1);
        vm.assertTrue(ledger.isValidator(one[0]), "named");
    }

    function test_unbonding_takes_its_time() public {
        setTerms();
        address validator = vm.addr(1);
        token.mint(validator, BOND);
        bondOwn(validator, BOND);
        uint64 at = uint64(block.timestamp) + DELAY_S;
        vm.expectEmit(address(ledger));
        emit Validators.Unbonding(validator, 10, BOND - 10, at);
        vm.prank(validator);
        ledger.unbond(10);
        requireBond(validator, BOND - 10, 10, at);

        vm.warp(at - 1);
        vm.expectRevert(abi.encodeWithSelector(Validators.NotWithdrawable.selector, validator, 10, at));
        vm.prank(validator);
        ledger.withdrawBond();
        vm.warp(at);
        vm.expectEmit(address(ledger));
        emit Validators.BondWithdrawn(validator, 10);
        vm.prank(validator);
        ledger.withdrawBond();
        vm.assertEq(token.balanceOf(validator), 10, "back");
        vm.expectRevert(abi.encodeWithSelector(Validators.NotWithdrawable.selector, validator, 0, 0));
        vm.prank(validator);
        ledger.withdrawBond();
    }

    function test_a_later_unbonding_restarts_the_delay() public {
        setTerms();
        address validator = vm.addr(1);
        token.mint(validator, BOND);
        bondOwn(validator, BOND);
        vm.prank(validator);
        ledger.unbond(10);
        vm.warp(block.timestamp + DELAY_S - 1);
        vm.prank(validator);
        ledger.unbond(5);
        requireBond(validator, BOND - 15, 15, uint64(block.timestamp) + DELAY_S);
    }

    function test_no_more_is_unbonded_than_was_bonded() public {
        address validator = vm.addr(1);
        token.mint(validator, BOND);
        bondOwn(validator, BOND);
        vm.expectRevert(abi.encodeWithSelector(Validators.AmountOutOfRange.selector, BOND + 1, BOND));
        vm.prank(validator);
        ledger.unbond(BOND + 1);
        vm.expectRevert(abi.encodeWithSelector(Validators.AmountOutOfRange.selector, 0, BOND));
        vm.prank(validator);
        ledger.unbond(0);
    }

    function test_who_unbonds_below_the_bond_leaves_the_set() public {
        for (uint256 i = 0; i < VALIDATORS; ++i) {
            token.mint(vm.addr(keys[i]), BOND + 1);
            bondOwn(vm.addr(keys[i]), BOND + 1);
        }
        setTerms();
        vm.prank(vm.addr(keys[1]));
        ledger.unbond(1);
        vm.assertTrue(ledger.isValidator(vm.addr(keys[1])), "bonded enough");

        address[] memory rest = new address[](4);
        (rest[0], rest[1], rest[2], rest[3]) = (vm.addr(keys[0]), vm.addr(keys[2]), vm.addr(keys[3]), vm.addr(keys[4]));
        vm.expectEmit(address(ledger));
        emit Validators.ValidatorsChanged(rest, QUORUM);
        vm.prank(vm.addr(keys[1]));
        ledger.unbond(1);
        vm.assertTrue(!ledger.isValidator(vm.addr(keys[1])), "left");
        vm.assertEq(keccak256(abi.encode(ledger.validators())), keccak256(abi.encode(rest)), "the rest");
        vm.assertEq(ledger.quorum(), QUORUM, "quorum");
        vm.prank(vm.addr(keys[1]));
        ledger.unbond(1); // an outsider by now
    }

    /// @dev Whatever is bonded, unbonded and withdrawn: the keeper holds exactly what the books say.
    function testFuzz_keepers_hold_every_bond(uint96[4] memory amounts, uint8 steps) public {
        setTerms();
        address validator = vm.addr(1);
        for (uint256 i = 0; i < 4; ++i) {
            (uint128 bonded, uint128 leaving, uint64 at) = ledger.bondOf(validator);
            if (steps >> i & 1 == 1 && bonded != 0) {
                vm.prank(validator);
                ledger.unbond(uint128(bound(amounts[i], 1, bonded)));
            } else if (leaving != 0) {
                vm.warp(at);
                vm.prank(validator);
                ledger.withdrawBond();
            } else if (amounts[i] != 0) {
                token.mint(validator, amounts[i]);
                bondOwn(validator, amounts[i]);
            }
            (bonded, leaving,) = ledger.bondOf(validator);
            address keeper = ledger.keeperOf(validator);
            if (keeper != address(0)) vm.assertEq(token.balanceOf(keeper), uint256(bonded) + leaving, "kept");
            vm.assertEq(token.getVotes(validator), token.totalSupply(), "every token votes for its owner");
        }
    }

    // ------------------------------------------------------------------ building blocks

    function setTerms() private {
        vm.prank(address(timelock));
        ledger.setTerms(Validators.Terms(WINDOW_S, DELAY_S, BOND, guardian));
    }

    function requireTermsRefused(Validators.Terms memory terms, uint256 window, uint256 delay, uint256 max) private {
        vm.expectRevert(abi.encodeWithSelector(Validators.DelayOutOfRange.selector, window, delay, max));
        vm.prank(address(timelock));
        ledger.setTerms(terms);
    }

    function bondOwn(address validator, uint128 amount) private {
        vm.prank(validator);
        token.approve(address(ledger), amount);
        vm.prank(validator);
        ledger.bond(validator, amount);
    }

    function requireBond(address validator, uint256 amount, uint256 leaving, uint256 at) private view {
        (uint128 a, uint128 l, uint64 t) = ledger.bondOf(validator);
        vm.assertEq(a, amount, "bonded");
        vm.assertEq(l, leaving, "leaving");
        vm.assertEq(t, at, "available at");
    }
}
