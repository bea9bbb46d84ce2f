"""A process that writes into a gallery from several threads until it is killed; run by `test_crash`.

Every thread owns some ids. It tells of each change before it makes it and again once the gallery has answered, one line
each, so that the parent knows what was acknowledged and what was under way.
"""

import os
import random
import sys
import threading
from pathlib import Path

from service.gallery import EmbeddedGallery, Filter
from tests.service.gallery.samples import open_gallery, record, vector

THREADS = 5
IDS_OF_A_THREAD = 20
DIMENSION = 32


def tell(*words: object) -> None:
    # One write each, so that lines of different threads are not torn.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def write(gallery: EmbeddedGallery, thread: int, seed: int, known: dict[str, str]) -> None:
    """Add, replace and delete this thread's ids. `known` has the state ("absent" or a state's name) of each."""
    dice = random.Random(f"{thread}-{seed}")
    states = dict(known)
    for number in range(1_000_000):
        name = f"t{thread}-{dice.randrange(IDS_OF_A_THREAD)}"
        if states.get(name, "absent") != "absent" and dice.random() < 0.3:
            state = "absent"
        else:
            state = f"{name}-{seed}-{number}"
        tell("begin", name, state)
        if state == "absent":
            gallery.delete(name)
        else:
            new = record(
                name, embedding=vector(state, DIMENSION), camera_id=f"camera-{thread}", metadata={"state": state}
            )
            if states.get(name, "absent") == "absent":
                gallery.add(new)
            else:
                gallery.put(new)
        states[name] = state
        tell("done", name, state)


def erase(gallery: EmbeddedGallery) -> None:
    """Erase what nobody asks for, again and again, so that the index file is being written much of the time."""
    for number in range(1_000_000):
        gallery.put(record(f"passing-{number}", embedding=vector("passing", DIMENSION), camera_id="passing"))
        gallery.erase(Filter(camera_ids=("passing",)), dry_run=False)


def main() -> None:
    """Arguments: the directory and a seed. Reads the state of each id, "name state" a line, from standard input."""
    known = dict(line.split() for line in sys.stdin)
    seed = int(sys.argv[2])
    gallery = open_gallery(Path(sys.argv[1]), dimension=DIMENSION)
    jobs = [threading.Thread(target=erase, args=(gallery,))]
    for thread in range(THREADS):
        own = {name: state for name, state in known.items() if name.startswith(f"t{thread}-")}
        jobs.append(threading.Thread(target=write, args=(gallery, thread, seed, own)))
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()


if __name__ == "__main__":
    main()
