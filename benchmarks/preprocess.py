"""Measure how fast histories are prepared, beside the same steps in other libraries.

``python benchmarks/preprocess.py`` makes interactions whose users and items follow a
power law, and takes them from Parquet files to Parquet files: clean, deduplicate,
filter by rating and date, k-core, order, split in both ways, windows, leakage report,
and items with their text and popularity. The project's own functions do it on DuckDB, with the connection of conf/base/globals.yml;
plain pandas and Polars do it beside them, up to 10 million rows. At a small size the
files of all three must be equal. Each run is a process of its own; seconds count from
when its libraries are imported. It prints the median of the runs as a table and, as its
last line, JSON: `speedup_vs_pandas` and `speedup_vs_polars` (at the most rows that all
three took), `peak_gb` (of DuckDB's processes), `exponent` (of the rows, as DuckDB's
time grows) and `rows_per_second` (of DuckDB, at the most rows).

As in Amazon Reviews 2023, a user has about 10 interactions and an item about 12, and
about a third of them are left by the filters and the 5-core.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter, sleep
from typing import Any

import click
import numpy as np

GLOBALS = Path(__file__).parents[1] / "conf" / "base" / "globals.yml"

USER, ITEM = "user_id", "item_id"
K, WINDOW, MIN_RATING = 5, 10, 4
SINCE, UNTIL = date(2002, 8, 22), date(2020, 9, 13)
VALID, TEST = 0.1, 0.1
LEAVE_LAST_OUT, TIME = "leave_last_out.parquet", "time.parquet"
SAMPLES, LEAKAGE, CATALOGUE = "samples.parquet", "leakage.parquet", "items.parquet"
OUTPUTS = (LEAVE_LAST_OUT, TIME, SAMPLES, LEAKAGE, CATALOGUE)
STEPS = ("prepare", "split", "windows", "leakage", "items")
TEXT = "{title}. {description}"
PARTING_TAG = r"(?i)</?(br|p|div|ul|ol|li|table|tr|td|h[1-6])\b[^<>]*>"
TAG = "</?[A-Za-z][^<>]*>"

CHECKED = 100_000  # rows at which all engines' files are compared
LARGEST = 10_000_000  # rows beyond which DuckDB runs alone
AMAZON = 571_000_000  # rows of Amazon Reviews 2023


def seconds(day: date) -> float:
    """Return the seconds from 1970 to the start of the day."""
    return datetime.combine(day, time(), UTC).timestamp()


def table(path: Path, spill: Path) -> Any:
    """Return the project's dataset of a Parquet file, with its connection."""
    from omegaconf import OmegaConf

    from minirec.datasets.table import TableDataset

    connection = OmegaConf.load(GLOBALS).connection
    # in memory, or the runs would find one another's tables
    own = {"database": ":memory:", "temp_directory": str(spill)}
    return TableDataset(filepath=str(path), connection={**connection, **own})


