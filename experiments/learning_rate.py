"""How sensitive is a network to its learning rate? An example of a study of one's own, in one file.

    python experiments/learning_rate.py --preset=quick     # half a minute on two cores, embedded data
    python experiments/learning_rate.py --dataset=mnist    # 5 seeds x 11 rates

Expect a plateau of rates within half a point of the best, and no top eigenvalue far above 2 / rate.
"""

from ntkgen import cli
from ntkgen.studies import learning_rate

if __name__ == "__main__":
    cli.main(learning_rate.STUDY)
