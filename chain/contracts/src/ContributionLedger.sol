// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {DaoToken} from "./DaoToken.sol";
import {Rounds} from "./Rounds.sol";
import {Validators} from "./Validators.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

/// @title ContributionLedger
/// @notice What a DAO's streams of work produced and whom they owe. Streams, rounds and their windows are {Rounds}'
/// part, validators and bonds {Validators}'; this part pays. Anyone may hand in attestations and claims, so neither
/// validators nor contributors need gas money.
/// @dev The ledger needs `MINTER_ROLE` on the token. For a minted stream it mints no more than
/// `rewardPerRound * round`, and no more than validators attested; from a funded one it pays no more than came in.
contract ContributionLedger is Rounds {
    using SafeERC20 for IERC20;

    /// @notice One claim of a batch.
    /// @param account Who earned.
    /// @param cumulative What it has earned in the run so far.
    /// @param proof Siblings from the leaf up.
    struct Earning {
        address account;
        uint256 cumulative;
        bytes32[] proof;
    }

    enum Fault {
        None,
        Nothing,
        Proof,
        Total,
        Funds
    }

    /// @notice What an account has been paid for a run, in base units.
    mapping(bytes32 run => mapping(address account => uint256 amount)) public claimed;

    mapping(address account => address payee) private _payees;

    /// @notice An account was paid for a run.
    /// @param run The run.
    /// @param account Who earned it.
    /// @param payee Who received it.
    /// @param amount How many base units this claim paid.
    event Claimed(bytes32 indexed run, address indexed account, address payee, uint256 amount);
    /// @notice A claim in a batch was not paid: paid before, not in the root, or above a total.
    event ClaimSkipped(bytes32 indexed run, address indexed account);
    /// @notice An account changed where its earnings go.
    /// @param account Who earns.
    /// @param payee Who receives; the account itself after a reset.
    event PayoutChanged(address indexed account, address payee);

    /// @notice The account has already been paid this much, or no claim of a batch could be paid.
    error NothingToClaim();
    /// @notice The root that pays now does not contain this account with this amount.
    error InvalidProof(bytes32 run, address account, uint256 cumulative);
    /// @notice The root's leaves sum to more than the total that was attested with it.
    error ClaimExceedsTotal(bytes32 run, uint256 amount, uint256 left);
    /// @notice The stream was not funded for this claim.
    error ClaimExceedsFunds(bytes32 run, uint256 amount, uint256 left);

    /// @notice Deploys a ledger without runs.
    /// @param token_ The DAO token, minted by claims and bonded by validators.
    /// @param dao_ The DAO's timelock.
    /// @param validators_ The first validators, see {setValidators}. They need no bond yet: nobody can have one.
    /// @param quorum_ How many of them must sign a round.
    /// @param terms_ Window, unbonding delay, bond and guardian, see {Terms}.
    constructor(DaoToken token_, address dao_, address[] memory validators_, uint256 quorum_, Terms memory terms_)
        EIP712("Eigen ContributionLedger", "1")
        Validators(token_, dao_)
    {
        _setValidators(validators_, quorum_);
        _setTerms(terms_);
    }

    // ------------------------------------------------------------------ what accounts are paid

    /// @notice Pays an account what the run's latest root out of its window says beyond what it was paid before.
    /// Anyone may ask.
    /// @dev A leaf is `keccak256(keccak256(abi.encode(account, cumulative)))`, pairs are sorted (OpenZeppelin's
    /// standard tree). Pays to {payoutOf} the account.
    /// @param run The run.
    /// @param account Who earned it.
    /// @param cumulative What the account has earned in this run so far, in base units.
    /// @param proof Siblings from the leaf up.
    function claim(bytes32 run, address account, uint256 cumulative, bytes32[] calldata proof) external {
        Stream storage s = _streams[run];
        Course memory course = s.course;
        (bytes32 root, uint256 left, Fault above) = _due(s, course);
        (uint256 amount, Fault fault) = _judge(root, run, account, cumulative, proof);
        if (fault == Fault.Nothing) revert NothingToClaim();
        if (fault == Fault.Proof) revert InvalidProof(run, account, cumulative);
        // slither-disable-next-line incorrect-equality (an enum)
        if (amount > left && above == Fault.Total) revert ClaimExceedsTotal(run, amount, left);
        if (amount > left) revert ClaimExceedsFunds(run, amount, left);

        // forge-lint: disable-next-line(unsafe-typecast)
        s.course.left = course.left - uint112(amount); // at most `left`
        address payee = _book(run, account, cumulative, amount);
        if (course.minted) token.credit(payee, amount);
        else s.asset.safeTransfer(payee, amount);
    }

    /// @notice Pays many accounts of one run in one transaction, and skips those that cannot be paid, each with
    /// {ClaimSkipped}. Reverts with {NothingToClaim} where none can, and as a whole where a funded stream's asset refuses
    /// a payee (a dry run tells).
    /// @param run The run.
    /// @param earnings Whose claims, see {Earning}.
    /// @return count How many were paid.
    function multiClaim(bytes32 run, Earning[] calldata earnings) external returns (uint256 count) {
        address[] memory payees = new address[](earnings.length);
        uint256[] memory amounts = new uint256[](earnings.length);
        (bytes32 root, uint256 left,) = _due(_streams[run], _streams[run].course);
        for (uint256 i = 0; i < earnings.length; ++i) {
            Earning calldata e = earnings[i];
            (uint256 amount, Fault fault) = _judge(root, run, e.account, e.cumulative, e.proof);
            if (fault != Fault.None || amount > left) {
                emit ClaimSkipped(run, e.account);
                continue;
            }
            left -= amount;
            amounts[count] = amount;
            payees[count++] = _book(run, e.account, e.cumulative, amount);
        }
        if (count == 0) revert NothingToClaim();
        _pay(_streams[run], payees, amounts, count);
    }

    /// @notice Sends the caller's future earnings to another account, such as a cold wallet.
    /// @param payee Who shall receive them. Zero: the caller itself again.
    function setPayout(address payee) external {
        _payees[msg.sender] = payee;
        emit PayoutChanged(msg.sender, payoutOf(msg.sender));
    }

    // ------------------------------------------------------------------ views

    /// @notice A run's terms and what it has paid. All zero for a run that was never opened.
    /// @param run The run.
    /// @return spec SHA-256 of its canonical spec.
    /// @return rounds How many rounds it may have.
    /// @return rewardPerRound Base units that each round adds to its budget.
    /// @return seed Drawn when it was opened.
    /// @return claimedTotal Base units paid so far.
    function runs(bytes32 run)
        external
        view
        returns (bytes32 spec, uint64 rounds, uint128 rewardPerRound, bytes32 seed, uint256 claimedTotal)
    {
        Stream storage s = _streams[run];
        return (s.spec, s.course.rounds, s.rewardPerRound, s.seed, _claimedTotal(s, s.course));
    }

    /// @notice What a stream is paid in, and for. All zero for one that was never opened.
    /// @param run The stream.
    /// @return kind What it pays for.
    /// @return asset What it is paid in.
    /// @return minted Whether claims mint; else they are paid from what was funded.
    /// @return closed Whether the DAO ended it.
    /// @return fundedTotal Base units that came in.
    function streams(bytes32 run)
        external
        view
        returns (Kind kind, address asset, bool minted, bool closed, uint256 fundedTotal)
    {
        Stream storage s = _streams[run];
        return (s.course.kind, address(s.asset), s.course.minted, s.course.closed, s.fundedTotal);
    }

    /// @notice The last round posted for a run and not dropped. All zero before the first.
    /// @param run The run.
    /// @return round Its number.
    /// @return checkpoint SHA-256 of its checkpoint.
    /// @return record SHA-256 of its record.
    /// @return payoutRoot Merkle root over `(account, cumulative)`.
    /// @return payoutTotal Sum of all cumulative amounts.
    function head(bytes32 run)
        external
        view
        returns (uint64 round, bytes32 checkpoint, bytes32 record, bytes32 payoutRoot, uint256 payoutTotal)
    {
        Entry storage e = _streams[run].entries[_streams[run].course.head];
        return (e.round, e.checkpoint, e.record, e.payoutRoot, e.payoutTotal);
    }

    /// @notice The round whose root pays now: the latest out of its window. All zero before the first.
    /// @param run The run.
    /// @return round Its number.
    /// @return checkpoint SHA-256 of its checkpoint.
    /// @return record SHA-256 of its record.
    /// @return payoutRoot Merkle root over `(account, cumulative)`.
    /// @return payoutTotal Sum of all cumulative amounts.
    function paying(bytes32 run)
        external
        view
        returns (uint64 round, bytes32 checkpoint, bytes32 record, bytes32 payoutRoot, uint256 payoutTotal)
    {
        Entry storage e = _paying(_streams[run], _streams[run].course);
        return (e.round, e.checkpoint, e.record, e.payoutRoot, e.payoutTotal);
    }

    /// @notice The roots of a run that may pay later, oldest first.
    /// @param run The run.
    /// @return waitingRound The older one's round; 0: none.
    /// @return waitingAt When it pays, unix seconds.
    /// @return headRound The latest one's round; 0: none.
    /// @return headAt When it pays, unix seconds.
    function pending(bytes32 run)
        external
        view
        returns (uint64 waitingRound, uint64 waitingAt, uint64 headRound, uint64 headAt)
    {
        Course memory course = _streams[run].course;
        if (block.timestamp < course.headAt) {
            (headRound, headAt) = (_streams[run].entries[course.head].round, course.headAt);
        }
        Entry storage older = _streams[run].entries[course.waiting];
        if (course.waiting != course.head && block.timestamp < older.claimableAt) {
            (waitingRound, waitingAt) = (older.round, older.claimableAt);
        }
    }

    /// @notice Where an account's earnings go.
    /// @param account Who earns.
    /// @return The payee that it named, or itself.
    function payoutOf(address account) public view returns (address) {
        address payee = _payees[account];
        return payee == address(0) ? account : payee;
    }

    // ------------------------------------------------------------------ internals

    /// @dev The root that pays now, how much it may still pay in all, and what bounds that.
    function _due(Stream storage s, Course memory course)
        private
        view
        returns (bytes32 root, uint256 left, Fault above)
    {
        Entry storage e = _paying(s, course);
        (root, left, above) = (e.payoutRoot, course.left, Fault.Total);
        if (course.minted && block.timestamp >= course.headAt) return (root, left, above);

        uint256 claimedTotal = _claimedTotal(s, course);
        left = e.payoutTotal - claimedTotal;
        if (course.minted) return (root, left, above);
        uint256 funds = s.fundedTotal - claimedTotal;
        if (funds < left) (left, above) = (funds, Fault.Funds);
    }

    function _claimedTotal(Stream storage s, Course memory course) private view returns (uint256) {
        return s.entries[course.head].payoutTotal - course.left;
    }

    /// @dev What a claim would pay, and what is wrong with its proof.
    function _judge(bytes32 root, bytes32 run, address account, uint256 cumulative, bytes32[] calldata proof)
        private
        view
        returns (uint256, Fault)
    {
        uint256 paid = claimed[run][account];
        if (cumulative <= paid) return (0, Fault.Nothing);
        bytes32 inner = Hashes.efficientKeccak256(bytes32(uint256(uint160(account))), bytes32(cumulative));
        if (!MerkleProof.verifyCalldata(proof, root, keccak256(abi.encode(inner)))) return (0, Fault.Proof);
        return (cumulative - paid, Fault.None);
    }

    function _book(bytes32 run, address account, uint256 cumulative, uint256 amount) private returns (address payee) {
        claimed[run][account] = cumulative;
        payee = payoutOf(account);
        emit Claimed(run, account, payee, amount);
    }

    /// @dev Pays the first `count` of the lists.
    function _pay(Stream storage s, address[] memory payees, uint256[] memory amounts, uint256 count) private {
        uint256 sum = 0;
        for (uint256 i = 0; i < count; ++i) {
            sum += amounts[i];
        }
        // forge-lint: disable-next-line(unsafe-typecast)
        s.course.left -= uint112(sum); // at most `left`
        if (s.course.minted) {
            assembly ("memory-safe") {
                mstore(payees, count)
                mstore(amounts, count)
            }
            return token.creditMany(payees, amounts);
        }
        IERC20 asset = s.asset;
        for (uint256 i = 0; i < count; ++i) {
            asset.safeTransfer(payees[i], amounts[i]);
        }
    }
}
