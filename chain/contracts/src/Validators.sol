// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {DaoToken} from "./DaoToken.sol";
import {VoteKeepers} from "./VoteKeeper.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title Validators
/// @notice Who may attest, k of n, and what each of them stands to lose: bonds in DAO tokens, unbonding after a delay,
/// slashing. The DAO names the set. A validator leaves it by unbonding below the required bond, or by being slashed.
/// @dev Knows no rounds: what a signature means, and when it is a fault, is the deriving contract's. Bonded tokens go
/// on voting for the validator (see `VoteKeeper`). A quorum is more than half of the seats named, so any two quorums
/// share one. Seats that were left are not refilled and the quorum stays: too few left, and nothing is attested until
/// the DAO names a new set.
abstract contract Validators is VoteKeepers {
    using SafeERC20 for DaoToken;

    /// @notice What the DAO decides about attestations.
    /// @param challengeWindowS Seconds from a root's posting until it pays; 0: it pays at once.
    /// @param unbondingDelayS Seconds from unbonding until withdrawal; at least the window.
    /// @param bond Base units of the DAO token that a validator must have bonded when it is named; may be 0.
    /// @param guardian Who besides the DAO may veto a root in its window; zero: nobody.
    struct Terms {
        uint32 challengeWindowS;
        uint32 unbondingDelayS;
        uint128 bond;
        address guardian;
    }

    /// @notice Most validators at a time. Replacing a full set by another costs under 2.2 million gas.
    uint256 public constant VALIDATORS_MAX = 64;
    /// @notice Longest window and delay: longer ones are mistyped units.
    uint256 public constant DELAY_S_MAX = 365 days;

    /// @notice The DAO's token: bonds, and what minted streams are paid in.
    DaoToken public immutable token;
    /// @notice The DAO's timelock.
    address public immutable dao;

    struct Bond {
        uint128 amount;
        uint128 leaving;
        uint64 availableAt;
    }

    /// @dev One slot, which every round reads. `_members` has a bit a seat of the set `_version`; who leaves loses it.
    uint32 internal _challengeWindowS;
    uint16 private _version;
    uint64 private _members;
    uint8 private _quorum;
    uint128 private _requiredBond;
    address internal _guardian;
    uint32 private _unbondingDelayS;
    mapping(uint256 version => uint256 quorum) internal _quorums;
    mapping(uint256 version => mapping(address account => uint256 seatPlusOne)) private _seats;
    address[] private _named;
    mapping(address validator => Bond) private _bonds;

    /// @notice Whether a validator was slashed. Its key is not accepted again.
    mapping(address validator => bool) public isSlashed;

    /// @notice The validator set was replaced, or someone left it.
    /// @param validators Who is in it, in the order named.
    /// @param quorum How many of them must sign a round.
    event ValidatorsChanged(address[] validators, uint256 quorum);
    /// @notice The DAO changed what it asks of attestations, see {Terms}.
    event TermsChanged(uint32 challengeWindowS, uint32 unbondingDelayS, uint128 bond, address guardian);
    /// @notice Somebody bonded `amount` for a validator, which now has `bond`.
    event Bonded(address indexed validator, address from, uint256 amount, uint256 bond);
    /// @notice A validator takes `amount` out of its bond; until `availableAt` it can still be slashed.
    event Unbonding(address indexed validator, uint256 amount, uint256 bond, uint64 availableAt);
    /// @notice A validator got back what it had unbonded.
    event BondWithdrawn(address indexed validator, uint256 amount);
    /// @notice A validator lost its bond, what it was unbonding, and its seat.
    event ValidatorSlashed(address indexed validator, uint256 amount);

    /// @notice An address that is needed was zero.
    error ZeroAddress(string field);
    /// @notice Only the DAO may do this, by a passed proposal.
    error OnlyDao(address caller, address dao);
    /// @notice A set must have from 1 to `max` validators.
    error ValidatorCountOutOfRange(uint256 count, uint256 max);
    /// @notice A quorum must be more than half of the validators and no more than all.
    error QuorumOutOfRange(uint256 quorum, uint256 validators);
    /// @notice The zero address cannot sign.
    error ZeroValidator(uint256 index);
    /// @notice A validator was named twice.
    error DuplicateValidator(address validator);
    /// @notice A validator must bond this much before it is named.
    error BondTooSmall(address validator, uint256 bond, uint256 required);
    /// @notice A slashed key is not accepted again.
    error SlashedValidator(address validator);
    /// @notice Delays run from the window to a year, windows from 0.
    error DelayOutOfRange(uint256 challengeWindowS, uint256 unbondingDelayS, uint256 max);
    /// @notice Nothing is bonded or unbonded by this amount.
    error AmountOutOfRange(uint256 amount, uint256 max);
    /// @notice The unbonding delay is not over, or nothing is being unbonded (`availableAt` 0).
    error NotWithdrawable(address validator, uint256 amount, uint64 availableAt);
    /// @notice Fewer signatures than the quorum.
    error TooFewSignatures(uint256 given, uint256 quorum);
    /// @notice The signature at `index` is not a 65-byte secp256k1 signature with a low `s`.
    error MalformedSignature(uint256 index);
    /// @notice Signatures must be sorted by signer address, each signer once.
    error SignersNotAscending(uint256 index, address signer, address previous);
    /// @notice The signature at `index` is of an account that is no validator, or of another statement.
    error NotValidator(uint256 index, address signer);

    modifier onlyDao() {
        _requireDao();
        _;
    }

    constructor(DaoToken token_, address dao_) {
        if (address(token_) == address(0)) revert ZeroAddress("token");
        if (dao_ == address(0)) revert ZeroAddress("dao");
        token = token_;
        dao = dao_;
    }

    // ------------------------------------------------------------------ what the DAO decides

    /// @notice Replaces the validator set. Rounds posted before stand, and their signers stay accountable.
    /// @param validators_ From 1 to {VALIDATORS_MAX} distinct accounts with a key (no contracts: they cannot sign).
    /// @param quorum_ How many must sign a round: more than half of them, so that two quorums always share a signer.
    function setValidators(address[] calldata validators_, uint256 quorum_) external onlyDao {
        _setValidators(validators_, quorum_);
    }

    /// @notice Changes window, delay, bond and guardian. Roots in their window keep the window they were posted with;
    /// validators in the set stay in it.
    /// @param terms_ See {Terms}.
    function setTerms(Terms calldata terms_) external onlyDao {
        _setTerms(terms_);
    }

    // ------------------------------------------------------------------ bonds

    /// @notice Bonds the caller's DAO tokens for a validator. They are the validator's from now on.
    /// @param validator For whom.
    /// @param amount How many base units, at least 1; the caller must have approved them.
    function bond(address validator, uint128 amount) external {
        if (isSlashed[validator]) revert SlashedValidator(validator);
        if (amount == 0) revert AmountOutOfRange(0, type(uint128).max);
        if (validator == address(0)) revert ZeroAddress("validator");
        uint128 bonded = _bonds[validator].amount + amount;
        _bonds[validator].amount = bonded;
        emit Bonded(validator, msg.sender, amount, bonded);
        token.safeTransferFrom(msg.sender, _keeper(address(token), validator), amount);
    }

    /// @notice Takes the caller's tokens out of its bond, to be withdrawn after the delay (which starts anew for all
    /// that is on its way). Below the required bond it leaves the validator set.
    /// @param amount How many base units, at most its bond.
    function unbond(uint128 amount) external {
        Bond storage b = _bonds[msg.sender];
        if (amount == 0 || amount > b.amount) revert AmountOutOfRange(amount, b.amount);
        b.amount -= amount;
        b.leaving += amount;
        b.availableAt = uint64(block.timestamp + _unbondingDelayS);
        emit Unbonding(msg.sender, amount, b.amount, b.availableAt);
        if (b.amount < _requiredBond) _leave(msg.sender);
    }

    /// @notice Sends the caller what it unbonded, once the delay is over.
    function withdrawBond() external {
        Bond storage b = _bonds[msg.sender];
        uint256 amount = b.leaving;
        if (amount == 0 || block.timestamp < b.availableAt) {
            revert NotWithdrawable(msg.sender, amount, b.availableAt);
        }
        (b.leaving, b.availableAt) = (0, 0);
        emit BondWithdrawn(msg.sender, amount);
        // slither-disable-next-line arbitrary-send-erc20 (the caller's own keeper, which holds the caller's bond)
        token.safeTransferFrom(keeperOf[msg.sender], msg.sender, amount);
    }

    // ------------------------------------------------------------------ views

    /// @notice The validators, in the order in which they were named, without those who left.
    /// @return present At most {VALIDATORS_MAX} accounts.
    function validators() public view returns (address[] memory present) {
        uint256 members = _members;
        present = new address[](_bits(members));
        uint256 found = 0;
        for (uint256 i = 0; found < present.length; ++i) {
            if (members >> i & 1 == 1) present[found++] = _named[i];
        }
    }

    /// @notice How many validators must sign a round.
    /// @return Signatures.
    function quorum() external view returns (uint256) {
        return _quorum;
    }

    /// @notice Whether an account is a validator now.
    /// @param account Any account.
    /// @return True where its signature counts.
    function isValidator(address account) public view returns (bool) {
        return _members & _seat(_version, account) != 0;
    }

    /// @notice What the DAO asks of attestations now.
    /// @return See {Terms}.
    function terms() external view returns (Terms memory) {
        return Terms(_challengeWindowS, _unbondingDelayS, _requiredBond, _guardian);
    }

    /// @notice What a validator has bonded.
    /// @param validator Any account.
    /// @return amount Base units bonded.
    /// @return leaving Base units on their way out, which can still be slashed.
    /// @return availableAt When they may be withdrawn, unix seconds.
    function bondOf(address validator) external view returns (uint128 amount, uint128 leaving, uint64 availableAt) {
        Bond storage b = _bonds[validator];
        return (b.amount, b.leaving, b.availableAt);
    }

    // ------------------------------------------------------------------ internals

    function _setTerms(Terms memory terms_) internal {
        if (terms_.unbondingDelayS < terms_.challengeWindowS || terms_.unbondingDelayS > DELAY_S_MAX) {
            revert DelayOutOfRange(terms_.challengeWindowS, terms_.unbondingDelayS, DELAY_S_MAX);
        }
        (_challengeWindowS, _unbondingDelayS) = (terms_.challengeWindowS, terms_.unbondingDelayS);
        (_requiredBond, _guardian) = (terms_.bond, terms_.guardian);
        emit TermsChanged(terms_.challengeWindowS, terms_.unbondingDelayS, terms_.bond, terms_.guardian);
    }

    /// @dev A new version, so that the seats of the old set need not be cleared.
    function _setValidators(address[] memory validators_, uint256 quorum_) internal {
        uint256 count = validators_.length;
        if (count == 0 || count > VALIDATORS_MAX) revert ValidatorCountOutOfRange(count, VALIDATORS_MAX);
        if (quorum_ > count || 2 * quorum_ <= count) revert QuorumOutOfRange(quorum_, count);

        uint16 version = ++_version;
        uint256 required = _requiredBond;
        for (uint256 i = 0; i < count; ++i) {
            address validator = validators_[i];
            if (validator == address(0)) revert ZeroValidator(i);
            if (_seats[version][validator] != 0) revert DuplicateValidator(validator);
            if (isSlashed[validator]) revert SlashedValidator(validator);
            if (_bonds[validator].amount < required) {
                revert BondTooSmall(validator, _bonds[validator].amount, required);
            }
            _seats[version][validator] = i + 1;
        }
        _named = validators_;
        _quorums[version] = quorum_;
        // forge-lint: disable-next-line(unsafe-typecast)
        (_members, _quorum) = (uint64(type(uint64).max >> (64 - count)), uint8(quorum_)); // quorum is at most 64
        emit ValidatorsChanged(validators_, quorum_);
    }

    /// @dev Takes everything that a validator has bonded, for the DAO's treasury, and its seat. Nothing the second time.
    function _slash(address validator) internal {
        if (isSlashed[validator]) return;
        isSlashed[validator] = true;
        Bond storage b = _bonds[validator];
        uint256 amount = uint256(b.amount) + b.leaving;
        delete _bonds[validator];
        emit ValidatorSlashed(validator, amount);
        _leave(validator);
        // slither-disable-next-line arbitrary-send-erc20 (the slashed validator's own keeper)
        if (amount != 0) token.safeTransferFrom(keeperOf[validator], dao, amount);
    }

    /// @dev Signers as a bitmap of seats. Ascending signers make distinctness one comparison a signature.
    function _requireQuorum(bytes32 digest, bytes[] calldata signatures)
        internal
        view
        returns (uint64 signers, uint16 version)
    {
        uint64 members = _members;
        version = _version;
        if (signatures.length < _quorum) revert TooFewSignatures(signatures.length, _quorum);
        address previous = address(0);
        for (uint256 i = 0; i < signatures.length; ++i) {
            // slither-disable-next-line unused-return (the detail of a fault; the fault is looked at)
            (address signer, ECDSA.RecoverError fault,) = ECDSA.tryRecoverCalldata(digest, signatures[i]);
            if (fault != ECDSA.RecoverError.NoError) revert MalformedSignature(i);
            uint64 seat = _seat(version, signer);
            if (members & seat == 0) revert NotValidator(i, signer);
            if (signer <= previous) revert SignersNotAscending(i, signer, previous);
            previous = signer;
            signers |= seat;
        }
    }

    /// @dev The bit of an account's seat in a set; 0 where it never had one.
    function _seat(uint256 version, address account) internal view returns (uint64) {
        uint256 seatPlusOne = _seats[version][account];
        // forge-lint: disable-next-line(unsafe-typecast,incorrect-shift)
        return seatPlusOne == 0 ? 0 : uint64(1 << (seatPlusOne - 1)); // at most 64 seats
    }

    /// @dev How many bits are set.
    function _bits(uint256 map) internal pure returns (uint256 set) {
        for (; map != 0; map &= map - 1) {
            ++set;
        }
    }

    function _requireDao() internal view {
        if (msg.sender != dao) revert OnlyDao(msg.sender, dao);
    }

    function _leave(address validator) private {
        uint64 seat = _seat(_version, validator);
        if (_members & seat == 0) return;
        _members &= ~seat;
        emit ValidatorsChanged(validators(), _quorum);
    }
}
