"""What `make docs` does to pages on their way to the site; a hook of mkdocs and an extension of griffe.

Pages in docs/ are written to be read where they are, too: their links lead to files of the repository. Documents
outside of docs/ become pages, under the names in PAGES, and links follow. Docstrings have the roles of Sphinx.
"""

import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "BENCHMARKING.md": "figures.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples.md",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
INSIDE = {"engine", "locks", "memory", "ledger", "bus", "book"}
ROLE = re.compile(r":[a-z:]+:`~?\.?([^`<]+)`")
JOINED = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)+)( : .*)?\n((?: {4}.*(?:\n|$))+)", re.MULTILINE)
TABLE = re.compile(r"^(=+(?: +=+)+\n.*\n=+(?: +=+)+)$", re.MULTILINE | re.DOTALL)


def on_files(files, config):
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links that lead out of docs/ lead to pages, or, for source, to nowhere."""
    uri = page.file.src_uri
    origin = next((source for source, name in PAGES.items() if name == uri), f"docs/{uri}")

    def moved(link):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link[1]))
        if not (ROOT / target).exists():
            return link[0]
        name = PAGES.get(target) or target.removeprefix("docs/")
        return posixpath.relpath(name, posixpath.dirname(uri) or ".")

    if (posixpath.dirname(uri) == "" and uri not in PAGES.values()) or uri == "figures.md":
        page.meta["hide"] = ["navigation"]  # of one page
    if uri == "examples.md":
        markdown += "".join(map(_program, sorted((ROOT / "examples").glob("*.py"))))
        markdown = re.sub(r"\]\((\d\d)_(\w+)\.py\)", r"](#\1_\2py)", markdown)
    markdown = re.sub(r"\[(`?[^\]]+`?)\]\([./]*(?:src|tests|benches)/[^)]+\)", r"\1", markdown)
    return LINK.sub(moved, markdown)


def _program(path):
    return f"\n## {path.name}\n\n```python\n{path.read_text()}```\n"


class Docstrings(griffe.Extension):
    """Says in Markdown what docstrings say in reStructuredText, and leaves out what is nobody's business."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring is not None:
            text = ROLE.sub(lambda role: f"`{role[1].removeprefix('ntmem.')}`", obj.docstring.value)
            obj.docstring.value = TABLE.sub(r"```text\n\1\n```", JOINED.sub(_apart, text))

    def on_class_members(self, *, cls, **kwargs):
        """Show twins as the functions that they are, and no constructor that takes the inside of a store."""
        for name, member in list(cls.members.items()):
            if member.is_attribute and str(member.value).startswith("twin("):
                cls.set_member(name, _twin(member, cls.members[str(member.value)[5:-1]]))
        init = cls.members.get("__init__")
        if init is not None and init.is_function and not INSIDE.isdisjoint(each.name for each in init.parameters):
            cls.del_member("__init__")


def _twin(attribute, call):
    twin = griffe.Function(
        attribute.name,
        lineno=attribute.lineno,
        endlineno=attribute.endlineno,
        parameters=call.parameters,
        returns=call.returns,
    )
    twin.labels.add("async")
    twin.docstring = griffe.Docstring(f"Do `{call.name}` in a thread, without holding up the event loop.", parent=twin)
    return twin


def _apart(joined):
    """Give each of several parameters that are described together its own line: griffe gives them all one type."""
    names, kind, about = joined.groups()
    return "".join(f"{name}{kind or ''}\n{about.rstrip()}\n" for name in names.split(", "))
