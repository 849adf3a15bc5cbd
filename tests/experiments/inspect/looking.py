"""What the tests of the analysis commands look at."""

from pathlib import Path

from PIL import Image

from attngraph.experiments.base.arguments import asked
from attngraph.experiments.base.options import LookOptions
from attngraph.experiments.inspect.source import Source, open_source


def parse(*words) -> LookOptions:
    """The options that all analysis commands share."""
    return asked(LookOptions, [str(word) for word in words])


def source(*words, trained: bool = True) -> Source:
    """What these options describe."""
    return open_source(parse(*words), trained)


def pictures(folder: Path, *names: str, size: tuple[int, int] = (50, 40)) -> list[Path]:
    """New pictures, each of which differs from the others."""
    folder.mkdir(exist_ok=True)
    for k, name in enumerate(names):
        Image.linear_gradient("L").rotate(90 * k).resize(size).save(folder / name)
    return [folder / name for name in names]
