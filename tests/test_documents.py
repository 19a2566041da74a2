"""Tests of the documents: options, files and links exist, and commands compose."""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from dcgan_inpaint.composition import normalize_overrides

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


def test_conf_readme_is_what_describe_writes(describe):
    written = (CONF / "README.md").read_text()
    assert written == describe.describe(), "run: python conf/describe.py"


def leaves(node, prefix=""):
    """Yield the full keys of a parsed YAML file that have a value."""
    for key, value in node.items():
        if not key.startswith("_") and key not in ("defaults", "hydra"):
            inner = isinstance(value, dict)
            yield from leaves(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]


@pytest.mark.parametrize(
    "path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF))
)
def test_every_key_of_a_yaml_file_has_a_description(describe, path):
    text = path.read_text()
    group = "" if path.parent == CONF else path.parent.name
    _, keys, defaults = describe.read(path, group)
    package = re.search("^# @package (.+)$", text, re.M)
    package = package[1].replace("_global_", "") if package else group
    prefix = f"{package}." if package else ""
    parsed = yaml.safe_load(text) or {}
    assert [row.key for row in keys if row.value] == list(leaves(parsed, prefix))
    if group != "experiment":  # an experiment sets keys of other files
        known = {row.key for row in defaults}
        assert [row.key for row in keys if not row.description and row.key not in known] == []


def test_describe_reads_the_comments_of_a_file(describe, tmp_path):
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


def test_describe_raises_for_a_line_that_it_cannot_read(describe, tmp_path):
    (tmp_path / "a.yaml").write_text("text: >\n  of more than one line\n")
    with pytest.raises(ValueError, match="cannot read this line:   of more"):
        describe.read(tmp_path / "a.yaml", "group")


def test_package_readme_lists_every_module():
    text = (PROJECT / "dcgan_inpaint" / "README.md").read_text()
    listed, package = [], ""
    for line in text.split("```")[1].splitlines():
        if match := re.match(r"([\w/]+/)", line):
            package = match[1]
        elif match := re.match(r"( *)(\w+\.py)\b", line):
            listed.append((package if match[1] else "") + match[2])
    files = (PROJECT / "dcgan_inpaint").rglob("*.py")
    names = [str(path.relative_to(PROJECT / "dcgan_inpaint")) for path in files]
    assert sorted(listed) == sorted(name for name in names if not name.endswith("__init__.py"))


def test_readme_has_at_most_800_words():
    """Code and tables do not count."""
    text = re.sub(r"^```.*?^```", "", (PROJECT / "README.md").read_text(), flags=re.M | re.S)
    assert len(re.sub(r"^\|.*$", "", text, flags=re.M).split()) <= 800


def test_bibtex_of_the_readme_agrees_with_citation_cff():
    """It cites this project, Yeh 2017 and Amos 2016."""
    software = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    cited = {each["title"]: each for each in (software, *software["references"])}
    entries = re.findall(r"^@\w+\{.*?^\}", (PROJECT / "README.md").read_text(), re.M | re.S)
    assert len(entries) == 3
    for entry in entries:
        entry = re.sub(r"\s+", " ", entry)
        fields = dict(re.findall(r"(\w+) = \{(.+?)\},? (?=\w+ =|\}$)", entry))
        reference = cited.pop(fields["title"])
        authors = " and ".join(
            f"{{{author['name']}}}"
            if "name" in author
            else f"{author['family-names']}, {author['given-names']}"
            for author in reference["authors"]
        )
        assert fields["author"] == authors
        for key in {"year", "url", "version"} & reference.keys():
            assert fields[key] == str(reference[key])
        assert fields.get("booktitle") == reference.get("collection-title")
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    assert software["version"] == pyproject["project"]["version"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_point_to_files_and_sections(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, section = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        if section:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            anchors = {
                re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
            }
            assert section in anchors, target


def commands():
    """Yield each command in the documents as (file name, script, overrides)."""
    for path in DOCUMENTS:
        text = re.sub(r"<[^>\n]*>", "X", path.read_text())  # placeholders
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            if "git checkout" in block:  # a command for another commit
                continue
            variables = dict(re.findall(r"^(\w+)='(.*)'$", block, re.MULTILINE))
            for line in block.replace("\\\n", " ").splitlines():
                for name, value in variables.items():
                    line = re.sub(rf"\${name}\b", lambda _, value=value: value, line)
                yield from command(path, line)
        for span in re.findall(r"`([^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
            if not re.search(r"(^|[ ,])\.\.\.|`$", span):  # abbreviated
                yield from command(path, span.replace("\n", " "))


def command(path, line):
    """Yield the command in a line, if there is one for train.py, inpaint.py or sample.py."""
    match = re.match(r"(?:.*&& )?python (train|inpaint|sample)\.py\b(.*)", line)
    if match and "--help" not in line:
        words = [word.replace("=...", "=X") for word in shlex.split(match[2])]
        yield path.name, match[1], tuple(w for w in words if w not in ("-m", "B"))


COMMANDS = sorted(set(commands()))


def test_documents_contain_commands():
    assert ("README.md", "inpaint", ()) in COMMANDS
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("where", "script", "overrides"), COMMANDS, ids=lambda x: str(x)[:60])
def test_commands_in_the_documents_compose(where, script, overrides):
    """Every value of a sweep is composed at least once."""
    lists = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        swept = override.is_sweep_override()
        values = list(override.sweep_string_iterator()) if swept else []
        key = override.get_key_element()
        lists.append([f"{key}={value}" for value in values] or [override.input_line])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for i in range(max(map(len, lists), default=1)):
            chosen = [choices[i % len(choices)] for choices in lists]
            compose(script, overrides=normalize_overrides(chosen))


def test_an_unknown_choice_does_not_compose():
    with pytest.raises(ValueError, match="objective=near: no such choice"):
        test_commands_in_the_documents_compose("", "inpaint", ("objective=amos,near",))
