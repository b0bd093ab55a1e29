// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {DaoToken} from "./DaoToken.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

/// @title ContributionLedger
/// @notice What a DAO's training runs produced and whom they owe. The DAO opens a run and names validators. A quorum of
/// validators attests each round: its checkpoint, its record, and a Merkle root of what every account has earned so
/// far. Anyone may hand in attestations and claims, so neither validators nor contributors need gas money.
/// @dev Earnings are cumulative, so the latest root alone pays everything and a lost round loses nobody's pay. The
/// ledger needs `MINTER_ROLE` on the token. It mints no more than `rewardPerRound * round` for a run, and no more than
/// the validators attested. It knows nothing of how the DAO decides or how work is scored.
contract ContributionLedger is EIP712 {
    /// @notice What validators sign of one round (EIP-712).
    /// @param run Which run.
    /// @param round Its number, from 1. Gaps are allowed.
    /// @param checkpoint SHA-256 of the round's checkpoint, as in its CID.
    /// @param record SHA-256 of the round's record, as in its CID.
    /// @param payoutRoot Merkle root over `(account, cumulative)`, see {claim}.
    /// @param payoutTotal Sum of all cumulative amounts, in base units.
    struct RoundRoot {
        bytes32 run;
        uint64 round;
        bytes32 checkpoint;
        bytes32 record;
        bytes32 payoutRoot;
        uint256 payoutTotal;
    }

    /// @dev Seven slots. A later round writes five of them, a claim writes one: `claimedTotal` shares a slot with the
    /// `payoutTotal` that bounds it, and `round` with the two numbers that bound it. A run exists when `rounds > 0`.
    struct Run {
        bytes32 spec;
        bytes32 seed;
        uint64 rounds;
        uint128 rewardPerRound;
        uint64 round;
        bytes32 checkpoint;
        bytes32 record;
        bytes32 payoutRoot;
        uint128 payoutTotal;
        uint128 claimedTotal;
    }

    /// @notice EIP-712 type hash of {RoundRoot}.
    bytes32 public constant ROUND_ROOT_TYPEHASH = keccak256(
        "RoundRoot(bytes32 run,uint64 round,bytes32 checkpoint,bytes32 record,bytes32 payoutRoot,uint256 payoutTotal)"
    );

    /// @notice Most validators at a time. Replacing a full set by another costs under 2 million gas.
    uint256 public constant VALIDATORS_MAX = 64;

    /// @notice Most base units that one run may ever pay: what a `Run` has room for.
    uint256 public constant BUDGET_MAX = type(uint128).max;

    /// @notice The token that claims are paid in.
    DaoToken public immutable token;

    /// @notice The only account that may open runs and name validators: the DAO's timelock.
    address public immutable dao;

    /// @notice How many validators must sign a round.
    uint256 public quorum;

    /// @notice Whether an account is a validator now.
    mapping(address account => bool) public isValidator;

    /// @notice What an account has been paid for a run, in base units.
    mapping(bytes32 run => mapping(address account => uint256 amount)) public claimed;

    address[] private _validators;
    mapping(bytes32 run => Run) private _runs;
    mapping(address account => address payee) private _payees;

    /// @notice A run may train and be paid.
    /// @param run The run.
    /// @param spec SHA-256 of the canonical run spec that the DAO voted for.
    /// @param rounds How many rounds it may have.
    /// @param rewardPerRound Base units that each round adds to its budget.
    /// @param seed Drawn from the chain at opening, so that nobody knows it while the DAO votes.
    event RunOpened(bytes32 indexed run, bytes32 spec, uint64 rounds, uint128 rewardPerRound, bytes32 seed);

    /// @notice The validator set was replaced.
    /// @param validators The new set, in the order given.
    /// @param quorum How many of them must sign a round.
    event ValidatorsChanged(address[] validators, uint256 quorum);

    /// @notice A quorum attested a round; see {RoundRoot} for the fields.
    event RoundPosted(
        bytes32 indexed run,
        uint64 indexed round,
        bytes32 checkpoint,
        bytes32 record,
        bytes32 payoutRoot,
        uint256 payoutTotal
    );

    /// @notice An account was paid for a run.
    /// @param run The run.
    /// @param account Who earned it.
    /// @param payee Who received it.
    /// @param amount How many base units this claim paid.
    event Claimed(bytes32 indexed run, address indexed account, address payee, uint256 amount);

    /// @notice An account changed where its earnings go.
    /// @param account Who earns.
    /// @param payee Who receives; the account itself after a reset.
    event PayoutChanged(address indexed account, address payee);

    /// @notice An address that the constructor needs was zero.
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
    /// @notice A run is opened once.
    error RunAlreadyOpen(bytes32 run);
    /// @notice A run must have at least one round.
    error RunWithoutRounds(bytes32 run);
    /// @notice `rounds * rewardPerRound` is more than a run may pay.
    error BudgetTooLarge(bytes32 run, uint256 budget, uint256 max);
    /// @notice The DAO has not opened this run.
    error UnknownRun(bytes32 run);
    /// @notice Rounds only move forward: this one is not after the last one posted.
    error RoundNotLater(bytes32 run, uint64 round, uint64 posted);
    /// @notice The run ends before this round.
    error RoundBeyondRun(bytes32 run, uint64 round, uint64 rounds);
    /// @notice Cumulative pay cannot shrink.
    error PayoutTotalDecreased(bytes32 run, uint256 payoutTotal, uint256 posted);
    /// @notice The run's budget up to this round is smaller.
    error PayoutTotalTooLarge(bytes32 run, uint256 payoutTotal, uint256 max);
    /// @notice Fewer signatures than the quorum.
    error TooFewSignatures(uint256 given, uint256 quorum);
    /// @notice The signature at `index` is not a 65-byte secp256k1 signature with a low `s`.
    error MalformedSignature(uint256 index);
    /// @notice Signatures must be sorted by signer address, each signer once.
    error SignersNotAscending(uint256 index, address signer, address previous);
    /// @notice The signature at `index` is of an account that is no validator, or of another statement.
    error NotValidator(uint256 index, address signer);
    /// @notice The account has already been paid this much.
    error NothingToClaim();
    /// @notice The latest root of the run does not contain this account with this amount.
    error InvalidProof(bytes32 run, address account, uint256 cumulative);
    /// @notice The root's leaves sum to more than the total that was attested with it.
    error ClaimExceedsTotal(bytes32 run, uint256 amount, uint256 left);

    modifier onlyDao() {
        if (msg.sender != dao) revert OnlyDao(msg.sender, dao);
        _;
    }

    /// @notice Deploys a ledger without runs.
    /// @param token_ The token that claims mint.
    /// @param dao_ The DAO's timelock.
    /// @param validators_ The first validators, see {setValidators}.
    /// @param quorum_ How many of them must sign a round.
    constructor(DaoToken token_, address dao_, address[] memory validators_, uint256 quorum_)
        EIP712("Eigen ContributionLedger", "1")
    {
        if (address(token_) == address(0)) revert ZeroAddress("token");
        if (dao_ == address(0)) revert ZeroAddress("dao");
        token = token_;
        dao = dao_;
        _setValidators(validators_, quorum_);
    }

    // ------------------------------------------------------------------ what the DAO decides

    /// @notice Opens a run that the DAO has voted for.
    /// @dev The seed mixes the parent's hash and the block's RANDAO value (EIP-4399), so it is unknown while the DAO
    /// votes. It is not free of bias: whoever builds the block may withhold it, and whoever executes the proposal may
    /// do so from a contract that reverts on a seed it dislikes, for as long as nobody else executes it.
    /// @param run The run's id, the SHA-256 of its tagged canonical spec.
    /// @param spec SHA-256 of its canonical spec.
    /// @param rounds How many rounds it may have, at least 1.
    /// @param rewardPerRound Base units that each round adds to its budget; may be 0.
    function openRun(bytes32 run, bytes32 spec, uint64 rounds, uint128 rewardPerRound) external onlyDao {
        Run storage r = _runs[run];
        if (r.rounds != 0) revert RunAlreadyOpen(run);
        if (rounds == 0) revert RunWithoutRounds(run);
        uint256 budget = uint256(rounds) * rewardPerRound;
        if (budget > BUDGET_MAX) revert BudgetTooLarge(run, budget, BUDGET_MAX);

        bytes32 seed = keccak256(abi.encode(blockhash(block.number - 1), block.prevrandao, run));
        r.spec = spec;
        r.seed = seed;
        r.rounds = rounds;
        r.rewardPerRound = rewardPerRound;
        emit RunOpened(run, spec, rounds, rewardPerRound, seed);
    }

    /// @notice Replaces the validator set. Rounds posted before stand.
    /// @param validators_ From 1 to {VALIDATORS_MAX} distinct accounts with a key (no contracts: they cannot sign).
    /// @param quorum_ How many must sign a round: more than half of them, so that two quorums always share a signer.
    function setValidators(address[] calldata validators_, uint256 quorum_) external onlyDao {
        _setValidators(validators_, quorum_);
    }

    // ------------------------------------------------------------------ what validators attest

    /// @notice Records a round that a quorum of validators signed. Anyone may hand it in.
    /// @param root The statement, see {RoundRoot}.
    /// @param signatures At least {quorum} signatures of {roundDigest}, 65 bytes each, sorted by signer address.
    function postRound(RoundRoot calldata root, bytes[] calldata signatures) external {
        Run storage r = _runs[root.run];
        (uint64 rounds, uint128 rewardPerRound, uint64 posted) = (r.rounds, r.rewardPerRound, r.round);
        if (rounds == 0) revert UnknownRun(root.run);
        if (root.round <= posted) revert RoundNotLater(root.run, root.round, posted);
        if (root.round > rounds) revert RoundBeyondRun(root.run, root.round, rounds);

        uint256 budget = uint256(rewardPerRound) * root.round;
        uint256 postedTotal = r.payoutTotal;
        if (root.payoutTotal < postedTotal) revert PayoutTotalDecreased(root.run, root.payoutTotal, postedTotal);
        if (root.payoutTotal > budget) revert PayoutTotalTooLarge(root.run, root.payoutTotal, budget);
        _requireQuorum(roundDigest(root), signatures);

        r.round = root.round;
        r.checkpoint = root.checkpoint;
        r.record = root.record;
        r.payoutRoot = root.payoutRoot;
        // forge-lint: disable-next-line(unsafe-typecast)
        r.payoutTotal = uint128(root.payoutTotal); // at most the budget, which openRun bounds by BUDGET_MAX
        emit RoundPosted(root.run, root.round, root.checkpoint, root.record, root.payoutRoot, root.payoutTotal);
    }

    // ------------------------------------------------------------------ what accounts are paid

    /// @notice Pays an account what the run's latest root says beyond what it was paid before. Anyone may ask.
    /// @dev A leaf is `keccak256(keccak256(abi.encode(account, cumulative)))`, pairs are sorted (OpenZeppelin's
    /// standard tree). Mints to {payoutOf} the account.
    /// @param run The run.
    /// @param account Who earned it.
    /// @param cumulative What the account has earned in this run so far, in base units.
    /// @param proof Siblings from the leaf up.
    function claim(bytes32 run, address account, uint256 cumulative, bytes32[] calldata proof) external {
        uint256 paid = claimed[run][account];
        if (cumulative <= paid) revert NothingToClaim();
        Run storage r = _runs[run];
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))));
        if (!MerkleProof.verifyCalldata(proof, r.payoutRoot, leaf)) revert InvalidProof(run, account, cumulative);

        uint256 amount = cumulative - paid;
        (uint128 payoutTotal, uint128 claimedTotal) = (r.payoutTotal, r.claimedTotal);
        if (amount > payoutTotal - claimedTotal) revert ClaimExceedsTotal(run, amount, payoutTotal - claimedTotal);
        claimed[run][account] = cumulative;
        // forge-lint: disable-next-line(unsafe-typecast)
        r.claimedTotal = claimedTotal + uint128(amount); // amount is at most payoutTotal, a uint128

        address payee = payoutOf(account);
        emit Claimed(run, account, payee, amount);
        token.mint(payee, amount);
    }

    /// @notice Sends the caller's future earnings to another account, such as a cold wallet.
    /// @param payee Who shall receive them. Zero: the caller itself again.
    function setPayout(address payee) external {
        _payees[msg.sender] = payee;
        emit PayoutChanged(msg.sender, payoutOf(msg.sender));
    }

    // ------------------------------------------------------------------ views

    /// @notice The validators, in the order in which they were named.
    /// @return The whole set, at most {VALIDATORS_MAX}.
    function validators() external view returns (address[] memory) {
        return _validators;
    }

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
        Run storage r = _runs[run];
        return (r.spec, r.rounds, r.rewardPerRound, r.seed, r.claimedTotal);
    }

    /// @notice The last round posted for a run. All zero before the first.
    /// @param run The run.
    /// @return round Its number.
    /// @return checkpoint SHA-256 of its checkpoint.
    /// @return record SHA-256 of its record.
    /// @return payoutRoot Merkle root of cumulative earnings.
    /// @return payoutTotal Their sum, in base units.
    function head(bytes32 run)
        external
        view
        returns (uint64 round, bytes32 checkpoint, bytes32 record, bytes32 payoutRoot, uint256 payoutTotal)
    {
        Run storage r = _runs[run];
        return (r.round, r.checkpoint, r.record, r.payoutRoot, r.payoutTotal);
    }

    /// @notice Who receives what an account earns.
    /// @param account Who earns.
    /// @return The payee that the account chose, or the account itself.
    function payoutOf(address account) public view returns (address) {
        address payee = _payees[account];
        return payee == address(0) ? account : payee;
    }

    /// @notice The EIP-712 digest that validators sign for a round.
    /// @param root The statement.
    /// @return The digest in this ledger's domain on this chain.
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

    /// @dev Ascending signers make distinctness one comparison a signature.
    function _requireQuorum(bytes32 digest, bytes[] calldata signatures) private view {
        uint256 quorum_ = quorum;
        if (signatures.length < quorum_) revert TooFewSignatures(signatures.length, quorum_);
        address previous = address(0);
        for (uint256 i = 0; i < signatures.length; ++i) {
            (address signer, ECDSA.RecoverError fault,) = ECDSA.tryRecoverCalldata(digest, signatures[i]);
            if (fault != ECDSA.RecoverError.NoError) revert MalformedSignature(i);
            if (!isValidator[signer]) revert NotValidator(i, signer);
            if (signer <= previous) revert SignersNotAscending(i, signer, previous);
            previous = signer;
        }
    }

    function _setValidators(address[] memory validators_, uint256 quorum_) private {
        uint256 count = validators_.length;
        if (count == 0 || count > VALIDATORS_MAX) revert ValidatorCountOutOfRange(count, VALIDATORS_MAX);
        if (quorum_ > count || 2 * quorum_ <= count) revert QuorumOutOfRange(quorum_, count);

        address[] memory former = _validators;
        for (uint256 i = 0; i < former.length; ++i) {
            isValidator[former[i]] = false;
        }
        for (uint256 i = 0; i < count; ++i) {
            address validator = validators_[i];
            if (validator == address(0)) revert ZeroValidator(i);
            if (isValidator[validator]) revert DuplicateValidator(validator);
            isValidator[validator] = true;
        }
        _validators = validators_;
        quorum = quorum_;
        emit ValidatorsChanged(validators_, quorum_);
    }
}
