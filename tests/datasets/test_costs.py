import pandas as pd

from minirec import schemas
from minirec.datasets.costs import CostsDataset


def test_before_anything_has_run_there_is_no_row(tmp_path):
    dataset = CostsDataset(filepath=str(tmp_path / "costs.csv"))
    table = schemas.Costs.validate(dataset.load(), lazy=True)
    assert table.empty
    assert not dataset.exists()


def test_what_was_kept_comes_back(tmp_path):
    dataset = CostsDataset(
        filepath=str(tmp_path / "costs.csv"), save_args={"index": False}
    )
    table = pd.DataFrame({"node": ["select_samples"], "seconds": [1.5]})
    dataset.save(table)
    pd.testing.assert_frame_equal(dataset.load(), table)
    assert dataset.identity() == {}  # other costs are no other source
