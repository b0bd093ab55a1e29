// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";

/// @title Membership
/// @notice Whose nodes a DAO takes. In an open DAO whoever asks is a member. Otherwise the owner, or the DAO by a vote,
/// approves or refuses.
/// @dev A clone (EIP-1167). Membership gives no votes and no pay: tokens and attestations do.
contract Membership is Initializable {
    /// @notice Where an account stands.
    enum Status {
        None,
        Requested,
        Member,
        Refused
    }

    /// @notice The DAO's timelock.
    address public dao;
    /// @notice Who besides the DAO approves and refuses; zero: nobody.
    address public owner;
    /// @notice Whether asking is enough.
    bool public isOpen;
    /// @notice Where an account stands.
    mapping(address account => Status) public statusOf;

    /// @notice An account asks to join. `statement` is the digest of what it says of itself.
    event Requested(address indexed account, bytes32 statement);
    /// @notice An account is a member; `by` itself in an open DAO.
    event Approved(address indexed account, address indexed by);
    /// @notice An account was refused, or its membership ended, by `by`.
    event Refused(address indexed account, address indexed by);
    /// @notice A member left.
    event Left(address indexed account);
    /// @notice The DAO changed who approves, and whether anyone has to.
    event RulesChanged(address owner, bool isOpen);

    /// @notice An address that is needed was zero.
    error ZeroAddress(string field);
    /// @notice Only the DAO and the owner may do this.
    error NotAllowed(address caller, address dao, address owner);
    /// @notice The account is in another status than this needs.
    error WrongStatus(address account, Status status);

    constructor() {
        _disableInitializers();
    }

    /// @notice Sets up a clone, once.
    /// @param dao_ The DAO's timelock.
    /// @param owner_ Who besides the DAO approves and refuses; zero: nobody.
    /// @param isOpen_ Whether asking is enough.
    function initialize(address dao_, address owner_, bool isOpen_) external initializer {
        if (dao_ == address(0)) revert ZeroAddress("dao");
        (dao, owner, isOpen) = (dao_, owner_, isOpen_);
        emit RulesChanged(owner_, isOpen_);
    }

    /// @notice Asks to join. In an open DAO the caller is a member at once. A refused account may ask again.
    /// @param statement Digest of what the caller says of itself, e.g. of its node's offer.
    function request(bytes32 statement) external {
        Status status = statusOf[msg.sender];
        if (status == Status.Member) revert WrongStatus(msg.sender, status);
        emit Requested(msg.sender, statement);
        if (isOpen) return _admit(msg.sender);
        statusOf[msg.sender] = Status.Requested;
    }

    /// @notice Makes an account a member, whether it asked or not. Only the DAO and the owner.
    /// @param account Whom.
    function approve(address account) external {
        _requireAllowed();
        if (account == address(0)) revert ZeroAddress("account");
        if (statusOf[account] == Status.Member) revert WrongStatus(account, Status.Member);
        _admit(account);
    }

    /// @notice Refuses an account, or ends its membership. Only the DAO and the owner.
    /// @param account Whom.
    function refuse(address account) external {
        _requireAllowed();
        Status status = statusOf[account];
        if (status != Status.Requested && status != Status.Member) revert WrongStatus(account, status);
        statusOf[account] = Status.Refused;
        emit Refused(account, msg.sender);
    }

    /// @notice Ends the caller's membership, or takes its request back.
    function leave() external {
        Status status = statusOf[msg.sender];
        if (status != Status.Requested && status != Status.Member) revert WrongStatus(msg.sender, status);
        statusOf[msg.sender] = Status.None;
        emit Left(msg.sender);
    }

    /// @notice Changes who approves, and whether anyone has to. Only the DAO.
    /// @param owner_ Who besides the DAO; zero: nobody.
    /// @param isOpen_ Whether asking is enough.
    function setRules(address owner_, bool isOpen_) external {
        if (msg.sender != dao) revert NotAllowed(msg.sender, dao, address(0));
        (owner, isOpen) = (owner_, isOpen_);
        emit RulesChanged(owner_, isOpen_);
    }

    /// @notice Whether an account is a member now.
    /// @param account Any account.
    /// @return True for a member.
    function isMember(address account) external view returns (bool) {
        return statusOf[account] == Status.Member;
    }

    function _admit(address account) private {
        statusOf[account] = Status.Member;
        emit Approved(account, msg.sender);
    }

    function _requireAllowed() private view {
        if (msg.sender != dao && msg.sender != owner) revert NotAllowed(msg.sender, dao, owner);
    }
}
