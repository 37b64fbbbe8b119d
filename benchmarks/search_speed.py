"""Search over a large collection: build time, size on disk, memory, latency, recall@10 against exact search.

python benchmarks/search_speed.py                         # 1,000,000 x 512
python benchmarks/search_speed.py --count 100000
python benchmarks/search_speed.py --model outputs/sample  # and text queries through a model, and the command line

The vectors are drawn, not embedded, so that anybody can draw them again. 5,000 clusters of unequal size
(Zipf, exponent 0.7); in each, vectors vary along 24 directions of its own; the centres and directions have a
spectrum that falls as 1 / (1 + (i / 35)^2), a little noise in all 512 dimensions is added, and a common offset, the
"cone" of real embeddings. Queries are like words, not like images: one half is an image's content, one half is
noise of the same spectrum, and their common offset is another one, so that no query lies near any vector. Printed
beside it: how many dimensions hold 90 % of the variance, and how near queries come, to compare with a real model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from hf_customclip.search.rows import Rows, rows_table

from hf_customclip.inference.load_model import load_model
from hf_customclip.search import ImageIndex, files
from hf_customclip.search.encoder import Encoder, ModelName
from hf_customclip.search.sources import own_schema

WIDTH, CLUSTERS, DIRECTIONS, QUERIES = 512, 5000, 24, 500
TEXTS = (
    "a red car",
    "a happy face",
    "a building with a tower",
    "an animal that lives in the sea",
    "two flags",
)


def main() -> None:
    """Build, then measure in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--model", help="a model of 512 dimensions, for text queries end to end")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments.measure, arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), arguments.count, arguments.model)
        command = [sys.executable, __file__, "--measure", folder]
        subprocess.run(command + (["--model", arguments.model] if arguments.model else []), check=True)
        if arguments.model:
            command_line(folder)


def build(folder: Path, count: int, model: str | None) -> None:
    """Draw, index, save; queries and the exact answers go beside the index."""
    made_by = Encoder(*load_model(model)).describe() if model else ModelName("", "0" * 32, WIDTH)
    vectors, queries = draw(count)
    describe(vectors, queries)
    ids = [f"{number:07}" for number in range(count)]
    table = pa.table({"id": ids, "path": ids, "state": ids}, schema=own_schema())
    table = table.append_column("year", pa.array(np.arange(count) % 50 + 1975))
    index = ImageIndex(Encoder(None, None), made_by, Rows(rows_table(table, vectors)))
    del vectors
    start, cpu = time.perf_counter(), time.process_time()
    index.save(folder / "index")
    line("build and save", f"{time.perf_counter() - start:.0f} s ({time.process_time() - cpu:.0f} s of CPU)")
    for kind in ("rows", "neighbours"):
        size = sum(file.stat().st_size for file in (folder / "index").glob(f"{kind}-*"))
        line(f"on disk, {kind}", f"{size / 1e6:,.0f} MB")
    _, exact = index.nearest(queries, 10, exact=True)
    np.savez(folder / "queries.npz", queries=queries, exact=exact)


