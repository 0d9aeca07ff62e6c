"""Kedro settings that differ from its defaults."""

from minirec.hooks import CostHook, InputHook, SummaryHook
from minirec.lineage.hook import LineageHook

HOOKS = (InputHook(), LineageHook(), CostHook(), SummaryHook())

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An overlay names only what differs; the rest of a key stays as in conf/base.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
