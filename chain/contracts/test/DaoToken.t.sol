// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {DaoToken} from "../src/DaoToken.sol";
import {ForgeTest} from "./Forge.sol";
import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";

contract DaoTokenTest is ForgeTest {
    bytes32 private constant PERMIT_TYPEHASH =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    uint256 private constant KEY = 7;

    DaoToken private token;
    address private alice = vm.addr(KEY);
    address private bob = vm.addr(8);
    address private carol = vm.addr(9);

    function setUp() public {
        vm.warp(1_800_000_000);
        token = new DaoToken("Example DAO", "EXD", address(this));
        token.grantRole(token.MINTER_ROLE(), address(this));
    }

    function test_has_eighteen_decimals_and_no_supply() public view {
        vm.assertEq(token.decimals(), 18, "decimals");
        vm.assertEq(token.totalSupply(), 0, "supply");
    }

    function test_needs_an_admin() public {
        vm.expectRevert(abi.encodeWithSelector(DaoToken.ZeroAdmin.selector));
        new DaoToken("Example DAO", "EXD", address(0));
    }

    function test_only_a_minter_mints() public {
        bytes32 role = token.MINTER_ROLE();
        vm.expectRevert(abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, bob, role));
        vm.prank(bob);
        token.mint(bob, 1);
    }

    function test_the_admin_cannot_mint_without_the_role() public {
        DaoToken fresh = new DaoToken("Example DAO", "EXD", address(this));
        bytes32 role = fresh.MINTER_ROLE();
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, address(this), role)
        );
        fresh.mint(alice, 1);
    }

    function test_the_clock_is_the_blocks_time() public {
        vm.warp(1_900_000_000);
        vm.assertEq(token.clock(), 1_900_000_000, "clock");
        vm.assertEq(keccak256(bytes(token.CLOCK_MODE())), keccak256("mode=timestamp"), "mode");
    }

    function test_a_first_mint_delegates_to_the_receiver() public {
        token.mint(alice, 5);
        vm.assertEq(token.delegates(alice), alice, "delegate");
        vm.assertEq(token.getVotes(alice), 5, "votes");
    }

    function test_a_first_transfer_delegates_to_the_receiver() public {
        token.mint(alice, 5);
        vm.prank(alice);
        token.transfer(bob, 2);
        vm.assertEq(token.delegates(bob), bob, "delegate");
        vm.assertEq(token.getVotes(alice), 3, "votes of the sender");
        vm.assertEq(token.getVotes(bob), 2, "votes of the receiver");
    }

    function test_a_delegate_named_before_the_first_receipt_stays() public {
        vm.prank(alice);
        token.delegate(bob);
        token.mint(alice, 5);
        vm.assertEq(token.delegates(alice), bob, "delegate");
        vm.assertEq(token.getVotes(bob), 5, "votes");
    }

    function test_a_holder_may_give_up_its_votes() public {
        token.mint(alice, 5);
        vm.prank(alice);
        token.delegate(address(0));
        token.mint(alice, 5);
        vm.assertEq(token.delegates(alice), address(0), "delegate");
        vm.assertEq(token.getVotes(alice), 0, "votes");
    }

    function test_nothing_received_delegates_nothing() public {
        token.mint(alice, 5);
        vm.prank(alice);
        token.transfer(bob, 0);
        vm.assertEq(token.delegates(bob), address(0), "delegate");
    }

    function test_votes_can_be_looked_up_at_a_past_time() public {
        token.mint(alice, 5);
        vm.warp(block.timestamp + 10);
        token.mint(alice, 4);
        vm.warp(block.timestamp + 10);
        vm.assertEq(token.getPastVotes(alice, block.timestamp - 11), 5, "before the second mint");
        vm.assertEq(token.getPastVotes(alice, block.timestamp - 10), 9, "from the second mint on");
        vm.assertEq(token.getPastTotalSupply(block.timestamp - 11), 5, "supply");
    }

    function test_a_permit_spends_one_nonce() public {
        uint256 deadline = block.timestamp + 1 hours;
        bytes32 statement = keccak256(abi.encode(PERMIT_TYPEHASH, alice, bob, 3, token.nonces(alice), deadline));
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), statement));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, digest);
        token.permit(alice, bob, 3, deadline, v, r, s);
        vm.assertEq(token.allowance(alice, bob), 3, "allowance");
        vm.assertEq(token.nonces(alice), 1, "nonce");
        vm.expectPartialRevert(bytes4(keccak256("ERC2612InvalidSigner(address,address)")));
        token.permit(alice, bob, 3, deadline, v, r, s);
    }

    /// @dev However tokens move between accounts that never delegate, votes are balances.
    function testFuzz_votes_follow_balances(uint96[3] memory minted, uint96[6] memory moved) public {
        address[3] memory accounts = [alice, bob, carol];
        for (uint256 i = 0; i < 3; ++i) {
            token.mint(accounts[i], minted[i]);
        }
        for (uint256 i = 0; i < 6; ++i) {
            address from = accounts[i % 3];
            uint256 amount = bound(moved[i], 0, token.balanceOf(from));
            vm.prank(from);
            token.transfer(accounts[(i + 1 + moved[i] % 2) % 3], amount);
        }
        uint256 sum = 0;
        for (uint256 i = 0; i < 3; ++i) {
            vm.assertEq(token.getVotes(accounts[i]), token.balanceOf(accounts[i]), "votes");
            sum += token.balanceOf(accounts[i]);
        }
        vm.assertEq(sum, token.totalSupply(), "supply");
    }
}
