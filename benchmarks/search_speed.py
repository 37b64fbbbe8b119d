"""Search over a large collection: build time, size on disk, memory, latency, recall@10 against exact search.

python benchmarks/search_speed.py                    # 1,000,000 x 512
python benchmarks/search_speed.py --count 100000 --compressions int8 binary none

The vectors are drawn, not embedded, so that anybody can draw them again. 5,000 clusters of unequal size
(Zipf, exponent 0.7); in each, vectors vary along 24 directions of its own; the centres and directions have a
spectrum that falls as 1 / (1 + (i / 35)^2), a little noise in all 512 dimensions is added, and a common offset, the
"cone" of real embeddings. Queries are like words, not like images: one half is an image's content, one half is
noise of the same spectrum, and their common offset is another one, so that no query lies near any vector. How far to
look is measured with other ones, as an index measures with the captions of a model's hubness bank. Seconds of CPU stand
beside those on the wall, which other processes lengthen.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from hf_customclip.search.approximate import COMPRESSIONS, approximate_settings, train_approximate
from hf_customclip.search.table import ModelName, VectorTable, with_vectors

WIDTH, CLUSTERS, DIRECTIONS, QUERIES, CAPTIONS = 512, 5000, 24, 700, 200
ROWS_AT_A_TIME = 50_000
FILTERS = {"a filter that half meet": "year < 2000", "a filter that one in fifty meets": "year = 1999"}


def main() -> None:
    """Write, index in each way, measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--compressions", nargs="+", choices=list(COMPRESSIONS), default=["int8"])
    arguments = parser.parse_args()
    vectors, drawn = draw(arguments.count)
    captions, queries = drawn[:CAPTIONS], drawn[CAPTIONS:]
    describe(vectors, queries)
    with tempfile.TemporaryDirectory() as folder:
        table = VectorTable.open_or_create(folder, ModelName("", "0" * 32, WIDTH))
        with timed("write"):
            write(table, vectors)
        line("on disk, rows", f"{size(Path(folder)) / 1e6:,.0f} MB")
        exact = {
            where: nearest(table, queries[:20], where, exact=True) for where in (None, *FILTERS.values())
        }
        report("exact", table, queries[:20], None, exact[None], exact=True)
        for compression in arguments.compressions:
            measure(table, Path(folder), compression, captions, queries, exact)


def write(table: VectorTable, vectors: np.ndarray) -> None:
    """Put the rows, as a run that embeds would, and join what that leaves."""
    for first in range(0, len(vectors), ROWS_AT_A_TIME):
        part = vectors[first : first + ROWS_AT_A_TIME]
        ids = [f"{number:07}" for number in range(first, first + len(part))]
        rows = pa.table(
            {"id": ids, "path": ids, "state": ids, "year": np.arange(first, first + len(part)) % 50 + 1975}
        )
        table.put(with_vectors(rows, part))
    table.table.optimize()


def measure(
    table: VectorTable,
    folder: Path,
    compression: str,
    captions: np.ndarray,
    queries: np.ndarray,
    exact: dict[str | None, list[set]],
) -> None:
    """Index, and search with and without filters."""
    kind = COMPRESSIONS[compression][0]
    before = psutil.Process().memory_info().rss
    with timed(f"{compression} ({kind}): build, and measure how far to look"):
        train_approximate(table.table, WIDTH, compression, captions)
    settings = approximate_settings(table.table)
    line(
        "looks at",
        f"{settings['effort']} (cells: {settings['cells']}), states recall@10 {settings['recall']:.3f}",
    )
    report("a query", table, queries, None, exact[None])
    for name, where in FILTERS.items():
        report(name, table, queries[:100], where, exact[where])
    stats = sorted((folder / "images.lance" / "_indices").iterdir(), key=lambda entry: entry.stat().st_mtime)
    line("on disk, all indexes so far", f"{sum(size(entry) for entry in stats) / 1e6:,.0f} MB")
    line("memory, more than before", f"{(psutil.Process().memory_info().rss - before) / 1e6:,.0f} MB")


def nearest(table: VectorTable, queries: np.ndarray, where: str | None, exact: bool = False) -> list[set]:
    """Ids that are found for each query."""
    return [{row["id"] for row in rows} for rows in table.nearest(queries, 10, where, exact)]


def report(
    name: str,
    table: VectorTable,
    queries: np.ndarray,
    where: str | None,
    right: list[set],
    exact: bool = False,
) -> None:
    """One line: latency of single queries, and recall@10 over those with an exact answer."""
    nearest(table, queries[:10], where, exact)  # pages are read in
    found, walls, cpu = [], [], time.process_time()
    for query in queries:
        start = time.perf_counter()
        found += nearest(table, query[None], where, exact)
        walls.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / len(queries)
    p50, p95 = 1000 * np.percentile(walls, [50, 95])
    recall = np.mean([len(one & other) / 10 for one, other in zip(right, found, strict=False)])
    line(name, f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, CPU {1000 * cpu:.1f} ms, recall@10 {recall:.3f}")


class timed:
    """Prints the seconds of a block, on the wall and of CPU."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        line(self.name, f"{wall:.0f} s, {cpu:.0f} s of CPU")


def size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


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


def line(name: str, value: str) -> None:
    """One row of the table."""
    print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
