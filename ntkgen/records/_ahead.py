"""Work that a thread does ahead of its need, one piece after another."""

import concurrent.futures
from collections.abc import Callable


class Ahead:
    """Pieces of work by name, in a thread of their own."""

    def __init__(self) -> None:
        """Begin with none; the thread starts with the first."""
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "ahead")
        self._pieces: dict[str, concurrent.futures.Future] = {}

    def submit(self, name: str, work: Callable[[], None]) -> None:
        """Put a piece behind the others, unless there is one of that name."""
        if name not in self._pieces:
            self._pieces[name] = self._thread.submit(work)

    def wait(self, name: str) -> None:
        """Wait until a piece that has begun is done; one that has not begun is left out.

        Its errors are not raised: they are those of whoever needs it next, where its caller expects them.
        """
        piece = self._pieces.get(name)
        if piece is not None and not piece.cancel():
            concurrent.futures.wait([piece])

    def close(self) -> None:
        """Leave out what has not begun; what has goes on to its end."""
        self._thread.shutdown(wait=False, cancel_futures=True)
