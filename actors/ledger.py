"""A ledger, in two designs: `leftfold run leftfold.actors.ledger:app`.

`Ledger`: many accounts in one actor, so that a transfer is one handler and nothing can come between
its two halves. `Account`: one account per actor, for which a transfer is a `send`: it is delivered
within the same log entry, before any other command, and if it fails, the whole command does.

In both, no balance is ever negative, a transfer changes no sum, and amounts are whole cents. An
account exists from its first deposit. Who may move whose money is left to the application.
"""

import attrs

from .actor import actor, handler, query
from .app import App
from .context import Context
from .errors import Rejected
from .message import Command, message

# For one movement, and for one account. Sums of millions of them stay within 64 bits.
CENTS_MAX = 10**12
ACCOUNTS_MAX = 1_000_000
NAME_BYTES_MAX = 64


@message(id=210)
class Balance:
    """What an account holds."""

    cents: int


@message(id=211)
class Transferred:
    """What both accounts hold after a transfer."""

    source_cents: int
    target_cents: int


@message(id=212)
class Total:
    """What all accounts of a ledger hold together."""

    cents: int
    accounts: int


@message(id=200)
class Deposit(Command[Balance]):
    """Bring money into the ledger."""

    account: str
    cents: int


@message(id=201)
class Withdraw(Command[Balance]):
    """Take money out of the ledger."""

    account: str
    cents: int


@message(id=202)
class Transfer(Command[Transferred]):
    """Move money within the ledger."""

    source: str
    target: str
    cents: int


@message(id=203)
class BalanceOf(Command[Balance]):
    """What an account holds."""

    account: str


@message(id=204)
class TotalOf(Command[Total]):
    """What all accounts hold together."""


@actor(id=2, key=str)
class Ledger:
    """Many accounts. Its answers tell what happened; who wants events as well uses `Account`."""

    accounts: dict[str, int] = attrs.field(factory=dict[str, int])

    @handler
    def deposit(self, command: Deposit, context: Context) -> Balance:
        """Credit an account, which comes into being if it is new."""
        cents = command.cents
        if not 0 < cents <= CENTS_MAX:
            raise bad_amount()
        try:
            held = self.accounts[command.account]
        except KeyError:
            held = self.check_new(command.account)
        held += cents
        if held > CENTS_MAX:
            raise too_full()
        self.accounts[command.account] = held
        return Balance(held)

    @handler
    def withdraw(self, command: Withdraw, context: Context) -> Balance:
        """Debit an account."""
        cents = command.cents
        if not 0 < cents <= CENTS_MAX:
            raise bad_amount()
        held = self.accounts.get(command.account)
        if held is None:
            raise Rejected("no such account")
        if held < cents:
            raise Rejected("insufficient funds")
        held -= cents
        self.accounts[command.account] = held
        return Balance(held)

    @handler
    def transfer(self, command: Transfer, context: Context) -> Transferred:
        """Debit one account and credit the other; both are checked before either changes."""
        accounts, cents = self.accounts, command.cents
        source, target = command.source, command.target
        if not 0 < cents <= CENTS_MAX:
            raise bad_amount()
        if source == target:
            raise Rejected("source and target are the same account")
        try:
            source_cents = accounts[source]
        except KeyError:
            raise Rejected("no such account") from None
        if source_cents < cents:
            raise Rejected("insufficient funds")
        try:
            target_cents = accounts[target]
        except KeyError:
            target_cents = self.check_new(target)
        source_cents -= cents
        target_cents += cents
        if target_cents > CENTS_MAX:
            raise too_full()
        accounts[source] = source_cents
        accounts[target] = target_cents
        return Transferred(source_cents, target_cents)

    @query
    def balance(self, query: BalanceOf) -> Balance:
        """One account."""
        cents = self.accounts.get(query.account)
        if cents is None:
            raise Rejected("no such account")
        return Balance(cents)

    @query
    def total(self, query: TotalOf) -> Total:
        """All accounts."""
        return Total(sum(self.accounts.values()), len(self.accounts))

    def check_new(self, account: str) -> int:
        """Refuse an account that cannot come into being; what it would begin with."""
        if not 0 < len(account.encode()) <= NAME_BYTES_MAX:
            raise Rejected(f"the name of an account has 1 to {NAME_BYTES_MAX} bytes")
        if len(self.accounts) >= ACCOUNTS_MAX:
            raise Rejected(f"the ledger is full: it holds {ACCOUNTS_MAX} accounts")
        return 0


