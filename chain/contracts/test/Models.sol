// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Rounds} from "../src/Rounds.sol";
import {Foundry} from "./Foundry.sol";
import {Money} from "./Money.sol";

/// @notice A founded DAO with a registered model, for the tests of what is made and sold of it.
abstract contract Models is Foundry {
    uint96 internal constant ROYALTY_BPS = 500;
    uint256 internal constant MODEL = uint256(RUN);

    Money internal money;
    address internal holder = vm.addr(810);

    function foundModel() internal {
        money = new Money();
        foundDao(address(money));
        openRun();
        register(RUN, 0, 0);
    }

    function register(bytes32 run, uint256 parent, uint64 parentRound) internal {
        vm.prank(address(timelock));
        registry.register(run, holder, parent, parentRound, ROYALTY_BPS, "ipfs://model");
    }

    function openNext(bytes32 run) internal {
        vm.prank(address(timelock));
        ledger.openRun(run, keccak256(abi.encode(run, "spec")), ROUNDS, REWARD);
    }

    /// @dev Attests a round of any run and puts it on record.
    function recordRound(bytes32 run, uint64 round) internal {
        Rounds.RoundRoot memory root = roundRoot(round, keccak256(abi.encode("payouts", round)), 0);
        root.run = run;
        ledger.postRound(root, signatures(root, keys, QUORUM));
        registry.recordRound(uint256(run));
    }

    function checkpoint(uint64 round) internal pure returns (bytes32) {
        return keccak256(abi.encode("checkpoint", round));
    }
}