def make(rows: int, path: Path, spill: Path) -> None:
    """Write interactions in which the r-th user or item has a share of about r**-0.7.

    Ids are as long as Amazon's. Timestamps are whole hours of 20 years.
    """
    import ibis
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = path.with_suffix(".numbers.parquet")
    names = [USER, ITEM, "rating", "timestamp"]
    types = [pa.int64(), pa.int64(), pa.float64(), pa.int64()]
    with pq.ParquetWriter(numbers, pa.schema(zip(names, types, strict=True))) as file:
        for start in range(0, rows, 1_000_000):
            n = min(1_000_000, rows - start)
            rng = np.random.default_rng([0, start])
            columns = [
                power_law(rng, rows // 10, n),
                power_law(rng, rows // 12, n),
                rng.choice(5, n, p=[0.07, 0.06, 0.12, 0.25, 0.5]) + 1.0,
                1_000_000_000 + 3600 * rng.integers(0, 20 * 8766, n),
            ]
            file.write_table(pa.table(dict(zip(names, columns, strict=True))))
    drawn = table(numbers, spill).load()
    code = {name: drawn[name].cast("string").hexdigest("md5").upper() for name in names}
    user, item = ibis.literal("A") + code[USER], ibis.literal("B") + code[ITEM]
    table(path, spill).save(drawn.mutate(**{USER: user[:28], ITEM: item[:10]}))
    numbers.unlink()
    ids = table(path, spill).load().select(ITEM).distinct()
    # some words of spaces and tags to clean, and none for every fourth description
    named = ids.mutate(title=ibis.literal("The  Silent <i>Harbour</i> of ") + ids[ITEM])
    told = ibis.ifelse(
        ids[ITEM][1:2] < "4", None, ibis.literal(" Drama,\n") + ids[ITEM]
    )
    table(items_of(path), spill).save(named.mutate(description=told))


def items_of(raw: Path) -> Path:
    """Return where the items of a file of interactions lie."""
    return raw.with_suffix(".items.parquet")


def power_law(rng: np.random.Generator, ids: int, n: int) -> np.ndarray:
    """Draw n of the ids 0, 1, ... with shares of (id + 0.0001 ids)**-0.7."""
    exponent, shift = 0.7, 0.0001 * ids
    low, high = shift ** (1 - exponent), (ids + shift) ** (1 - exponent)
    drawn = (low + (high - low) * rng.random(n)) ** (1 / (1 - exponent)) - shift
    return np.minimum(drawn.astype(np.int64), ids - 1)


def on_duckdb(raw: Path, out: Path, spill: Path) -> Iterator[str]:
    """Take the steps as the project does; tell the name of each when it is done."""
    from minirec.histories.catalogue import catalogue
    from minirec.histories.clean import clean_items
    from minirec.histories.ids import to_ids
    from minirec.histories.leakage import leakage
    from minirec.histories.prepare import prepare
    from minirec.histories.splits import in_order, split
    from minirec.histories.windows import windows

    files = {name: table(out / name, spill) for name in OUTPUTS}
    yield "import"
    loaded = table(raw, spill).load()
    core, numbers = prepare(loaded, K, MIN_RATING, SINCE, UNTIL)
    yield "prepare"
    ordered = in_order(core)
    left_out = split(ordered, "leave_last_out", VALID, TEST)
    files[LEAVE_LAST_OUT].save(to_ids(left_out, numbers))
    files[TIME].save(to_ids(split(ordered, "time", VALID, TEST), numbers))
    # as when a node has returned
    del core, numbers, ordered, left_out
    yield "split"
    interactions = files[LEAVE_LAST_OUT].load()
    files[SAMPLES].save(windows(interactions, WINDOW).order_by("sample_id"))
    yield "windows"
    files[LEAKAGE].save(leakage(files[SAMPLES].load()).order_by("split"))
    yield "leakage"
    raw_items = table(items_of(raw), spill).load()
    items = clean_items(raw_items, interactions, ["description"])
    files[CATALOGUE].save(catalogue(items, interactions, TEXT))
    yield "items"


def on_pandas(raw: Path, out: Path, spill: Path) -> Iterator[str]:
    """Take the steps on data frames, column by column."""
    import pandas as pd

    yield "import"
    events = pd.read_parquet(raw)
    assert events.notna().all(axis=None)
    for column in (USER, ITEM):
        assert (events[column].str.strip() != "").all()
    events["timestamp"] = events["timestamp"].astype("float64")
    events = events.sort_values(["timestamp", "rating"]).drop_duplicates([USER, ITEM])
    of_time = events["timestamp"].between(
        seconds(SINCE), seconds(UNTIL), inclusive="left"
    )
    events = events[(events["rating"] >= MIN_RATING) & of_time]
    rows = -1
    while len(events) != rows:
        rows = len(events)
        for column in (USER, ITEM):
            size = events.groupby(column)[column].transform("size")
            events = events[size >= K]
    yield "prepare"
    events = events.sort_values([USER, "timestamp", ITEM], ignore_index=True)
    users = events.groupby(USER)
    events["position"] = users.cumcount()
    after = users[USER].transform("size") - 1 - events["position"]
    events["split"] = np.select([after == 0, after == 1], ["test", "valid"], "train")
    events.to_parquet(out / LEAVE_LAST_OUT)
    n_valid, n_test = round(VALID * rows), round(TEST * rows)
    splits = np.repeat(
        ["train", "valid", "test"], [rows - n_valid - n_test, n_valid, n_test]
    )
    in_time = events.sort_values(["timestamp", USER, ITEM]).index
    events["split"] = pd.Series(splits, index=in_time)
    events.to_parquet(out / TIME)
    yield "split"
    interactions = pd.read_parquet(out / LEAVE_LAST_OUT)
    position = interactions["position"].to_numpy()
    items = interactions[ITEM].to_numpy(dtype=object)
    end = np.arange(rows)
    start = end - np.minimum(position, WINDOW)
    samples = interactions.drop(columns="rating")
    samples = samples.rename(columns={ITEM: "target_item_id"})
    # slices of one array: far faster than shifting groups
    past = zip(start.tolist(), end.tolist(), strict=True)
    samples["history_item_id"] = pd.Series([items[first:last] for first, last in past])
    samples = samples[position > 0]
    samples.insert(0, "sample_id", np.arange(len(samples)))
    samples.to_parquet(out / SAMPLES, index=False)
    yield "windows"
    samples = pd.read_parquet(out / SAMPLES)
    of_train = samples["split"] == "train"
    others = samples.loc[~of_train, [USER, "timestamp", "target_item_id", "split"]]
    train = samples[of_train].set_index(USER)
    past = train["history_item_id"].explode()
    held = pd.concat([past, train["target_item_id"]]).rename(ITEM).reset_index()
    held = held.drop_duplicates()
    others = others.rename(columns={"target_item_id": ITEM})
    others["early_targets"] = others["timestamp"] < train["timestamp"].max()
    others["new_targets"] = ~others[ITEM].isin(held[ITEM].unique())
    others = others.merge(held.assign(seen_targets=1), "left", [USER, ITEM])
    told = others.groupby("split").agg(
        samples=("split", "size"),
        seen_targets=("seen_targets", "count"),
        early_targets=("early_targets", "sum"),
        new_targets=("new_targets", "sum"),
    )
    told.reset_index().to_parquet(out / LEAKAGE)
    yield "leakage"
    items = pd.read_parquet(items_of(raw))
    items = items[items[ITEM].isin(interactions[ITEM].unique())].copy()
    for name in ("title", "description"):
        text = items[name].str.replace(PARTING_TAG, " ", regex=True)
        text = text.str.replace(TAG, "", regex=True)
        items[name] = text.str.replace(r"\s+", " ", regex=True).str.strip()
    titles = items.groupby(ITEM)["title"]
    assert (titles.min() == titles.max()).all()
    told = items["title"] + ". " + items["description"]
    items["text"] = told.fillna(items["title"])
    train = interactions["split"] == "train"
    counts = train.groupby(interactions[ITEM]).sum().rename("popularity")
    items = counts.reset_index().merge(items, "left", ITEM)
    assert items["title"].notna().all()
    items[[ITEM, "title", "text", "popularity"]].to_parquet(out / CATALOGUE)
    yield "items"


def on_polars(raw: Path, out: Path, spill: Path) -> Iterator[str]:
    """Take the steps in expressions, on all cores."""
    import polars as pl

    yield "import"
    user, item, when = pl.col(USER), pl.col(ITEM), pl.col("timestamp")
    lazy = pl.scan_parquet(raw).with_columns(when.cast(pl.Float64))
    blank = pl.any_horizontal(
        (user.str.strip_chars() == "", item.str.strip_chars() == "")
    )
    sound = pl.all().is_not_null().all()
    assert all(lazy.select(sound, unblank=~blank.any()).collect().row(0))
    events = (
        lazy.sort("timestamp", "rating")
        .unique([USER, ITEM], keep="first")
        .filter(
            pl.col("rating") >= MIN_RATING,
            when >= seconds(SINCE),
            when < seconds(UNTIL),
        )
        .collect()
    )
    rows = -1
    while len(events) != rows:
        rows = len(events)
        for column in (USER, ITEM):
            frequent = events.group_by(column).len().filter(pl.col("len") >= K)
            events = events.join(frequent, on=column, how="semi")
    yield "prepare"
    position = pl.int_range(pl.len(), dtype=pl.Int64).over(USER)
    events = events.sort(USER, "timestamp", ITEM).with_columns(position=position)
    after = pl.len().over(USER) - 1 - pl.col("position")
    train, valid, test = map(pl.lit, ("train", "valid", "test"))
    split = pl.when(after == 0).then(test).when(after == 1).then(valid)
    events.with_columns(split=split.otherwise(train)).write_parquet(
        out / LEAVE_LAST_OUT, compression="snappy"
    )
    n_valid, n_test = round(VALID * rows), round(TEST * rows)
    row, n_train = pl.int_range(pl.len()), rows - n_valid - n_test
    split = pl.when(row < n_train).then(train).when(row < n_train + n_valid).then(valid)
    in_time = events.sort("timestamp", USER, ITEM)
    in_time.with_columns(split=split.otherwise(test)).sort(
        USER, "position"
    ).write_parquet(out / TIME, compression="snappy")
    yield "split"
    interactions = pl.read_parquet(out / LEAVE_LAST_OUT)
    past = interactions.rolling(
        "position",
        period=f"{WINDOW}i",
        offset=f"-{WINDOW}i",
        closed="left",
        group_by=USER,
    ).agg(history_item_id=item)
    interactions.with_columns(past["history_item_id"]).filter(
        pl.col("position") > 0
    ).select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("sample_id"),
        USER,
        "position",
        "timestamp",
        item.alias("target_item_id"),
        "history_item_id",
        "split",
    ).write_parquet(out / SAMPLES, compression="snappy")
    yield "windows"
    samples = pl.read_parquet(out / SAMPLES)
    in_train, target = pl.col("split") == "train", pl.col("target_item_id")
    train = samples.filter(in_train)
    past = train.select(user, pl.col("history_item_id").alias(ITEM)).explode(ITEM)
    held = pl.concat([past, train.select(user, target.alias(ITEM))]).unique()
    known = held.select(ITEM).unique().with_columns(known=True)
    others = samples.filter(~in_train).rename({"target_item_id": ITEM})
    others.join(held.with_columns(seen=True), [USER, ITEM], "left").join(
        known, ITEM, "left"
    ).group_by("split").agg(
        samples=pl.len().cast(pl.Int64),
        seen_targets=pl.col("seen").count().cast(pl.Int64),
        early_targets=(when < train["timestamp"].max()).sum().cast(pl.Int64),
        new_targets=pl.col("known").null_count().cast(pl.Int64),
    ).sort("split").write_parquet(out / LEAKAGE)
    yield "leakage"
    title, description = pl.col("title"), pl.col("description")
    of_text = [
        text.str.replace_all(PARTING_TAG, " ")
        .str.replace_all(TAG, "")
        .str.replace_all(r"\s+", " ")
        .str.strip_chars()
        for text in (title, description)
    ]
    items = pl.read_parquet(items_of(raw)).join(interactions, on=ITEM, how="semi")
    items = items.with_columns(of_text)
    titles = items.group_by(ITEM).agg(title.n_unique())
    assert (titles["title"] == 1).all()
    told = title + pl.when(description.is_null()).then(pl.lit("")).otherwise(
        ". " + description
    )
    items = (
        interactions.group_by(ITEM)
        .agg(popularity=(pl.col("split") == "train").sum().cast(pl.Int64))
        .join(items, ITEM, "left")
        .select(item, title, told.alias("text"), "popularity")
        .sort(ITEM)
    )
    assert items["title"].null_count() == 0
    items.write_parquet(out / CATALOGUE)
    yield "items"


ENGINES = {"duckdb": on_duckdb, "pandas": on_pandas, "polars": on_polars}


def differences(first: Path, second: Path) -> list[str]:
    """Return the names of the files that differ between two folders."""
    import pyarrow.parquet as pq

    differing = []
    for name in OUTPUTS:
        expected, found = pq.read_table(first / name), pq.read_table(second / name)
        # the types may differ in the width of offsets
        same = sorted(expected.column_names) == sorted(found.column_names) and (
            found.select(expected.column_names).cast(expected.schema) == expected
        )
        if not same:
            differing.append(name)
    return differing


def run(engine: str, raw: Path, folder: Path) -> dict[str, Any]:
    """Run an engine in a process; return its seconds, peak memory and disk, in GB."""
    out, spill = folder / engine, folder / "spill"
    out.mkdir(exist_ok=True)
    paths = map(str, (raw, out, spill))
    command = [sys.executable, __file__, "engine", engine, *paths]
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, text=True
    ) as process:
        spilled, polled = 0, monotonic()
        while process.poll() is None:
            if monotonic() - polled > 0.2:
                spilled, polled = max(spilled, size(spill)), monotonic()
            sleep(0.02)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise click.ClickException(f"{engine} failed on {raw.name}")
    return {**json.loads(said), "spilled_gb": spilled / 1e9}


