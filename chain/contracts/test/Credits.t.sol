// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {DaoToken} from "../src/DaoToken.sol";
import {Dao} from "./Dao.sol";
import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

/// @notice Pay is a balance at once and a vote when it is counted.
contract CreditsTest is Dao {
    address private alice = vm.addr(1);
    address private bob = vm.addr(2);

    function setUp() public {
        deployDao();
    }

    function test_credit_is_a_balance_and_no_vote_yet() public {
        token.credit(alice, 100);
        requireHolding(alice, 100, 0, 0);
        vm.warp(block.timestamp + 1);
        vm.assertEq(token.totalSupply(), 100, "supply");
        vm.assertEq(token.getPastTotalSupply(block.timestamp - 1), 0, "counted supply");
    }

    function test_anyone_has_credit_counted() public {
        token.credit(alice, 100);
        vm.expectEmit(address(token));
        emit DaoToken.Counted(alice, 100);
        count(alice);
        requireHolding(alice, 100, 100, 100);
        vm.assertEq(token.delegates(alice), alice, "its own delegate");
        token.credit(alice, 11);
        requireHolding(alice, 111, 100, 100);
        count(alice);
        requireHolding(alice, 111, 111, 111);
        count(alice); // nothing is left to count
        vm.warp(block.timestamp + 1);
        vm.assertEq(token.getPastTotalSupply(block.timestamp - 1), 111, "counted supply");
    }

    function test_past_votes_stay_as_they_were() public {
        token.credit(alice, 100);
        uint256 before = block.timestamp;
        vm.warp(before + 10);
        count(alice);
        vm.warp(before + 20);
        vm.assertEq(token.getPastVotes(alice, before), 0, "when it was credited");
        vm.assertEq(token.getPastVotes(alice, before + 10), 100, "when it was counted");
    }

    function test_sending_takes_credit_before_votes() public {
        token.mint(alice, 50);
        token.credit(alice, 100);
        vm.prank(alice);
        vm.assertTrue(token.transfer(bob, 100), "sent");
        requireHolding(alice, 50, 50, 50);
        requireHolding(bob, 100, 100, 100);
        vm.prank(alice);
        vm.assertTrue(token.transfer(bob, 30), "sent");
        requireHolding(alice, 20, 20, 20);
        requireHolding(bob, 130, 130, 130);
    }

    function test_receiving_counts_the_whole_balance() public {
        token.credit(alice, 100);
        token.mint(alice, 1);
        requireHolding(alice, 101, 101, 101);
        token.credit(alice, 9);
        vm.prank(alice);
        vm.assertTrue(token.transfer(alice, 5), "to itself");
        requireHolding(alice, 110, 110, 110);
    }

    function test_delegating_counts_the_whole_balance() public {
        token.credit(alice, 100);
        vm.prank(alice);
        token.delegate(bob);
        requireHolding(alice, 100, 100, 0);
        vm.assertEq(token.getVotes(bob), 100, "the delegate's votes");
        token.credit(alice, 10);
        count(alice);
        vm.assertEq(token.getVotes(bob), 110, "later credit too");
        vm.prank(alice);
        token.delegate(address(0));
        token.credit(alice, 10);
        count(alice);
        requireHolding(alice, 120, 120, 0);
    }

    function test_only_minters_credit_and_only_accounts() public {
        address[] memory accounts = new address[](2);
        uint256[] memory amounts = new uint256[](1);
        vm.expectRevert(abi.encodeWithSelector(DaoToken.CreditsLengthMismatch.selector, 2, 1));
        token.creditMany(accounts, amounts);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, address(0)));
        token.credit(address(0), 1);
        bytes4 unauthorized = bytes4(keccak256("AccessControlUnauthorizedAccount(address,bytes32)"));
        vm.expectPartialRevert(unauthorized);
        vm.prank(alice);
        token.credit(alice, 1);
        vm.expectPartialRevert(unauthorized);
        vm.prank(alice);
        token.creditMany(accounts, amounts);
    }

    function test_credit_has_the_tokens_cap() public {
        token.credit(alice, type(uint208).max);
        vm.expectPartialRevert(bytes4(keccak256("ERC20ExceededSafeSupply(uint256,uint256)")));
        token.credit(alice, 1);
        count(alice);
        requireHolding(alice, type(uint208).max, type(uint208).max, type(uint208).max);
    }

    /// @dev Whatever happens: votes are the counted part of balances, never more, and past supplies add up.
    function testFuzz_votes_are_what_was_counted(uint96[8] memory amounts, uint8[8] memory acts) public {
        address[3] memory who = [alice, bob, vm.addr(3)];
        for (uint256 i = 0; i < 8; ++i) {
            (address from, address to) = (who[acts[i] % 3], who[acts[i] / 3 % 3]);
            uint256 act = acts[i] / 9 % 5;
            if (act == 0) token.credit(to, amounts[i]);
            if (act == 1) token.mint(to, amounts[i]);
            if (act == 2) count(to);
            if (act == 3) {
                uint256 amount = bound(amounts[i], 0, token.balanceOf(from));
                vm.prank(from);
                vm.assertTrue(token.transfer(to, amount), "sent");
            }
            if (act == 4) {
                vm.prank(from);
                token.delegate(to);
            }
            vm.warp(block.timestamp + 1);
            uint256 votes = 0;
            uint256 counted = 0;
            for (uint256 j = 0; j < 3; ++j) {
                votes += token.getVotes(who[j]);
                counted += token.counted(who[j]);
                vm.assertLe(token.counted(who[j]), token.balanceOf(who[j]), "counted, balance");
                if (token.counted(who[j]) != 0) vm.assertTrue(token.delegates(who[j]) != address(0), "delegate");
            }
            vm.assertEq(votes, counted, "votes");
            vm.assertEq(token.getPastTotalSupply(block.timestamp - 1), counted, "counted supply");
        }
    }

    function count(address account) private {
        address[] memory accounts = new address[](1);
        accounts[0] = account;
        token.count(accounts);
    }

    function requireHolding(address account, uint256 balance, uint256 counted, uint256 votes) private view {
        vm.assertEq(token.balanceOf(account), balance, "balance");
        vm.assertEq(token.counted(account), counted, "counted");
        vm.assertEq(token.getVotes(account), votes, "votes");
    }
}
