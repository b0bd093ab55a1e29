// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "../src/ContributionLedger.sol";
import {Rounds} from "../src/Rounds.sol";
import {Streams} from "../src/Streams.sol";
import {Dao} from "./Dao.sol";
import {Payouts} from "./Payouts.sol";

/// @notice What the frequent calls cost as whole transactions, in gas. Written to snapshots/ under `--isolate`, where
/// each call starts cold and pays for its calldata.
/// forge-config: default.isolate = true
contract GasTest is Dao {
    uint256 private constant CONTRIBUTORS = 64;
    uint256 private constant BALLOTS = 20;

    address[] private accounts;
    uint256[] private cumulative;

    function setUp() public {
        deployDao();
        openRun();
        for (uint256 i = 0; i < CONTRIBUTORS; ++i) {
            accounts.push(vm.addr(1 + i));
            cumulative.push(1e18 * (1 + i));
        }
    }

    function test_a_later_round_with_three_signatures() public {
        Rounds.RoundRoot memory root = roundRoot(1, keccak256("first"), REWARD);
        ledger.postRound(root, signatures(root, keys, QUORUM));
        vm.snapshotGasLastCall("postRound, first round, 3 signatures");
        vm.warp(block.timestamp + 60);
        root = roundRoot(2, keccak256("second"), 2 * REWARD);
        bytes[] memory signed = signatures(root, keys, QUORUM);
        ledger.postRound(root, signed);
        vm.assertLe(vm.snapshotGasLastCall("postRound, later round, 3 signatures"), 95_000, "gas");
    }

    function test_a_repeat_claim() public {
        claim(1, 5, "claim, first of an account, 64 accounts");
        vm.assertLe(claim(2, 5, "claim, repeat, 64 accounts"), 65_000, "gas");
        vm.warp(block.timestamp + 60);
        token.mint(accounts[5], 1); // counts what was claimed
        vm.warp(block.timestamp + 60);
        token.mint(accounts[5], 1e18);
        vm.snapshotGasLastCall("mint alone, to a holder");
    }

    function test_a_full_set_for_a_full_set() public {
        uint256 max = ledger.VALIDATORS_MAX();
        address[] memory validators = addressesOf(keysByAddress(1000, max));
        setValidators(validators, max);
        validators = addressesOf(keysByAddress(2000, max));
        vm.prank(address(timelock));
        ledger.setValidators(validators, max);
        vm.assertLe(vm.snapshotGasLastCall("setValidators, 64 for 64"), 2_200_000, "gas");
    }

    function test_relayed_ballots() public {
        (address[] memory targets, uint256[] memory values, bytes[] memory calldatas) =
            (new address[](1), new uint256[](1), new bytes[](1));
        (targets[0], calldatas[0]) =
        (address(ledger), abi.encodeCall(Streams.openRun, (keccak256("next"), SPEC, ROUNDS, REWARD)));
        for (uint256 i = 0; i < CONTRIBUTORS; ++i) {
            token.mint(accounts[i], 1e18);
        }
        vm.warp(block.timestamp + 1);
        vm.prank(accounts[0]);
        uint256 proposalId = governor.propose(targets, values, calldatas, "next");
        vm.snapshotGasLastCall("propose a run");
        vm.warp(governor.proposalSnapshot(proposalId) + 1);

        cast(proposalId, 0, 1, "castVotesBySig, first ballot of a proposal");
        uint256 one = cast(proposalId, 1, 1, "castVotesBySig, 1 ballot");
        vm.assertLe(one, 105_000, "gas");
        uint256 many = cast(proposalId, 2, BALLOTS, "castVotesBySig, 20 ballots");
        vm.assertLe(many / BALLOTS, one, "a ballot in a batch costs no more than one alone");

        vm.warp(governor.proposalDeadline(proposalId) + 1);
        governor.queue(targets, values, calldatas, keccak256("next"));
        vm.snapshotGasLastCall("queue");
        vm.warp(block.timestamp + TIMELOCK_DELAY_S);
        governor.execute(targets, values, calldatas, keccak256("next"));
        vm.snapshotGasLastCall("execute, opens a run");
    }

    function test_a_batch_of_repeat_claims() public {
        claimMany(1, "multiClaim, 32 first claims");
        vm.assertLe(claimMany(2, "multiClaim, 32 repeat claims") / 32, 32_000, "gas");
        vm.warp(block.timestamp + 60);
        token.count(accounts);
        vm.snapshotGasLastCall("count, 32 accounts, the first time, of 64");
        claimMany(3, "multiClaim, 32 third claims");
        vm.warp(block.timestamp + 60);
        token.count(accounts);
        vm.snapshotGasLastCall("count, 32 accounts, later, of 64");
    }

    /// @dev What cannot wait for a cheaper day: a proof, and a bond before a set changes.
    function test_bonds_and_proofs() public {
        address validator = vm.addr(keys[0]);
        token.mint(validator, 2e18);
        vm.prank(validator);
        token.approve(address(ledger), 2e18);
        vm.prank(validator);
        ledger.bond(validator, 1e18);
        vm.snapshotGasLastCall("bond, first of a validator");
        vm.prank(validator);
        ledger.bond(validator, 1e18);
        vm.snapshotGasLastCall("bond, later");
        Rounds.RoundRoot memory one = roundRoot(1, keccak256("one"), 0);
        Rounds.RoundRoot memory two = roundRoot(1, keccak256("two"), 0);
        bytes memory first = signature(keys[0], ledger.roundDigest(one));
        bytes memory second = signature(keys[0], ledger.roundDigest(two));
        ledger.proveEquivocation(one, first, two, second);
        vm.snapshotGasLastCall("proveEquivocation");
    }

    /// @dev Relays first ballots of accounts `first`, `first + 1`, ... and returns the transaction's gas.
    function cast(uint256 proposalId, uint256 first, uint256 count, string memory name) private returns (uint256) {
        uint8[] memory support = new uint8[](count);
        address[] memory voters = new address[](count);
        bytes[] memory signed = new bytes[](count);
        for (uint256 i = 0; i < count; ++i) {
            (support[i], voters[i]) = (1, accounts[first + i]);
            signed[i] = signature(1 + first + i, ballotDigest(proposalId, voters[i], 1, 0));
        }
        uint256 counted = governor.castVotesBySig(proposalId, support, voters, signed);
        uint256 gasUsed = vm.snapshotGasLastCall(name);
        vm.assertEq(counted, count, "counted");
        return gasUsed;
    }

    function claimMany(uint64 round, string memory name) private returns (uint256) {
        vm.warp(block.timestamp + 60);
        for (uint256 i = 0; i < CONTRIBUTORS; ++i) {
            cumulative[i] *= round;
        }
        bytes32[] memory leaves = Payouts.leaves(accounts, cumulative);
        post(round, Payouts.root(leaves), REWARD * round);
        ContributionLedger.Earning[] memory batch = new ContributionLedger.Earning[](32);
        for (uint256 i = 0; i < 32; ++i) {
            batch[i] = ContributionLedger.Earning(accounts[i], cumulative[i], Payouts.proof(leaves, i));
        }
        ledger.multiClaim(RUN, batch);
        return vm.snapshotGasLastCall(name);
    }

    function claim(uint64 round, uint256 index, string memory name) private returns (uint256) {
        vm.warp(block.timestamp + 60);
        for (uint256 i = 0; i < CONTRIBUTORS; ++i) {
            cumulative[i] *= round;
        }
        bytes32[] memory leaves = Payouts.leaves(accounts, cumulative);
        post(round, Payouts.root(leaves), REWARD * round);
        ledger.claim(RUN, accounts[index], cumulative[index], Payouts.proof(leaves, index));
        return vm.snapshotGasLastCall(name);
    }
}
