"""An app that breaks the rules: its handler looks at the world, so that a test can make one replica differ from the others."""

from pathlib import Path

from leftfold.actors import App, Command, Context, actor, handler, message


@message(id=950)
class Seen:
    """What the actor has counted up to."""

    value: int


@message(id=951)
class Step(Command[Seen]):
    """Count one; or two, where the replica's directory holds a file `stray` that names this key. One named `drift` changes what
    nobody is told."""


@actor(id=95, key=str)
class Walker:
    """Counts steps."""

    value: int = 0
    hidden: int = 0
    """Reaches no output."""

    @handler
    def step(self, command: Step, context: Context) -> Seen:
        title = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode()
        directory = Path(title.rpartition(" ")[2])
        stray = directory / "stray"
        self.value += 2 if stray.exists() and stray.read_text() == context.key else 1
        self.hidden += (directory / "drift").exists()
        return Seen(value=self.value)


app = App(actors=[Walker], name="straying")
