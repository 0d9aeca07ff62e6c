"""Each source's own environment reads its files, as they are published."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog, DatasetError
from omegaconf import OmegaConf

from minirec.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[2] / "conf"
RAW = ("raw_interactions", "raw_items")

LONG = "How Twenty Words or More Fit into the Title of One Film That Nobody Has Ever Seen to Its Very End (1999)"
HTML = "Rock &amp; Roll <b>Strings</b>, 10&#34;"
PLAIN = 'Rock & Roll Strings, 10"'
EMOJI = 'Kazoo 🎶 "Loud|Proud", 2::1 \u2019s best'


def flags(*genres):
    return "|".join("1" if number in genres else "0" for number in range(19))


def lines(*records):
    return "".join(f"{json.dumps(record)}\n" for record in records).encode()


# Users 196 and 186; two events at one time, one event twice.
MOVIELENS_100K = {
    "ml-100k/u.data": (
        b"196\t242\t3\t881250949\n"
        b"186\t302\t3\t891717742\n"
        b"196\t377\t1\t878887116\n"
        b"196\t302\t4\t881250949\n"
        b"186\t302\t3\t891717742\n"
        b"196\t51\t5\t875071561\n"
    ),
    "ml-100k/u.item": (
        f"51|Legends of the Fall (1994)|01-Jan-1994||http://us.imdb.com/M|{flags(8)}\n"
        "242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/M/title-exact?Kolya%20(1996)"
        f"|{flags(5)}\n"
        f'302|"Misérables, Les" (1995)|01-Jan-1995||http://us.imdb.com/M|{flags(8)}\n'
        f"377|{LONG}|||http://us.imdb.com/M/title-exact?Heavyweights|{flags()}\n"
    ).encode("latin-1"),
}
MOVIELENS_1M = {
    "ml-1m/ratings.dat": (
        b"196::242::3::881250949\n"
        b"186::302::3::891717742\n"
        b"196::377::1::878887116\n"
        b"196::302::4::881250949\n"
        b"186::302::3::891717742\n"
        b"196::51::5::875071561\n"
    ),
    "ml-1m/movies.dat": (
        "51::Legends of the Fall (1994)::Drama\n"
        "242::Kolya (1996)::Comedy\n"
        '302::"Misérables, Les" (1995)::Drama|Musical\n'
        f"377::{LONG}::Children's|Comedy\n"
    ).encode("latin-1"),
}
MOVIELENS_32M = {
    "ml-32m/ratings.csv": (
        b"userId,movieId,rating,timestamp\r\n"
        b"196,242,3.0,881250949\r\n"
        b"186,302,3.0,891717742\r\n"
        b"196,377,1.0,878887116\r\n"
        b"196,302,4.0,881250949\r\n"
        b"186,302,3.0,891717742\r\n"
        b"196,51,5.0,875071561\r\n"
    ),
    "ml-32m/movies.csv": (
        "\ufeffmovieId,title,genres\r\n"
        "51,Legends of the Fall (1994),Drama\r\n"
        "242,Kolya (1996),Comedy\r\n"
        '302,"""Misérables, Les"" (1995)",Drama|Musical\r\n'
        f"377,{LONG},(no genres listed)\r\n"
    ).encode(),
}
RECBOLE = {
    "recbole/ml-1m.inter": (
        b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        b"196\t242\t3\t881250949\n"
        b"186\t302\t3\t891717742\n"
        b"196\t377\t1\t878887116\n"
        b"196\t302\t4\t881250949\n"
        b"186\t302\t3\t891717742\n"
        b"196\t51\t5\t875071561\n"
    ),
    "recbole/ml-1m.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tgenre:token_seq\n"
        "51\tLegends of the Fall (1994)\t1994\tDrama\n"
        "242\tKolya (1996)\t1996\tComedy\n"
        '302\t"Misérables, Les" (1995)\t1995\tDrama Musical\n'
        f"377\t{LONG}\t\tChildren's Comedy\n"
    ).encode(),
}
MOVIES = [
    ("196", "242", 3.0, 881250949.0),
    ("186", "302", 3.0, 891717742.0),
    ("196", "377", 1.0, 878887116.0),
    ("196", "302", 4.0, 881250949.0),
    ("186", "302", 3.0, 891717742.0),
    ("196", "51", 5.0, 875071561.0),
]
FILMS = ["242", "302", "377", "51"]
TITLES = [
    "Kolya (1996)",
    '"Misérables, Les" (1995)',
    LONG,
    "Legends of the Fall (1994)",
]

