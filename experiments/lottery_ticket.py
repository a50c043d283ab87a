"""Do sparse subnetworks with their original initialisation train as well as the whole network?

Hypothesis H5; sections IV-G and V-F.

    python experiments/lottery_ticket.py --preset=quick                         # embedded digits, a minute on two cores
    python experiments/lottery_ticket.py --dataset=mnist --num_train=10000      # eight minutes on one NVIDIA H100
    python experiments/lottery_ticket.py --dataset=cifar10 --preset=small       # two and a half hours on one core
    python experiments/lottery_ticket.py --dataset=cifar10                      # the published protocol; wants a GPU

Expect on MNIST (10,000 images, width 256, five seeds): test accuracy 96.60 +- 0.25 % of the whole network and
96.47 +- 0.19 % of tickets with a tenth of its weights, 95.49 with their values shuffled; all four published relations
seen. `ntkgen/studies/lottery_ticket/_controls.py` has the arms, and what each changes.
"""

from ntkgen import cli
from ntkgen.studies import lottery_ticket

if __name__ == "__main__":
    cli.main(lottery_ticket.STUDY)
