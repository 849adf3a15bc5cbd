"""The directive ``command-options``: a command's options, taken from its own parser when the site is built.

::

    ```{command-options} ablation
    ```
"""

import argparse
import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from attngraph.experiments.base.arguments import HelpFormatter
from attngraph.experiments.cli import COMMANDS, command_parser
from attngraph.experiments.commands import options as declared

CODE = re.compile(r"(`+[^`]+`+|--[a-z][a-z-]*|'[^' ]*\*[^' ]*')")


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments of a parser in its own order, without ``--help`` and hidden ones."""
    return [
        action
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS
    ]


def signature(action: argparse.Action) -> str:
    """``--option VALUE``, as the help prints it."""
    formatter = argparse.HelpFormatter("")
    value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
    names = ", ".join(action.option_strings) or formatter._metavar_formatter(action, action.dest)(1)[0]
    return f"{names} {value}".strip() if action.option_strings and action.nargs != 0 else names


class CommandOptions(SphinxDirective):
    """A definition list of a command's options."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        command = self.arguments[0]
        if command not in COMMANDS:
            raise self.error(f"attngraph has no command {command!r}")
        parser = command_parser(command)
        self.env.note_dependency(declared.__file__)
        options = nodes.definition_list(classes=["command-options"])
        for action in actions(parser):
            term = nodes.term("", "", nodes.literal("", signature(action)))
            options += nodes.definition_list_item("", term, nodes.definition("", self._help(parser, action)))
        content: list[nodes.Node] = [options] if options.children else [nodes.paragraph(text="No options.")]
        if parser.epilog:
            content.append(self._paragraph(parser.epilog))
        return content

    def _help(self, parser: argparse.ArgumentParser, action: argparse.Action) -> nodes.paragraph:
        text = HelpFormatter(parser.prog)._expand_help(action) if action.help else ""
        return self._paragraph(text)

    @staticmethod
    def _paragraph(text: str) -> nodes.paragraph:
        """Help as a paragraph; text in backticks, options and patterns with stars become code."""
        paragraph = nodes.paragraph()
        for part in CODE.split(text):
            if CODE.fullmatch(part):
                paragraph += nodes.literal("", part.strip("`"))
            elif part:
                paragraph += nodes.Text(part)
        return paragraph


def setup(app: Sphinx) -> dict:
    app.add_directive("command-options", CommandOptions)
    return {"parallel_read_safe": True}
