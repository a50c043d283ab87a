"""Do small batches find flatter minima that generalize better? Hypotheses H1 and H2; section V-B.

    python experiments/implicit_regularization.py --preset=quick         # embedded digits, about a minute on two cores
    python experiments/implicit_regularization.py --dataset=mnist        # nine configurations and every control
    python experiments/implicit_regularization.py --dataset=cifar10 --preset=small
    python experiments/implicit_regularization.py --dataset=cifar10 --controls=plain --only=gd,gd_plain     # one GPU

Expect on MNIST, five seeds: test accuracy 96.09 % [95.93, 96.25] at batch 32, 93.88 % [93.59, 94.18] at 2048 after
as many epochs, 95.30 % [94.87, 95.72] after as many updates as batch 128. H1 is seen at equal epochs; H2 is not as
stated. Full-batch GD on 5,000 images of CIFAR-10: 32.16 % [31.59, 32.73] (published 32.71).
"""

from ntkgen import cli
from ntkgen.studies import implicit_regularization

if __name__ == "__main__":
    cli.main(implicit_regularization.STUDY)
