// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice A stablecoin of six decimals for the tests, which can be told to keep a share of each transfer.
contract Money is ERC20 {
    uint256 public feePercent;

    constructor() ERC20("Test Dollar", "USDT") {}

    function decimals() public pure override returns (uint8) {
        return 6;
    }

    function give(address account, uint256 amount) external {
        _mint(account, amount);
    }

    function setFee(uint256 percent) external {
        feePercent = percent;
    }

    function _update(address from, address to, uint256 amount) internal override {
        uint256 fee = from == address(0) ? 0 : amount * feePercent / 100;
        super._update(from, to, amount - fee);
        if (fee != 0) super._update(from, address(0xfee), fee);
    }
}
