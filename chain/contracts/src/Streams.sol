// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Validators} from "./Validators.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @title Streams
/// @notice Streams of work that a DAO pays for: training runs, storage, validation, revenue, private jobs. Each has a
/// budget that grows by the round. It is paid by minting DAO tokens, or in any ERC-20 that somebody puts in.
/// @dev An asset must move exactly what is asked (no fee on transfer, no rebasing): what comes in is measured, and
/// anything else refused. Knows nothing of signatures.
abstract contract Streams is Validators {
    using SafeERC20 for IERC20;

    /// @notice What a stream pays for.
    enum Kind {
        Training,
        Storage,
        Validation,
        Revenue,
        PrivateJob
    }

    /// @dev A posted root, four slots. `signers` is a bitmap of seats in the validator set `version`.
    struct Entry {
        bytes32 payoutRoot;
        bytes32 checkpoint;
        bytes32 record;
        uint112 payoutTotal;
        uint32 round;
        uint32 claimableAt;
        uint64 signers;
        uint16 version;
    }

    /// @dev One slot, which a claim rewrites: `left` is what the head attests beyond all claims, `headAt` when it pays.
    /// Three of a stream's roots matter: the latest (`head`), the oldest that is still in its window
    /// (`waiting`, or `settled` where none is), and the last that is known to be out of it (`settled`). They are places
    /// in `Stream.entries`, so that a post rewrites one place and copies none. A root that is neither is passed over:
    /// however fast rounds are posted, each moment's earnings pay within two windows.
    struct Course {
        uint112 left;
        uint32 headAt;
        uint32 rounds;
        uint32 posted;
        Kind kind;
        bool minted;
        bool closed;
        uint8 head;
        uint8 waiting;
        uint8 settled;
    }

    /// @dev A stream exists when `course.rounds > 0`.
    struct Stream {
        bytes32 spec;
        bytes32 seed;
        IERC20 asset;
        uint128 rewardPerRound;
        uint128 fundedTotal;
        Course course;
        Entry[3] entries;
    }

    /// @notice Most base units that one stream may ever pay: what an `Entry` has room for.
    uint256 public constant BUDGET_MAX = type(uint112).max;
    /// @notice Most rounds of a stream.
    uint256 public constant ROUNDS_MAX = type(uint32).max;

    mapping(bytes32 run => Stream) internal _streams;

    /// @notice A training run may train and be paid.
    /// @param run The run.
    /// @param spec SHA-256 of the canonical run spec that the DAO voted for.
    /// @param rounds How many rounds it may have.
    /// @param rewardPerRound Base units that each round adds to its budget.
    /// @param seed Drawn from the chain at opening, so that nobody knows it while the DAO votes.
    event RunOpened(bytes32 indexed run, bytes32 spec, uint64 rounds, uint128 rewardPerRound, bytes32 seed);
    /// @notice A stream, training runs included, may be paid.
    /// @param run The stream.
    /// @param kind What it pays for.
    /// @param asset What it is paid in; where `minted`, the DAO token.
    /// @param minted Whether claims mint; else they are paid from what was funded.
    /// @param opener Who opened it: the DAO, or anyone for a funded one.
    /// @param spec Digest of what it is about.
    event StreamOpened(
        bytes32 indexed run, Kind indexed kind, address asset, bool minted, address opener, bytes32 spec
    );
    /// @notice Money for a stream came in; `fundedTotal` is all of it so far.
    event StreamFunded(bytes32 indexed run, address indexed from, uint256 amount, uint256 fundedTotal);
    /// @notice The DAO ended a stream; `returned` base units, which no root owes, went to `to`.
    event StreamClosed(bytes32 indexed run, address to, uint256 returned);

    /// @notice A run is opened once.
    error RunAlreadyOpen(bytes32 run);
    /// @notice A stream has from 1 to `max` rounds.
    error RoundsOutOfRange(bytes32 run, uint256 rounds, uint256 max);
    /// @notice `rounds * rewardPerRound` is more than a stream may pay.
    error BudgetTooLarge(bytes32 run, uint256 budget, uint256 max);
    /// @notice Nobody has opened this run.
    error UnknownRun(bytes32 run);
    /// @notice The DAO has closed this run.
    error RunClosed(bytes32 run);
    /// @notice A root is in its window until then.
    error InWindow(bytes32 run, uint64 claimableAt);
    /// @notice A minted stream takes no money.
    error StreamIsMinted(bytes32 run);
    /// @notice The asset takes a fee of transfers, or changes balances by itself; it cannot be accounted for.
    error AssetInexact(address asset, uint256 sent, uint256 received);

    /// @notice Opens a training run that the DAO has voted for, paid by minting DAO tokens.
    /// @dev The seed mixes the parent's hash and the block's RANDAO value (EIP-4399), so it is unknown while the DAO
    /// votes. It is not free of bias: whoever builds the block may withhold it, and whoever executes the proposal may
    /// do so from a contract that reverts on a seed it dislikes, for as long as nobody else executes it.
    /// @param run The run's id, the SHA-256 of its tagged canonical spec.
    /// @param spec SHA-256 of its canonical spec.
    /// @param rounds How many rounds it may have, at least 1.
    /// @param rewardPerRound Base units that each round adds to its budget; may be 0.
    function openRun(bytes32 run, bytes32 spec, uint64 rounds, uint128 rewardPerRound) external onlyDao {
        bytes32 seed = _open(run, Kind.Training, spec, rounds, rewardPerRound, IERC20(address(0)));
        emit RunOpened(run, spec, rounds, rewardPerRound, seed);
    }

    /// @notice Opens any stream that the DAO has voted for.
    /// @param run The stream's id.
    /// @param kind What it pays for.
    /// @param spec Digest of what it is about.
    /// @param rounds How many rounds it may have, at least 1.
    /// @param rewardPerRound Base units that each round adds to its budget; may be 0.
    /// @param asset What it is paid in, once somebody funds it; zero: DAO tokens, minted.
    function openStream(bytes32 run, Kind kind, bytes32 spec, uint64 rounds, uint128 rewardPerRound, IERC20 asset)
        external
        onlyDao
    {
        _open(run, kind, spec, rounds, rewardPerRound, asset);
    }

    /// @notice Opens a stream that pays only what is funded. Anyone may. Its id is derived from the caller's address,
    /// so nobody can take an id that another will need.
    /// @param id The caller's name for it.
    /// @param kind What it pays for.
    /// @param spec Digest of what it is about.
    /// @param rounds How many rounds it may have, at least 1.
    /// @param rewardPerRound Most base units that each round may add to what is owed.
    /// @param asset What it is paid in.
    /// @return run The stream's id, `fundedStream(caller, id)`.
    function openFunded(bytes32 id, Kind kind, bytes32 spec, uint64 rounds, uint128 rewardPerRound, IERC20 asset)
        external
        returns (bytes32 run)
    {
        if (address(asset) == address(0)) revert ZeroAddress("asset");
        run = fundedStream(msg.sender, id);
        _open(run, kind, spec, rounds, rewardPerRound, asset);
    }

    /// @notice Takes the caller's money for a stream. It pays what the stream's roots say.
    /// @param run The stream, which must not be a minted or closed one.
    /// @param amount Base units of its asset; the caller must have approved them.
    function fund(bytes32 run, uint128 amount) external {
        Stream storage s = _streams[run];
        if (s.course.rounds == 0) revert UnknownRun(run);
        if (s.course.minted) revert StreamIsMinted(run);
        if (s.course.closed) revert RunClosed(run);
        s.fundedTotal += amount;
        emit StreamFunded(run, msg.sender, amount, s.fundedTotal);
        IERC20 asset = s.asset;
        uint256 before = asset.balanceOf(address(this));
        asset.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = asset.balanceOf(address(this)) - before;
        if (received != amount) revert AssetInexact(address(asset), amount, received);
    }

    /// @notice Ends a stream: no more rounds. What is attested stays claimable; funded money that no root owes goes to
    /// `to`. Waits for the last root's window.
    /// @param run The stream.
    /// @param to Who gets the rest of a funded stream.
    function closeStream(bytes32 run, address to) external onlyDao {
        if (to == address(0)) revert ZeroAddress("to");
        Stream storage s = _streams[run];
        if (s.course.rounds == 0) revert UnknownRun(run);
        if (s.course.closed) revert RunClosed(run);
        if (block.timestamp < s.course.headAt) revert InWindow(run, s.course.headAt);
        s.course.closed = true;
        uint256 owed = s.entries[s.course.head].payoutTotal;
        uint256 rest = s.fundedTotal > owed ? s.fundedTotal - owed : 0;
        // forge-lint: disable-next-line(unsafe-typecast)
        s.fundedTotal -= uint128(rest); // at most itself
        emit StreamClosed(run, to, rest);
        if (rest != 0) s.asset.safeTransfer(to, rest);
    }

    /// @notice The id of a stream that `opener` opens with {openFunded}.
    /// @param opener Who.
    /// @param id Its name for it.
    /// @return The stream's id.
    function fundedStream(address opener, bytes32 id) public pure returns (bytes32) {
        return keccak256(abi.encode(opener, id));
    }

    // ------------------------------------------------------------------ internals

    function _open(bytes32 run, Kind kind, bytes32 spec, uint64 rounds, uint128 rewardPerRound, IERC20 asset)
        private
        returns (bytes32 seed)
    {
        Stream storage s = _streams[run];
        if (s.course.rounds != 0) revert RunAlreadyOpen(run);
        if (rounds == 0 || rounds > ROUNDS_MAX) revert RoundsOutOfRange(run, rounds, ROUNDS_MAX);
        uint256 budget = uint256(rounds) * rewardPerRound;
        if (budget > BUDGET_MAX) revert BudgetTooLarge(run, budget, BUDGET_MAX);

        bool minted = address(asset) == address(0);
        seed = keccak256(abi.encode(blockhash(block.number - 1), block.prevrandao, run));
        (s.spec, s.seed, s.asset) = (spec, seed, minted ? IERC20(address(token)) : asset);
        s.rewardPerRound = rewardPerRound;
        // forge-lint: disable-next-line(unsafe-typecast)
        s.course = Course(0, 0, uint32(rounds), 0, kind, minted, false, 0, 0, 0); // at most ROUNDS_MAX
        emit StreamOpened(run, kind, address(s.asset), minted, msg.sender, spec);
    }
}