META = lines(
    {
        "main_category": "Musical Instruments",
        "title": HTML,
        "average_rating": 4.6,
        "features": ["Bright.", "Lasts long."],
        "description": ["First paragraph.", "Second, with <br> in it."],
        "price": 12.5,
        "images": [{"thumb": "https://example.org/1.jpg", "hi_res": None}],
        "store": "Acme",
        "categories": ["Musical Instruments", "Strings"],
        "details": {"Item Weight": "1 pound"},
        "parent_asin": "B000000001",
        "bought_together": None,
    },
    {
        "title": EMOJI,
        "features": [],
        "description": [],
        "price": "from 14.99",
        "store": None,
        "categories": [],
        "parent_asin": "B000000002",
    },
    {"title": LONG, "price": None, "parent_asin": "B000000003"},
    {"title": "Tambourine", "parent_asin": "B000000004", "features": ["Round."]},
)
EVENTS = [
    ("AGKASBHYZPGTEPO6LWZPVJWB2BVA", "B000000001", 5.0, 1588687728.923),
    ("AGKASBHYZPGTEPO6LWZPVJWB2BVA", "B000000002", 1.0, 1588687728.923),
    ("AGKASBHYZPGTEPO6LWZPVJWB2BVA", "B000000003", 3.0, 1588687728.924),
    ("AE2", "B000000002", 2.0, 966816000.0),
    ("AE2", "B000000002", 2.0, 966816000.0),
    ("AGKASBHYZPGTEPO6LWZPVJWB2BVA", "B000000004", 4.0, 966816000.0),
]
AMAZON = {
    "amazon-2023/Musical_Instruments.csv.gz": gzip.compress(
        b"user_id,parent_asin,rating,timestamp\n"
        b"AGKASBHYZPGTEPO6LWZPVJWB2BVA,B000000001,5.0,1588687728923\n"
        b"AGKASBHYZPGTEPO6LWZPVJWB2BVA,B000000002,1.0,1588687728923\n"
        b"AGKASBHYZPGTEPO6LWZPVJWB2BVA,B000000003,3.0,1588687728924\n"
        b"AE2,B000000002,2.0,966816000000\n"
        b"AE2,B000000002,2.0,966816000000\n"
        b"AGKASBHYZPGTEPO6LWZPVJWB2BVA,B000000004,4.0,966816000000\n"
    ),
    "amazon-2023/meta_Musical_Instruments.jsonl.gz": gzip.compress(META),
}
AMAZON_REVIEWS = {
    "amazon-2023/Musical_Instruments.jsonl.gz": gzip.compress(
        lines(
            *(
                {
                    "rating": rating,
                    "title": 'Good "enough"',
                    "text": "Loud.<br />Very loud, \n and 👍",
                    "images": [],
                    "asin": "B00000000X",
                    "parent_asin": item,
                    "user_id": user,
                    "timestamp": round(seconds * 1000),
                    "helpful_vote": 0,
                    "verified_purchase": True,
                }
                for user, item, rating, seconds in EVENTS
            )
        )
    ),
    "amazon-2023/meta_Musical_Instruments.jsonl.gz": gzip.compress(META),
}
PRODUCTS = {
    "item_id": ["B000000001", "B000000002", "B000000003", "B000000004"],
    "title": [HTML, EMOJI, LONG, "Tambourine"],
    "description": ["First paragraph. Second, with <br> in it.", "", None, None],
    "features": ["Bright. Lasts long.", "", None, "Round."],
    "categories": ["Musical Instruments, Strings", "", None, None],
    "store": ["Acme", None, None, None],
    "price": ["12.5", "from 14.99", None, None],
}

# Of each environment: its files, its events, and its items by column.
SOURCES = {
    "movielens-100k": (
        MOVIELENS_100K,
        MOVIES,
        {
            "title": TITLES,
            "release_date": ["24-Jan-1997", "01-Jan-1995", None, "01-Jan-1994"],
        },
    ),
    "movielens-1m": (
        MOVIELENS_1M,
        MOVIES,
        {
            "title": TITLES,
            "description": ["Comedy", "Drama|Musical", "Children's|Comedy", "Drama"],
        },
    ),
    "movielens-32m": (
        MOVIELENS_32M,
        MOVIES,
        {
            "title": TITLES,
            "description": ["Comedy", "Drama|Musical", "(no genres listed)", "Drama"],
        },
    ),
    "recbole": (
        RECBOLE,
        MOVIES,
        {
            "title": TITLES,
            "description": ["Comedy", "Drama Musical", "Children's Comedy", "Drama"],
        },
    ),
    "amazon-2023": (AMAZON, EVENTS, PRODUCTS),
    "amazon-2023-reviews": (AMAZON_REVIEWS, EVENTS, PRODUCTS),
}


def put(project, files):
    for name, content in files.items():
        path = project / "data" / "01_raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture(params=["duckdb", "pyspark"])
def connection(request):
    if request.param == "pyspark" and shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    return {"backend": request.param}


@pytest.fixture
def raw_tables(tmp_path, monkeypatch, connection):
    """Return a function that reads files in an environment, on each engine."""

    def read(env, files):
        put(tmp_path, files)
        args = {**CONFIG_LOADER_ARGS, "default_run_env": env}
        entries = OmegaConfigLoader(str(CONF), **args)["catalog"]
        monkeypatch.chdir(tmp_path)
        catalog = DataCatalog.from_config(
            {name: {**entries[name], "connection": connection} for name in RAW}
        )
        return [catalog.load(name) for name in RAW]

    return read


