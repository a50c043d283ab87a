"""Are the minima that large batches find sharper, and does that depend on how sharpness is measured?

Hypotheses H1 and H2; sections IV-E and V-C.

    python experiments/loss_landscape.py --preset=quick          # embedded digits, about a minute on two cores
    python experiments/loss_landscape.py --dataset=mnist         # MLP 128 on 10,000 images, some minutes
    python experiments/loss_landscape.py --dataset=cifar10 --preset=small   # CNN 8, 5,000 images, 75 minutes on a core

Expect on MNIST, five seeds: the top eigenvalue is 3.97 [3.69, 4.28] times as large for batch 1024 as for batch 32
(published 11.8, one CNN of each on CIFAR-10; ours, of 8 channels: 13.2 [12.0, 14.5]). At equal training loss nothing is
decided on MNIST, and about a factor of 3.5 is left on CIFAR-10. Test accuracy on MNIST is 0.47 points lower.
"""

from ntkgen import cli
from ntkgen.studies import loss_landscape

if __name__ == "__main__":
    cli.main(loss_landscape.STUDY)
