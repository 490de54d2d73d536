"""The fold fingerprint: a digest of the code that folds events, independent of its modules and its comments.

A snapshot is used only by a fold with the same fingerprint. A change of a definition that the fold uses changes it.
Comments, docstrings, annotations of functions, imports, and the order and the places of definitions do not.
"""

import ast
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Sequence
from functools import cache

ROOTS = ("domain.thread.evolve", "domain.thread.snapshot", "domain.thread.upcasters")
"""The modules that fold events and define snapshots. The definitions that they use belong to the fold as well."""


_DEFINED = re.compile(r"(?:^FunctionDef\(name|^ClassDef\(name|\bid(?==\'\w+\', ctx=Store))='(\w+)'")
_USED = re.compile(r"\b(?:id|attr)='(\w+)'")
"""Names in the text of a syntax tree. To search the text takes a third of the time of a walk through the tree, and each
process does it when it starts."""


@cache
def fold_fingerprint() -> str:
    """Return 16 hexadecimal digits."""
    roots, others = ([inspect.getsource(importlib.import_module(name)) for name in names] for names in _modules())
    return fingerprint_of(roots, others)


def fingerprint_of(roots: Sequence[str], others: Sequence[str] = ()) -> str:
    """Digest all definitions in the sources of some modules, and those of other modules that they use."""
    pending = [definition for source in roots for definition in _definitions(source)]
    known: dict[str, list[str]] = {}
    for source in others:
        for definition in _definitions(source):
            for name in _DEFINED.findall(definition):
                known.setdefault(name, []).append(definition)
    found = set()
    while pending:
        definition = pending.pop()
        found.add(definition)
        for name in set(_USED.findall(definition)):
            pending += known.pop(name, ())
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:16]


@cache
def _parsed(source: str) -> ast.Module:
    bare: ast.Module = _Bare().visit(ast.parse(source))
    return bare


@cache
def _definitions(source: str) -> Sequence[str]:
    """Return the statements of a module, except its imports, as the text of their syntax trees."""
    imports = (ast.Import, ast.ImportFrom)
    return [ast.dump(statement) for statement in _parsed(source).body if not isinstance(statement, imports)]


class _Bare(ast.NodeTransformer):
    """Removes docstrings and the annotations of functions."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        alone = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if alone else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node


def _modules() -> tuple[Sequence[str], Sequence[str]]:
    """Return the roots, and all other modules of the domain that they import, directly or indirectly."""
    found: dict[str, None] = {}
    pending = list(ROOTS)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found[name] = None
        for node in _parsed(inspect.getsource(importlib.import_module(name))).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("domain"):
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                pending += [module for module in modules if module in sys.modules]
    return ROOTS, [name for name in found if name not in ROOTS]