def size(folder: Path) -> int:
    """Return the bytes of a folder's files, some of which may just be going."""
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


@click.group(invoke_without_command=True)
@click.option(
    "--rows",
    multiple=True,
    type=int,
    default=(1_000_000, 10_000_000, 50_000_000),
    show_default=True,
)
@click.option("--repeats", default=3, show_default=True, help="Runs of each.")
@click.option("--folder", type=Path, help="For files of some GB. Default: temporary.")
@click.pass_context
def main(
    context: click.Context, rows: tuple[int, ...], repeats: int, folder: Path | None
) -> None:
    """Print seconds, memory and disk of each engine, and what follows from them."""
    if context.invoked_subcommand:
        return
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        measured = measure(sorted(rows), repeats, Path(temporary))
    click.echo(markdown(measured))
    duckdb = measured["duckdb"]
    together = max(n for n in duckdb if n in measured["pandas"])
    speedup = {
        f"speedup_vs_{name}": round(
            measured[name][together]["seconds"] / duckdb[together]["seconds"], 2
        )
        for name in ("pandas", "polars")
    }
    click.echo(estimate(duckdb))
    times = [found["seconds"] for found in duckdb.values()]
    exponent = None
    if len(duckdb) > 1:
        slope = np.polyfit(np.log(list(duckdb)), np.log(times), 1)[0]
        exponent = round(float(slope), 3)
    most = max(duckdb)
    found = {
        **speedup,
        "peak_gb": round(max(found["peak_gb"] for found in duckdb.values()), 2),
        "exponent": exponent,
        "rows_per_second": round(most / duckdb[most]["seconds"]),
    }
    click.echo(json.dumps(found))


