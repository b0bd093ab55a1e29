// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IVotes} from "@openzeppelin/contracts/governance/utils/IVotes.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title VoteKeeper
/// @notice Holds one account's locked DAO tokens (a bond, a stake), so that they go on voting for that account: the
/// keeper delegates to it, and lets only the contract that made it move them.
/// @dev All of it happens at deployment; nothing is left to call. The same idea as UniStaker's delegation surrogates.
contract VoteKeeper {
    /// @notice Delegates to `account` and lets the deploying contract move everything.
    /// @param token The DAO token, which returns true or reverts.
    /// @param account Whose tokens these are.
    constructor(address token, address account) {
        IVotes(token).delegate(account);
        assert(IERC20(token).approve(msg.sender, type(uint256).max));
    }
}

/// @title VoteKeepers
/// @notice The keepers of one contract, made when an account first needs one.
abstract contract VoteKeepers {
    /// @notice Who holds an account's locked tokens; zero before the first lock.
    mapping(address account => address keeper) public keeperOf;

    /// @notice An account got a keeper.
    /// @param account Whose tokens it will hold.
    /// @param keeper The new contract.
    event KeeperMade(address indexed account, address keeper);

    /// @dev The keeper of `account`, made where there is none.
    function _keeper(address token, address account) internal returns (address keeper) {
        keeper = keeperOf[account];
        if (keeper != address(0)) return keeper;
        // slither-disable-next-line reentrancy-no-eth (its constructor calls the DAO token alone, which calls nobody)
        keeper = address(new VoteKeeper(token, account));
        keeperOf[account] = keeper;
        emit KeeperMade(account, keeper);
    }
}
