// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "./ContributionLedger.sol";
import {Streams} from "./Streams.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @title JobEscrow
/// @notice An enterprise's money for a private job. It opens the job with the price and a digest of what is to be done;
/// validators attest the rounds on the job's own stream of the ledger; once the last round pays there, anyone delivers.
/// Undisputed, the attested sum goes to the stream, where contributors claim it, and the rest back to the client.
/// A dispute goes to the arbiter, who splits. Nothing delivered by the deadline: the client gets all of it back.
/// @dev A clone (EIP-1167). Trusts the ledger, and the arbiter with disputed jobs alone. Money for contributors only
/// ever moves into the ledger; money for the client is fetched by {refund}, so that a client which cannot receive does
/// not hold up contributors. The DAO adds its own tokens by opening a minted stream for the same spec.
contract JobEscrow is Initializable {
    using SafeERC20 for IERC20;

    /// @notice Where a job stands. `Closed`: its money is with the stream, the client, or waits for {refund}.
    enum State {
        None,
        Open,
        Delivered,
        Disputed,
        Closed
    }

    /// @notice A job.
    /// @param client Who pays.
    /// @param state See {State}.
    /// @param deadline Until when it can be delivered, unix seconds.
    /// @param disputeS How many seconds after delivery the client may dispute.
    /// @param rounds Which round is the last.
    /// @param asset What it is paid in.
    /// @param held Base units in the escrow for it.
    /// @param owed Base units that the delivered root attests, at most the price.
    /// @param decidableAt When a delivered or disputed job may be released without anyone's word, unix seconds.
    /// @param spec Digest of what is to be done.
    /// @param result SHA-256 of the delivered checkpoint.
    struct Job {
        address client;
        State state;
        uint40 deadline;
        uint32 disputeS;
        uint16 rounds;
        IERC20 asset;
        uint40 decidableAt;
        uint128 held;
        uint128 owed;
        bytes32 spec;
        bytes32 result;
    }

    /// @notice How long the arbiter has. After that a disputed job is released as attested: the attestation stands until
    /// somebody entitled says otherwise.
    uint40 public constant ARBITRATION_S = 30 days;
    /// @notice Longest time to a deadline and longest dispute window: longer ones are mistyped units.
    uint256 public constant DELAY_S_MAX = 365 days;

    /// @notice Where jobs are attested and paid.
    ContributionLedger public ledger;
    /// @notice Who splits disputed jobs; the DAO unless it names another.
    address public arbiter;

    mapping(bytes32 job => Job) private _jobs;

    /// @notice A job was funded. `stream` is its stream of the ledger.
    event JobOpened(
        bytes32 indexed job,
        address indexed client,
        bytes32 indexed stream,
        address asset,
        uint256 price,
        bytes32 spec,
        uint40 deadline
    );
    /// @notice The job's last round pays; `result` is its checkpoint. Disputable until `decidableAt`.
    event JobDelivered(bytes32 indexed job, bytes32 result, uint256 owed, uint40 decidableAt);
    /// @notice The client disputes the delivery; the arbiter has until `decidableAt`.
    event JobDisputed(bytes32 indexed job, uint40 decidableAt);
    /// @notice Contributors get `paid` through `stream`, the client may fetch `left`.
    event JobClosed(bytes32 indexed job, bytes32 indexed stream, uint256 paid, uint256 left);
    /// @notice The client was sent what is its own.
    event JobRefunded(bytes32 indexed job, address indexed client, uint256 amount);
    /// @notice The DAO named another arbiter.
    event ArbiterChanged(address arbiter);

    /// @notice Only `allowed` may do this.
    error NotAllowed(address caller, address allowed);
    /// @notice An address that is needed was zero.
    error ZeroAddress(string field);
    /// @notice A job is opened once.
    error JobExists(bytes32 job);
    /// @notice The job is in another state than this needs.
    error WrongState(bytes32 job, State state);
    /// @notice A price must be from 1 to `max`.
    error PriceOutOfRange(uint256 price, uint256 max);
    /// @notice A deadline lies ahead, by at most `max` seconds; so does the end of a dispute window.
    error DelayOutOfRange(string field, uint256 seconds_, uint256 max);
    /// @notice The asset takes a fee of transfers.
    error AssetInexact(address asset, uint256 sent, uint256 received);
    /// @notice The job's last round does not pay yet on its stream.
    error NotAttested(bytes32 job, uint256 round, uint256 rounds);
    /// @notice Too late for this.
    error TooLate(bytes32 job, uint256 until);
    /// @notice Too early for this.
    error TooEarly(bytes32 job, uint256 from);
    /// @notice A split gives contributors at most what is held.
    error SplitTooLarge(bytes32 job, uint256 toContributors, uint256 held);

    constructor() {
        _disableInitializers();
    }

    /// @notice Sets up a clone, once.
    /// @param ledger_ The DAO's ledger; its DAO is the first arbiter.
    function initialize(ContributionLedger ledger_) external initializer {
        if (address(ledger_) == address(0)) revert ZeroAddress("ledger");
        ledger = ledger_;
        arbiter = ledger_.dao();
        emit ArbiterChanged(arbiter);
    }

    /// @notice Names who splits disputed jobs from now on. Only the DAO.
    /// @param arbiter_ The arbiter.
    function setArbiter(address arbiter_) external {
        _requireCaller(ledger.dao());
        if (arbiter_ == address(0)) revert ZeroAddress("arbiter");
        arbiter = arbiter_;
        emit ArbiterChanged(arbiter_);
    }

    /// @notice Opens a job and takes its price, which the caller must have approved.
    /// @param id The caller's name for it; the job's id is {jobId}.
    /// @param spec Digest of what is to be done, as validators know it.
    /// @param asset What it is paid in.
    /// @param price Base units, the most that contributors can get.
    /// @param deadline Until when it can be delivered, unix seconds; leave room for the ledger's challenge window.
    /// @param disputeS How many seconds after delivery the caller may dispute.
    /// @param rounds Which round of its stream is the last.
    /// @return job The job's id.
    function open(
        bytes32 id,
        bytes32 spec,
        IERC20 asset,
        uint128 price,
        uint40 deadline,
        uint32 disputeS,
        uint16 rounds
    ) external returns (bytes32 job) {
        job = jobId(msg.sender, id);
        Job storage j = _jobs[job];
        if (j.state != State.None) revert JobExists(job);
        if (price == 0) revert PriceOutOfRange(price, type(uint128).max);
        uint256 ahead = deadline > block.timestamp ? deadline - block.timestamp : 0;
        // slither-disable-next-line incorrect-equality (a deadline of now is refused like one before)
        if (ahead == 0 || ahead > DELAY_S_MAX) revert DelayOutOfRange("deadline", ahead, DELAY_S_MAX);
        if (disputeS > DELAY_S_MAX) revert DelayOutOfRange("disputeS", disputeS, DELAY_S_MAX);

        (j.client, j.state, j.deadline, j.disputeS, j.rounds) = (msg.sender, State.Open, deadline, disputeS, rounds);
        (j.asset, j.held, j.spec) = (asset, price, spec);
        bytes32 stream = ledger.openFunded(job, Streams.Kind.PrivateJob, spec, rounds, price, asset);
        emit JobOpened(job, msg.sender, stream, address(asset), price, spec, deadline);
        uint256 before = asset.balanceOf(address(this));
        asset.safeTransferFrom(msg.sender, address(this), price);
        uint256 received = asset.balanceOf(address(this)) - before;
        if (received != price) revert AssetInexact(address(asset), price, received);
    }

    /// @notice Commits to the result that validators attested: the checkpoint of the job's last round. Anyone may, up to
    /// the deadline, once that round is out of the ledger's challenge window.
    /// @param job The job.
    function deliver(bytes32 job) external {
        Job storage j = _in(job, State.Open);
        if (block.timestamp > j.deadline) revert TooLate(job, j.deadline);
        // slither-disable-next-line unused-return (record and root are not needed)
        (uint64 round, bytes32 result,,, uint256 total) = ledger.paying(streamOf(job));
        if (round != j.rounds) revert NotAttested(job, round, j.rounds);
        (j.state, j.result) = (State.Delivered, result);
        // forge-lint: disable-next-line(unsafe-typecast)
        j.owed = total < j.held ? uint128(total) : j.held;
        j.decidableAt = uint40(block.timestamp) + j.disputeS;
        emit JobDelivered(job, result, j.owed, j.decidableAt);
    }

    /// @notice Disputes a delivery, within the window. Only the client.
    /// @param job The job.
    function dispute(bytes32 job) external {
        Job storage j = _in(job, State.Delivered);
        _requireCaller(j.client);
        if (block.timestamp >= j.decidableAt) revert TooLate(job, j.decidableAt);
        j.state = State.Disputed;
        j.decidableAt = uint40(block.timestamp) + ARBITRATION_S;
        emit JobDisputed(job, j.decidableAt);
    }

    /// @notice Pays contributors what the root attests. Anyone may, once the dispute window is over, or where the
    /// arbiter has not spoken in time.
    /// @param job The job.
    function release(bytes32 job) external {
        Job storage j = _jobs[job];
        if (j.state != State.Delivered && j.state != State.Disputed) revert WrongState(job, j.state);
        if (block.timestamp < j.decidableAt) revert TooEarly(job, j.decidableAt);
        _close(job, j, j.owed, streamOf(job));
        _pay(j, j.owed, streamOf(job));
    }

    /// @notice Splits a disputed job. Only the arbiter.
    /// @dev Where contributors get another sum than was attested, the root does not add up to it. Then the sum goes to a
    /// second stream, {rulingStreamOf}, on which validators attest who gets how much.
    /// @param job The job.
    /// @param toContributors Base units for contributors; the rest is the client's.
    function resolve(bytes32 job, uint128 toContributors) external {
        Job storage j = _in(job, State.Disputed);
        _requireCaller(arbiter);
        if (toContributors > j.held) revert SplitTooLarge(job, toContributors, j.held);
        bool asAttested = toContributors == j.owed || toContributors == 0;
        bytes32 stream = asAttested ? streamOf(job) : rulingStreamOf(job);
        _close(job, j, toContributors, stream);
        if (!asAttested) {
            stream = ledger.openFunded(_ruling(job), Streams.Kind.PrivateJob, j.spec, 1, toContributors, j.asset);
        }
        _pay(j, toContributors, stream);
    }

    /// @notice Sends the client what is its own: all of a job that was not delivered by the deadline, or what contributors
    /// did not get of a closed one. Anyone may.
    /// @param job The job.
    function refund(bytes32 job) external {
        Job storage j = _jobs[job];
        if (j.state == State.Open) {
            if (block.timestamp <= j.deadline) revert TooEarly(job, uint256(j.deadline) + 1);
            j.state = State.Closed;
            emit JobClosed(job, streamOf(job), 0, j.held);
        }
        uint256 amount = j.held;
        if (j.state != State.Closed || amount == 0) revert WrongState(job, j.state);
        j.held = 0;
        emit JobRefunded(job, j.client, amount);
        j.asset.safeTransfer(j.client, amount);
    }

    /// @notice A job as it stands. All zero for one that was never opened.
    /// @param job The job.
    /// @return See {Job}.
    function jobs(bytes32 job) external view returns (Job memory) {
        return _jobs[job];
    }

    /// @notice The id of a client's job.
    /// @param client Who opens it.
    /// @param id Its name for it.
    /// @return The job's id.
    function jobId(address client, bytes32 id) public pure returns (bytes32) {
        return keccak256(abi.encode(client, id));
    }

    /// @notice The ledger's stream on which a job is attested and paid.
    /// @param job The job.
    /// @return The stream's id.
    function streamOf(bytes32 job) public view returns (bytes32) {
        return ledger.fundedStream(address(this), job);
    }

    /// @notice The ledger's stream for a sum that the arbiter decided.
    /// @param job The job.
    /// @return The stream's id; it is open only after such a ruling.
    function rulingStreamOf(bytes32 job) public view returns (bytes32) {
        return ledger.fundedStream(address(this), _ruling(job));
    }

    function _ruling(bytes32 job) private pure returns (bytes32) {
        return keccak256(abi.encode(job, "ruling"));
    }

    function _close(bytes32 job, Job storage j, uint128 paid, bytes32 stream) private {
        j.state = State.Closed;
        j.held -= paid;
        emit JobClosed(job, stream, paid, j.held);
    }

    function _pay(Job storage j, uint128 paid, bytes32 stream) private {
        if (paid == 0) return;
        j.asset.forceApprove(address(ledger), paid);
        ledger.fund(stream, paid);
    }

    function _in(bytes32 job, State state) private view returns (Job storage j) {
        j = _jobs[job];
        if (j.state != state) revert WrongState(job, j.state);
    }

    function _requireCaller(address allowed) private view {
        if (msg.sender != allowed) revert NotAllowed(msg.sender, allowed);
    }
}
