"""An app whose state can be made large, or such that no snapshot can carry it."""

from attrs import Factory

from leftfold.actors import App, Command, Context, actor, handler, message, query


@message(id=920)
class Kept:
    """How much a hoard holds."""

    texts: int


@message(id=921)
class Keep(Command[Kept]):
    """One more."""

    text: str


@message(id=922)
class Spoil(Command[Kept]):
    """Take in what no snapshot can carry."""


@message(id=923)
class Mend(Command[Kept]):
    """Throw that away again."""


@message(id=924)
class Count(Command[Kept]):
    """Ask how much there is."""


@actor(id=92, key=str)
class Hoard:
    """Texts, and perhaps something worse."""

    texts: list[str] = Factory(list[str])
    odd: str = ""

    def kept(self) -> Kept:
        return Kept(texts=len(self.texts))

    @handler
    def keep(self, command: Keep, context: Context) -> Kept:
        self.texts.append(command.text)
        return self.kept()

    @handler
    def spoil(self, command: Spoil, context: Context) -> Kept:
        self.odd = object()  # type: ignore[assignment]
        return self.kept()

    @handler
    def mend(self, command: Mend, context: Context) -> Kept:
        self.odd = ""
        return self.kept()

    @query
    def count(self, query: Count) -> Kept:
        return self.kept()


app = App(actors=[Hoard], name="hoarding")
