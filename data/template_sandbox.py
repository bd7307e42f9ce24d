"""Chat templates as code that nobody vouches for: Jinja in its sandbox, with bounds on what it may use up.

In: a template's text, and the values it may read. Out: the text that it writes, or a `TemplateFault`. A template comes with a
model from anywhere. So it sees plain values alone; filters and methods are those of a list; numbers and texts that it
makes have a largest size; loops and calls are counted, and the clock is read at each of them. There is no date and no
chance: the same conversation gives the same text for ever.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_SOURCE = 2**20  # characters of a template; known ones have 200 to 30,000
MAX_SIZE = 2**22  # characters that a template may write, or hold in one text
MAX_ITEMS = 2**16  # of a list, with those of the lists in it
MAX_STEPS = 2**16  # turns of loops and calls of one rendering; a conversation takes a few for each message
MAX_SECONDS = 10.0  # of this thread's own time, which a busy machine does not use up
MAX_NUMBER = 2**53
FILTERS = (
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "join"),
    *("last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round"),
    *("safe", "select", "selectattr", "sort", "string", "title", "tojson", "trim", "unique", "upper", "indent"),
)
GLOBALS = ("range", "dict", "namespace")
# Methods whose result may be as large as a number says, or that hand out what is no text.
REFUSED_METHODS = ("center", "encode", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill")
GENERATION_OPEN, GENERATION_CLOSE = "\U0010f0e3", "\U0010f0e4"  # private use: no text has them (see chat_template.py)


class TemplateFault(ValueError):
    """Why a template cannot be used, or refuses these values; a sentence without a subject."""


class TemplateSandbox:
    """A compiled template.

    Args:
        source: Jinja, as tokenizers bring it.

    Raises:
        TemplateFault: it is no Jinja, or uses what is not offered.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise TemplateFault(f"has {len(source):,} characters, above the limit of {MAX_SOURCE:,}")
        self.has_generation = False
        self._environment = _Environment()
        try:
            self._template = self._environment.from_string(source)
        except MemoryError:
            raise
        except Exception as error:  # Jinja's own, and those of Python's compiler for what Jinja made of it
            raise TemplateFault(f"is no template that can be used here ({_told(error)})") from None
        self.has_generation = self._environment.has_generation

    def render(self, values: Mapping[str, Any]) -> str:
        """What the template writes.

        Args:
            values: texts, numbers, lists and dictionaries.

        Raises:
            TemplateFault: it refuses the values, fails on them, or uses more than it may.
        """
        budget = self._environment.budget = _Budget()
        written: list[str] = []
        size = 0
        try:
            for text in self._template.generate(**values):
                size += len(text)
                if size > MAX_SIZE:
                    raise TemplateFault(f"writes more than {MAX_SIZE:,} characters")
                written.append(text)
                budget.step()
        except (TemplateFault, MemoryError):
            raise
        except _Raised as error:
            raise TemplateFault(f"refuses this conversation: {_told(error)}") from None
        except Exception as error:  # whatever Python raises in an expression
            raise TemplateFault(f"fails on this conversation ({type(error).__name__}: {_told(error)})") from None
        return "".join(written)


class _Raised(jinja2.TemplateError):
    """By `raise_exception` of the template itself."""


class _Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self._steps, self._end = MAX_STEPS, time.thread_time() + MAX_SECONDS

    def step(self, count: int = 1) -> None:
        self._steps -= count
        if self._steps < 0:
            raise TemplateFault(f"takes more than {MAX_STEPS:,} turns of loops and calls")
        if time.thread_time() > self._end:
            raise TemplateFault(f"takes more than {MAX_SECONDS:g} seconds")


class _Generation(Extension):
    """`{% generation %}` ... `{% endgeneration %}`: what the assistant says, marked in what is written."""

    tags = frozenset(("generation",))  # type: ignore[assignment]

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        assert isinstance(self.environment, _Environment)
        self.environment.has_generation = True
        opens, closes = (
            nodes.Output([nodes.TemplateData(mark)]).set_lineno(line) for mark in (GENERATION_OPEN, GENERATION_CLOSE)
        )
        return nodes.Scope([opens, *body, closes]).set_lineno(line)


