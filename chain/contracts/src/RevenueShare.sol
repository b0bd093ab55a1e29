// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {DaoToken} from "./DaoToken.sol";
import {VoteKeepers} from "./VoteKeeper.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @title RevenueShare
/// @notice Divides revenue among those who stake DAO tokens, pro rata, whatever their number, in one addition a deposit.
/// @dev A clone (EIP-1167). Everything is kept in units of 2^-96: a deposit that does not divide evenly leaves a
/// remainder that joins the next one, and an account keeps the fraction that a claim could not pay. So at any time
/// `2^96 * deposited == 2^96 * paid + sum of owed + remainder`, exactly. Staked tokens lie with a `VoteKeeper` and go on
/// voting for the staker. Unstaked tokens earn nothing and come back after a delay, which makes it costly to stake for
/// the moment of a deposit only. The staking account itself votes with them, whomever its other tokens are delegated to.
contract RevenueShare is Initializable, VoteKeepers {
    using SafeERC20 for IERC20;
    using SafeERC20 for DaoToken;

    struct Stake {
        uint128 amount;
        uint128 leaving;
        uint64 availableAt;
        uint256 seen;
        uint256 owed;
    }

    /// @notice Fractions of a base unit in which shares are kept.
    uint256 public constant SCALE = 2 ** 96;
    /// @notice Longest unstaking delay: longer ones are mistyped units.
    uint256 public constant DELAY_S_MAX = 365 days;

    /// @notice What is staked.
    DaoToken public token;
    /// @notice What is shared.
    IERC20 public asset;
    /// @notice Seconds from unstaking until withdrawal.
    uint32 public unstakeDelayS;
    /// @notice Base units of the token that share the next deposit.
    uint128 public totalStaked;
    /// @notice Base units of the asset that came in, ever.
    uint128 public deposited;
    /// @notice Base units of the asset that were paid out, ever.
    uint128 public paid;
    /// @notice What one base unit staked since the beginning has earned, in 1/{SCALE}.
    uint256 public perToken;
    /// @notice What could not be divided yet, in 1/{SCALE}; less than was staked at the last deposit.
    uint256 public remainder;

    mapping(address account => Stake) private _stakes;

    /// @notice Revenue was shared among `staked` base units.
    event Deposited(address indexed from, uint256 amount, uint256 staked);
    /// @notice An account staked `amount`, and has `stake` now.
    event Staked(address indexed account, uint256 amount, uint256 stake);
    /// @notice An account stopped staking `amount`, which it can withdraw at `availableAt`.
    event Unstaked(address indexed account, uint256 amount, uint256 stake, uint64 availableAt);
    /// @notice Unstaked tokens went back to their account.
    event Withdrawn(address indexed account, uint256 amount);
    /// @notice An account got its share of revenue.
    event Paid(address indexed account, uint256 amount);

    /// @notice An address that is needed was zero.
    error ZeroAddress(string field);
    /// @notice The delay may be at most `max` seconds.
    error DelayOutOfRange(uint256 delayS, uint256 max);
    /// @notice An amount must be from 1 to `max`.
    error AmountOutOfRange(uint256 amount, uint256 max);
    /// @notice Nobody stakes: there is nobody to share with.
    error NobodyStakes();
    /// @notice The asset takes a fee of transfers.
    error AssetInexact(address asset, uint256 sent, uint256 received);
    /// @notice The delay is not over, or nothing was unstaked (`availableAt` 0).
    error NotWithdrawable(address account, uint256 amount, uint64 availableAt);
    /// @notice The account has no whole base unit to its credit.
    error NothingToClaim(address account);

    constructor() {
        _disableInitializers();
    }

    /// @notice Sets up a clone, once.
    /// @param token_ The DAO token, which is staked.
    /// @param asset_ What is shared, a stablecoin; it may be the DAO token.
    /// @param unstakeDelayS_ Seconds from unstaking until withdrawal.
    function initialize(DaoToken token_, IERC20 asset_, uint32 unstakeDelayS_) external initializer {
        if (address(token_) == address(0)) revert ZeroAddress("token");
        if (address(asset_) == address(0)) revert ZeroAddress("asset");
        if (unstakeDelayS_ > DELAY_S_MAX) revert DelayOutOfRange(unstakeDelayS_, DELAY_S_MAX);
        (token, asset, unstakeDelayS) = (token_, asset_, unstakeDelayS_);
    }

    /// @notice Shares revenue, which the caller must have approved, among those who stake now.
    /// @param amount Base units of the asset.
    function deposit(uint128 amount) external {
        if (amount == 0) revert AmountOutOfRange(0, type(uint128).max);
        uint256 staked = totalStaked;
        if (staked == 0) revert NobodyStakes();
        deposited += amount;
        uint256 shared = amount * SCALE + remainder;
        perToken += shared / staked;
        remainder = shared % staked;
        emit Deposited(msg.sender, amount, staked);
        IERC20 asset_ = asset;
        uint256 before = asset_.balanceOf(address(this));
        asset_.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = asset_.balanceOf(address(this)) - before;
        if (received != amount) revert AssetInexact(address(asset_), amount, received);
    }

    /// @notice Stakes the caller's DAO tokens, which it must have approved. They share in later deposits.
    /// @param amount Base units.
    function stake(uint128 amount) external {
        if (amount == 0) revert AmountOutOfRange(0, type(uint128).max);
        Stake storage s = _settled(msg.sender);
        totalStaked += amount;
        s.amount += amount;
        emit Staked(msg.sender, amount, s.amount);
        token.safeTransferFrom(msg.sender, _keeper(address(token), msg.sender), amount);
    }

    /// @notice Stops staking. The tokens can be withdrawn after the delay, which starts anew for all on their way.
    /// @param amount Base units, at most the caller's stake.
    function unstake(uint128 amount) external {
        Stake storage s = _settled(msg.sender);
        if (amount == 0 || amount > s.amount) revert AmountOutOfRange(amount, s.amount);
        totalStaked -= amount;
        s.amount -= amount;
        s.leaving += amount;
        s.availableAt = uint64(block.timestamp + unstakeDelayS);
        emit Unstaked(msg.sender, amount, s.amount, s.availableAt);
    }

    /// @notice Sends the caller the tokens that it unstaked, once the delay is over.
    function withdraw() external {
        Stake storage s = _stakes[msg.sender];
        uint256 amount = s.leaving;
        if (amount == 0 || block.timestamp < s.availableAt) {
            revert NotWithdrawable(msg.sender, amount, s.availableAt);
        }
        (s.leaving, s.availableAt) = (0, 0);
        emit Withdrawn(msg.sender, amount);
        token.safeTransferFrom(keeperOf[msg.sender], msg.sender, amount);
    }

    /// @notice Sends an account its share of revenue. Anyone may ask.
    /// @param account Whose.
    function claim(address account) external {
        Stake storage s = _settled(account);
        // slither-disable-next-line divide-before-multiply (whole units are paid, the fraction stays)
        uint256 amount = s.owed / SCALE;
        if (amount == 0) revert NothingToClaim(account);
        s.owed -= amount * SCALE;
        // forge-lint: disable-next-line(unsafe-typecast)
        paid += uint128(amount); // at most `deposited`
        emit Paid(account, amount);
        asset.safeTransfer(account, amount);
    }

    /// @notice What an account stakes.
    /// @param account Any account.
    /// @return amount Base units that share in deposits.
    /// @return leaving Base units on their way back.
    /// @return availableAt When those can be withdrawn, unix seconds.
    function stakeOf(address account) external view returns (uint128 amount, uint128 leaving, uint64 availableAt) {
        Stake storage s = _stakes[account];
        return (s.amount, s.leaving, s.availableAt);
    }

    /// @notice What an account has to its credit, to the fraction.
    /// @param account Any account.
    /// @return In 1/{SCALE} base units of the asset; {claim} pays the whole units.
    function owed(address account) public view returns (uint256) {
        Stake storage s = _stakes[account];
        return s.owed + s.amount * (perToken - s.seen);
    }

    /// @dev Brings an account's share up to date.
    function _settled(address account) private returns (Stake storage s) {
        s = _stakes[account];
        (s.owed, s.seen) = (owed(account), perToken);
    }
}
