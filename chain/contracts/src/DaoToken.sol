// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";

/// @title DaoToken
/// @notice The DAO's share and its vote: an ERC-20 with permits (ERC-2612) and vote checkpoints (ERC-5805) kept by
/// timestamp (ERC-6372). It has no cap of its own. Emission is bounded by whoever holds `MINTER_ROLE`.
/// @dev Knows nothing of runs, rounds or proposals.
contract DaoToken is ERC20, ERC20Permit, ERC20Votes, AccessControl {
    /// @notice Holders of this role may mint.
    bytes32 public constant MINTER_ROLE = keccak256("MINTER_ROLE");

    /// @notice The token needs an account that can grant roles.
    error ZeroAdmin();

    /// @notice Deploys the token with no supply.
    /// @param name ERC-20 name, also the EIP-712 domain name of permits and delegations.
    /// @param symbol ERC-20 symbol.
    /// @param admin The account that grants and revokes roles. It cannot mint until it grants itself `MINTER_ROLE`.
    constructor(string memory name, string memory symbol, address admin) ERC20(name, symbol) ERC20Permit(name) {
        if (admin == address(0)) revert ZeroAdmin();
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    /// @notice Creates `amount` base units (18 decimals) for `account`.
    /// @dev Reverts with `AccessControlUnauthorizedAccount` unless the caller holds `MINTER_ROLE`.
    /// @param account Who receives them.
    /// @param amount How many base units.
    function mint(address account, uint256 amount) external onlyRole(MINTER_ROLE) {
        _mint(account, amount);
    }

    /// @notice The current timepoint of vote checkpoints: the block's time in unix seconds (ERC-6372).
    /// @return Unix seconds.
    function clock() public view override returns (uint48) {
        return uint48(block.timestamp);
    }

    /// @notice Machine-readable description of {clock} (ERC-6372).
    /// @return The string that the standard prescribes for timestamps.
    // solhint-disable-next-line func-name-mixedcase
    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }

    /// @notice The next nonce of `owner`, shared by permits and signed delegations.
    /// @param owner The signing account.
    /// @return The nonce that its next signature must carry.
    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    /// @dev Whoever receives tokens while holding none, and has named no delegate, becomes its own delegate. A member
    /// who only ever receives and signs ballots thus votes without sending a transaction. An account that holds tokens
    /// and delegates to zero keeps that choice.
    function _update(address from, address to, uint256 amount) internal override(ERC20, ERC20Votes) {
        if (amount != 0 && balanceOf(to) == 0 && delegates(to) == address(0)) {
            _delegate(to, to);
        }
        super._update(from, to, amount);
    }
}
