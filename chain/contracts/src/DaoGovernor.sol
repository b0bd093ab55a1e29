// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Governor} from "@openzeppelin/contracts/governance/Governor.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {GovernorCountingSimple} from "@openzeppelin/contracts/governance/extensions/GovernorCountingSimple.sol";
import {GovernorSettings} from "@openzeppelin/contracts/governance/extensions/GovernorSettings.sol";
import {GovernorTimelockControl} from "@openzeppelin/contracts/governance/extensions/GovernorTimelockControl.sol";
import {GovernorVotes} from "@openzeppelin/contracts/governance/extensions/GovernorVotes.sol";
import {
    GovernorVotesQuorumFraction
} from "@openzeppelin/contracts/governance/extensions/GovernorVotesQuorumFraction.sol";
import {IVotes} from "@openzeppelin/contracts/governance/utils/IVotes.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title DaoGovernor
/// @notice OpenZeppelin's Governor over {DaoToken} votes and a timelock, with one addition: anyone can relay many
/// signed ballots in one transaction, and a bad ballot costs the others nothing.
/// @dev Everything that the timelock owns, the governor rules. It knows nothing of what a proposal calls.
contract DaoGovernor is
    Governor,
    GovernorSettings,
    GovernorCountingSimple,
    GovernorVotes,
    GovernorVotesQuorumFraction,
    GovernorTimelockControl
{
    /// @notice A relayed ballot was not counted: its signature, nonce or support is wrong, or the voter has voted.
    /// @param proposalId The proposal.
    /// @param voter The account in whose name the ballot was handed in.
    event BallotSkipped(uint256 indexed proposalId, address indexed voter);

    /// @notice The three lists of a batch must be equally long.
    error BallotsLengthMismatch(uint256 ballots, uint256 voters, uint256 signatures);

    /// @notice Deploys a governor that acts through `timelock`, which must grant it the proposer role.
    /// @param token Where votes are counted (ERC-5805).
    /// @param timelock What executes passed proposals and owns what they act on.
    /// @param votingDelayS Seconds between a proposal and its vote.
    /// @param votingPeriodS Seconds that a vote is open.
    /// @param proposalThreshold_ Votes that a proposer needs, in base units.
    /// @param quorumPercent Share of the supply, in percent, that must vote for or abstain.
    constructor(
        IVotes token,
        TimelockController timelock,
        uint48 votingDelayS,
        uint32 votingPeriodS,
        uint256 proposalThreshold_,
        uint256 quorumPercent
    )
        Governor("DaoGovernor")
        GovernorSettings(votingDelayS, votingPeriodS, proposalThreshold_)
        GovernorVotes(token)
        GovernorVotesQuorumFraction(quorumPercent)
        GovernorTimelockControl(timelock)
    {}

    /// @notice Counts every valid ballot of a batch and skips the others, each with a {BallotSkipped} event.
    /// @dev Ballots carry the same EIP-712 `Ballot` signature and nonce as {castVoteBySig}, but only secp256k1 ones
    /// count here: asking a contract (ERC-1271) would let one voter burn the relayer's gas and fail the whole batch.
    /// A contract account votes by {castVote} or {castVoteBySig}. Reverts with `GovernorUnexpectedProposalState` where
    /// the proposal is not active, since then no ballot can count.
    /// @param proposalId The proposal that all ballots are about.
    /// @param support One `VoteType` a ballot: 0 against, 1 for, 2 abstain.
    /// @param voters Who signed each ballot.
    /// @param signatures r, s, v: 65 bytes a ballot.
    /// @return counted How many ballots were counted.
    function castVotesBySig(
        uint256 proposalId,
        uint8[] calldata support,
        address[] calldata voters,
        bytes[] calldata signatures
    ) external returns (uint256 counted) {
        if (support.length != voters.length || support.length != signatures.length) {
            revert BallotsLengthMismatch(support.length, voters.length, signatures.length);
        }
        _validateStateBitmap(proposalId, _encodeStateBitmap(ProposalState.Active));

        for (uint256 i = 0; i < voters.length; ++i) {
            address voter = voters[i];
            if (_isCountable(proposalId, support[i], voter, signatures[i])) {
                _useNonce(voter);
                _castVote(proposalId, voter, support[i], "");
                ++counted;
            } else {
                emit BallotSkipped(proposalId, voter);
            }
        }
    }

    /// @inheritdoc Governor
    function proposalThreshold() public view override(Governor, GovernorSettings) returns (uint256) {
        return super.proposalThreshold();
    }

    /// @inheritdoc Governor
    function state(uint256 proposalId) public view override(Governor, GovernorTimelockControl) returns (ProposalState) {
        return super.state(proposalId);
    }

    /// @inheritdoc Governor
    function proposalNeedsQueuing(uint256 proposalId)
        public
        view
        override(Governor, GovernorTimelockControl)
        returns (bool)
    {
        return super.proposalNeedsQueuing(proposalId);
    }

    /// @dev Every reason for which {_castVote} could revert on an active proposal is looked at here first.
    function _isCountable(uint256 proposalId, uint8 support, address voter, bytes calldata signature)
        private
        view
        returns (bool)
    {
        if (support > uint8(VoteType.Abstain) || hasVoted(proposalId, voter)) return false;
        bytes32 ballot = keccak256(abi.encode(BALLOT_TYPEHASH, proposalId, support, voter, nonces(voter)));
        // slither-disable-next-line unused-return (the detail of a fault; the fault is looked at)
        (address signer, ECDSA.RecoverError fault,) = ECDSA.tryRecoverCalldata(_hashTypedDataV4(ballot), signature);
        return fault == ECDSA.RecoverError.NoError && signer == voter;
    }

    function _queueOperations(
        uint256 proposalId,
        address[] memory targets,
        uint256[] memory values,
        bytes[] memory calldatas,
        bytes32 descriptionHash
    ) internal override(Governor, GovernorTimelockControl) returns (uint48) {
        return super._queueOperations(proposalId, targets, values, calldatas, descriptionHash);
    }

    function _executeOperations(
        uint256 proposalId,
        address[] memory targets,
        uint256[] memory values,
        bytes[] memory calldatas,
        bytes32 descriptionHash
    ) internal override(Governor, GovernorTimelockControl) {
        super._executeOperations(proposalId, targets, values, calldatas, descriptionHash);
    }

    function _cancel(
        address[] memory targets,
        uint256[] memory values,
        bytes[] memory calldatas,
        bytes32 descriptionHash
    ) internal override(Governor, GovernorTimelockControl) returns (uint256) {
        return super._cancel(targets, values, calldatas, descriptionHash);
    }

    function _executor() internal view override(Governor, GovernorTimelockControl) returns (address) {
        return super._executor();
    }
}
