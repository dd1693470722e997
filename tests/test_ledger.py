"""The ledger: no balance below zero, no cent lost, and no transfer that is half done."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leftfold.actors import ledger
from leftfold.actors.errors import Rejected
from leftfold.actors.ledger import (
    CENTS_MAX,
    Account,
    Balance,
    BalanceOf,
    Changed,
    Credit,
    Deposit,
    GiveBack,
    Held,
    Ledger,
    Pay,
    PayIn,
    PayOut,
    Returned,
    Total,
    TotalOf,
    Transfer,
    Transferred,
    Withdraw,
    app,
)
from leftfold.actors.message import Command
from leftfold.actors.testing import CommandFailed, Folded

NAMES = st.sampled_from(["ann", "bob", "cy", ""])
CENTS = st.integers(-1, 30) | st.sampled_from([CENTS_MAX - 1, CENTS_MAX, CENTS_MAX + 1])
LEDGER_COMMANDS: st.SearchStrategy[Command[Any]] = st.one_of(
    st.builds(Deposit, NAMES, CENTS),
    st.builds(Withdraw, NAMES, CENTS),
    st.builds(Transfer, NAMES, NAMES, CENTS),
    st.builds(Transfer, NAMES, NAMES, CENTS),
)
PAYMENTS = st.one_of(
    st.tuples(NAMES, st.builds(PayIn, CENTS)),
    st.tuples(NAMES, st.builds(PayOut, CENTS)),
    st.tuples(NAMES, st.builds(Pay, NAMES, CENTS)),
    st.tuples(NAMES, st.builds(Pay, NAMES, CENTS)),
)


def accepted(fold: Folded, key: str, command: Command[Any]) -> bool:
    try:
        fold.ask(key, command)
    except Rejected:
        return False
    return True


@settings(deadline=None)
@given(st.lists(LEDGER_COMMANDS, max_size=40))
def test_a_ledger_conserves_its_sum_and_goes_nowhere_below_zero(
    commands: list[Command[Any]],
) -> None:
    fold = Folded(app)
    cents = 0
    for command in commands:
        if accepted(fold, "main", command):
            if isinstance(command, Deposit):
                cents += command.cents
            elif isinstance(command, Withdraw):
                cents -= command.cents
            accounts: dict[str, int] = fold.actor(Ledger, "main").accounts
            assert sum(accounts.values()) == cents
            assert all(0 <= balance <= CENTS_MAX for balance in accounts.values())
            assert fold.ask("main", TotalOf()) == Total(cents, len(accounts))
    fold.check_replay(every=7)


@settings(deadline=None)
@given(st.lists(PAYMENTS, max_size=40))
def test_payments_between_actors_conserve_the_sum(
    payments: list[tuple[str, Command[Any]]],
) -> None:
    """A payment to an account that is too full comes back within the same entry."""
    fold = Folded(app)
    cents = 0
    for key, command in payments:
        if accepted(fold, key, command):
            if isinstance(command, PayIn):
                cents += command.cents
            elif isinstance(command, PayOut):
                cents -= command.cents
        balances: list[int] = [
            account.cents
            for account in fold.machine.state.actors[3].values()
            if isinstance(account, Account)
        ]
        assert sum(balances) == cents
        assert all(0 <= balance <= CENTS_MAX for balance in balances)
    assert not fold.machine.state.quarantined
    fold.check_replay(every=7)


def test_a_transfer_answers_with_both_balances() -> None:
    fold = Folded(app)
    fold.ask("main", Deposit("ann", 100))

    assert fold.ask("main", Transfer("ann", "bob", 30)) == Transferred(70, 30)
    assert fold.ask("main", BalanceOf("bob")) == Balance(30)
    assert fold.ask("main", Withdraw("bob", 30)) == Balance(0)
    assert fold.events == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (Deposit("ann", 0), f"the amount must be 1 to {CENTS_MAX} cents"),
        (Deposit("ann", CENTS_MAX), f"an account holds at most {CENTS_MAX} cents"),
        (Deposit("", 1), "the name of an account has 1 to 64 bytes"),
        (Deposit("é" * 33, 1), "the name of an account has 1 to 64 bytes"),
        (Withdraw("ann", 101), "insufficient funds"),
        (Withdraw("bob", 1), "no such account"),
        (Transfer("ann", "bob", 101), "insufficient funds"),
        (Transfer("bob", "ann", 1), "no such account"),
        (Transfer("ann", "ann", 1), "source and target are the same account"),
        (Transfer("ann", "", 1), "the name of an account has 1 to 64 bytes"),
        (BalanceOf("bob"), "no such account"),
    ],
)
def test_a_refusal_says_why_and_moves_nothing(command: Command[Any], reason: str) -> None:
    fold = Folded(app)
    fold.ask("main", Deposit("ann", 100))

    with pytest.raises(Rejected) as caught:
        fold.ask("main", command)

    assert caught.value.reason == reason
    assert fold.actor(Ledger, "main").accounts == {"ann": 100}


def test_a_full_ledger_opens_no_more_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "ACCOUNTS_MAX", 1)
    fold = Folded(app)
    fold.ask("main", Deposit("ann", 100))

    assert not accepted(fold, "main", Transfer("ann", "bob", 1))
    assert accepted(fold, "main", Deposit("ann", 1))


def test_a_payment_reaches_the_other_actor_in_the_same_entry() -> None:
    fold = Folded(app)
    fold.ask("ann", PayIn(100))

    assert fold.ask("ann", Pay("bob", 30)) == Balance(70)
    assert fold.ask("bob", Held()) == Balance(30)
    assert [(event.key, event.message) for event in fold.events] == [
        ("ann", Changed(100)),
        ("ann", Changed(70)),
        ("bob", Changed(30)),
    ]


def test_a_payment_to_an_account_that_is_too_full_comes_back() -> None:
    fold = Folded(app)
    fold.ask("ann", PayIn(100))
    fold.ask("bob", PayIn(CENTS_MAX - 29))

    fold.ask("ann", Pay("bob", 30))

    assert fold.ask("ann", Held()) == Balance(100)
    assert fold.ask("bob", Held()) == Balance(CENTS_MAX - 29)
    assert fold.events[-1].message == Returned("bob", 30)


def test_a_client_cannot_send_the_halves_of_a_payment() -> None:
    fold = Folded(app)
    fold.ask("ann", PayIn(100))
    for half in (Credit("bob", 30), GiveBack("bob", 30)):
        with pytest.raises(CommandFailed, match="UNKNOWN_MESSAGE"):
            fold.ask("ann", half)

    assert fold.ask("ann", Held()) == Balance(100)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (Pay("bob", 101), "insufficient funds"),
        (Pay("ann", 1), "source and target are the same account"),
        (Pay("", 1), "the name of an account has 1 to 64 bytes"),
        (Pay("bob", 0), f"the amount must be 1 to {CENTS_MAX} cents"),
        (PayOut(101), "insufficient funds"),
        (PayIn(CENTS_MAX), f"an account holds at most {CENTS_MAX} cents"),
    ],
)
def test_an_account_refuses_and_keeps_what_it_has(command: Command[Any], reason: str) -> None:
    fold = Folded(app)
    fold.ask("ann", PayIn(100))

    with pytest.raises(Rejected) as caught:
        fold.ask("ann", command)

    assert caught.value.reason == reason
    assert fold.ask("ann", Held()) == Balance(100)


def test_a_payment_to_a_quarantined_account_is_refused_before_the_debit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fold = Folded(app)
    fold.ask("ann", PayIn(100))
    fold.ask("bob", PayIn(100))

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "check_amount", broken)
        with pytest.raises(CommandFailed, match="FAILED"):
            fold.ask("bob", PayOut(1))
    with pytest.raises(Rejected, match="quarantined"):
        fold.ask("ann", Pay("bob", 30))

    assert fold.ask("ann", Held()) == Balance(100)
