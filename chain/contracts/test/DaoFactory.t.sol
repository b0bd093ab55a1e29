// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {CodeStore} from "../src/CodeStore.sol";
import {DaoFactory} from "../src/DaoFactory.sol";
import {Validators} from "../src/Validators.sol";
import {Vm} from "./Forge.sol";
import {Foundry} from "./Foundry.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";

/// @notice What one call founds, and who has which power afterwards.
contract DaoFactoryTest is Foundry {
    function test_one_call_founds_a_dao() public {
        foundDao(address(0));
        vm.assertEq(factory.count(), 1, "count");
        vm.assertEq(keccak256(bytes(token.name())), keccak256("Example DAO"), "name");
        vm.assertEq(token.totalSupply(), 600e18, "supply");
        vm.assertEq(token.getVotes(vm.addr(601)), 200e18, "a founder's votes");
        vm.assertEq(address(governor.token()), address(token), "governor's token");
        vm.assertEq(governor.timelock(), address(timelock), "governor's timelock");
        vm.assertEq(governor.votingDelay(), VOTING_DELAY_S, "voting delay");
        vm.assertEq(governor.votingPeriod(), VOTING_PERIOD_S, "voting period");
        vm.assertEq(governor.proposalThreshold(), PROPOSAL_THRESHOLD, "threshold");
        vm.assertEq(governor.quorumNumerator(), QUORUM_PERCENT, "quorum");
        vm.assertEq(timelock.getMinDelay(), TIMELOCK_DELAY_S, "delay");
        vm.assertEq(address(ledger.token()), address(token), "ledger's token");
        vm.assertEq(ledger.dao(), address(timelock), "ledger's dao");
        vm.assertEq(ledger.quorum(), QUORUM, "validators' quorum");
        vm.assertEq(address(registry.ledger()), address(ledger), "registry's ledger");
        vm.assertEq(address(escrow.ledger()), address(ledger), "escrow's ledger");
        vm.assertEq(escrow.arbiter(), address(timelock), "arbiter");
        vm.assertEq(address(revenue.token()), address(token), "what is staked");
        vm.assertEq(address(revenue.asset()), address(token), "what is shared");
        vm.assertEq(revenue.unstakeDelayS(), UNSTAKE_DELAY_S, "unstaking delay");
        vm.assertEq(membership.dao(), address(timelock), "membership's dao");
        vm.assertEq(membership.owner(), owner, "owner");
        vm.assertEq(address(creations.registry()), address(registry), "creations' registry");
    }

    function test_the_timelock_has_every_power_and_the_factory_none() public {
        foundDao(address(0));
        bytes32 admin = token.DEFAULT_ADMIN_ROLE();
        vm.assertTrue(token.hasRole(admin, address(timelock)), "token admin");
        vm.assertTrue(token.hasRole(token.MINTER_ROLE(), address(ledger)), "minter");
        vm.assertTrue(timelock.hasRole(admin, address(timelock)), "timelock admin");
        vm.assertTrue(timelock.hasRole(timelock.PROPOSER_ROLE(), address(governor)), "proposer");
        vm.assertTrue(timelock.hasRole(timelock.CANCELLER_ROLE(), address(governor)), "canceller");
        vm.assertTrue(timelock.hasRole(timelock.EXECUTOR_ROLE(), address(0)), "executor");
        vm.assertTrue(!token.hasRole(admin, address(factory)), "factory: token admin");
        vm.assertTrue(!token.hasRole(token.MINTER_ROLE(), address(factory)), "factory: minter");
        vm.assertTrue(!timelock.hasRole(admin, address(factory)), "factory: timelock admin");
        vm.assertTrue(!timelock.hasRole(timelock.PROPOSER_ROLE(), address(factory)), "factory: proposer");
    }

    function test_founding_is_announced() public {
        foundDao(address(1));
        vm.recordLogs();
        DaoFactory.Dao memory dao = factory.createDao(plan(address(1)));
        bytes32 topic = keccak256(
            "DaoCreated(uint256,address,string,(address,address,address,address,address,address,address,address,address))"
        );
        uint256 found = 0;
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] != topic) continue;
            (string memory name, DaoFactory.Dao memory told) = abi.decode(logs[i].data, (string, DaoFactory.Dao));
            vm.assertEq(keccak256(bytes(name)), keccak256("Example DAO"), "name");
            vm.assertEq(keccak256(abi.encode(told)), keccak256(abi.encode(dao)), "addresses");
            ++found;
        }
        vm.assertEq(found, 1, "announced");
        vm.assertTrue(dao.token != address(token), "another DAO");
    }

    function test_clones_are_set_up_once() public {
        foundDao(address(0));
        bytes memory done = abi.encodeWithSelector(Initializable.InvalidInitialization.selector);
        vm.expectRevert(done);
        registry.initialize(ledger, address(1));
        vm.expectRevert(done);
        escrow.initialize(ledger);
        vm.expectRevert(done);
        revenue.initialize(token, token, 0);
        vm.expectRevert(done);
        membership.initialize(address(1), address(1), true);
        vm.expectRevert(done);
        creations.initialize(registry);
    }

    function test_a_refusal_of_a_part_is_passed_on() public {
        foundDao(address(0));
        DaoFactory.Plan memory p = plan(address(0));
        p.quorum = 2;
        vm.expectRevert(abi.encodeWithSelector(Validators.QuorumOutOfRange.selector, 2, VALIDATORS));
        factory.createDao(p);
    }

    function test_parts_must_be_there() public {
        foundDao(address(0));
        DaoFactory.Parts memory parts;
        vm.expectRevert(abi.encodeWithSelector(DaoFactory.PartWithoutCode.selector, address(0)));
        new DaoFactory(parts);
    }

    function test_code_that_creates_nothing_is_refused() public {
        deployFactory();
        DaoFactory.Parts memory parts;
        address broken = address(new CodeStore(hex"fe")); // INVALID: fails without a reason
        parts = DaoFactory.Parts(broken, broken, broken, broken, broken, broken, broken, broken, broken, broken);
        factory = new DaoFactory(parts);
        vm.expectRevert(abi.encodeWithSelector(DaoFactory.CreationFailed.selector, broken));
        factory.createDao(plan(address(0)));
    }

    function test_a_store_cannot_be_run() public {
        CodeStore stored = new CodeStore(hex"fe");
        vm.assertEq(keccak256(address(stored).code), keccak256(hex"00fe"), "code");
        (bool done,) = address(stored).call("");
        vm.assertTrue(done, "it stops at once");
    }
}