def measure(
    rows: list[int], repeats: int, folder: Path
) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the medians of all runs by engine and rows."""
    measured: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in ENGINES}
    for n in dict.fromkeys([CHECKED, *rows]):
        raw = folder / f"{n}.parquet"
        paths = map(str, (raw, folder / "spill"))
        make_it = [sys.executable, __file__, "make", str(n), *paths]
        subprocess.run(make_it, check=True)  # noqa: S603
        engines = [name for name in ENGINES if n <= LARGEST or name == "duckdb"]
        runs = {
            name: [run(name, raw, folder) for _ in range(repeats if n in rows else 1)]
            for name in engines
        }
        if n == CHECKED:
            for name in ("pandas", "polars"):
                if differing := differences(folder / "duckdb", folder / name):
                    raise click.ClickException(
                        f"{name} and DuckDB differ in {', '.join(differing)}"
                    )
        if n in rows:
            for name, found in runs.items():
                keys = found[0]
                measured[name][n] = {key: median(f[key] for f in found) for key in keys}
                click.echo(f"{n:,} rows on {name}: {measured[name][n]}", err=True)
        raw.unlink()
        items_of(raw).unlink()
    return measured


def markdown(measured: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Return the measurements as a table."""
    lines = [
        "| rows | engine | seconds | rows/s | " + " | ".join(STEPS) + " "
        "| peak memory, GB | spilled, GB |",
        "|" + "---:|---|" + "---:|" * (len(STEPS) + 4),
    ]
    for n in measured["duckdb"]:
        for name in ENGINES:
            if found := measured[name].get(n):
                each = " | ".join(f"{found[step]:.2f}" for step in STEPS)
                lines.append(
                    f"| {n:,} | {name} | {found['seconds']:.2f} "
                    f"| {n / found['seconds']:,.0f} | {each} "
                    f"| {found['peak_gb']:.2f} | {found['spilled_gb']:.1f} |"
                )
    return "\n".join(lines)


