"""`leftfold profile`: the page of a real replica under load, opened in a real browser; and the trees of stacks behind it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from replica import replica
from test_top import LEDGER, under_load

from leftfold.runtime.topology import PROCESSES
from leftfold.tools import flames, load
from leftfold.tools.cli import call
from leftfold.tools.flames import Flames, tree_of
from leftfold.tools.profile import page_of

pytestmark = pytest.mark.xdist_group("serial")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--enable-logging=stderr", "--virtual-time-budget=10000"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


class Elements(HTMLParser):
    """The page as the browser had it in the end: its elements, by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.section = ""
        self.found: dict[str, list[tuple[str, dict[str, str | None]]]] = {}
        self.root: dict[str, str | None] = {}
        self.text: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note it."""
        given = dict(attributes)
        if tag == "html":
            self.root = given
        if tag in ("section", "header"):
            self.section = given.get("id") or tag
        self.found.setdefault(self.section, []).append((tag, given))

    def handle_data(self, data: str) -> None:
        """Note it."""
        self.text[self.section] = self.text.get(self.section, "") + data

    def count(self, section: str, tag: str, kind: str | None = None) -> int:
        """How many elements of a kind a section has."""
        return sum(
            name == tag and (kind is None or given.get("class") == kind)
            for name, given in self.found.get(section, [])
        )


def opened(page: Path, place: Path) -> Elements:
    """Open it in Chromium: what it has become; nothing may be on the console."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt install chromium")
    ended = subprocess.run(
        [CHROMIUM, *OPTIONS, f"--user-data-dir={place}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in ended.stderr, ended.stderr
    return Elements(ended.stdout)


def content_of(page: Path) -> dict[str, Any]:
    """The figures in it."""
    (found,) = re.findall(
        r'<script type="application/json" id="content">(.*?)</script>', page.read_text(), re.DOTALL
    )
    content: dict[str, Any] = json.loads(found)
    return content


def test_the_page_of_a_replica_under_load_draws_everything_in_a_browser(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    with replica(tmp_path / "replica", LEDGER) as running, under_load(running):
        assert call(["profile", str(running.directory), "--seconds", "3", "-o", str(page)]) == 0
    content = content_of(page)
    elements = opened(page, tmp_path / "chromium")

    assert str(page) in capsys.readouterr().out
    assert elements.root.get("data-drawn") == "all"
    assert elements.count("waterfall", "g", "hop") == len(content["hops"]) == 6
    assert elements.count("percentiles", "path", "curve") == 4
    assert elements.count("throughput", "polyline", "line") == 1 + len(PROCESSES)
    assert elements.count("processes", "tr") == 1 + len(PROCESSES)
    assert elements.count("figures", "tr") == 1 + len(content["curves"])
    assert content["commands"] > 0
    assert max(content["series"]["commands_per_s"]) > 0
    assert content["handlers"][0]["message"] == "Transfer"
    assert "Transfer" in elements.text["handlers"]
    for curve in content["curves"]:
        shares = [share for share, _ in curve["points"]]
        values = [value for _, value in curve["points"]]
        assert shares == sorted(shares)
        assert values == sorted(values)
        if curve["figures"]["count"]:
            assert shares[-1] == 1
            assert values[-1] == curve["figures"]["max"]
    for name in PROCESSES:
        flame = content["flames"][name]
        assert (flame["tree"] is None) == bool(flame["why"])
    if content["flames"]["logic"]["tree"] is None:
        assert "py-spy" in elements.text["flames"]
    else:
        assert "Machine.apply" in json.dumps(content["flames"]["logic"]["tree"]) or (
            "apply" in json.dumps(content["flames"]["logic"]["tree"])
        )
        assert elements.count("flames", "g", "frame") > 3


def test_the_page_loads_nothing_and_holds_no_markup_of_others(tmp_path: Path) -> None:
    page = page_of({"app": "</script><script>alert(1)</script>"})

    assert not re.search(
        r"""(src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)""", page
    )
    assert page.count("</script>") == 2
    place = tmp_path / "page.html"
    place.write_text(page)
    assert content_of(place) == {"app": "</script><script>alert(1)</script>"}


def test_without_py_spy_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flames, "find", lambda: None)
    monkeypatch.setattr("leftfold.tools.profile.find", lambda: None)
    page = tmp_path / "report.html"
    with replica(tmp_path / "replica", LEDGER) as running:
        load.throughput("127.0.0.1", running.port, commands=1_000, sessions=2)
        assert call(["profile", str(running.directory), "--seconds", "1", "-o", str(page)]) == 0
    elements = opened(page, tmp_path / "chromium")

    assert elements.root.get("data-drawn") == "all"
    assert "py-spy is not installed" in elements.text["flames"]
    assert elements.count("flames", "g", "frame") == 0


def test_what_py_spy_says_becomes_a_sentence(tmp_path: Path) -> None:
    refusing = tmp_path / "py-spy"
    refusing.write_text(
        "#!/bin/sh\necho 'Error: Permission Denied: Try running again' >&2\nexit 1\n"
    )
    refusing.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flames, "find", lambda: str(refusing))
        found = Flames.start({"logic": 1}, 1, tmp_path).collect()

    assert found["logic"].tree is None
    assert "SYS_PTRACE" in found["logic"].why


def test_stacks_become_a_tree_whose_parts_add_up() -> None:
    tree = tree_of("a;b;c 3\na;b 2\na;d 4\nnonsense\n\ne 1\n")

    assert tree["value"] == 10
    assert [(child["name"], child["value"]) for child in tree["children"]] == [("a", 9), ("e", 1)]
    a = tree["children"][0]
    assert [(child["name"], child["value"]) for child in a["children"]] == [("b", 5), ("d", 4)]
    assert a["children"][0]["children"][0]["value"] == 3


def test_a_dead_replica_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with replica(tmp_path / "replica", LEDGER) as running:
        running.kill("supervisor")
    assert call(["profile", str(running.directory)]) == 1

    assert "does not run" in capsys.readouterr().err


def test_a_page_that_breaks_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(page_of({"app": "no figures"}))

    with pytest.raises(AssertionError, match="CONSOLE"):
        opened(page, tmp_path / "chromium")
