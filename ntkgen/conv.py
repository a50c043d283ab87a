"""placeholder"""

from jax import lax

conv_general_dilated = lax.conv_general_dilated
