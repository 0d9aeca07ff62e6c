"""Times as seconds since 1970."""

from time import time

DAY = 86_400


def tomorrow() -> float:
    """Return the seconds after which nothing can have happened.

    Sources write local times, which are ahead of UTC by less than a day.
    """
    return time() + DAY
