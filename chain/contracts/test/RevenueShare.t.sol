// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {DaoToken} from "../src/DaoToken.sol";
import {RevenueShare} from "../src/RevenueShare.sol";
import {Foundry} from "./Foundry.sol";
import {Money} from "./Money.sol";
import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";

/// @notice How revenue is divided, to the unit.
contract RevenueShareTest is Foundry {
    Money private money;
    address private alice = vm.addr(1);
    address private bob = vm.addr(2);

    function setUp() public {
        money = new Money();
        foundDao(address(money));
        for (uint256 i = 0; i < 2; ++i) {
            address founder = vm.addr(600 + i);
            vm.prank(founder);
            vm.assertTrue(token.transfer(i == 0 ? alice : bob, 100e18), "sent");
        }
        for (uint256 i = 1; i <= 4; ++i) {
            vm.prank(vm.addr(i));
            token.approve(address(revenue), type(uint256).max);
        }
        money.give(address(this), 1000e6);
        money.approve(address(revenue), type(uint256).max);
    }

    function test_stakers_share_pro_rata() public {
        stake(alice, 30);
        stake(bob, 10);
        vm.expectEmit(address(revenue));
        emit RevenueShare.Deposited(address(this), 100, 40);
        revenue.deposit(100);
        vm.expectEmit(address(revenue));
        emit RevenueShare.Paid(alice, 75);
        revenue.claim(alice);
        revenue.claim(bob);
        vm.assertEq(money.balanceOf(alice), 75, "alice");
        vm.assertEq(money.balanceOf(bob), 25, "bob");
        vm.expectRevert(abi.encodeWithSelector(RevenueShare.NothingToClaim.selector, alice));
        revenue.claim(alice);
    }

    function test_fractions_are_kept() public {
        stake(alice, 1);
        stake(bob, 2);
        for (uint256 i = 0; i < 300; ++i) {
            revenue.deposit(1);
        }
        revenue.claim(alice);
        revenue.claim(bob);
        vm.assertLe(99, money.balanceOf(alice), "a third, to the unit");
        vm.assertLe(199, money.balanceOf(bob), "two thirds");
        vm.assertEq(revenue.deposited(), 300, "deposited");
        requireExact();
    }

    function test_who_comes_late_shares_later() public {
        stake(alice, 10);
        revenue.deposit(100);
        stake(bob, 10);
        revenue.deposit(100);
        vm.assertEq(revenue.owed(alice) / revenue.SCALE(), 150, "alice");
        vm.assertEq(revenue.owed(bob) / revenue.SCALE(), 50, "bob");
    }

    function test_staked_tokens_go_on_voting() public {
        vm.expectEmit(address(revenue));
        emit RevenueShare.Staked(alice, 60e18, 60e18);
        stake(alice, 60e18);
        vm.assertEq(token.getVotes(alice), 100e18, "votes");
        vm.assertEq(token.balanceOf(revenue.keeperOf(alice)), 60e18, "kept");
        vm.assertEq(token.balanceOf(address(revenue)), 0, "not by the contract");
    }

    function test_unstaking_stops_earning_and_takes_its_time() public {
        stake(alice, 10);
        stake(bob, 10);
        uint64 at = uint64(block.timestamp) + UNSTAKE_DELAY_S;
        vm.expectEmit(address(revenue));
        emit RevenueShare.Unstaked(alice, 10, 0, at);
        unstake(alice, 10);
        revenue.deposit(100);
        vm.assertEq(revenue.owed(alice), 0, "earns nothing");
        (uint128 amount, uint128 leaving, uint64 availableAt) = revenue.stakeOf(alice);
        vm.assertTrue(amount == 0 && leaving == 10 && availableAt == at, "on its way");

        bytes memory early = abi.encodeWithSelector(RevenueShare.NotWithdrawable.selector, alice, 10, at);
        vm.warp(at - 1);
        vm.expectRevert(early);
        withdraw(alice);
        vm.warp(at);
        vm.expectEmit(address(revenue));
        emit RevenueShare.Withdrawn(alice, 10);
        withdraw(alice);
        vm.assertEq(token.balanceOf(alice), 100e18, "back");
        vm.expectRevert(abi.encodeWithSelector(RevenueShare.NotWithdrawable.selector, alice, 0, 0));
        withdraw(alice);
    }

    function test_amounts_have_bounds() public {
        vm.expectRevert(abi.encodeWithSelector(RevenueShare.NobodyStakes.selector));
        revenue.deposit(1);
        vm.expectRevert(abi.encodeWithSelector(RevenueShare.AmountOutOfRange.selector, 0, type(uint128).max));
        revenue.deposit(0);
        vm.expectRevert(abi.encodeWithSelector(RevenueShare.AmountOutOfRange.selector, 0, type(uint128).max));
        stake(alice, 0);
        stake(alice, 10);
        vm.expectRevert(abi.encodeWithSelector(RevenueShare.AmountOutOfRange.selector, 11, 10));
        unstake(alice, 11);
        vm.expectRevert(abi.encodeWithSelector(RevenueShare.AmountOutOfRange.selector, 0, 10));
        unstake(alice, 0);
    }

    function test_an_asset_that_takes_fees_is_refused() public {
        stake(alice, 10);
        money.setFee(10);
        vm.expectRevert(abi.encodeWithSelector(RevenueShare.AssetInexact.selector, address(money), 100, 90));
        revenue.deposit(100);
    }

    function test_a_clone_needs_its_parts() public {
        (,,,,,, address code,,,) = factory.parts();
        RevenueShare clone = RevenueShare(Clones.clone(code));
        vm.expectRevert(abi.encodeWithSelector(RevenueShare.ZeroAddress.selector, "token"));
        clone.initialize(DaoToken(address(0)), money, 1);
        vm.expectRevert(abi.encodeWithSelector(RevenueShare.ZeroAddress.selector, "asset"));
        clone.initialize(token, Money(address(0)), 1);
        uint256 max = clone.DELAY_S_MAX();
        vm.expectRevert(abi.encodeWithSelector(RevenueShare.DelayOutOfRange.selector, max + 1, max));
        clone.initialize(token, money, uint32(max + 1));
    }

    /// @dev Any order of stakes, unstakes, deposits and claims: the books balance to the last fraction.
    function testFuzz_dividends_conserve_to_the_fraction(uint8[12] memory acts, uint64[12] memory amounts) public {
        for (uint256 i = 0; i < 12; ++i) {
            address who = acts[i] % 2 == 0 ? alice : bob;
            uint256 act = acts[i] / 2 % 4;
            (uint128 staked,,) = revenue.stakeOf(who);
            uint256 free = token.balanceOf(who);
            if (act == 0 && free != 0) stake(who, uint128(bound(amounts[i], 1, free)));
            if (act == 1 && staked != 0) unstake(who, uint128(bound(amounts[i], 1, staked)));
            if (act == 2 && revenue.totalStaked() != 0) {
                money.give(address(this), amounts[i]);
                if (amounts[i] != 0) revenue.deposit(amounts[i]);
            }
            if (act == 3 && revenue.owed(who) >= revenue.SCALE()) revenue.claim(who);
            requireExact();
        }
    }

    function requireExact() private view {
        uint256 scale = revenue.SCALE();
        uint256 credit = revenue.owed(alice) + revenue.owed(bob) + revenue.remainder();
        vm.assertEq(scale * revenue.deposited(), scale * revenue.paid() + credit, "to the fraction");
        vm.assertEq(money.balanceOf(address(revenue)), revenue.deposited() - revenue.paid(), "held");
    }

    function stake(address who, uint128 amount) private {
        vm.prank(who);
        revenue.stake(amount);
    }

    function unstake(address who, uint128 amount) private {
        vm.prank(who);
        revenue.unstake(amount);
    }

    function withdraw(address who) private {
        vm.prank(who);
        revenue.withdraw();
    }
}
