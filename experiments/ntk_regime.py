"""Do wide networks train as kernels? Hypothesis H3; section V-E.

    python experiments/ntk_regime.py --preset=quick          # embedded digits, about a minute on two cores
    python experiments/ntk_regime.py --preset=small          # 2,000 images of MNIST, widths 32 ... 256
    python experiments/ntk_regime.py                         # the published widths 32 ... 4096 on 5,000 images,
                                                             # three hours of one shared core without tuning
    python experiments/ntk_regime.py --lr=0.01 --widths=32,64,128,256,512 --noextras     # the appendix's rate

Expect: relative movement 0.951 at width 32 and 0.0825 at 4096 (published 0.936 and 0.083), test accuracy 92.5 and
94.3 % (published 91.6 and 93.9), five seeds; kernel drift 927 and 99, so that no width trains as a kernel; the exponent
of relative movement is -0.503 [-0.505, -0.500]. After equal tuning regression with the infinite-width kernel predicts
better than the network at widths 32 to 256.
"""

from ntkgen import cli
from ntkgen.studies import ntk_regime

if __name__ == "__main__":
    cli.main(ntk_regime.STUDY)