@pytest.mark.parametrize("env", SOURCES)
def test_files_are_read_as_they_are_published(raw_tables, env):
    files, events, columns = SOURCES[env]
    interactions, items = raw_tables(env, files)
    found = interactions.to_pyarrow().to_pandas()
    assert sorted(found.itertuples(index=False, name=None)) == sorted(events)
    assert found.columns.tolist() == ["user_id", "item_id", "rating", "timestamp"]
    ids = PRODUCTS["item_id"] if "amazon" in env else FILMS
    assert items.order_by("item_id").to_pyarrow().to_pydict() == {
        "item_id": ids,
        **columns,
    }


@pytest.fixture(scope="module")
def project(copy_project):
    path = copy_project()
    for files, *_ in SOURCES.values():
        put(path, files)
    return path


# all that few events allow, on a tiny model
PARAMS = {
    "preprocess.k_core": 1,
    "preprocess.pool.train": 1,
    "preprocess.pool.test": 1,
    "score.proxy.prompts": 1,
    "select.size": 1,
    "select.curriculum.n_stages": 1,
    "policy_model": "tests/fixtures/policy",
}


def check_tables(project, env):
    """Check what the pipeline made of an environment's files."""
    data = project / "data" / env
    interactions = pd.read_parquet(data / "02_intermediate/interactions.parquet")
    # Equal times are ordered by item, and an event that is there twice counts once.
    histories = interactions.groupby("user_id")["item_id"].agg(list).to_dict()
    items = pd.read_parquet(data / "02_intermediate/items.parquet")
    prompts = pd.read_parquet(data / "03_primary/prompts.parquet")
    assert prompts["split"].tolist() == ["train", "test"]
    if "amazon" in env:
        one, two, three, four = PRODUCTS["item_id"]
        assert histories == {
            "AE2": [two],
            "AGKASBHYZPGTEPO6LWZPVJWB2BVA": [four, one, two, three],
        }
        assert items["item_id"].tolist() == [one, two, three, four]
        assert items["title"].tolist() == [PLAIN, EMOJI, LONG, "Tambourine"]
        assert prompts["prompt"].str.contains("Which product should I buy next?").all()
    else:
        assert histories == {"186": ["302"], "196": ["51", "377", "242", "302"]}
        assert items["item_id"].tolist() == FILMS
        assert items["title"].tolist() == TITLES
        assert prompts["prompt"].str.contains("Which movie should I watch next?").all()


@pytest.mark.parametrize("env", SOURCES)
def test_an_environment_makes_prompts_of_its_files(project, kedro, env):
    params = ",".join(f"{name}={value}" for name, value in PARAMS.items())
    args = ("--env", env, "--pipelines", "preprocess", "--params", params)
    done = kedro(project, "run", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    check_tables(project, env)


# in one process, since each has to start Spark
ON_SPARK = """
import sys
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

bootstrap_project(".")
for env in sys.argv[1:]:
    with KedroSession.create(env=env, runtime_params={params}) as session:
        session.run(pipeline_names=["preprocess"])
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
def test_spark_makes_the_same_of_every_environment(copy_project):
    project = copy_project()
    on_spark = yaml.safe_load((project / "conf/spark/globals.yml").read_text())
    on_spark["connection"]["spark.sql.shuffle.partitions"] = 1  # few rows
    for env, (files, *_) in SOURCES.items():
        put(project, files)
        with (project / "conf" / env / "globals.yml").open("a") as globals_:
            yaml.safe_dump(on_spark, globals_)
    params = OmegaConf.create()
    for name, value in PARAMS.items():
        OmegaConf.update(params, name, value)
    script = ON_SPARK.replace("{params}", repr(OmegaConf.to_container(params)))
    done = subprocess.run(
        [sys.executable, "-c", script, *SOURCES],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for env in SOURCES:
        check_tables(project, env)


@pytest.mark.parametrize(
    ("env", "file", "terms"),
    [
        ("movielens-100k", "u.data", "ml-100k.zip into data/01_raw/ml-100k (GroupLens"),
        ("movielens-1m", "ratings.dat", "ml-1m.zip into data/01_raw/ml-1m (GroupLens"),
        ("movielens-32m", "ratings.csv", "ml-32m.zip into data/01_raw/ml-32m (Group"),
        ("recbole", "ml-1m.inter", "under the terms of the dataset's own source"),
        ("amazon-2023", "Musical_Instruments.csv.gz", "no licence is assigned"),
        (
            "amazon-2023-reviews",
            "Musical_Instruments.jsonl.gz",
            "no licence is assigned",
        ),
    ],
)
def test_a_missing_file_says_which_from_whom_and_under_what_terms(
    tmp_path, monkeypatch, env, file, terms
):
    monkeypatch.chdir(tmp_path)
    args = {**CONFIG_LOADER_ARGS, "default_run_env": env}
    entry = OmegaConfigLoader(str(CONF), **args)["catalog"]["raw_interactions"]
    with pytest.raises(DatasetError) as error:
        DataCatalog.from_config({"raw": entry}).load("raw")
    said = str(error.value)
    assert f"{file} does not exist: put " in said
    assert terms in said
    assert "https://" in said
