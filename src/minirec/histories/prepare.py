"""From raw interactions to those that count, before they are ordered and split."""

from datetime import date

import ibis.expr.types as ir

from minirec.histories.clean import clean_interactions
from minirec.histories.filters import deduplicate, drop_untitled, filter_interactions
from minirec.histories.ids import number_ids, to_numbers
from minirec.histories.k_core import k_core


def prepare(
    raw: ir.Table,
    k: int,
    min_rating: float | None = None,
    since: date | None = None,
    until: date | None = None,
    items: ir.Table | None = None,
) -> tuple[ir.Table, dict[str, ir.Table]]:
    """Clean the interactions, deduplicate and filter them, and keep their k-core.

    A repeated interaction is the earliest or none: if the earliest does not pass the
    filters, a later one does not take its place.

    Parameters
    ----------
    raw : ibis.Table
        As `clean_interactions` takes it.
    k : int
        As `k_core` takes it.
    min_rating, since, until
        As `filter_interactions` takes them.
    items : ibis.Table or None
        Raw items, as `drop_untitled` takes them. None: nothing is asked of items.

    Returns
    -------
    interactions : ibis.Table
        ``user_id`` and ``item_id`` as numbers, ``rating`` and ``timestamp``.
    numbers : dict of str to ibis.Table
        The numbers of the ids, for `to_ids`.

    Raises
    ------
    InputError
        If the interactions are unfit, or nothing is left.
    """
    cleaned = clean_interactions(raw)
    if items is not None:
        cleaned = drop_untitled(cleaned, items)
    limits = (min_rating, since, until)
    # Counted are only those that pass: who has too few of them cannot stay.
    numbers = number_ids(filter_interactions(cleaned, *limits), k)
    numbered = to_numbers(cleaned, numbers)
    return k_core(filter_interactions(deduplicate(numbered), *limits), k), numbers
