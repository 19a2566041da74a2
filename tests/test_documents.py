"""What the documents say exists: options, files, links, and commands that compose."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException

PROJECT = Path(__file__).parents[1]
CONF = PROJECT / "conf"
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "conf/*.md", "dcgan_inpaint/**/*.md", "experiments/*.md", "tests/*.md")
    for path in PROJECT.glob(pattern)
)


@pytest.fixture(scope="module")
def describe():
    spec = importlib.util.spec_from_file_location("describe", CONF / "describe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_of_options_is_that_of_the_configs(describe):
    written = (CONF / "README.md").read_text()
    assert written == describe.describe(), "run: python conf/describe.py"


def leaves(node, prefix=""):
    """The keys of a parsed YAML file, in full, that have a value of their own."""
    for key, value in node.items():
        if not key.startswith("_") and key not in ("defaults", "hydra"):
            inner = isinstance(value, dict)
            yield from leaves(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]


@pytest.mark.parametrize(
    "path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF))
)
def test_every_key_is_described(describe, path):
    """The keys as a YAML parser reads them."""
    text = path.read_text()
    room = "" if path.parent == CONF else path.parent.name
    _, keys, defaults = describe.read(path, room)
    prefix = f"{room}." if room and "@package _global_" not in text else ""
    parsed = yaml.safe_load(text) or {}
    assert [row.key for row in keys if row.value] == list(leaves(parsed, prefix))
    if room != "experiment":  # which sets the keys of others
        known = {row.key for row in defaults}
        assert [row.key for row in keys if not row.description and row.key not in known] == []


def test_a_file_is_described_by_its_comments(describe, tmp_path):
    (tmp_path / "a.yaml").write_text(
        "# what it is,\n# in two lines\ndefaults:\n  - /solver: adam # moves z\n  - _self_\n"
        "_target_: a.b # not a key\nlr: 0.1 # of a step,\n# which falls\n"
        "inner: # of a stage\n  deeper:\n    x: '#' # one sign\nlast: [1, 2]\n"
    )
    about, keys, defaults = describe.read(tmp_path / "a.yaml", "group")
    assert about == "what it is, in two lines"
    assert keys == [
        ("group.lr", "0.1", "of a step, which falls"),
        ("group.inner", "", "of a stage"),
        ("group.inner.deeper.x", "'#'", "one sign"),
        ("group.last", "[1, 2]", ""),
    ]
    assert defaults == [("/solver", "adam", "moves z"), ("_self_", "", "")]


def test_what_it_cannot_read_is_not_left_out(describe, tmp_path):
    (tmp_path / "a.yaml").write_text("text: >\n  of more than one line\n")
    with pytest.raises(ValueError, match="cannot read this line:   of more"):
        describe.read(tmp_path / "a.yaml", "group")


def test_the_rooms_list_every_file():
    text = (PROJECT / "dcgan_inpaint" / "README.md").read_text()
    plan = text.split("```")[1]
    listed, room = [], ""
    for line in plan.splitlines():
        if found := re.match(r"(\w+/)", line):
            room = found[1]
        elif found := re.match(r"( *)(\w+\.py)\b", line):
            listed.append((room if found[1] else "") + found[2])
    files = (PROJECT / "dcgan_inpaint").rglob("*.py")
    names = [str(path.relative_to(PROJECT / "dcgan_inpaint")) for path in files]
    assert sorted(listed) == sorted(name for name in names if not name.endswith("__init__.py"))


def test_readme_is_short():
    assert len((PROJECT / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, section = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        if section:
            heads = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert section in anchors, target


def commands():
    """Every command for a door in the documents, as (where, door, overrides)."""
    for path in DOCUMENTS:
        text = re.sub(r"<[^>\n]*>", "X", path.read_text())  # what a reader fills in
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            if "git checkout" in block:  # of another commit
                continue
            shorthand = dict(re.findall(r"^(\w+)='(.*)'$", block, re.MULTILINE))
            for line in block.replace("\\\n", " ").splitlines():
                for name, meaning in shorthand.items():
                    line = re.sub(rf"\${name}\b", lambda _, meaning=meaning: meaning, line)
                yield from command(path, line)
        for span in re.findall(r"`([^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
            if not re.search(r"(^|[ ,])\.\.\.|`$", span):  # abridged
                yield from command(path, span.replace("\n", " "))


def command(path, line):
    found = re.match(r"(?:.*&& )?python (train|inpaint|sample)\.py\b(.*)", line)
    if found and "--help" not in line:
        words = [word.replace("=...", "=X") for word in shlex.split(found[2])]
        yield path.name, found[1], tuple(w for w in words if w not in ("-m", "B"))


COMMANDS = sorted(set(commands()))


def test_commands_are_found():
    assert ("README.md", "inpaint", ()) in COMMANDS
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("where", "door", "overrides"), COMMANDS, ids=lambda x: str(x)[:60])
def test_commands_compose(where, door, overrides):
    """Each value of a sweep at least once."""
    lists = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        swept = override.is_sweep_override()
        values = list(override.sweep_string_iterator()) if swept else []
        key = override.get_key_element()
        lists.append([f"{key}={value}" for value in values] or [override.input_line])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for i in range(max(map(len, lists), default=1)):
            compose(door, overrides=[choices[i % len(choices)] for choices in lists])


def test_a_word_that_is_no_more_does_not_compose():
    with pytest.raises(ConfigCompositionException):
        test_commands_compose("", "inpaint", ("objective=amos,near",))