def estimate(duckdb: dict[int, dict[str, Any]]) -> str:
    """Say what the rows of Amazon Reviews 2023 would take, from the two largest runs."""
    if len(duckdb) < 2:
        return ""
    less, most = sorted(duckdb)[-2:]
    first, last = duckdb[less], duckdb[most]
    exponent = np.log(last["seconds"] / first["seconds"]) / np.log(most / less)
    minutes = last["seconds"] * (AMAZON / most) ** exponent / 60
    spilled = last["spilled_gb"] * AMAZON / most
    return (
        f"An estimate for {AMAZON:,} rows: {minutes:.0f} minutes, if time goes on to "
        f"grow by rows^{exponent:.2f} as it does from {less:,} to {most:,} rows, and "
        f"{spilled:.0f} GB of temporary files, if they grow by rows."
    )


@main.command("make", hidden=True)
@click.argument("rows", type=int)
@click.argument("path", type=Path)
@click.argument("spill", type=Path)
def _make(rows: int, path: Path, spill: Path) -> None:
    make(rows, path, spill)


@main.command("engine", hidden=True)
@click.argument("engine", type=click.Choice(list(ENGINES)))
@click.argument("raw", type=Path)
@click.argument("out", type=Path)
@click.argument("spill", type=Path)
def _engine(engine: str, raw: Path, out: Path, spill: Path) -> None:
    steps = ENGINES[engine](raw, out, spill)
    next(steps)  # imports
    start = last = perf_counter()
    took = {}
    for step in steps:
        took[step], last = perf_counter() - last, perf_counter()
    took["seconds"] = last - start
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    click.echo(json.dumps({**took, "peak_gb": peak}))


if __name__ == "__main__":
    main()
