"""A renderer of the part of Go's text/template that bundles use: range, if/else if/else/end, not, eq, fields.

Just enough to show that a Modelfile's TEMPLATE gives the prompt the Jinja template gave in training.
"""

import re

ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)


def render_go(source, messages):
    """Return the prompt that Ollama would build from a TEMPLATE for a conversation."""
    tokens = _tokens(source)
    nodes, rest = _parse(tokens)
    assert not rest, rest
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    return _run(nodes, {"Messages": messages, "System": system})


def _tokens(source):
    """Return ('text', t) and ('action', a) pairs; `{{-` and `-}}` eat the white space beside them."""
    tokens, at = [], 0
    for found in ACTION.finditer(source):
        text = source[at : found.start()]
        if tokens and tokens[-1] == ("trim", ""):
            tokens.pop()
            text = text.lstrip()
        tokens.append(("text", text.rstrip() if found[1] else text))
        tokens.append(("action", found[2]))
        if found[3]:
            tokens.append(("trim", ""))
        at = found.end()
    tokens.append(("text", source[at:]))
    return tokens


def _parse(tokens):
    """Return the nodes up to the `end` or `else` that closes them, and the tokens from there on."""
    nodes = []
    while tokens:
        (kind, value), *rest = tokens
        word = value.split(" ", 1)[0] if kind == "action" else ""
        if word in {"end", "else"}:
            return nodes, tokens
        if word == "range":
            body, rest = _parse(rest)
            assert rest.pop(0) == ("action", "end")
            nodes.append(("range", value.split()[1], body))
        elif word == "if":
            branches, rest = _branches(value[3:], rest)
            nodes.append(("if", branches))
        else:
            nodes.append((kind, value))
        tokens = rest
    return nodes, tokens


def _branches(condition, tokens):
    branches = []
    while True:
        body, tokens = _parse(tokens)
        branches.append((condition, body))
        _, word = tokens.pop(0)
        if word == "end":
            return branches, tokens
        condition = word.removeprefix("else").strip().removeprefix("if").strip() or "true"


def _run(nodes, scope):
    text = ""
    for kind, *rest in nodes:
        if kind == "text":
            text += rest[0]
        elif kind == "action":
            text += _field(rest[0], scope)
        elif kind == "range":
            for item in _field(rest[0], scope):
                text += _run(rest[1], {"Role": item["role"], "Content": item["content"], "Outer": scope})
        else:
            text += next((_run(body, scope) for condition, body in rest[0] if _holds(condition, scope)), "")
    return text


def _field(name, scope):
    assert re.fullmatch(r"\.\w+", name), name
    return scope[name[1:]]


def _holds(condition, scope):
    if condition == "true":
        return True
    if equal := re.fullmatch(r'eq (\.\w+) "(\w+)"', condition):
        return _field(equal[1], scope) == equal[2]
    if inverse := re.fullmatch(r"not (\.\w+)", condition):
        return not _field(inverse[1], scope)
    return bool(_field(condition, scope))
