"""How much the tests notice: one operator, number or condition is changed at a time, and its tests run.

::

    python tests/mutants.py --out runs/mutants
    python tests/mutants.py --out runs/metrics --under experiments/metrics --tests tests/experiments/metrics

1. Places are drawn from all in a package, with a seed. Each has one change: ``<`` and ``<=``, ``+`` and
   ``-``, ``and`` and ``or``, ``n`` and ``n + 1``, a condition and its negation, ...
2. All tests run once, in a copy of the project whose drawn places note which tests reach them. Tests that
   fail there are left out from then on.
3. For each change, the files of tests that reach it run in a copy that has it: near and quick ones first, and
   in a file the tests that reach it themselves, as others may share what these make. The change is killed if
   a test fails or hangs; it survives if none does, or none within the budget.

Each file of tests runs in a process forked from one that has imported other packages, but none of the
project's. Seconds are the processor's: other programs do not change the choice of tests. What is done lies in
``--out``; the same command goes on from there. In the end it writes ``result.json``, and prints a table and
what was not killed.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import compileall
import contextlib
import copy
import functools
import gc
import importlib
import json
import os
import platform
import py_compile
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate, product, takewhile
from math import inf, sqrt
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = {"attngraph": 100, "adapters": 100, "analysis": 100, "experiments": 200}
NOT_COPIED = ".git .venv .venv-lowest runs data build dist .pytest_cache .ruff_cache __pycache__".split()
MEMORY = 16 << 30  # bytes that a file of tests may use
SWAPS = "Lt LtE, Gt GtE, Eq NotEq, In NotIn, Is IsNot, Add Sub, Mult Div, BitAnd BitOr, And Or".split(", ")
SWAPS += [f"{b} {a}" for a, b in map(str.split, SWAPS)]
SWAPS += "LShift RShift, RShift LShift, Pow Mult, MatMult Mult, FloorDiv Mult, Mod FloorDiv".split(", ")
SWAP = {getattr(ast, a): getattr(ast, b) for a, b in map(str.split, SWAPS)}


@dataclass(frozen=True)
class Site:
    """A place in a file, bytes ``start`` to ``end``, and its change."""

    package: str
    file: str
    line: int
    kind: str
    original: str
    mutated: str
    start: int
    end: int


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """Kind, what is changed, what becomes of it."""

    def new(**fields) -> ast.AST:
        vars(mutated := copy.copy(node)).update(fields)
        return mutated

    is_if = isinstance(node, ast.If | ast.While | ast.IfExp)
    for test in [node.test] if is_if else node.ifs if isinstance(node, ast.comprehension) else []:
        # ``not x`` has a change of its own that is the same, and so has True.
        if not (isinstance(test, ast.Constant) or isinstance(getattr(test, "op", None), ast.Not)):
            yield "condition", test, ast.UnaryOp(ast.Not(), test)
    match node:
        case ast.Compare(ops=ops):
            for k, op in enumerate(ops):
                yield "comparison", node, new(ops=[*ops[:k], SWAP[type(op)](), *ops[k + 1 :]])
        case ast.BinOp(op=op, left=left, right=right):
            if type(op) in SWAP and not is_text(left) and not is_text(right):
                yield "arithmetic", node, new(op=SWAP[type(op)]())
        case ast.AugAssign(op=op, value=value):
            if type(op) in SWAP and not is_text(value):
                yield "assignment", node, new(op=SWAP[type(op)]())
        case ast.BoolOp(op=op):
            yield "boolean", node, new(op=SWAP[type(op)]())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", node, operand
        case ast.Constant(value=bool(value)):
            yield "constant", node, new(value=not value)
        case ast.Constant(value=int(value) | float(value)):
            yield "constant", node, new(value=value + 1 if value + 1 != value else 2 * value)


def is_text(node: ast.AST) -> bool:
    """Whether it is a string or a list as it stands there, with which only ``+`` works."""
    texts = ast.List, ast.Tuple, ast.ListComp, ast.JoinedStr
    return isinstance(node, texts) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def parts(node: ast.AST) -> Iterator[ast.AST]:
    """A part of a file and all in it that may be changed."""
    match node:
        case ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.pattern():
            return
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return
        case ast.FunctionDef() if any("jit" in ast.unparse(x) for x in node.decorator_list):
            return  # others compile its text
        case ast.If() if {"TYPE_CHECKING", "__name__"} & {getattr(x, "id", "") for x in ast.walk(node.test)}:
            node = ast.Module(node.orelse, [])
    yield node
    for name, value in ast.iter_fields(node):
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST) and name not in ("annotation", "returns"):
                yield from parts(part)


def sites_of(package: str, file: str, source: str) -> list[Site]:
    sites = []
    offsets = [0, *accumulate(len(line) for line in source.encode().splitlines(keepends=True))]
    for kind, node, mutated in [change for part in parts(ast.parse(source)) for change in changes(part)]:
        start = offsets[node.lineno - 1] + node.col_offset
        end = offsets[node.end_lineno - 1] + node.end_col_offset
        texts = ast.unparse(node), ast.unparse(ast.fix_missing_locations(mutated))
        sites.append(Site(package, file, node.lineno, kind, *texts, start, end))
    return sorted(sites, key=lambda site: (site.start, -site.end, site.kind))


def drawn(root: Path, packages: dict[str, int], under: str, seed: int) -> list[Site]:
    """The places to change, as many of each package as asked for or as there are, in a random order."""
    sites = []
    for package, number in packages.items():
        files = sorted(path for path in (root / package).rglob("*.py") if path.is_relative_to(root / under))
        names = [path.relative_to(root).as_posix() for path in files]
        found = [site for name in names for site in sites_of(package, name, (root / name).read_text("utf-8"))]
        sites += random.Random(f"{seed} {package}").sample(found, min(number, len(found)))
        print(f"{package}: {len(found)} places", flush=True)
    random.Random(seed).shuffle(sites)
    return sites


def with_notes(text: bytes, sites: dict[int, Site]) -> bytes:
    """The file with places that note their number when they are reached; lines stay where they are."""
    puts = []
    for number, site in sites.items():
        call = f"__site__({number})"
        before, after = (f"{call}; ", "") if site.kind == "assignment" else (f"({call} or (", "))")
        puts += [(site.start, 1, -site.end, before), (site.end, 0, -site.start, after)]
    for at, _, _, put in sorted(puts, reverse=True):
        text = text[:at] + put.encode() + text[at:]
    return text


SEEN: set[int] = set()


def note(site: int) -> None:
    if site not in SEEN:
        SEEN.add(site)
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
        with open(os.environ.get("MUTANTS_NOTES", f"{Path(__file__).parent}.notes"), "ab") as file:
            file.write(f"{site}\t{test}\n".encode())


def run_tests(tree: Path, file: str, chosen: list[str] | None = None) -> dict:
    """Runs a file of tests, or those chosen until one fails: failures, seconds of tests and of all else."""
    import pytest  # here: processes that tests start need none of it

    seconds, failed = {}, []

    class Plugin:
        def pytest_collection_modifyitems(self, items):
            if chosen is not None:
                items[:] = [item for test in chosen for item in items if item.nodeid == test]

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(self, item):
            SEEN.clear()
            start = sum(os.times()[:4])
            result = yield
            seconds[item.nodeid] = sum(os.times()[:4]) - start
            return result

        def pytest_runtest_logreport(self, report):
            if report.failed and report.nodeid not in failed:
                failed.append(report.nodeid)

        pytest_collectreport = pytest_runtest_logreport

    os.chdir(tree)
    sys.path.insert(0, str(tree))
    builtins.__site__ = note
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    log = os.open(f"{tree}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    words = ["-q", "-pno:cacheprovider", "-pno:xdist", "-otimeout=0", f"--basetemp={tree}.temporary", file]
    code = pytest.main(words if chosen is None else [*words, "-x"], plugins=[Plugin()])
    others = sum(os.times()[:4]) - sum(seconds.values())
    return {"code": int(code), "others": others, "seconds": seconds, "failed": failed}


def forked(work: Callable[[], dict], answer: Path, seconds: float = 3600) -> dict | None:
    """What a child process answers; None if it breaks, or takes longer (ten times as long by the clock)."""
    answer.unlink(missing_ok=True)
    if not (child := os.fork()):
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # both are ignored in the background
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        try:
            answer.write_text(json.dumps(work()))
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    end = time.monotonic() + 10 * seconds
    while not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.01)
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it started and left
    return json.loads(answer.read_text()) if answer.exists() else None


def in_parallel(work: Callable[..., dict], jobs: list, trees: list[Path], results: Path, end: float) -> None:
    """``work(job, tree)`` for each job in a process, none begun after ``end``; answers go into a file."""
    free, running = list(trees), {}
    for count, job in enumerate(jobs, start=1):
        if time.monotonic() > end:
            break
        if not free:
            free.append(running.pop(os.wait()[0]))
        tree = free.pop()
        if child := os.fork():
            running[child] = tree
            continue
        try:
            line = work(job, tree)
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{time.strftime('%H:%M:%S')} {count}/{len(jobs)} {title(line)}", flush=True)
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    for _ in running:
        os.wait()


def import_others(root: Path) -> None:
    """Imports what at least three files use from other packages."""
    own, uses = {path.stem for path in root.iterdir()}, Counter()
    for file in root.glob("*/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                uses.update({(alias.name, "__name__") for alias in node.names})
            elif isinstance(node, ast.ImportFrom) and not node.level:
                uses.update({(node.module, alias.name) for alias in node.names})
    for (module, name), count in uses.items():
        if count > 2 and module.partition(".")[0] not in own:
            with contextlib.suppress(Exception):
                getattr(importlib.import_module(module), name)
    gc.freeze()


def copied(root: Path, tree: Path, packages: dict[str, int]) -> Path:
    shutil.copytree(root, tree, ignore=lambda at, names: NOT_COPIED if Path(at) == root else ["__pycache__"])
    by_content = (
        py_compile.PycInvalidationMode.CHECKED_HASH
    )  # changes come within a second, and of equal size
    for package in packages:
        compileall.compile_dir(tree / package, quiet=1, invalidation_mode=by_content)
    # Imported by all processes that tests start with the copy on their path.
    (tree / "sitecustomize.py").write_text(Path(__file__).read_text() + "\n\nbuiltins.__site__ = note\n")
    return tree


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def first_run(file: str, tree: Path) -> dict:
    """Of a file of tests: seconds, failed tests, which tests reach which place ("": none, on import)."""
    notes = Path(f"{tree}.notes")
    notes.write_bytes(b"")
    os.environ |= {"MUTANTS_NOTES": str(notes), "PYTHONPATH": str(tree)}
    answer = forked(functools.partial(run_tests, tree, file), Path(f"{tree}.answer"))
    answer = answer or {"others": 0, "seconds": {}, "failed": [file]}
    reached = defaultdict(list)
    for line in sorted(set(notes.read_text().splitlines())):
        number, _, test = line.partition("\t")
        reached[number].append(test)
    return {"file": file, **answer, "reached": reached}


def near(test: str, file: str) -> int:
    """How many folders the two paths share, and one more if the test is named after the file."""
    pairs = list(zip(Path(test).parts[1:], Path(file).parts))
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return shared + (Path(test).name == f"test_{Path(file).name}")


def planned(number: int, near_to: str, traces: list[dict], budget: float) -> list[tuple]:
    """Files, tests in them, seconds; near ones and quick ones first, as many as the budget lets in."""
    found, plan = [], []
    for trace in traces:
        by, seconds = trace["reached"].get(str(number), []), trace["seconds"]
        good = sorted(set(seconds) - set(trace["failed"]), key=lambda test: (test not in by, seconds[test]))
        if by and good:
            total = trace["others"] + sum(seconds.values())
            found.append((total / 4 ** near(trace["file"], near_to), trace, good))
    for _, trace, tests in sorted(found, key=lambda each: each[0]):
        chosen, needed = [], trace["others"]
        for test in tests:
            if needed + trace["seconds"][test] <= budget:
                chosen.append(test)
                needed += trace["seconds"][test]
        if chosen:
            plan.append((trace["file"], chosen, needed))
            budget -= needed
    return plan


def changed_run(sites: list[Site], traces: list[dict], budget: float, number: int, tree: Path) -> dict:
    """Of a change: what became of it, and by which test."""
    site = sites[number]
    plan = planned(number, site.file, traces, budget)
    result = {"number": number, **asdict(site), "outcome": "survived" if plan else "not reached", "by": ""}
    os.environ["PYTHONPATH"] = str(tree)
    start, path = time.monotonic(), tree / site.file
    text = path.read_bytes()
    new = site.mutated if site.kind == "assignment" else f"({site.mutated})"
    path.write_bytes(text[: site.start] + new.encode() + text[site.end :])
    for file, tests, seconds in plan:
        work = functools.partial(run_tests, tree, file, tests)
        answer = forked(work, Path(f"{tree}.answer"), 20 + 4 * seconds)
        if answer is None or answer["code"] not in (0, 5):  # 5: no tests
            by = f"{file}: hangs or breaks" if answer is None else [*answer["failed"], file][0]
            result |= {"outcome": "killed", "by": by}
            break
    path.write_bytes(text)
    return result | {"files": len(plan), "seconds": round(time.monotonic() - start, 1)}


def title(line: dict) -> str:
    if "outcome" not in line:
        return f"{line['file']}: {len(line['seconds'])} tests, {len(line['failed'])} failed"
    return f"{line['outcome']}: {line['file']}:{line['line']}: {line['original']} -> {line['mutated']}"


def wilson(hits: int, number: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share."""
    share, wide = hits / number, z * z / number
    half = z * sqrt(share * (1 - share) / number + wide / 4 / number)
    return (share + wide / 2 - half) / (1 + wide), (share + wide / 2 + half) / (1 + wide)


