"""Does test error fall again beyond the interpolation threshold? Hypothesis H4; sections V-A and V-D.

    python experiments/double_descent.py --preset=quick                        # embedded digits, a minute on two cores
    python experiments/double_descent.py --dataset=mnist                       # the published protocol, 17 minutes
    python experiments/double_descent.py --dataset=cifar10 --preset=small      # half an hour

Expect: test accuracy 95.3 % at width 32 and 96.9 % at 1024 (published 95.4 and 96.9), five seeds; no peak without
label noise, one near the threshold with it (`--label_noise=0.2 --num_train=4000`).
"""

from ntkgen import cli
from ntkgen.studies import double_descent

if __name__ == "__main__":
    cli.main(double_descent.STUDY)
