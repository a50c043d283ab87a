"""Does full-batch gradient descent end where its step is just stable?

    python experiments/edge_of_stability.py --preset=quick                    # a minute on two cores, embedded data
    python experiments/edge_of_stability.py --preset=small --dataset=mnist    # 1,000 images
    python experiments/edge_of_stability.py                                   # 5,000 images, width 200: for a GPU

Expect the sharpness to rise to 2 / rate and, with squared loss, to stay near it (Cohen et al. 2021); with cross-entropy
it falls again once the network fits.
"""

from ntkgen import cli
from ntkgen.studies import edge_of_stability

if __name__ == "__main__":
    cli.main(edge_of_stability.STUDY)