def table(changes: list[dict]) -> str:
    outcomes = "killed", "survived", "not reached"
    rows = [f"| package | drawn | {' | '.join(outcomes)} | share killed |", "|---|--:|--:|--:|--:|---|"]
    for package in dict.fromkeys([each["package"] for each in changes] + ["all"] * bool(changes)):
        counts = Counter(each["outcome"] for each in changes if package in (each["package"], "all"))
        share, (low, high) = counts["killed"] / counts.total(), wilson(counts["killed"], counts.total())
        cells = [package, counts.total(), *(counts[outcome] for outcome in outcomes)]
        rows.append(f"| {' | '.join(map(str, cells))} | {share:.1%} ({low:.1%} to {high:.1%}) |")
    return "\n".join(rows)


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("::")[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="results; the same command goes on there")
    add("--seed", type=int, default=0, help="of the draw (default: 0)")
    add("--package", action="append", help="only this package; may be given again (default: all four)")
    add("--number", type=int, help="places of each package (default: 200 of experiments, 100 of each other)")
    add("--under", default=".", metavar="FOLDER", help="only places in this folder")
    add("--tests", nargs="+", default=["tests"], metavar="PATH", help="only these tests (default: all)")
    add("--budget", type=float, default=30, help="seconds of tests for a change (default: 30)")
    add("--minutes", type=float, default=inf, help="begin no run later than that (default: no limit)")
    add("--workers", type=int, default=2, help="runs at a time, with a copy of the project each (default: 2)")
    add("--root", type=Path, default=ROOT, help="the project (default: the one that this file lies in)")
    return parser.parse_args(words)


