"""What a data set's folder should hold and where to get it, in words."""

from __future__ import annotations

import textwrap

from experiments.datasets.dataset import Archive, DataSet

WIDTH = 100


def layout(data_set: DataSet) -> str:
    """Tree, archives, formats, licence and citation of a data set."""
    lines = [f"{data_set.title}, {data_set.homepage}", "", f"DIR/{data_set.name}/"]
    width = max(len(path) for path, _ in data_set.tree)
    lines += [f"  {path:<{width}}  {about}" for path, about in data_set.tree]
    lines += ["", "files to download"]
    for archive in data_set.archives:
        lines += [f"  {archive.name} ({_size(archive)})", f"    {archive.url}"]
        if archive.holds != (archive.name,):
            lines += [f"    unpacks to {path}" for path in archive.holds]
    lines += [
        "",
        "formats; tasks read the first with all splits, those with an annotated test split first",
    ]
    for reader in data_set.readers:
        splits = [f"{name}*" if name in reader.unanswered else name for name in reader.splits]
        lines += [f"  {reader.name}: {reader.title}", f"    splits: {', '.join(splits)}"]
    if any(reader.unanswered for reader in data_set.readers):
        lines += ["  * without annotations, for predictions only"]
    lines += ["", *_paragraph("licence: " + data_set.licence), "", *_cited(data_set.citation)]
    return "\n".join(lines) + "\n"


def _size(archive: Archive) -> str:
    if archive.size is None:
        return "size not known"
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6)):
        if archive.size >= bytes_each:
            return f"{archive.size / bytes_each:.1f} {unit}"
    return f"{archive.size / 1e3:.1f} kB"


def _cited(citation: str) -> list[str]:
    """BibTeX stays as it is, a sentence is wrapped."""
    return citation.splitlines() if "\n" in citation else _paragraph("citation: " + citation)


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
