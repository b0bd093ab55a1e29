// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "../src/ContributionLedger.sol";
import {DaoToken} from "../src/DaoToken.sol";
import {Rounds} from "../src/Rounds.sol";
import {Streams} from "../src/Streams.sol";
import {Validators} from "../src/Validators.sol";
import {Dao} from "./Dao.sol";

/// @notice Who may open runs, name validators and post rounds, and what the ledger refuses.
contract ContributionLedgerTest is Dao {
    function setUp() public {
        deployDao();
    }

    // ------------------------------------------------------------------ deployment

    function test_knows_its_token_dao_and_validators() public view {
        vm.assertEq(address(ledger.token()), address(token), "token");
        vm.assertEq(ledger.dao(), address(timelock), "dao");
        requireValidators(addressesOf(keys), QUORUM);
    }

    function test_needs_a_token_and_a_dao() public {
        address[] memory validators = addressesOf(keys);
        vm.expectRevert(abi.encodeWithSelector(Validators.ZeroAddress.selector, "token"));
        new ContributionLedger(DaoToken(address(0)), address(timelock), validators, QUORUM, instant());
        vm.expectRevert(abi.encodeWithSelector(Validators.ZeroAddress.selector, "dao"));
        new ContributionLedger(token, address(0), validators, QUORUM, instant());
    }

    function test_its_domain_is_its_own() public view {
        (, string memory name, string memory version, uint256 chainId, address contract_,,) = ledger.eip712Domain();
        vm.assertEq(keccak256(bytes(name)), keccak256("Eigen ContributionLedger"), "name");
        vm.assertEq(keccak256(bytes(version)), keccak256("1"), "version");
        vm.assertEq(chainId, block.chainid, "chain");
        vm.assertEq(contract_, address(ledger), "contract");
    }

    // ------------------------------------------------------------------ opening a run

    function test_the_dao_opens_a_run() public {
        vm.roll(2000);
        vm.prevrandao(keccak256("randao"));
        bytes32 seed = keccak256(abi.encode(blockhash(1999), block.prevrandao, RUN));
        vm.assertTrue(blockhash(1999) != 0, "a parent block is known");
        vm.expectEmit(address(ledger));
        emit Streams.RunOpened(RUN, SPEC, ROUNDS, REWARD, seed);
        openRun();
        (bytes32 spec, uint64 rounds, uint128 reward, bytes32 stored, uint256 claimedTotal) = ledger.runs(RUN);
        vm.assertEq(spec, SPEC, "spec");
        vm.assertEq(rounds, ROUNDS, "rounds");
        vm.assertEq(reward, REWARD, "reward");
        vm.assertEq(stored, seed, "seed");
        vm.assertEq(claimedTotal, 0, "claimed");
    }

    function test_nobody_else_opens_a_run() public {
        vm.expectRevert(abi.encodeWithSelector(Validators.OnlyDao.selector, address(this), address(timelock)));
        ledger.openRun(RUN, SPEC, ROUNDS, REWARD);
    }

    function test_a_run_opens_once() public {
        openRun();
        vm.expectRevert(abi.encodeWithSelector(Streams.RunAlreadyOpen.selector, RUN));
        openRun();
    }

    function test_a_run_has_rounds() public {
        vm.expectRevert(abi.encodeWithSelector(Streams.RoundsOutOfRange.selector, RUN, 0, ledger.ROUNDS_MAX()));
        vm.prank(address(timelock));
        ledger.openRun(RUN, SPEC, 0, REWARD);
    }

    function testFuzz_a_budget_has_a_bound(uint64 rounds, uint128 reward) public {
        vm.assume(rounds > 0);
        uint256 budget = uint256(rounds) * reward;
        uint256 max = ledger.BUDGET_MAX();
        if (rounds > ledger.ROUNDS_MAX()) {
            vm.expectPartialRevert(Streams.RoundsOutOfRange.selector);
        } else if (budget > max) {
            vm.expectRevert(abi.encodeWithSelector(Streams.BudgetTooLarge.selector, RUN, budget, max));
        }
        vm.prank(address(timelock));
        ledger.openRun(RUN, SPEC, rounds, reward);
    }

    // ------------------------------------------------------------------ naming validators

    function test_a_new_set_replaces_the_old() public {
        address[] memory validators = new address[](3);
        (validators[0], validators[1], validators[2]) = (vm.addr(999), vm.addr(keys[0]), vm.addr(998));
        vm.expectEmit(address(ledger));
        emit Validators.ValidatorsChanged(validators, 2);
        setValidators(validators, 2);
        requireValidators(validators, 2);
        for (uint256 i = 1; i < keys.length; ++i) {
            vm.assertTrue(!ledger.isValidator(vm.addr(keys[i])), "former validator");
        }
    }

    function test_nobody_else_names_validators() public {
        address[] memory validators = addressesOf(keys);
        vm.expectRevert(abi.encodeWithSelector(Validators.OnlyDao.selector, address(this), address(timelock)));
        ledger.setValidators(validators, QUORUM);
    }

    function test_a_set_has_a_size() public {
        uint256 max = ledger.VALIDATORS_MAX();
        address[] memory many = addressesOf(keysByAddress(1000, max + 1));
        vm.expectRevert(abi.encodeWithSelector(Validators.ValidatorCountOutOfRange.selector, max + 1, max));
        setValidators(many, max + 1);
        vm.expectRevert(abi.encodeWithSelector(Validators.ValidatorCountOutOfRange.selector, 0, max));
        setValidators(new address[](0), 0);
        setValidators(addressesOf(keysByAddress(1000, max)), max);
    }

    function test_validators_are_distinct_and_not_zero() public {
        address[] memory validators = new address[](3);
        (validators[0], validators[1], validators[2]) = (vm.addr(1), vm.addr(2), vm.addr(1));
        vm.expectRevert(abi.encodeWithSelector(Validators.DuplicateValidator.selector, vm.addr(1)));
        setValidators(validators, 2);
        validators[2] = address(0);
        vm.expectRevert(abi.encodeWithSelector(Validators.ZeroValidator.selector, 2));
        setValidators(validators, 2);
    }

    function testFuzz_a_quorum_is_a_majority(uint8 count, uint256 quorum) public {
        uint256 n = bound(count, 1, 12);
        quorum = quorum % 2 == 0 ? quorum : bound(quorum, 0, n + 1);
        address[] memory validators = addressesOf(keysByAddress(1000, n));
        if (quorum > n || quorum * 2 <= n) {
            vm.expectRevert(abi.encodeWithSelector(Validators.QuorumOutOfRange.selector, quorum, n));
            setValidators(validators, quorum);
        } else {
            setValidators(validators, quorum);
            requireValidators(validators, quorum);
        }
    }

    // ------------------------------------------------------------------ posting a round

    function test_a_quorum_posts_a_round() public {
        openRun();
        Rounds.RoundRoot memory root = roundRoot(3, keccak256("payouts"), 3 * REWARD);
        bytes[] memory signed = signatures(root, keys, QUORUM);
        vm.expectEmit(address(ledger));
        emit Rounds.RoundPosted(RUN, 3, root.checkpoint, root.record, root.payoutRoot, 3 * REWARD);
        ledger.postRound(root, signed);
        (uint64 round, bytes32 checkpoint, bytes32 record, bytes32 payoutRoot, uint256 total) = ledger.head(RUN);
        vm.assertEq(round, 3, "round");
        vm.assertEq(checkpoint, root.checkpoint, "checkpoint");
        vm.assertEq(record, root.record, "record");
        vm.assertEq(payoutRoot, root.payoutRoot, "payout root");
        vm.assertEq(total, 3 * REWARD, "total");
    }

    function test_all_validators_may_sign() public {
        openRun();
        Rounds.RoundRoot memory root = roundRoot(1, 0, 0);
        ledger.postRound(root, signatures(root, keys, VALIDATORS));
    }

    function test_the_digest_is_eip712() public view {
        Rounds.RoundRoot memory root = roundRoot(1, keccak256("payouts"), REWARD);
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Eigen ContributionLedger"),
                keccak256("1"),
                block.chainid,
                address(ledger)
            )
        );
        bytes32 statement = keccak256(
            abi.encode(
                keccak256(
                    "RoundRoot(bytes32 run,uint64 round,bytes32 checkpoint,bytes32 record,bytes32 payoutRoot,uint256 payoutTotal)"
                ),
                root
            )
        );
        bytes32 expected = keccak256(abi.encodePacked("\x19\x01", domain, statement));
        vm.assertEq(ledger.roundDigest(root), expected, "digest");
    }

    function test_an_unknown_run_has_no_rounds() public {
        requireRefused(abi.encodeWithSelector(Streams.UnknownRun.selector, RUN), 1, 0);
        (uint64 round,,,,) = ledger.head(RUN);
        vm.assertEq(round, 0, "round");
    }

    function test_rounds_only_move_forward() public {
        openRun();
        requireRefused(abi.encodeWithSelector(Rounds.RoundNotLater.selector, RUN, 0, 0), 0, 0);
        post(5, 0, 0);
        requireRefused(abi.encodeWithSelector(Rounds.RoundNotLater.selector, RUN, 5, 5), 5, 0);
        requireRefused(abi.encodeWithSelector(Rounds.RoundNotLater.selector, RUN, 4, 5), 4, 0);
        post(ROUNDS, 0, 0);
        bytes memory beyond = abi.encodeWithSelector(Rounds.RoundBeyondRun.selector, RUN, ROUNDS + 1, ROUNDS);
        requireRefused(beyond, ROUNDS + 1, 0);
    }

    function test_totals_grow_within_the_budget() public {
        openRun();
        uint256 budget = 2 * REWARD;
        requireRefused(
            abi.encodeWithSelector(Rounds.PayoutTotalTooLarge.selector, RUN, budget + 1, budget), 2, budget + 1
        );
        post(2, 0, budget);
        requireRefused(
            abi.encodeWithSelector(Rounds.PayoutTotalDecreased.selector, RUN, budget - 1, budget), 3, budget - 1
        );
        post(3, 0, budget);
    }

    function test_the_largest_budget_can_be_posted() public {
        vm.prank(address(timelock));
        ledger.openRun(RUN, SPEC, 1, type(uint112).max);
        post(1, 0, type(uint112).max);
        (,,,, uint256 total) = ledger.head(RUN);
        vm.assertEq(total, type(uint112).max, "total");
    }

    function test_too_few_signatures_post_nothing() public {
        openRun();
        Rounds.RoundRoot memory root = roundRoot(1, 0, 0);
        bytes[] memory signed = signatures(root, keys, QUORUM - 1);
        vm.expectRevert(abi.encodeWithSelector(Validators.TooFewSignatures.selector, QUORUM - 1, QUORUM));
        ledger.postRound(root, signed);
    }

    function test_a_repeated_signer_counts_once() public {
        openRun();
        Rounds.RoundRoot memory root = roundRoot(1, 0, 0);
        bytes[] memory signed = signatures(root, keys, QUORUM);
        signed[2] = signed[1];
        address signer = vm.addr(keys[1]);
        vm.expectRevert(abi.encodeWithSelector(Validators.SignersNotAscending.selector, 2, signer, signer));
        ledger.postRound(root, signed);
    }

    function test_signers_must_be_sorted() public {
        openRun();
        Rounds.RoundRoot memory root = roundRoot(1, 0, 0);
        bytes[] memory signed = signatures(root, keys, QUORUM);
        (signed[0], signed[1]) = (signed[1], signed[0]);
        vm.expectRevert(
            abi.encodeWithSelector(Validators.SignersNotAscending.selector, 1, vm.addr(keys[0]), vm.addr(keys[1]))
        );
        ledger.postRound(root, signed);
    }

    function test_a_foreign_signer_posts_nothing() public {
        openRun();
        Rounds.RoundRoot memory root = roundRoot(1, 0, 0);
        bytes[] memory signed = signatures(root, keys, QUORUM);
        signed[0] = signature(999, ledger.roundDigest(root));
        vm.expectRevert(abi.encodeWithSelector(Validators.NotValidator.selector, 0, vm.addr(999)));
        ledger.postRound(root, signed);
    }

    function test_a_former_validator_posts_nothing() public {
        openRun();
        Rounds.RoundRoot memory root = roundRoot(1, 0, 0);
        bytes[] memory signed = signatures(root, keys, QUORUM);
        address[] memory remaining = new address[](1);
        remaining[0] = vm.addr(keys[1]);
        setValidators(remaining, 1);
        vm.expectRevert(abi.encodeWithSelector(Validators.NotValidator.selector, 0, vm.addr(keys[0])));
        ledger.postRound(root, signed);
    }

    function test_a_malformed_signature_posts_nothing() public {
        openRun();
        Rounds.RoundRoot memory root = roundRoot(1, 0, 0);
        bytes[] memory signed = signatures(root, keys, QUORUM);
        signed[1] = new bytes(64);
        vm.expectRevert(abi.encodeWithSelector(Validators.MalformedSignature.selector, 1));
        ledger.postRound(root, signed);
        signed[1] = mirrored(keys[1], ledger.roundDigest(root));
        vm.expectRevert(abi.encodeWithSelector(Validators.MalformedSignature.selector, 1));
        ledger.postRound(root, signed);
    }

    /// @dev A signature stands for one statement, in each of its fields.
    function testFuzz_a_signature_covers_every_field(uint8 field, bytes32 other) public {
        openRun();
        Rounds.RoundRoot memory root = roundRoot(2, keccak256("payouts"), REWARD);
        bytes[] memory signed = signatures(root, keys, QUORUM);
        bytes32 digest = ledger.roundDigest(root);
        field = field % 5;
        if (field == 0) root.round = 3;
        if (field == 1) root.checkpoint = other;
        if (field == 2) root.record = other;
        if (field == 3) root.payoutRoot = other;
        if (field == 4) root.payoutTotal = bound(uint256(other), 0, 2 * REWARD);
        vm.assume(ledger.roundDigest(root) != digest);
        vm.expectPartialRevert(Validators.NotValidator.selector);
        ledger.postRound(root, signed);
    }

    /// @dev Exactly the subsets with a quorum of distinct validators are accepted.
    function testFuzz_only_a_quorum_posts(uint8 signers, uint8 strangers) public {
        openRun();
        Rounds.RoundRoot memory root = roundRoot(1, 0, 0);
        bytes32 digest = ledger.roundDigest(root);
        uint256 count = 0;
        bool foreign = false;
        bytes[] memory all = new bytes[](VALIDATORS);
        for (uint256 i = 0; i < VALIDATORS; ++i) {
            if (signers >> i & 1 == 0) continue;
            bool stranger = strangers >> i & 1 == 1;
            foreign = foreign || stranger;
            all[count++] = signature(stranger ? 5000 + i : keys[i], digest);
        }
        bytes[] memory signed = new bytes[](count);
        for (uint256 i = 0; i < count; ++i) {
            signed[i] = all[i];
        }
        if (count < QUORUM) vm.expectPartialRevert(Validators.TooFewSignatures.selector);
        else if (foreign) vm.expectPartialRevert(Validators.NotValidator.selector);
        ledger.postRound(root, signed);
    }

    // ------------------------------------------------------------------ building blocks

    function requireValidators(address[] memory expected, uint256 quorum) private view {
        address[] memory named = ledger.validators();
        vm.assertEq(named.length, expected.length, "validators");
        vm.assertEq(ledger.quorum(), quorum, "quorum");
        for (uint256 i = 0; i < expected.length; ++i) {
            vm.assertEq(named[i], expected[i], "validator");
            vm.assertTrue(ledger.isValidator(expected[i]), "is a validator");
        }
    }

    /// @dev A round signed by a quorum is refused with exactly this error.
    function requireRefused(bytes memory error, uint64 round, uint256 payoutTotal) private {
        Rounds.RoundRoot memory root = roundRoot(round, 0, payoutTotal);
        bytes[] memory signed = signatures(root, keys, QUORUM);
        vm.expectRevert(error);
        ledger.postRound(root, signed);
    }

    /// @dev The other valid (r, s) of the same signature, which must not count as a second one.
    function mirrored(uint256 key, bytes32 digest) private pure returns (bytes memory) {
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, bytes32(order - uint256(s)), v == 27 ? uint8(28) : uint8(27));
    }
}