def main(words: list[str]) -> None:
    options = parsed(words)
    root, out = options.root.resolve(), options.out.resolve()
    end = time.monotonic() + 60 * options.minutes
    numbers = {name: options.number or NUMBERS.get(name, 100) for name in options.package or NUMBERS}
    sites = drawn(root, numbers, options.under, options.seed)
    out.mkdir(parents=True, exist_ok=True)
    places, known = json.dumps([asdict(site) for site in sites], indent=0), out / "sites.json"
    if known.exists() and known.read_text() != places:
        sys.exit(f"{out} holds results of other places: give another --out")
    known.write_text(places)
    found = [path for word in options.tests for path in [root / word, *(root / word).rglob("test_*.py")]]
    files = {path.relative_to(root).as_posix() for path in found if path.is_file()}
    os.environ |= {"OMP_NUM_THREADS": "1", "CI": "true"}  # hypothesis: the same examples, and no deadlines
    sys.path[:] = [path for path in sys.path if Path(path).resolve() not in (root, root / "tests")]
    import_others(root)
    by_file = defaultdict(dict)
    for number, site in enumerate(sites):
        by_file[site.file][number] = site
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = [copied(root, Path(folder, f"tree{k}"), numbers) for k in range(options.workers)]
        for tree, (file, numbered) in product(trees, by_file.items()):
            (tree / file).write_bytes(with_notes((root / file).read_bytes(), numbered))
        left = sorted(files - {trace["file"] for trace in lines(out / "traces.jsonl")})
        in_parallel(first_run, left, trees, out / "traces.jsonl", end)
        traces = lines(out / "traces.jsonl")
        for tree, file in product(trees, by_file):
            shutil.copy(root / file, tree / file)
        left = sorted({*range(len(sites))} - {change["number"] for change in lines(out / "changes.jsonl")})
        work = functools.partial(changed_run, sites, traces, options.budget)
        in_parallel(work, left, trees, out / "changes.jsonl", end)
    changes = sorted(lines(out / "changes.jsonl"), key=lambda change: change["number"])
    commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    facts = {
        "command": f"python tests/mutants.py {shlex.join(words)}",
        "commit": commit.strip(),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "tests": sum(len(trace["seconds"]) for trace in traces),
        "seconds": round(sum(trace["others"] + sum(trace["seconds"].values()) for trace in traces)),
        "left_out": sorted(test for trace in traces for test in trace["failed"]),
        "changes": "CHANGES",
    }
    text = json.dumps(facts, indent=1).replace(
        '"CHANGES"', "[\n" + ",\n".join(map(json.dumps, changes)) + "\n]"
    )
    (out / "result.json").write_text(text + "\n")
    print(table(changes), *(title(change) for change in changes if change["outcome"] != "killed"), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
