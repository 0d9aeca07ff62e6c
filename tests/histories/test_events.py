import ibis
import pandas as pd

from minirec.histories.events import history_events
from minirec.histories.windows import windows


def test_an_event_of_each_item_of_each_history_in_its_order():
    rows = [
        ("a", "w", 1.0, 5.0, 0, "train"),
        ("a", "y", 3.0, 4.0, 2, "valid"),
        ("a", "x", 2.0, None, 1, "train"),
        ("a", "z", 4.0, 3.0, 3, "test"),
        ("b", "z", 7.0, 1.0, 0, "train"),
        ("b", "w", 9.0, 2.0, 1, "test"),
    ]
    columns = ["user_id", "item_id", "timestamp", "rating", "position", "split"]
    interactions = ibis.memtable(pd.DataFrame(rows, columns=columns))
    samples = windows(interactions, 2)

    events = history_events(samples, interactions)

    found = events.order_by(["sample_id", "position"]).execute()
    assert found.astype(object).where(found.notna(), None).to_dict("list") == {
        "sample_id": [0, 1, 1, 2, 2, 3],
        "rating": [5.0, 5.0, None, None, 4.0, 1.0],
        "timestamp": [1.0, 1.0, 2.0, 2.0, 3.0, 7.0],
        "position": [0, 0, 1, 1, 2, 0],
    }
