"""XML as a tree of elements that know their line, and nothing that XML can do besides.

A topology needs elements, attributes and text. What else XML has is refused before it is looked at:
a document type, with which a few lines can describe gigabytes (entities inside entities) or make
a reader open other files, and elements without end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from topologies.errors import TopologyError

MOST_ELEMENTS = 5_000_000
DEEPEST = 64


@dataclass(slots=True)
class Element:
    """An element: its name and those of its attributes, without namespaces.

    Attributes:
        text: what stands in it directly, elements in it left out.
        line: where it begins.
    """

    tag: str
    attributes: dict[str, str]
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[Element]:
        """Its direct children of this name."""
        return (child for child in self.children if child.tag == tag)

    def first(self, *path: str) -> Element | None:
        """The first element at the end of this path of children, or None."""
        found: Element | None = self
        for tag in path:
            found = next(found.all(tag), None) if found else None
        return found

    def anywhere(self, tag: str) -> Element | None:
        """The first element of this name below, however deep."""
        for child in self.children:
            found = child if child.tag == tag else child.anywhere(tag)
            if found:
                return found
        return None


def read_markup(text: str, file: str) -> Element:
    """The root of this XML; *file* is its name in errors. Raises TopologyError."""
    parser = expat.ParserCreate(encoding="utf-8", namespace_separator=" ")
    parser.buffer_text = True
    top = Element("", {}, 0)
    open_elements = [top]
    count = 0

    def error(problem: str, remedy: str | None = None) -> TopologyError:
        return TopologyError(problem, file=file, line=parser.CurrentLineNumber, remedy=remedy)

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > MOST_ELEMENTS or len(open_elements) > DEEPEST:
            raise error(f"this XML has more than {MOST_ELEMENTS} elements, or {DEEPEST} deep")
        own = {key.rpartition(" ")[2]: value for key, value in attributes.items()}
        element = Element(name.rpartition(" ")[2], own, parser.CurrentLineNumber)
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def end(_: str) -> None:
        open_elements.pop()

    def characters(data: str) -> None:
        open_elements[-1].text += data

    def refuse(*_: object) -> None:
        remedy = "Leave the lines <!DOCTYPE …> out; nothing in a topology needs them"
        raise error("document types and entities are not read", remedy)

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text.encode(errors="surrogatepass"), True)
    except expat.ExpatError as problem:
        what = expat.ErrorString(problem.code)
        remedy = "Is the file whole, and each <tag> closed by a </tag>?"
        line = problem.lineno
        raise TopologyError(
            f"this is not XML: {what}", file=file, line=line, remedy=remedy
        ) from None
    return top.children[0]