@message(id=230)
class Pay(Command[Balance]):
    """Move money from this account to the one with the key `target`.

    Answered with what is left here. A target that is too full sends the money back, in the same
    log entry; `Returned` tells of it.
    """

    target: str
    cents: int


@message(id=231)
class PayIn(Command[Balance]):
    """Bring money in from outside."""

    cents: int


@message(id=232)
class PayOut(Command[Balance]):
    """Take money to the outside."""

    cents: int


@message(id=233)
class Held(Command[Balance]):
    """What this account holds."""


@message(id=240)
class Credit(Command[None]):
    """From an account to its target: money that has already been debited."""

    source: str
    cents: int


@message(id=241)
class GiveBack(Command[None]):
    """From a target that is too full: the same money again."""

    target: str
    cents: int


@message(id=242)
class Changed:
    """The account changed to this."""

    cents: int


@message(id=243)
class Returned:
    """A payment came back from a target that was too full."""

    target: str
    cents: int


@actor(id=3, key=str, emits=(Changed, Returned))
class Account:
    """One account."""

    cents: int = 0

    @handler
    def pay_in(self, command: PayIn, context: Context) -> Balance:
        """Credit from outside."""
        check_amount(command.cents)
        if self.cents + command.cents > CENTS_MAX:
            raise too_full()
        return self.change(command.cents, context)

    @handler
    def pay_out(self, command: PayOut, context: Context) -> Balance:
        """Debit to the outside."""
        check_amount(command.cents)
        if self.cents < command.cents:
            raise Rejected("insufficient funds")
        return self.change(-command.cents, context)

    @handler
    def pay(self, command: Pay, context: Context) -> Balance:
        """Debit here and send the credit; the two cannot be separated."""
        check_amount(command.cents)
        source = context.key
        assert isinstance(source, str)
        if command.target == source:
            raise Rejected("source and target are the same account")
        if not 0 < len(command.target.encode()) <= NAME_BYTES_MAX:
            raise Rejected(f"the name of an account has 1 to {NAME_BYTES_MAX} bytes")
        if self.cents < command.cents:
            raise Rejected("insufficient funds")
        # `send` rejects a target that is quarantined, so it comes before the change.
        context.send(command.target, Credit(source, command.cents))
        return self.change(-command.cents, context)

    @handler(internal=True)
    def credit(self, command: Credit, context: Context) -> None:
        """Take the money. It cannot be refused any more, only sent back."""
        if self.cents + command.cents > CENTS_MAX:
            name = context.key
            assert isinstance(name, str)
            context.send(command.source, GiveBack(name, command.cents))
        else:
            self.change(command.cents, context)

    @handler(internal=True)
    def give_back(self, command: GiveBack, context: Context) -> None:
        """Take back what was debited within this same command, so there is room for it."""
        assert self.cents + command.cents <= CENTS_MAX
        self.change(command.cents, context)
        context.emit(Returned(command.target, command.cents))

    @query
    def held(self, query: Held) -> Balance:
        """This account."""
        return Balance(self.cents)

    def change(self, cents: int, context: Context) -> Balance:
        """Add this, and tell."""
        self.cents += cents
        assert 0 <= self.cents <= CENTS_MAX
        context.emit(Changed(self.cents))
        return Balance(self.cents)


def check_amount(cents: int) -> None:
    """Refuse what is not an amount."""
    if not 0 < cents <= CENTS_MAX:
        raise bad_amount()


def bad_amount() -> Rejected:
    """What is said of a number that is no amount."""
    return Rejected(f"the amount must be 1 to {CENTS_MAX} cents")


def too_full() -> Rejected:
    """What is said when an account would hold more than one may."""
    return Rejected(f"an account holds at most {CENTS_MAX} cents")


app = App(actors=[Ledger, Account], name="ledger")
