// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "./ContributionLedger.sol";
import {Streams} from "./Streams.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @title RoyaltyVault
/// @notice The address that a model's royalties are paid to (ERC-2981). Whatever ERC-20 arrives, from whatever market,
/// anyone may forward to a revenue stream of the ledger, where the model's contributors claim by the attested root.
/// @dev A clone (EIP-1167). It can do nothing else with what it holds.
contract RoyaltyVault is Initializable {
    using SafeERC20 for IERC20;

    /// @notice Rounds of a revenue stream: as many as a stream can have.
    uint64 public constant ROUNDS = type(uint32).max;
    /// @notice Most base units that one round of it may add; the money that came in bounds it anyway.
    uint128 public constant REWARD_PER_ROUND = 2 ** 80;

    /// @notice Where contributors are paid.
    ContributionLedger public ledger;
    /// @notice The model's training run, also the `spec` of its revenue streams.
    bytes32 public run;

    /// @notice Royalties went to the revenue stream.
    event Forwarded(address indexed asset, bytes32 indexed stream, uint256 amount);

    /// @notice There is nothing of this asset here.
    error NothingToForward(address asset);

    constructor() {
        _disableInitializers();
    }

    /// @notice Sets up a clone, once.
    /// @param ledger_ Where contributors are paid.
    /// @param run_ The model's training run.
    function initialize(ContributionLedger ledger_, bytes32 run_) external initializer {
        (ledger, run) = (ledger_, run_);
    }

    /// @notice Sends all of an asset to the model's revenue stream, which is opened the first time. Anyone may.
    /// @param asset An ERC-20.
    function forward(IERC20 asset) external {
        uint128 amount = SafeCast.toUint128(asset.balanceOf(address(this)));
        // slither-disable-next-line incorrect-equality (whatever more is sent here is forwarded, too)
        if (amount == 0) revert NothingToForward(address(asset));
        bytes32 stream = streamOf(asset);
        // slither-disable-next-line unused-return (what else a stream has is not needed)
        (, address known,,,) = ledger.streams(stream);
        emit Forwarded(address(asset), stream, amount);
        if (known == address(0)) {
            bytes32 id = _id(asset);
            stream = ledger.openFunded(id, Streams.Kind.Revenue, run, ROUNDS, REWARD_PER_ROUND, asset);
        }
        asset.forceApprove(address(ledger), amount);
        ledger.fund(stream, amount);
    }

    /// @notice The revenue stream of the model in one asset.
    /// @param asset An ERC-20.
    /// @return The stream's id; it is open after the first {forward}.
    function streamOf(IERC20 asset) public view returns (bytes32) {
        return ledger.fundedStream(address(this), _id(asset));
    }

    function _id(IERC20 asset) private pure returns (bytes32) {
        return bytes32(uint256(uint160(address(asset))));
    }
}
