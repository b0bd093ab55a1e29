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
/// @dev Two ways in. What is minted or transferred counts as votes at once. What is *credited* (pay, in many small
/// sums) is a balance at once and counts as votes when the account next receives, sends or delegates, or when anyone
/// calls {count} for it: a vote checkpoint costs more gas than the payment itself. So votes may lag behind a balance
/// and never exceed it, and the supply that a quorum is a share of ({getPastTotalSupply}) is that of counted tokens.
/// Knows nothing of runs, rounds or proposals.
contract DaoToken is ERC20, ERC20Permit, ERC20Votes, AccessControl {
    /// @notice Holders of this role may mint.
    bytes32 public constant MINTER_ROLE = keccak256("MINTER_ROLE");

    /// @dev How much of an account's balance counts as votes; never more than the balance.
    mapping(address account => uint256 amount) private _counted;

    /// @notice More of an account's balance now counts as votes.
    /// @param account Whose balance.
    /// @param amount How many base units were added to its votes, or to those of its delegate.
    event Counted(address indexed account, uint256 amount);

    /// @notice The token needs an account that can grant roles.
    error ZeroAdmin();
    /// @notice The two lists of a batch must be equally long.
    error CreditsLengthMismatch(uint256 accounts, uint256 amounts);

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

    /// @notice Creates `amount` base units for `account`, which {count} turns into votes.
    /// @dev For pay: costs 30,000 gas less than {mint}, of which votes are most.
    /// @param account Who receives them.
    /// @param amount How many base units.
    function credit(address account, uint256 amount) external onlyRole(MINTER_ROLE) {
        _credit(account, amount);
    }

    /// @notice Credits many accounts, see {credit}.
    /// @param accounts Who receives.
    /// @param amounts How many base units each.
    function creditMany(address[] calldata accounts, uint256[] calldata amounts) external onlyRole(MINTER_ROLE) {
        if (accounts.length != amounts.length) revert CreditsLengthMismatch(accounts.length, amounts.length);
        for (uint256 i = 0; i < accounts.length; ++i) {
            _credit(accounts[i], amounts[i]);
        }
    }

    /// @notice Makes the whole balance of each account count as votes from now on. Anyone may call it.
    /// @param accounts Whose balances; those that count already cost little.
    function count(address[] calldata accounts) external {
        for (uint256 i = 0; i < accounts.length; ++i) {
            _count(accounts[i]);
        }
    }

    /// @notice How much of an account's balance counts as votes, its own or its delegate's.
    /// @param account The holder.
    /// @return Base units, at most the balance.
    function counted(address account) external view returns (uint256) {
        return _counted[account];
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

    function _update(address from, address to, uint256 amount) internal override(ERC20, ERC20Votes) {
        super._update(from, to, amount);
    }

    /// @dev Called after balances moved. The sender's votes shrink no further than its balance demands, the receiver's
    /// grow to its whole balance. `to` is never zero: nothing burns.
    function _transferVotingUnits(address from, address to, uint256) internal override {
        uint256 left = from == address(0) ? 0 : balanceOf(from);
        uint256 moved = _counted[from] > left ? _counted[from] - left : 0;
        if (moved != 0) _counted[from] = left;
        uint256 gained = _raise(to);
        if (moved != 0) super._transferVotingUnits(from, to, moved);
        if (gained > moved) super._transferVotingUnits(address(0), to, gained - moved);
    }

    /// @dev Counts what was credited before, then moves all votes.
    function _delegate(address account, address delegatee) internal override {
        uint256 gained = balanceOf(account) - _counted[account];
        if (gained != 0) {
            _counted[account] += gained;
            super._transferVotingUnits(address(0), account, gained);
            emit Counted(account, gained);
        }
        super._delegate(account, delegatee);
    }

    function _getVotingUnits(address account) internal view override returns (uint256) {
        return _counted[account];
    }

    function _credit(address account, uint256 amount) private {
        if (account == address(0)) revert ERC20InvalidReceiver(address(0));
        ERC20._update(address(0), account, amount);
        uint256 supply = totalSupply();
        if (supply > _maxSupply()) revert ERC20ExceededSafeSupply(supply, _maxSupply());
    }

    function _count(address account) private {
        uint256 gained = _raise(account);
        if (gained == 0) return;
        super._transferVotingUnits(address(0), account, gained);
        emit Counted(account, gained);
    }

    /// @dev Notes that the whole balance counts; the caller moves the votes. Whoever is counted while nothing of it
    /// was, and has named no delegate, becomes its own delegate: a member who only ever receives and signs ballots
    /// votes without sending a transaction. An account with counted tokens that delegates to zero keeps that choice.
    function _raise(address account) private returns (uint256 gained) {
        uint256 before = _counted[account];
        gained = balanceOf(account) - before;
        if (gained == 0) return 0;
        if (before == 0 && delegates(account) == address(0)) super._delegate(account, account);
        _counted[account] = before + gained;
    }
}
