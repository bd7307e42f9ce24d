import time
from typing import Any

import pytest

from data.template_sandbox import GENERATION_CLOSE, GENERATION_OPEN, TemplateFault, TemplateSandbox

MESSAGES = [{"role": "user", "content": "hi"}] * 60
GROWING = "{% set ns = namespace(s=START) %}{% for i in range(60) %}{% set ns.s = STEP %}{% endfor %}{{ ns.s }}"


def written(source: str, **values: Any) -> str:
    return TemplateSandbox(source).render({"messages": MESSAGES, **values})


def growing(start: str, step: str) -> str:
    return GROWING.replace("START", start).replace("STEP", step)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{% for i in range(10**9) %}{% endfor %}", "turns of loops"),
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "turns of loops"),
        ("{% for a in messages %}" * 4 + "{% endfor %}" * 4, "turns of loops"),
        ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
        ("{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}", "RecursionError"),
        ("{% for i in range(9000) %}" + "x" * 999 + "{% endfor %}", "writes more than 4,194,304"),
        (growing("'ab'", "ns.s ~ ns.s"), "more than 4,194,304"),
        (growing("'ab'", "ns.s + ns.s"), "more than 4,194,304"),
        (growing("[1]", "ns.s + ns.s"), "more than 65,536 items"),
        (growing("'ab'", "ns.s.replace('a', ns.s)"), "more than 4,194,304"),
        (growing("'ab'", "ns.s | replace('a', ns.s)"), "more than 4,194,304"),
        (growing("'ab'", "ns.s.join([ns.s, ns.s])"), "more than 4,194,304"),
        (growing("'ab'", "[ns.s, ns.s] | join(ns.s)"), "more than 4,194,304"),
        (growing("3", "ns.s * ns.s"), "a number above"),
        ("{{ 'a' * 10**10 }}", "more than 4,194,304"),
        ("{{ [0] * 10**10 }}", "more than 4,194,304"),
        ("{{ 10**10**10 }}", "a number above"),
        ("{{ '%9999999999d' % 1 }}", "pads a text"),
        ("{{ '%*d' % (9999999999, 1) }}", "pads a text"),
        ("{{ '{:>9999999999}'.format(1) }}", "not offered"),
        ("{{ 'a'.ljust(9999999999) }}", "unsafe"),
        ("{{ 'a' | center(9999999999) }}", "No filter named 'center'"),
        ("{{ lipsum(n=999999) }}", "undefined"),
        ("{{ [1, 2] | random }}", "No filter named 'random'"),
    ],
)
def test_what_uses_up_more_than_it_may_is_refused(source: str, told: str) -> None:
    start = time.process_time()
    with pytest.raises(TemplateFault, match=told):
        written(source)
    assert time.process_time() - start < 15


@pytest.mark.long
def test_a_macro_that_calls_itself_twice_is_refused() -> None:
    with pytest.raises(TemplateFault, match=r"turns of loops|seconds"):
        written("{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}")


@pytest.mark.parametrize("filter_name", ["", " | tojson", " | string", " | list | join"])
def test_a_list_that_holds_itself_many_times_is_refused(filter_name: str) -> None:
    with pytest.raises(TemplateFault, match=r"more than 65,536 items"):
        written(growing("['a']", "[ns.s, ns.s]").replace("{{ ns.s }}", f"{{{{ ns.s{filter_name} }}}}"))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__']() }}",
        "{{ (messages | attr('__class__')).__base__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ namespace.__init__.__globals__ }}{{ namespace.__init__.__globals__.x }}",
        "{{ self.__init__.__globals__.x }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ messages[0].__setitem__('role', 'x') }}",
        "{{ 'a'.format.__self__.__class__.x }}",
        "{% include 'x' %}",
        "{% import 'x' as x %}",
        "{% extends 'x' %}",
        "{{ raise_exception }}",
        "{{ messages | map('upper') }}",
    ],
)
def test_nothing_of_python_is_in_reach(source: str) -> None:
    with pytest.raises(TemplateFault):
        written(source)
    assert MESSAGES[0] == {"role": "user", "content": "hi"}
    assert len(MESSAGES) == 60


@pytest.mark.parametrize("source", ["{% if %}", "{{ x", "{% generation %}", "{{" + "(" * 3000 + ")" * 3000 + "}}"])
def test_what_is_no_template_is_refused(source: str) -> None:
    with pytest.raises(TemplateFault, match="no template that can be used here"):
        TemplateSandbox(source)


def test_a_template_of_a_megabyte_is_refused() -> None:
    with pytest.raises(TemplateFault, match="1,048,577 characters"):
        TemplateSandbox("x" * (2**20 + 1))


def test_blocks_leave_no_lines_and_loops_may_be_left() -> None:
    source = "  {% for i in range(9) %}\n{{ i }}\n    {% if i == 2 %}{% break %}{% endif %}\n{% endfor %}\n"
    assert written(source) == "0\n1\n2\n"


def test_generation_is_marked_and_keeps_its_names_to_itself() -> None:
    sandbox = TemplateSandbox("{% set x = 1 %}a{% generation %}{% set x = 2 %}b{{ x }}{% endgeneration %}c{{ x }}")
    assert sandbox.has_generation
    assert sandbox.render({}) == f"a{GENERATION_OPEN}b2{GENERATION_CLOSE}c1"
    assert not TemplateSandbox("a").has_generation


def test_the_usual_filters_give_what_they_should() -> None:
    assert written("{{ {'b': 'é<', 'a': [1]} | tojson }}") == '{"b": "é<", "a": [1]}'
    assert written("{{ {'b': 1} | tojson(indent=2) }}") == '{\n  "b": 1\n}'
    assert written("{{ ' a ' | trim | upper }}{{ 'a-b'.replace('-', '+').split('+') | join('/') }}") == "Aa/b"
    assert written("{{ 'a\nb\n\nc' | indent(2) }}") == "a\n  b\n\n  c"
    assert written("{{ 'a%s' % 3 }}{{ messages | length }}{{ 2 ** 10 }}{{ none }}{{ missing }}") == "a3601024None"
    assert written("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}") == "60"
    assert written("{{ dict(a=1).items() | list }}{{ [3, 1] | sort }}{{ 'a' in 'abc' }}") == "[('a', 1)][1, 3]True"


def test_there_is_no_date_and_a_template_can_see_that() -> None:
    assert written("{{ strftime_now('%d') if strftime_now is defined else 'no date' }}") == "no date"


def test_what_a_template_raises_is_told() -> None:
    with pytest.raises(TemplateFault, match="refuses this conversation: roles must alternate"):
        written("{{ raise_exception('roles must\nalternate') }}")