def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, 512) float16 and (500, 512) float32, as the module says."""
    random = np.random.default_rng(0)
    spectrum = ((1 + (np.arange(WIDTH) / 35) ** 2) ** -0.5).astype(np.float32)
    offset, query_offset = unit(random.standard_normal((2, WIDTH)))
    centres = unit(random.standard_normal((CLUSTERS, WIDTH)) * spectrum)
    shares = 1 / np.arange(1, CLUSTERS + 1) ** 0.7
    cluster = random.choice(CLUSTERS, count, p=shares / shares.sum())
    order = np.argsort(cluster, kind="stable")
    first = np.searchsorted(cluster[order], np.arange(CLUSTERS + 1))
    vectors = np.empty((count, WIDTH), dtype=np.float16)
    for number, centre in enumerate(centres):
        mine = order[first[number] : first[number + 1]]
        directions = unit(random.standard_normal((DIRECTIONS, WIDTH)) * spectrum)
        within = random.standard_normal((len(mine), DIRECTIONS)) @ directions * (0.7 / DIRECTIONS**0.5)
        noise = random.standard_normal((len(mine), WIDTH)) * (0.2 / WIDTH**0.5)
        vectors[mine] = unit(0.85 * unit(centre + within + noise) + 0.5 * offset)
    content = vectors[random.choice(count, QUERIES)].astype(np.float32) - 0.5 * offset
    noise = unit(random.standard_normal((QUERIES, WIDTH)) * spectrum)
    return vectors, unit(0.85 * unit(unit(content) + noise) + 0.5 * query_offset).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def describe(vectors: np.ndarray, queries: np.ndarray) -> None:
    """What makes these vectors comparable with a model's."""
    some = vectors[:: max(1, len(vectors) // 20_000)].astype(np.float32)
    variances = np.linalg.svd(some - some.mean(axis=0), compute_uv=False) ** 2
    shares = np.cumsum(variances) / variances.sum()
    scores = np.sort(queries @ some.T, axis=1)
    line("vectors", f"{len(vectors):,} x {WIDTH}")
    line("dimensions with 90 % of the variance", f"{int((shares < 0.9).sum()) + 1}")
    line(
        "cosine of a query, mean and best",
        f"{scores.mean():.2f}, {scores[:, -1].mean():.2f} (of {len(some):,})",
    )


def measure(folder: Path, model: str | None) -> None:
    """Latency, recall and memory of the saved index."""
    kept = np.load(folder / "queries.npz")
    before = psutil.Process().memory_info()
    memory = before.rss - before.shared
    start = time.perf_counter()
    saved = files.read(folder / "index")
    encoder = Encoder(*load_model(model)) if model else Encoder(None, None)
    index = ImageIndex(encoder, saved.made_by, saved.rows, saved.neighbours)
    if not model:
        line("opening", f"{1000 * (time.perf_counter() - start):.0f} ms")
    if index.recall is not None:
        line("cells looked into", f"{index._neighbours.cells} of {index._neighbours._ivf().nlist}")
        line("recall@10 that the index states", f"{index.recall:.3f}")
    for name, options in (
        ("approximate", {}),
        ("approximate, filter that half meet", {"filter": {"year": list(range(1975, 2000))}}),
        ("filter that one in fifty meets", {"filter": {"year": 1999}}),
    ):
        report(name, index, kept["queries"], None if options else kept["exact"], options)
    report("exact", index, kept["queries"][:30], kept["exact"], {"exact": True})
    used = psutil.Process().memory_info()
    line(
        "memory, own, and before the index",
        f"{(used.rss - used.shared) / 1e6:,.0f} MB, {memory / 1e6:,.0f} MB",
    )
    line("memory, mapped files", f"{used.shared / 1e6:,.0f} MB, which the system may take back")
    if model:
        timed = [clock(lambda text=text: index.search(text, 10)) for text in TEXTS * 20]
        line("words to results, end to end", percentiles([wall for wall, _ in timed]))
        timed = [clock(lambda text=text: encoder.encode([text])) for text in TEXTS * 20]
        line("of which tokenising and embedding", percentiles([wall for wall, _ in timed]))


def report(
    name: str, index: ImageIndex, queries: np.ndarray, exact: np.ndarray | None, options: dict
) -> None:
    """One line: latency of single queries, and recall@10."""
    found = []

    def search(query: np.ndarray) -> None:
        found.append(index.nearest(query[None], 10, **options)[1][0])

    for query in queries[:10]:  # pages are read in
        search(query)
    found.clear()
    timed = [clock(lambda query=query: search(query)) for query in queries]
    if exact is None:
        some = slice(0, 20)
        _, exact = index.nearest(queries[some], 10, exact=True, **options)
        found = found[some]
    pairs = zip(found, exact[: len(found)], strict=True)
    recall = np.mean([len(set(one.tolist()) & set(other.tolist())) / 10 for one, other in pairs])
    cpu = np.median([cpu for _, cpu in timed])
    line(name, f"{percentiles([wall for wall, _ in timed])}, CPU {1000 * cpu:.1f} ms, recall@10 {recall:.3f}")


def clock(function) -> tuple[float, float]:
    """Seconds on the wall, and of this thread on a CPU: on a busy machine they differ."""
    wall, cpu = time.perf_counter(), time.thread_time()
    function()
    return time.perf_counter() - wall, time.thread_time() - cpu


def percentiles(seconds: list[float]) -> str:
    """p50 and p95 in milliseconds."""
    p50, p95 = 1000 * np.percentile(seconds, [50, 95])
    return f"p50 {p50:.1f} ms, p95 {p95:.1f} ms"


def command_line(folder: str) -> None:
    """How long the command takes that needs no model, and one that searches."""
    program = [sys.executable, "-m", "hf_customclip.cli"]
    for name, arguments in (
        ("hf-customclip --help", ["--help"]),
        ("hf-customclip search --help", ["search", "--help"]),
        ("hf-customclip search INDEX words", ["search", f"{folder}/index", "a red car", "--json"]),
    ):
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            done = subprocess.run(program + arguments, check=True, capture_output=True, text=True)
            seconds.append(time.perf_counter() - start)
        assert "--json" not in arguments or len(json.loads(done.stdout)) == 10
        line(name, f"{min(seconds):.2f} s, the best of 5 (median {np.median(seconds):.2f} s)")


def line(name: str, value: str) -> None:
    """One row of the table."""
    print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
