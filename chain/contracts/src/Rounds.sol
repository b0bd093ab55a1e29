// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Streams} from "./Streams.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @title Rounds
/// @notice What validators attest of streams. A quorum signs each round: its checkpoint, its record, and a Merkle root
/// of what every account has earned so far. A root pays once its challenge window is over. Within the window the
/// guardian or the DAO may veto it, and a validator that is proven to have signed two statements for one round is
/// slashed and no longer counts for it.
/// @dev Knows nothing of how work is scored, and nothing of claims. Earnings are cumulative, so the latest root alone
/// pays everything and a lost round loses nobody's pay.
abstract contract Rounds is Streams, EIP712 {
    /// @notice What validators sign of one round (EIP-712).
    /// @param run Which stream.
    /// @param round Its number, from 1. Gaps are allowed.
    /// @param checkpoint SHA-256 of the round's checkpoint, as in its CID.
    /// @param record SHA-256 of the round's record, as in its CID.
    /// @param payoutRoot Merkle root over `(account, cumulative)`.
    /// @param payoutTotal Sum of all cumulative amounts, in base units.
    struct RoundRoot {
        bytes32 run;
        uint64 round;
        bytes32 checkpoint;
        bytes32 record;
        bytes32 payoutRoot;
        uint256 payoutTotal;
    }

    /// @notice EIP-712 type hash of {RoundRoot}.
    bytes32 public constant ROUND_ROOT_TYPEHASH = keccak256(
        "RoundRoot(bytes32 run,uint64 round,bytes32 checkpoint,bytes32 record,bytes32 payoutRoot,uint256 payoutTotal)"
    );
    /// @notice A quorum attested a round; see {RoundRoot} for the fields.
    event RoundPosted(
        bytes32 indexed run,
        uint64 indexed round,
        bytes32 checkpoint,
        bytes32 record,
        bytes32 payoutRoot,
        uint256 payoutTotal
    );
    /// @notice A round's root does not pay before `claimableAt`, unix seconds. Follows {RoundPosted}.
    event RoundInWindow(bytes32 indexed run, uint64 indexed round, uint64 claimableAt);
    /// @notice A root in its window will never pay: vetoed by `by`, or left without a quorum by an equivocation.
    event RoundDropped(bytes32 indexed run, uint64 indexed round, address by);
    /// @notice A validator signed two statements for one round. Both digests are of {RoundRoot}s.
    event Equivocated(
        address indexed validator, bytes32 indexed run, uint64 indexed round, bytes32 first, bytes32 second
    );

    /// @notice Rounds only move forward: this one is not after the last one posted.
    error RoundNotLater(bytes32 run, uint64 round, uint64 posted);
    /// @notice The run ends before this round.
    error RoundBeyondRun(bytes32 run, uint64 round, uint64 rounds);
    /// @notice Cumulative pay cannot shrink.
    error PayoutTotalDecreased(bytes32 run, uint256 payoutTotal, uint256 posted);
    /// @notice The run's budget up to this round is smaller.
    error PayoutTotalTooLarge(bytes32 run, uint256 payoutTotal, uint256 max);
    /// @notice Only the guardian and the DAO may veto.
    error OnlyGuardian(address caller, address guardian);
    /// @notice This round's root is not in its window now.
    error NotInWindow(bytes32 run, uint64 round);
    /// @notice These are not two different statements about one round of one run.
    error NoEquivocation(bytes32 first, bytes32 second);
    /// @notice The two statements are signed by different accounts.
    error SignersDiffer(address first, address second);
    /// @notice The account never was a validator with something at stake here, or was punished for this already.
    error NotAccountable(address signer);

    // ------------------------------------------------------------------ what validators attest

    /// @notice Records a round that a quorum of validators signed. Anyone may hand it in.
    /// @param root The statement, see {RoundRoot}.
    /// @param signatures At least {quorum} signatures of {roundDigest}, 65 bytes each, sorted by signer address.
    function postRound(RoundRoot calldata root, bytes[] calldata signatures) external {
        Stream storage s = _streams[root.run];
        Course memory course = s.course;
        uint256 postedTotal = s.entries[course.head].payoutTotal;
        _check(root, course, s.rewardPerRound, postedTotal);
        (uint64 signers, uint16 version) = _requireQuorum(roundDigest(root), signatures);

        uint32 window = _challengeWindowS;
        _makeRoom(s, course, window);
        // forge-lint: disable-next-line(unsafe-typecast)
        course.left += uint112(root.payoutTotal - postedTotal); // at most the budget, bounded by BUDGET_MAX
        course.headAt = SafeCast.toUint32(block.timestamp + window);
        // forge-lint: disable-next-line(unsafe-typecast)
        course.posted = uint32(root.round); // at most course.rounds
        s.course = course;
        _write(s.entries[course.head], root, course.headAt, signers, version);
        emit RoundPosted(root.run, root.round, root.checkpoint, root.record, root.payoutRoot, root.payoutTotal);
        if (window != 0) emit RoundInWindow(root.run, root.round, course.headAt);
    }

    // ------------------------------------------------------------------ what may go wrong within the window

    /// @notice Drops a root in its window: it will never pay. The round's number is spent; validators attest a later.
    /// @param run The stream.
    /// @param round The round.
    function veto(bytes32 run, uint64 round) external {
        if (msg.sender != _guardian && msg.sender != dao) revert OnlyGuardian(msg.sender, _guardian);
        Stream storage s = _streams[run];
        (bool found, uint8 place) = _inWindow(s, round);
        if (!found) revert NotInWindow(run, round);
        _drop(s, place, run, round);
    }

    /// @notice Proves that a validator signed two statements for one round. It loses its bond to the treasury, its
    /// seat, and its signature on that round, which drops the round where too few are left and its window is open.
    /// Anyone may hand it in.
    /// @param first One statement.
    /// @param signatureOfFirst The validator's signature of {roundDigest} of it.
    /// @param second Another about the same run and round.
    /// @param signatureOfSecond The same validator's signature of {roundDigest} of that.
    function proveEquivocation(
        RoundRoot calldata first,
        bytes calldata signatureOfFirst,
        RoundRoot calldata second,
        bytes calldata signatureOfSecond
    ) external {
        (bytes32 one, bytes32 two) = (roundDigest(first), roundDigest(second));
        if (one == two || first.run != second.run || first.round != second.round) revert NoEquivocation(one, two);
        address signer = _signer(one, signatureOfFirst, 0);
        address other = _signer(two, signatureOfSecond, 1);
        if (signer != other) revert SignersDiffer(signer, other);

        emit Equivocated(signer, first.run, first.round, one, two);
        bool atStake = !isSlashed[signer] && (isValidator(signer) || keeperOf[signer] != address(0));
        if (!_strike(first.run, first.round, signer) && !atStake) revert NotAccountable(signer);
        _slash(signer);
    }

    // ------------------------------------------------------------------ views

    /// @notice What validators sign for a round: the EIP-712 digest on this chain, for this contract.
    /// @param root The statement.
    /// @return The digest.
    function roundDigest(RoundRoot calldata root) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    ROUND_ROOT_TYPEHASH,
                    root.run,
                    root.round,
                    root.checkpoint,
                    root.record,
                    root.payoutRoot,
                    root.payoutTotal
                )
            )
        );
    }

    // ------------------------------------------------------------------ internals

    /// @dev The root that pays now.
    function _paying(Stream storage s, Course memory course) internal view returns (Entry storage) {
        if (block.timestamp >= course.headAt) return s.entries[course.head];
        Entry storage waiting = s.entries[course.waiting]; // the settled one where none waits
        return block.timestamp >= waiting.claimableAt ? waiting : s.entries[course.settled];
    }

    /// @dev Whether the stream may have this round with this total.
    function _check(RoundRoot calldata root, Course memory course, uint256 rewardPerRound, uint256 postedTotal)
        private
        pure
    {
        if (course.rounds == 0) revert UnknownRun(root.run);
        if (course.closed) revert RunClosed(root.run);
        if (root.round <= course.posted) revert RoundNotLater(root.run, root.round, course.posted);
        if (root.round > course.rounds) revert RoundBeyondRun(root.run, root.round, course.rounds);
        uint256 budget = rewardPerRound * root.round;
        if (root.payoutTotal < postedTotal) revert PayoutTotalDecreased(root.run, root.payoutTotal, postedTotal);
        if (root.payoutTotal > budget) revert PayoutTotalTooLarge(root.run, root.payoutTotal, budget);
    }

    function _write(Entry storage e, RoundRoot calldata root, uint32 claimableAt, uint64 signers, uint16 version)
        private
    {
        (e.payoutRoot, e.checkpoint, e.record) = (root.payoutRoot, root.checkpoint, root.record);
        // forge-lint: disable-start(unsafe-typecast)
        e.payoutTotal = uint112(root.payoutTotal); // both were held against the stream's bounds
        e.round = uint32(root.round);
        // forge-lint: disable-end(unsafe-typecast)
        e.claimableAt = claimableAt;
        e.signers = signers;
        e.version = version;
    }

    /// @dev Settles what is out of its window and makes `course.head` a place that may be overwritten.
    function _makeRoom(Stream storage s, Course memory course, uint32 window) private view {
        if (block.timestamp >= course.headAt) {
            course.settled = course.waiting = course.head;
            if (window == 0) return; // the new root pays at once, so the old one is not needed any more
        } else if (course.waiting == course.settled) {
            course.waiting = course.head;
        } else if (block.timestamp >= s.entries[course.waiting].claimableAt) {
            (course.settled, course.waiting) = (course.waiting, course.head);
        }
        uint8 free = 0;
        while (free == course.settled || free == course.waiting) {
            ++free;
        }
        course.head = free;
    }

    /// @dev Where in `entries` a root of this round is that may pay later.
    function _inWindow(Stream storage s, uint64 round) private view returns (bool, uint8 place) {
        place = s.course.head;
        if (s.entries[place].round != round) place = s.course.waiting;
        return (s.entries[place].round == round && block.timestamp < s.entries[place].claimableAt, place);
    }

    /// @dev Takes a signer's signature off a root in its window, and drops the root where too few are left.
    /// @return Whether it was there.
    function _strike(bytes32 run, uint64 round, address signer) private returns (bool) {
        Stream storage s = _streams[run];
        (bool found, uint8 place) = _inWindow(s, round);
        Entry storage e = s.entries[place];
        uint64 seat = _seat(e.version, signer);
        if (!found || e.signers & seat == 0) return false;
        e.signers &= ~seat;
        if (_bits(e.signers) < _quorums[e.version]) _drop(s, place, run, round);
        return true;
    }

    function _drop(Stream storage s, uint8 place, bytes32 run, uint64 round) private {
        Course memory course = s.course;
        // slither-disable-next-line incorrect-equality (places are indices)
        if (course.waiting == place) course.waiting = course.settled;
        // slither-disable-next-line incorrect-equality (places are indices)
        if (course.head == place) {
            course.head = course.waiting;
            Entry storage last = s.entries[course.head];
            course.left -= s.entries[place].payoutTotal - last.payoutTotal;
            course.headAt = last.claimableAt;
        }
        s.course = course;
        emit RoundDropped(run, round, msg.sender);
    }

    function _signer(bytes32 digest, bytes calldata signature, uint256 index) private pure returns (address) {
        // slither-disable-next-line unused-return (the detail of a fault; the fault is looked at)
        (address signer, ECDSA.RecoverError fault,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (fault != ECDSA.RecoverError.NoError) revert MalformedSignature(index);
        return signer;
    }
}
