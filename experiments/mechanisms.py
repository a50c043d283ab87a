"""Which measure predicts generalization when the other hyperparameters are held fixed?

    python experiments/mechanisms.py --preset=quick                     # 32 networks, embedded digits
    python experiments/mechanisms.py --dataset=mnist --preset=small     # 288 networks of 1,000 images
    python experiments/mechanisms.py --dataset=mnist                    # for a GPU

Every network is trained to a training loss of 0.01. The answer is `answer.csv` and the figure of the same name.
"""

from ntkgen import cli
from ntkgen.studies import mechanisms

if __name__ == "__main__":
    cli.main(mechanisms.STUDY)
