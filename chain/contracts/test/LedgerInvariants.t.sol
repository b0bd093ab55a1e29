// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "../src/ContributionLedger.sol";
import {Rounds} from "../src/Rounds.sol";
import {Dao} from "./Dao.sol";
import {Payouts} from "./Payouts.sol";

/// @notice Plays the DAO, the validators and the contributors against one ledger, in any order. It keeps its own books,
/// so that what the ledger says can be held against them. Every refusal it provokes must happen.
contract LedgerActors is Dao {
    uint256 public constant ACCOUNTS = 6;
    uint256 public constant RUNS = 2;

    struct Books {
        uint64 round;
        uint256 payoutTotal;
        uint256 paid;
        bytes32[] leaves;
        uint256[] cumulative;
    }

    mapping(uint256 run => Books) private _books;
    mapping(uint256 run => mapping(uint256 account => uint256)) public attestedMost;
    mapping(uint256 run => mapping(uint256 account => uint256)) public paidTo;
    mapping(address payee => uint256) public received;
    uint256 public paidInAll;
    uint256 public posts;
    uint256 public claims;
    uint256 public refusals;

    constructor() {
        deployDao();
        for (uint256 i = 0; i < RUNS; ++i) {
            vm.prank(address(timelock));
            ledger.openRun(runId(i), SPEC, ROUNDS, REWARD);
        }
    }

    // ------------------------------------------------------------------ what may happen

    /// @dev A quorum attests a later round. Its leaves may sum to up to twice its budget: validators can be wrong.
    function postRound(uint256 run, uint64 step, uint256[6] memory earned, uint256 total, uint256 more) external {
        run %= RUNS;
        Books storage b = _books[run];
        if (b.round == ROUNDS) return;
        uint64 round = b.round + 1 + step % 3;
        if (round > ROUNDS) round = ROUNDS;
        total = bound(total, b.payoutTotal, uint256(REWARD) * round);

        address[] memory who = new address[](ACCOUNTS);
        uint256[] memory cumulative = new uint256[](ACCOUNTS);
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            (who[i], cumulative[i]) = (account(i), bound(earned[i], 0, uint256(REWARD) * round / 3));
            if (cumulative[i] > attestedMost[run][i]) attestedMost[run][i] = cumulative[i];
        }
        b.leaves = Payouts.leaves(who, cumulative);
        b.cumulative = cumulative;
        (b.round, b.payoutTotal) = (round, total);

        Rounds.RoundRoot memory root = roundRoot(round, Payouts.root(b.leaves), total);
        root.run = runId(run);
        uint256 signers = bound(more, ledger.quorum(), keys.length);
        ledger.postRound(root, signatures(root, keys, signers));
        ++posts;
    }

    /// @dev Too few validators, an earlier round, or a total outside its bounds.
    function postBadRound(uint256 run, uint8 fault, uint256 amount) external {
        run %= RUNS;
        Books storage b = _books[run];
        Rounds.RoundRoot memory root = roundRoot(b.round + 1, 0, b.payoutTotal);
        root.run = runId(run);
        uint256 signers = ledger.quorum();
        fault %= 4;
        if (fault == 0) --signers;
        if (fault == 1) root.round = uint64(bound(amount, 0, b.round));
        if (fault == 2) root.payoutTotal = bound(amount, uint256(REWARD) * root.round + 1, type(uint256).max);
        if (fault == 3 && b.payoutTotal > 0) root.payoutTotal = bound(amount, 0, b.payoutTotal - 1);
        if (fault == 3 && b.payoutTotal == 0) return;
        bytes[] memory signed = signatures(root, keys, signers);
        refused(abi.encodeCall(ledger.postRound, (root, signed)));
    }

    /// @dev Someone claims for an account of the latest root.
    function claim(uint256 run, uint256 who) external {
        (run, who) = (run % RUNS, who % ACCOUNTS);
        Books storage b = _books[run];
        if (b.round == 0) return;
        uint256 due = b.cumulative[who] > paidTo[run][who] ? b.cumulative[who] - paidTo[run][who] : 0;
        bytes32[] memory proof = Payouts.proof(b.leaves, who);
        bytes memory call = abi.encodeCall(ledger.claim, (runId(run), account(who), b.cumulative[who], proof));
        if (due == 0 || b.paid + due > b.payoutTotal) return refused(call);

        address payee = ledger.payoutOf(account(who));
        (bool done,) = address(ledger).call(call);
        vm.assertTrue(done, "a due claim is paid");
        paidTo[run][who] += due;
        received[payee] += due;
        b.paid += due;
        paidInAll += due;
        ++claims;
    }

    /// @dev Someone claims another's amount, or more than the root says.
    function claimForeign(uint256 run, uint256 who, uint256 other, uint256 more) external {
        (run, who, other) = (run % RUNS, who % ACCOUNTS, other % ACCOUNTS);
        Books storage b = _books[run];
        if (b.round == 0) return;
        uint256 amount = bound(more, b.cumulative[other], type(uint256).max);
        if (who == other && amount == b.cumulative[who]) return;
        bytes32[] memory proof = Payouts.proof(b.leaves, other);
        if (amount == b.cumulative[who] && who != other && b.leaves[who] == b.leaves[other]) return;
        refused(abi.encodeCall(ledger.claim, (runId(run), account(who), amount, proof)));
    }

    /// @dev An account names a payee, itself, or nobody.
    function setPayout(uint256 who, uint256 payee) external {
        payee %= ACCOUNTS + 3;
        vm.prank(account(who % ACCOUNTS));
        ledger.setPayout(payee == 0 ? address(0) : account(payee - 1));
    }

    /// @dev The DAO replaces the validators.
    function changeValidators(uint256 first, uint256 count, uint256 quorum) external {
        count = bound(count, 1, 7);
        keys = keysByAddress(100 + first % 50, count);
        setValidators(addressesOf(keys), bound(quorum, count / 2 + 1, count));
    }

    /// @dev The DAO names a quorum that two disjoint groups could reach, or none could.
    function changeToBadQuorum(uint256 quorum) external {
        uint256 count = keys.length;
        quorum = quorum % 2 == 0 ? bound(quorum, 0, count / 2) : bound(quorum, count + 1, type(uint256).max);
        address[] memory validators = addressesOf(keys);
        vm.prank(address(timelock));
        refused(abi.encodeCall(ledger.setValidators, (validators, quorum)));
    }

    function passTime(uint32 seconds_) external {
        vm.warp(block.timestamp + seconds_ % 1 days);
        vm.roll(block.number + 1);
    }

    // ------------------------------------------------------------------ the books

    function books(uint256 run) external view returns (uint64 round, uint256 payoutTotal, uint256 paid) {
        Books storage b = _books[run];
        return (b.round, b.payoutTotal, b.paid);
    }

    function ledgerOfAll() external view returns (ContributionLedger) {
        return ledger;
    }

    function runId(uint256 run) public pure returns (bytes32) {
        return keccak256(abi.encode("run", run));
    }

    /// @dev Contributors first, then wallets that only receive.
    function account(uint256 i) public pure returns (address) {
        return vm.addr(1 + i);
    }

    function refused(bytes memory call) private {
        (bool done,) = address(ledger).call(call);
        vm.assertTrue(!done, "a bad call is refused");
        ++refusals;
    }
}

