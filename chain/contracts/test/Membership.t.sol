// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Membership} from "../src/Membership.sol";
import {Foundry} from "./Foundry.sol";
import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";

/// @notice Who becomes a member, and by whose word.
contract MembershipTest is Foundry {
    address private alice = vm.addr(1);
    bytes32 private constant NOTE = keccak256("two GPUs");

    function setUp() public {
        foundDao(address(0));
    }

    function test_the_owner_approves_a_request() public {
        vm.expectEmit(address(membership));
        emit Membership.Requested(alice, NOTE);
        request();
        vm.assertTrue(!membership.isMember(alice), "not yet");
        vm.expectEmit(address(membership));
        emit Membership.Approved(alice, owner);
        vm.prank(owner);
        membership.approve(alice);
        vm.assertTrue(membership.isMember(alice), "member");
        bytes memory done = wrong(Membership.Status.Member);
        vm.expectRevert(done);
        request();
        vm.expectRevert(done);
        vm.prank(owner);
        membership.approve(alice);
    }

    function test_the_dao_approves_and_refuses() public {
        request();
        vm.expectEmit(address(membership));
        emit Membership.Refused(alice, address(timelock));
        vm.prank(address(timelock));
        membership.refuse(alice);
        vm.assertTrue(membership.statusOf(alice) == Membership.Status.Refused, "refused");
        vm.expectRevert(wrong(Membership.Status.Refused));
        vm.prank(owner);
        membership.refuse(alice);
        request();
        vm.prank(address(timelock));
        membership.approve(alice);
        vm.prank(owner);
        membership.refuse(alice);
        vm.assertTrue(!membership.isMember(alice), "membership ended");
    }

    function test_nobody_else_decides() public {
        request();
        bytes memory refusal =
            abi.encodeWithSelector(Membership.NotAllowed.selector, address(this), address(timelock), owner);
        vm.expectRevert(refusal);
        membership.approve(alice);
        vm.expectRevert(refusal);
        membership.refuse(alice);
        vm.expectRevert(abi.encodeWithSelector(Membership.ZeroAddress.selector, "account"));
        vm.prank(owner);
        membership.approve(address(0));
        vm.expectRevert(abi.encodeWithSelector(Membership.NotAllowed.selector, owner, address(timelock), address(0)));
        vm.prank(owner);
        membership.setRules(owner, true);
    }

    function test_an_open_dao_takes_whoever_asks() public {
        vm.expectEmit(address(membership));
        emit Membership.RulesChanged(address(0), true);
        vm.prank(address(timelock));
        membership.setRules(address(0), true);
        vm.assertTrue(membership.isOpen(), "open");
        request();
        vm.assertTrue(membership.isMember(alice), "member");
    }

    function test_members_leave_and_requests_are_taken_back() public {
        vm.expectRevert(wrong(Membership.Status.None));
        leave();
        request();
        vm.expectEmit(address(membership));
        emit Membership.Left(alice);
        leave();
        request();
        vm.prank(owner);
        membership.approve(alice);
        leave();
        vm.assertTrue(membership.statusOf(alice) == Membership.Status.None, "left");
    }

    function test_a_clone_needs_a_dao() public {
        (,,,,,,, address code,,) = factory.parts();
        Membership clone = Membership(Clones.clone(code));
        vm.expectRevert(abi.encodeWithSelector(Membership.ZeroAddress.selector, "dao"));
        clone.initialize(address(0), owner, false);
    }

    function request() private {
        vm.prank(alice);
        membership.request(NOTE);
    }

    function leave() private {
        vm.prank(alice);
        membership.leave();
    }

    function wrong(Membership.Status status) private view returns (bytes memory) {
        return abi.encodeWithSelector(Membership.WrongStatus.selector, alice, status);
    }
}