class _Names(Namespace):
    """Jinja's `namespace`, without the names that Python keeps for itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            _check_name(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        # Nothing is computed while it is compiled: that would be outside of all bounds.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_written,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        self.budget = _Budget()
        self.has_generation = False
        own = {"join": _join, "replace": _replace, "string": _string, "tojson": _tojson, "indent": _indent}
        self.filters = {name: own.get(name, self.filters.get(name)) for name in FILTERS}
        self.filters |= {"__counted": self._counted, "__written": _written}
        self.globals = {name: self.globals[name] for name in GLOBALS}
        self.globals |= {"range": self._range, "dict": _dict, "namespace": _Names, "raise_exception": _raise}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "__counted", [], [], None, None)
        for joined in list(tree.find_all(nodes.Concat)):
            joined.nodes = [nodes.Filter(node, "__written", [], [], None, None) for node in joined.nodes]
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | bytes) and attr in REFUSED_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        raise TemplateFault("uses `.format`, which is not offered here")

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.budget.step()
        name, own = getattr(function, "__name__", ""), getattr(function, "__self__", None)
        if isinstance(own, str) and name in ("join", "replace"):
            return _join(args[0], own) if name == "join" else _replace(own, *args)
        return _sized(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.budget.step()
        if operator == "*":
            for some, times in ((left, right), (right, left)):
                if hasattr(some, "__len__") and isinstance(times, int):
                    _check_size(len(some) * times)
        if operator == "**" and not (abs(left) <= 2**20 and abs(right) <= 64):
            raise TemplateFault(f"makes a number above {MAX_NUMBER:,}")
        if operator == "%" and isinstance(left, str):
            if re.search(r"\*|\d{4}", left):
                raise TemplateFault("pads a text to a width that is not offered here")
            _sized(list(right) if isinstance(right, tuple) else right)
        return _sized(super().call_binop(context, operator, left, right))

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.budget.step()
            yield item

    def _range(self, *args: int) -> range:
        numbers = range(*args)
        self.budget.step(len(numbers))
        return numbers


def _sized(value: Any) -> Any:
    """The value, if its text is within bounds; a list is counted with all that is in it, as often as it is in it."""
    if isinstance(value, str):
        _check_size(len(value))
        return value
    left, items = MAX_SIZE, MAX_ITEMS
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str):
            left -= len(one)
        elif isinstance(one, dict):
            items -= len(one)
            rest += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            items -= len(one)
            rest += one if items >= 0 else ()
        elif isinstance(one, int) and abs(one) > MAX_NUMBER:
            raise TemplateFault(f"makes a number above {MAX_NUMBER:,}")
        if items < 0:
            raise TemplateFault(f"makes a list of more than {MAX_ITEMS:,} items")
        _check_size(MAX_SIZE - left)
    return value


def _written(value: Any) -> Any:
    """A value that is to become text. An object of Python's would become its address, which is another each time."""
    if isinstance(value, str | int | float | list | tuple | dict | jinja2.Undefined) or value is None:
        return _sized(value)
    raise TemplateFault(f"writes a {type(value).__name__}, which is no text")


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise TemplateFault(f"makes a text or a list of more than {MAX_SIZE:,} characters")


def _join(items: Iterable[Any], by: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        items = [item[attribute] for item in items]
    texts = [str(_written(item)) for item in items]
    _check_size(sum(map(len, texts)) + len(by) * len(texts))
    return by.join(texts)


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    text = _string(text)
    _check_size(len(text) + text.count(old) * len(new))
    return text.replace(old, new, count)


def _string(value: Any) -> str:
    return str(_written(value))


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    margin = width if isinstance(width, str) else " " * min(width, 64)
    lines = _string(text).splitlines(keepends=True)
    _check_size(len(text) + len(margin) * len(lines))
    return "".join(
        line if (n == 0 and not first) or (not blank and not line.strip()) else margin + line
        for n, line in enumerate(lines)
    )


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **settings: Any) -> str:
    kept = {name: settings[name] for name in ("separators", "sort_keys") if name in settings}
    return json.dumps(_sized(value), ensure_ascii=ensure_ascii, indent=indent and min(indent, 64), **kept)


def _dict(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return dict(*args, **kwargs)


def _raise(message: str) -> None:
    raise _Raised(str(message))


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise TemplateFault(f"gives a namespace the name {name!r}, which is not offered here")


def _told(error: BaseException) -> str:
    """An error in one line of bounded length."""
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
