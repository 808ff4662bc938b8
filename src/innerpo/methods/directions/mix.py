"""A mix of the shared and the pair's own direction: unit((1 - mix) w + mix unit(d_i))."""

from innerpo.methods.directions.direction import Direction
from innerpo.methods.directions.shared import mean_direction

mix = Direction(mean_direction, own=lambda method: method.mix, remove=True)
