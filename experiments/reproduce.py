"""Which of the paper's numbers come out again, and which of its claims hold? The paper in one command.

    python experiments/reproduce.py --preset=quick        # all studies on embedded digits
    python experiments/reproduce.py --preset=small        # on MNIST
    python experiments/reproduce.py                       # the published protocols, for a GPU

It says beforehand what each study takes; an interrupted or failed run goes on with the same command. `published.csv`
has every published number beside ours, `statements.csv` what the paper's tables contradict, `claims.csv` H1 to H5 and
RQ1 to RQ6 with their controls, `plan.csv` the times. `--force` reads the studies' tables anew; a study is repeated by
its own `--force`.
"""

from ntkgen import cli
from ntkgen.studies import reproduce

if __name__ == "__main__":
    cli.main(reproduce.STUDY)
