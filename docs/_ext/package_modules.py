"""The directive ``package-modules``: the API reference of packages, a section for each of their modules.

::

    ```{package-modules}
    attngraph
    attngraph.adapters.peft
    ```

Modules are looked up at build time, so a new one appears by itself, and one that does not import ends the
build. What a package exports in ``__all__`` is described once, under the shortest name; references by its
other names lead there.
"""

import functools
import importlib
import importlib.util
import pkgutil

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

PACKAGES = ("attngraph", "attngraph.adapters", "attngraph.analysis", "attngraph.experiments")


def modules_of(package: str) -> list[str]:
    """A package's name and those of all public modules in it, sorted."""
    names = [package]
    if not is_package(package):
        return names
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, prefix=f"{package}."):
        if not module.name.rpartition(".")[2].startswith("_"):
            names += modules_of(module.name) if module.ispkg else [module.name]
    return names


def package_of(module: str) -> str:
    """The one of :data:`PACKAGES` that a module is in."""
    return max((name for name in PACKAGES if f"{module}.".startswith(f"{name}.")), key=len)


def is_package(module: str) -> bool:
    """Whether a module is a folder of modules."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.submodule_search_locations is not None


@functools.cache
def shortest_names() -> dict[str, str]:
    """``{full name: name under which it is described}`` of classes and functions that a package exports."""
    shortest: dict[str, str] = {}
    modules = (name for package in PACKAGES for name in modules_of(package))
    for module in sorted(filter(is_package, modules), key=len):
        exporting = importlib.import_module(module)
        for name in getattr(exporting, "__all__", ()):
            home = getattr(getattr(exporting, name), "__module__", None)
            if home is not None and home.partition(".")[0] == "attngraph":
                shortest.setdefault(f"{home}.{name}", f"{module}.{name}")
                if f"{module}.{name}" != shortest[f"{home}.{name}"]:
                    shortest[f"{module}.{name}"] = shortest[f"{home}.{name}"]
    return shortest


def described(module: str) -> list[str]:
    """The lines that describe a module, without what is described elsewhere."""
    shortest = shortest_names()
    elsewhere = [
        full.rpartition(".")[2]
        for full, short in shortest.items()
        if full.rpartition(".")[0] == module and short != full
    ]
    loaded = vars(importlib.import_module(module))
    # Sphinx formats the signatures of imported members before it drops them,
    # and fails on some that other packages decorate.
    elsewhere += [
        name
        for name, member in loaded.items()
        if not str(getattr(member, "__module__", None) or "attngraph").startswith("attngraph")
    ]
    lines = [f".. automodule:: {module}"]
    if elsewhere:
        lines.append(f"   :exclude-members: {', '.join(sorted(elsewhere))}")
    lazy = [name for name in loaded.get("__all__", ()) if name not in loaded]  # imported on first use
    return [*lines, "", *(f".. autofunction:: {module}.{name}" for name in lazy)]


class PackageModules(SphinxDirective):
    """Sections with ``automodule`` in them."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        sections: list[nodes.Node] = []
        packages = " ".join(self.content).split()
        for name in (name for package in packages for name in modules_of(package)):
            section = nodes.section(ids=[f"api-{nodes.make_id(name)}"], names=[f"api {name}"])
            section += nodes.title("", "", nodes.literal("", name))
            self.state.document.note_explicit_target(section, section)
            lines = ["```{eval-rst}", *described(name), "```"]
            content = StringList(lines, source=self.get_source_info()[0])
            self.state.nested_parse(content, self.content_offset, section)
            sections.append(section)
        return sections


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """References that Sphinx cannot follow by itself.

    A name is looked up in its class, in its module with what that imports, as a full name, and in all modules
    of its package, since a docstring may be shown under another module than its own. What is described under
    a shorter name gets a link there; what exists but is not described (constants, type variables) is printed
    without one. Everything else stays a warning.
    """
    target, module = node.get("reftarget", ""), node.get("py:module")
    places = [target]
    if module:
        places = [f"{module}.{node.get('py:class')}.{target}", f"{module}.{target}", target]
        places += [f"{other}.{target}" for other in modules_of(package_of(module))]
    for place in places:
        name = described_name(place)
        if name is None:
            continue
        node["reftarget"] = name
        link = env.domains.python_domain.resolve_xref(
            env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, content
        )
        return link if link is not None else content
    return None


def described_name(place: str) -> str | None:
    """The name under which the object at a place, such as ``attngraph.adapters.scheme.Scheme.decode``, is
    described.

    None if there is no such object.
    """
    parts = place.split(".")
    for length in range(len(parts), 0, -1):
        try:
            owner: object = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        names = parts[length:]
        for name in names:
            if not hasattr(owner, name) and name not in getattr(owner, "__annotations__", {}):
                return None
            owner = getattr(owner, name, None)
        home, qualified = getattr(owner, "__module__", None), getattr(owner, "__qualname__", None)
        full = f"{home}.{qualified}" if home and qualified and names else place
        for long, short in shortest_names().items():
            if full == long or full.startswith(f"{long}."):
                return short + full[len(long) :]
        return full
    return None


def source_module(app: Sphinx, module: str, name: str) -> str | None:
    """The module whose source shows a member, for Sphinx's pages of source code.

    An alias such as ``dict[str, Any]`` has the ``__module__`` of ``dict``; its source stands with its name.
    """
    value = functools.reduce(
        lambda owner, part: getattr(owner, part, None), name.split("."), importlib.import_module(module)
    )
    return module if getattr(value, "__module__", None) == "builtins" else None


def setup(app: Sphinx) -> dict:
    app.add_directive("package-modules", PackageModules)
    app.connect("viewcode-follow-imported", source_module)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
