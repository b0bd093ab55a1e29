// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "../src/ContributionLedger.sol";
import {DaoGovernor} from "../src/DaoGovernor.sol";
import {Rounds} from "../src/Rounds.sol";
import {Streams} from "../src/Streams.sol";
import {Dao} from "./Dao.sol";
import {Vm} from "./Forge.sol";
import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";
import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";

/// @notice A contract account that accepts one digest (ERC-1271).
contract Wallet is IERC1271 {
    bytes32 public accepted;

    function accept(bytes32 digest) external {
        accepted = digest;
    }

    function isValidSignature(bytes32 digest, bytes calldata) external view returns (bytes4) {
        return digest == accepted ? IERC1271.isValidSignature.selector : bytes4(0);
    }
}

/// @notice A contract account that burns all the gas it is given when asked about a signature.
contract GasBurner {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        assembly ("memory-safe") {
            invalid()
        }
    }
}

contract DaoGovernorTest is Dao {
    uint8 private constant AGAINST = 0;
    uint8 private constant FOR = 1;
    uint8 private constant ABSTAIN = 2;
    uint256 private constant VOTERS = 4;
    uint256 private constant FIRST_KEY = 1;

    address[] private targets;
    uint256[] private values;
    bytes[] private calldatas;
    string private description = "open a run";
    uint256 private proposalId;

    function setUp() public {
        deployDao();
        for (uint256 i = 0; i < VOTERS; ++i) {
            token.mint(voter(i), weight(i));
        }
        vm.warp(block.timestamp + 1);
        targets.push(address(ledger));
        values.push(0);
        calldatas.push(abi.encodeCall(Streams.openRun, (RUN, SPEC, ROUNDS, REWARD)));
        vm.prank(voter(0));
        proposalId = governor.propose(targets, values, calldatas, description);
    }

    // ------------------------------------------------------------------ one batch of ballots

    function test_a_batch_counts_each_ballot() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        support[1] = AGAINST;
        support[2] = ABSTAIN;
        signed[1] = ballot(1, AGAINST, 0);
        signed[2] = ballot(2, ABSTAIN, 0);

        vm.assertEq(governor.castVotesBySig(proposalId, support, voters, signed), VOTERS, "counted");

        (uint256 against, uint256 for_, uint256 abstain) = governor.proposalVotes(proposalId);
        vm.assertEq(against, weight(1), "against");
        vm.assertEq(for_, weight(0) + weight(3), "for");
        vm.assertEq(abstain, weight(2), "abstain");
        for (uint256 i = 0; i < VOTERS; ++i) {
            vm.assertTrue(governor.hasVoted(proposalId, voter(i)), "voted");
            vm.assertEq(governor.nonces(voter(i)), 1, "nonce");
        }
    }

    function test_a_ballot_signed_by_another_key_is_skipped() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        signed[1] = ballot(2, FOR, 0);
        requireSkipped(1, support, voters, signed);
    }

    function test_a_ballot_for_another_support_is_skipped() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        support[0] = AGAINST;
        requireSkipped(0, support, voters, signed);
    }

    function test_a_ballot_with_an_unknown_support_is_skipped() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        support[3] = 3;
        signed[3] = ballot(3, 3, 0);
        requireSkipped(3, support, voters, signed);
    }

    function test_a_ballot_with_another_nonce_is_skipped() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        signed[2] = ballot(2, FOR, 1);
        requireSkipped(2, support, voters, signed);
    }

    function test_the_zero_address_cannot_vote() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        voters[1] = address(0);
        signed[1] = new bytes(65);
        requireSkipped(1, support, voters, signed);
    }

    function test_a_second_ballot_in_the_same_batch_is_skipped() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, 2);
        voters[1] = voters[0];
        support[1] = AGAINST;
        signed[1] = ballot(0, AGAINST, 1);
        vm.expectEmit(address(governor));
        emit DaoGovernor.BallotSkipped(proposalId, voters[1]);
        vm.assertEq(governor.castVotesBySig(proposalId, support, voters, signed), 1, "counted");
        vm.assertEq(governor.nonces(voters[0]), 1, "nonce");
    }

    function test_a_relayed_batch_can_be_relayed_again_to_no_effect() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        governor.castVotesBySig(proposalId, support, voters, signed);
        vm.assertEq(governor.castVotesBySig(proposalId, support, voters, signed), 0, "counted again");
        (, uint256 for_,) = governor.proposalVotes(proposalId);
        vm.assertEq(for_, totalWeight(), "for");
    }

    function test_a_counted_ballot_cannot_be_cast_singly() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, 1);
        governor.castVotesBySig(proposalId, support, voters, signed);
        vm.expectRevert(abi.encodeWithSelector(IGovernor.GovernorInvalidSignature.selector, voters[0]));
        governor.castVoteBySig(proposalId, FOR, voters[0], signed[0]);
    }

    function test_a_contract_voter_cannot_burn_the_batchs_gas() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        voters[1] = address(new GasBurner());
        uint256 counted = governor.castVotesBySig{gas: 500_000}(proposalId, support, voters, signed);
        vm.assertEq(counted, VOTERS - 1, "counted");
    }

    function test_an_account_with_delegated_code_votes_by_its_key() public {
        startVote();
        vm.etch(voter(1), abi.encodePacked(hex"ef0100", address(new Wallet()))); // EIP-7702
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        vm.assertEq(governor.castVotesBySig(proposalId, support, voters, signed), VOTERS, "counted");
    }

    function test_a_contract_account_votes_by_its_own_ballot() public {
        Wallet wallet = new Wallet();
        token.mint(address(wallet), 7e18);
        vm.warp(block.timestamp + 1);
        vm.prank(voter(0));
        proposalId = governor.propose(targets, values, calldatas, "another");
        startVote();
        wallet.accept(ballotDigest(proposalId, address(wallet), FOR, 0));
        vm.assertEq(governor.castVoteBySig(proposalId, FOR, address(wallet), ""), 7e18, "weight");
    }

    function test_lists_must_be_equally_long() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, 2);
        vm.expectRevert(abi.encodeWithSelector(DaoGovernor.BallotsLengthMismatch.selector, 1, 2, 2));
        governor.castVotesBySig(proposalId, new uint8[](1), voters, signed);
        vm.expectRevert(abi.encodeWithSelector(DaoGovernor.BallotsLengthMismatch.selector, 2, 3, 2));
        governor.castVotesBySig(proposalId, support, new address[](3), signed);
        vm.expectRevert(abi.encodeWithSelector(DaoGovernor.BallotsLengthMismatch.selector, 2, 2, 0));
        governor.castVotesBySig(proposalId, support, voters, new bytes[](0));
    }

    function test_no_ballot_counts_before_or_after_the_vote() public {
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        vm.expectPartialRevert(IGovernor.GovernorUnexpectedProposalState.selector);
        governor.castVotesBySig(proposalId, support, voters, signed);
        vm.warp(governor.proposalDeadline(proposalId) + 1);
        vm.expectPartialRevert(IGovernor.GovernorUnexpectedProposalState.selector);
        governor.castVotesBySig(proposalId, support, voters, signed);
        vm.expectRevert(abi.encodeWithSelector(IGovernor.GovernorNonexistentProposal.selector, 1));
        governor.castVotesBySig(1, support, voters, signed);
    }

    /// @dev Bytes that are no signature of the voter never count and never revert.
    function testFuzz_noise_is_skipped(bytes memory noise, address voter_, uint8 support_) public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        (voters[1], support[1], signed[1]) = (voter_, support_, noise);
        vm.assertEq(governor.castVotesBySig(proposalId, support, voters, signed), VOTERS - 1, "counted");
    }

    /// @dev Whatever mix of good and broken ballots, the good ones count, with their weight, in any order.
    function testFuzz_good_ballots_count(uint8 broken, uint8[4] memory choices, uint8 rotation) public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        uint256[3] memory tally;
        uint256 good = 0;
        for (uint256 i = 0; i < VOTERS; ++i) {
            uint256 who = (i + rotation) % VOTERS;
            (voters[i], support[i]) = (voter(who), choices[i] % 3);
            signed[i] = ballot(who, support[i], broken >> i & 1);
            if (broken >> i & 1 == 0) {
                tally[support[i]] += weight(who);
                ++good;
            }
        }
        vm.assertEq(governor.castVotesBySig(proposalId, support, voters, signed), good, "counted");
        (uint256 against, uint256 for_, uint256 abstain) = governor.proposalVotes(proposalId);
        vm.assertEq(against, tally[AGAINST], "against");
        vm.assertEq(for_, tally[FOR], "for");
        vm.assertEq(abstain, tally[ABSTAIN], "abstain");
    }

    // ------------------------------------------------------------------ the whole path

    function test_a_passed_proposal_opens_its_run() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, VOTERS);
        governor.castVotesBySig(proposalId, support, voters, signed);
        vm.warp(governor.proposalDeadline(proposalId) + 1);
        vm.assertTrue(governor.state(proposalId) == IGovernor.ProposalState.Succeeded, "succeeded");
        vm.assertTrue(governor.proposalNeedsQueuing(proposalId), "needs queuing");

        governor.queue(targets, values, calldatas, keccak256(bytes(description)));
        vm.assertTrue(governor.state(proposalId) == IGovernor.ProposalState.Queued, "queued");
        vm.expectPartialRevert(bytes4(keccak256("TimelockUnexpectedOperationState(bytes32,bytes32)")));
        governor.execute(targets, values, calldatas, keccak256(bytes(description)));

        vm.warp(block.timestamp + TIMELOCK_DELAY_S);
        governor.execute(targets, values, calldatas, keccak256(bytes(description)));
        (bytes32 spec, uint64 rounds,,,) = ledger.runs(RUN);
        vm.assertEq(spec, SPEC, "spec");
        vm.assertEq(rounds, ROUNDS, "rounds");
    }

    function test_too_few_votes_defeat_a_proposal() public {
        startVote();
        (uint8[] memory support, address[] memory voters, bytes[] memory signed) = ballots(FOR, 1);
        governor.castVotesBySig(proposalId, support, voters, signed); // 10% of the supply, quorum is 20%
        vm.warp(governor.proposalDeadline(proposalId) + 1);
        vm.assertTrue(governor.state(proposalId) == IGovernor.ProposalState.Defeated, "defeated");
    }

    function test_a_proposer_may_cancel_before_the_vote() public {
        vm.prank(voter(0));
        governor.cancel(targets, values, calldatas, keccak256(bytes(description)));
        vm.assertTrue(governor.state(proposalId) == IGovernor.ProposalState.Canceled, "cancelled");
    }

    function test_the_governor_keeps_its_settings() public view {
        vm.assertEq(governor.votingDelay(), VOTING_DELAY_S, "delay");
        vm.assertEq(governor.votingPeriod(), VOTING_PERIOD_S, "period");
        vm.assertEq(governor.proposalThreshold(), PROPOSAL_THRESHOLD, "threshold");
        vm.assertEq(governor.quorum(block.timestamp - 1), totalWeight() * QUORUM_PERCENT / 100, "quorum");
        vm.assertEq(keccak256(bytes(governor.CLOCK_MODE())), keccak256("mode=timestamp"), "clock");
    }

    function test_settings_change_only_through_a_proposal() public {
        vm.expectRevert(abi.encodeWithSelector(IGovernor.GovernorOnlyExecutor.selector, address(this)));
        governor.setVotingPeriod(1);
    }

    // ------------------------------------------------------------------ building blocks

    function voter(uint256 i) private pure returns (address) {
        return vm.addr(FIRST_KEY + i);
    }

    function weight(uint256 i) private pure returns (uint256) {
        return (i + 1) * 1e18; // 1, 2, 3, 4: every sum of them is told apart from its neighbours
    }

    function totalWeight() private pure returns (uint256) {
        return VOTERS * (VOTERS + 1) / 2 * 1e18;
    }

    function startVote() private {
        vm.warp(governor.proposalSnapshot(proposalId) + 1);
    }

    function ballot(uint256 i, uint8 support, uint256 nonce) private view returns (bytes memory) {
        return signature(FIRST_KEY + i, ballotDigest(proposalId, voter(i), support, nonce));
    }

    /// @dev Valid first ballots of the first `count` voters.
    function ballots(uint8 choice, uint256 count)
        private
        view
        returns (uint8[] memory support, address[] memory voters, bytes[] memory signed)
    {
        support = new uint8[](count);
        voters = new address[](count);
        signed = new bytes[](count);
        for (uint256 i = 0; i < count; ++i) {
            (support[i], voters[i], signed[i]) = (choice, voter(i), ballot(i, choice, 0));
        }
    }

    /// @dev Ballot `bad` is skipped with an event and leaves no trace; all the others count.
    function requireSkipped(uint256 bad, uint8[] memory support, address[] memory voters, bytes[] memory signed)
        private
    {
        vm.recordLogs();
        vm.assertEq(governor.castVotesBySig(proposalId, support, voters, signed), VOTERS - 1, "counted");
        uint256 skipped = 0;
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] != DaoGovernor.BallotSkipped.selector) continue;
            vm.assertEq(uint256(logs[i].topics[1]), proposalId, "skipped proposal");
            vm.assertEq(logs[i].topics[2], bytes32(uint256(uint160(voters[bad]))), "skipped voter");
            ++skipped;
        }
        vm.assertEq(skipped, 1, "skipped");
        vm.assertEq(governor.nonces(voters[bad]), 0, "nonce of the skipped voter");
        for (uint256 i = 0; i < VOTERS; ++i) {
            vm.assertTrue(governor.hasVoted(proposalId, voters[i]) == (i != bad), "who voted");
        }
    }
}