/// @notice What must hold whatever happens to a ledger.
contract LedgerInvariantsTest is Dao {
    LedgerActors private actors;

    function setUp() public {
        actors = new LedgerActors();
        ledger = actors.ledgerOfAll();
        token = ledger.token();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(actors);
    }

    function invariant_the_ledger_agrees_with_the_books() public view {
        claimsNeverExceedWhatWasAttested();
        headsAreTheLastPosted();
        everyTokenIsAClaim();
        nobodyGetsAnothersEarnings();
        twoQuorumsShareAValidator();
    }

    /// @dev The campaign means something only if its actions get through: one long game shows that they do.
    function test_the_actors_reach_every_outcome() public {
        for (uint256 i = 0; i < 120; ++i) {
            uint256 dice = uint256(keccak256(abi.encode(i)));
            uint256[6] memory earned = [dice, dice >> 8, dice >> 16, dice >> 24, dice >> 32, dice >> 40];
            if (i % 6 == 0) actors.postRound(dice, 0, earned, dice >> 48, dice >> 56);
            actors.claim(dice >> 64, dice >> 72);
            actors.postBadRound(dice, uint8(i), dice);
            actors.claimForeign(dice, i, i + 1, dice >> 9);
            actors.setPayout(i, dice);
            if (i % 10 == 0) actors.changeValidators(dice, dice >> 80, dice >> 88);
            actors.changeToBadQuorum(dice);
            actors.passTime(uint32(dice));
        }
        vm.assertTrue(actors.posts() >= 10, "posts");
        vm.assertTrue(actors.claims() >= 10, "claims");
        vm.assertTrue(actors.refusals() >= 100, "refusals");
    }

    function claimsNeverExceedWhatWasAttested() private view {
        for (uint256 run = 0; run < actors.RUNS(); ++run) {
            (, uint64 rounds, uint128 reward,, uint256 claimedTotal) = ledger.runs(actors.runId(run));
            (uint64 round,,,, uint256 payoutTotal) = ledger.head(actors.runId(run));
            vm.assertLe(claimedTotal, payoutTotal, "claimed, attested");
            vm.assertLe(payoutTotal, uint256(reward) * round, "attested, budget");
            vm.assertLe(round, rounds, "round, rounds");
        }
    }

    function headsAreTheLastPosted() private view {
        for (uint256 run = 0; run < actors.RUNS(); ++run) {
            (uint64 round,,,, uint256 payoutTotal) = ledger.head(actors.runId(run));
            (uint64 booked, uint256 bookedTotal,) = actors.books(run); // grows only, by construction
            vm.assertEq(round, booked, "round");
            vm.assertEq(payoutTotal, bookedTotal, "total");
        }
    }

    function everyTokenIsAClaim() private view {
        uint256 sum = 0;
        for (uint256 run = 0; run < actors.RUNS(); ++run) {
            (,,,, uint256 claimedTotal) = ledger.runs(actors.runId(run));
            (,, uint256 paid) = actors.books(run);
            vm.assertEq(claimedTotal, paid, "paid of the run");
            uint256 ofAccounts = 0;
            for (uint256 i = 0; i < actors.ACCOUNTS(); ++i) {
                ofAccounts += ledger.claimed(actors.runId(run), actors.account(i));
            }
            vm.assertEq(ofAccounts, claimedTotal, "paid to the accounts");
            sum += claimedTotal;
        }
        vm.assertEq(token.totalSupply(), sum, "supply");
        vm.assertEq(sum, actors.paidInAll(), "booked");
    }

    function nobodyGetsAnothersEarnings() private view {
        for (uint256 i = 0; i < actors.ACCOUNTS() + 2; ++i) {
            address payee = actors.account(i);
            vm.assertEq(token.balanceOf(payee), actors.received(payee), "received");
        }
        for (uint256 run = 0; run < actors.RUNS(); ++run) {
            for (uint256 i = 0; i < actors.ACCOUNTS(); ++i) {
                uint256 paid = ledger.claimed(actors.runId(run), actors.account(i));
                vm.assertEq(paid, actors.paidTo(run, i), "paid");
                vm.assertLe(paid, actors.attestedMost(run, i), "paid, attested");
            }
        }
    }

    function twoQuorumsShareAValidator() private view {
        address[] memory validators = ledger.validators();
        uint256 quorum = ledger.quorum();
        vm.assertTrue(quorum <= validators.length && 2 * quorum > validators.length, "quorum");
        uint256 known = 0;
        for (uint256 key = 100; key < 160; ++key) {
            if (ledger.isValidator(vm.addr(key))) ++known;
        }
        vm.assertEq(known, validators.length, "validators");
    }
}
